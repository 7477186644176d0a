-- Everything that a run consists of. Big, rarely changing values stand apart from rows that every commit touches,
-- because SQLite rewrites a whole row to change one column.

CREATE TABLE _smithers_runs (
    run_id TEXT PRIMARY KEY,
    parent_run_id TEXT,
    workflow_name TEXT NOT NULL,
    workflow_path TEXT,
    workflow_hash TEXT,
    status TEXT NOT NULL,
    created_at_ms INTEGER NOT NULL,
    started_at_ms INTEGER,
    finished_at_ms INTEGER,
    heartbeat_at_ms INTEGER,
    runtime_owner_id TEXT,
    epoch INTEGER NOT NULL DEFAULT 0,
    claim_count INTEGER NOT NULL DEFAULT 0,
    claim_frame INTEGER,
    frame_no INTEGER NOT NULL DEFAULT 0,
    next_seq INTEGER NOT NULL DEFAULT 0,
    next_output_seq INTEGER NOT NULL DEFAULT 0,
    cancel_requested_at_ms INTEGER,
    cancel_request_source TEXT,
    pause_requested_at_ms INTEGER,
    seen_wakeup INTEGER NOT NULL DEFAULT 0,
    error_json TEXT
) STRICT, WITHOUT ROWID;

CREATE INDEX _smithers_runs_by_status ON _smithers_runs (status, created_at_ms);
CREATE INDEX _smithers_runs_by_age ON _smithers_runs (created_at_ms);
CREATE INDEX _smithers_runs_by_parent ON _smithers_runs (parent_run_id) WHERE parent_run_id IS NOT NULL;
CREATE INDEX _smithers_runs_by_owner ON _smithers_runs (runtime_owner_id) WHERE runtime_owner_id IS NOT NULL;

CREATE TABLE _smithers_run_specs (
    run_id TEXT PRIMARY KEY REFERENCES _smithers_runs (run_id) ON DELETE CASCADE,
    input_json TEXT NOT NULL,
    config_json TEXT NOT NULL,
    idempotency_key TEXT
) STRICT, WITHOUT ROWID;

CREATE UNIQUE INDEX _smithers_run_specs_by_key ON _smithers_run_specs (idempotency_key)
    WHERE idempotency_key IS NOT NULL;

CREATE TABLE _smithers_nodes (
    run_id TEXT NOT NULL,
    node_id TEXT NOT NULL,
    iteration INTEGER NOT NULL,
    state TEXT NOT NULL,
    last_attempt INTEGER,
    updated_at_ms INTEGER NOT NULL,
    frame_no INTEGER NOT NULL,
    output_seq INTEGER,
    output_table TEXT,
    label TEXT,
    loop_id TEXT,
    PRIMARY KEY (run_id, node_id, iteration)
) STRICT, WITHOUT ROWID;

CREATE TABLE _smithers_attempts (
    run_id TEXT NOT NULL,
    node_id TEXT NOT NULL,
    iteration INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    state TEXT NOT NULL,
    frame_no INTEGER NOT NULL,
    started_at_ms INTEGER NOT NULL,
    finished_at_ms INTEGER,
    heartbeat_at_ms INTEGER,
    heartbeat_data_json TEXT,
    error_json TEXT,
    response_text TEXT,
    cached INTEGER,
    meta_json TEXT,
    PRIMARY KEY (run_id, node_id, iteration, attempt)
) STRICT, WITHOUT ROWID;

CREATE TABLE _smithers_frames (
    run_id TEXT NOT NULL,
    frame_no INTEGER NOT NULL,
    created_at_ms INTEGER NOT NULL,
    encoding TEXT NOT NULL,
    tree BLOB NOT NULL,
    tree_hash TEXT NOT NULL,
    reason TEXT NOT NULL,
    PRIMARY KEY (run_id, frame_no)
) STRICT, WITHOUT ROWID;

CREATE TABLE _smithers_ralph (
    run_id TEXT NOT NULL,
    ralph_id TEXT NOT NULL,
    iteration INTEGER NOT NULL,
    done INTEGER NOT NULL,
    updated_at_ms INTEGER NOT NULL,
    frame_no INTEGER NOT NULL,
    PRIMARY KEY (run_id, ralph_id)
) STRICT, WITHOUT ROWID;

-- The wire's event object is {type, runId, timestampMs, nodeId?, iteration?} and the keys of payload.
CREATE TABLE _smithers_events (
    run_id TEXT NOT NULL,
    seq INTEGER NOT NULL,
    timestamp_ms INTEGER NOT NULL,
    frame_no INTEGER NOT NULL,
    type TEXT NOT NULL,
    node_id TEXT,
    iteration INTEGER,
    payload TEXT,
    PRIMARY KEY (run_id, seq)
) STRICT, WITHOUT ROWID;

CREATE TABLE _smithers_approvals (
    run_id TEXT NOT NULL,
    node_id TEXT NOT NULL,
    iteration INTEGER NOT NULL,
    status TEXT NOT NULL,
    workflow_name TEXT NOT NULL,
    requested_at_ms INTEGER NOT NULL,
    decided_at_ms INTEGER,
    note TEXT,
    decided_by TEXT,
    request_json TEXT NOT NULL,
    decision_json TEXT,
    auto_approved INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (run_id, node_id, iteration)
) STRICT, WITHOUT ROWID;

CREATE INDEX _smithers_approvals_open ON _smithers_approvals (requested_at_ms) WHERE status = 'requested';
CREATE INDEX _smithers_approvals_history ON _smithers_approvals (workflow_name, node_id, decided_at_ms);

CREATE TABLE _smithers_human_requests (
    request_id TEXT PRIMARY KEY,
    run_id TEXT NOT NULL,
    node_id TEXT NOT NULL,
    iteration INTEGER NOT NULL,
    kind TEXT NOT NULL,
    status TEXT NOT NULL,
    prompt TEXT NOT NULL,
    schema_json TEXT,
    options_json TEXT,
    response_json TEXT,
    requested_at_ms INTEGER NOT NULL,
    answered_at_ms INTEGER,
    answered_by TEXT,
    timeout_at_ms INTEGER
) STRICT, WITHOUT ROWID;

CREATE INDEX _smithers_human_requests_by_run ON _smithers_human_requests (run_id);
CREATE INDEX _smithers_human_requests_open ON _smithers_human_requests (requested_at_ms) WHERE status = 'pending';

CREATE TABLE _smithers_signals (
    run_id TEXT NOT NULL,
    seq INTEGER NOT NULL,
    signal_name TEXT NOT NULL,
    correlation_id TEXT,
    payload_json TEXT NOT NULL,
    received_at_ms INTEGER NOT NULL,
    received_by TEXT,
    idempotency_key TEXT,
    PRIMARY KEY (run_id, seq)
) STRICT, WITHOUT ROWID;

CREATE UNIQUE INDEX _smithers_signals_by_key ON _smithers_signals (run_id, idempotency_key)
    WHERE idempotency_key IS NOT NULL;

-- What a run waits for by the clock: timers, backoffs, timeouts of waits, quota resets.
CREATE TABLE _smithers_timers (
    run_id TEXT NOT NULL,
    node_id TEXT NOT NULL,
    iteration INTEGER NOT NULL,
    kind TEXT NOT NULL,
    due_at_ms INTEGER NOT NULL,
    PRIMARY KEY (run_id, node_id, iteration, kind)
) STRICT, WITHOUT ROWID;

CREATE INDEX _smithers_timers_due ON _smithers_timers (due_at_ms);

CREATE TABLE _smithers_cache (
    cache_key TEXT PRIMARY KEY,
    created_at_ms INTEGER NOT NULL,
    workflow_name TEXT NOT NULL,
    node_id TEXT NOT NULL,
    output_table TEXT NOT NULL,
    schema_sig TEXT NOT NULL,
    agent_sig TEXT,
    payload_json TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- Who writes for a run without owning it leaves a row here; owners and hosts read on from the last id that they know.
-- A parked run with a newer row than its seen_wakeup has something to do. Rows that a halting run has seen are deleted.
CREATE TABLE _smithers_wakeups (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    run_id TEXT NOT NULL
) STRICT;

CREATE INDEX _smithers_wakeups_by_run ON _smithers_wakeups (run_id, id);

CREATE TABLE _smithers_output_schema_columns (
    table_name TEXT NOT NULL,
    column_name TEXT NOT NULL,
    kind TEXT NOT NULL,
    PRIMARY KEY (table_name, column_name)
) STRICT, WITHOUT ROWID;
