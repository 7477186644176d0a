-- Made by scripts/schema from the steps in migrations/, which are b2988e5c5e4c48a91bc070f40473beea7ffd65982d7f6df539c90dc9c714117d
CREATE TABLE _smithers_schema_migrations (
    id TEXT NOT NULL PRIMARY KEY,
    name TEXT NOT NULL,
    applied_at_ms INTEGER NOT NULL,
    checksum TEXT,
    destructive INTEGER NOT NULL,
    details_json TEXT
) STRICT, WITHOUT ROWID
;
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
, workflow_key TEXT, listed_as TEXT NOT NULL DEFAULT '', is_system INTEGER NOT NULL DEFAULT 0, started_by_json TEXT, created_at_ms INTEGER NOT NULL DEFAULT 0, hijack_requested_at_ms INTEGER, hijack_target TEXT, resumed_by_json TEXT, queue TEXT NOT NULL DEFAULT 'default') STRICT, WITHOUT ROWID;
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
    loop_id TEXT, created_frame INTEGER NOT NULL DEFAULT 0, began_frame INTEGER,
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
    meta_json TEXT, finished_frame INTEGER, heartbeat_frame INTEGER,
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
    auto_approved INTEGER NOT NULL DEFAULT 0, frame_no INTEGER NOT NULL DEFAULT 0, decided_frame INTEGER,
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
, frame_no INTEGER NOT NULL DEFAULT 0, closed_frame INTEGER) STRICT, WITHOUT ROWID;
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
    idempotency_key TEXT, frame_no INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (run_id, seq)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX _smithers_signals_by_key ON _smithers_signals (run_id, idempotency_key)
    WHERE idempotency_key IS NOT NULL;
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
CREATE TABLE _smithers_wakeups (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    run_id TEXT NOT NULL
, tx INTEGER) STRICT;
CREATE INDEX _smithers_wakeups_by_run ON _smithers_wakeups (run_id, id);
CREATE TABLE _smithers_output_schema_columns (
    table_name TEXT NOT NULL,
    column_name TEXT NOT NULL,
    kind TEXT NOT NULL,
    PRIMARY KEY (table_name, column_name)
) STRICT, WITHOUT ROWID;
CREATE TABLE _smithers_webhook_deliveries (
    source_id TEXT NOT NULL,
    dedupe_key TEXT NOT NULL,
    signal_name TEXT NOT NULL,
    correlation_id TEXT,
    payload_json TEXT NOT NULL,
    received_at_ms INTEGER NOT NULL,
    delivered_at_ms INTEGER,
    PRIMARY KEY (source_id, dedupe_key)
) STRICT, WITHOUT ROWID;
CREATE INDEX _smithers_webhook_deliveries_open ON _smithers_webhook_deliveries (received_at_ms)
    WHERE delivered_at_ms IS NULL;
CREATE TABLE _smithers_tool_calls (
    run_id TEXT NOT NULL,
    node_id TEXT NOT NULL,
    iteration INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    call_token TEXT NOT NULL,
    tool_name TEXT NOT NULL,
    input_json TEXT,
    output_json TEXT,
    started_at_ms INTEGER NOT NULL,
    finished_at_ms INTEGER,
    status TEXT NOT NULL,
    error_json TEXT,
    kind TEXT NOT NULL,
    side_effect INTEGER NOT NULL,
    idempotent INTEGER NOT NULL,
    accepts_idempotency_key INTEGER NOT NULL,
    has_revert INTEGER NOT NULL,
    idempotency_key TEXT,
    revert_status TEXT,
    reverted_at_ms INTEGER,
    revert_error_json TEXT,
    forced_past_json TEXT,
    frame_no INTEGER NOT NULL, contained INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (run_id, node_id, iteration, attempt, seq)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX _smithers_tool_calls_by_token ON _smithers_tool_calls (call_token);
CREATE INDEX _smithers_run_specs_by_age ON _smithers_run_specs (created_at_ms, run_id) WHERE is_system = 0;
CREATE INDEX _smithers_run_specs_by_workflow ON _smithers_run_specs (listed_as, created_at_ms, run_id);
CREATE INDEX _smithers_runs_by_workflow ON _smithers_runs (workflow_name, created_at_ms, run_id);
CREATE TABLE _smithers_cron (
    cron_id TEXT PRIMARY KEY,
    pattern TEXT NOT NULL,
    workflow_path TEXT NOT NULL,
    enabled INTEGER NOT NULL,
    created_at_ms INTEGER NOT NULL,
    last_run_at_ms INTEGER,
    next_run_at_ms INTEGER,
    error_json TEXT,
    time_zone TEXT,
    missed TEXT NOT NULL DEFAULT 'skip',
    owner_key TEXT
) STRICT, WITHOUT ROWID;
CREATE INDEX _smithers_cron_due ON _smithers_cron (workflow_path, next_run_at_ms) WHERE enabled = 1;
CREATE TABLE _smithers_cron_fires (
    cron_id TEXT NOT NULL REFERENCES _smithers_cron (cron_id) ON DELETE CASCADE,
    fire_at_ms INTEGER NOT NULL,
    claimed_at_ms INTEGER NOT NULL,
    outcome TEXT NOT NULL,
    run_id TEXT,
    error_json TEXT,
    PRIMARY KEY (cron_id, fire_at_ms)
) STRICT, WITHOUT ROWID;
CREATE INDEX _smithers_cron_fires_open ON _smithers_cron_fires (claimed_at_ms) WHERE outcome = 'claimed';
CREATE TABLE _smithers_docs (
    path TEXT PRIMARY KEY,
    kind TEXT NOT NULL DEFAULT 'ticket',
    content TEXT NOT NULL,
    content_hash TEXT NOT NULL,
    status TEXT,
    updated_at_ms INTEGER NOT NULL,
    deleted_at_ms INTEGER
) STRICT, WITHOUT ROWID;
CREATE INDEX _smithers_docs_live ON _smithers_docs (updated_at_ms DESC, path) WHERE deleted_at_ms IS NULL;
CREATE INDEX _smithers_docs_live_by_kind ON _smithers_docs (kind, updated_at_ms DESC, path) WHERE deleted_at_ms IS NULL;
CREATE INDEX _smithers_docs_all ON _smithers_docs (updated_at_ms DESC, path);
CREATE TABLE _smithers_memory_facts (
    namespace TEXT NOT NULL,
    key TEXT NOT NULL,
    value_json TEXT NOT NULL,
    schema_sig TEXT,
    created_at_ms INTEGER NOT NULL,
    updated_at_ms INTEGER NOT NULL,
    ttl_ms INTEGER,
    run_id TEXT,
    node_id TEXT,
    iteration INTEGER,
    PRIMARY KEY (namespace, key)
) STRICT, WITHOUT ROWID;
CREATE TABLE _smithers_scorers (
    id TEXT PRIMARY KEY,
    run_id TEXT NOT NULL,
    node_id TEXT NOT NULL,
    iteration INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    scorer_id TEXT NOT NULL,
    scorer_name TEXT NOT NULL,
    source TEXT NOT NULL,
    score REAL NOT NULL,
    reason TEXT,
    meta_json TEXT,
    input_json TEXT,
    output_json TEXT,
    ground_truth_json TEXT,
    context_json TEXT,
    latency_ms REAL,
    scored_at_ms INTEGER NOT NULL,
    duration_ms REAL
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX _smithers_scorers_once ON _smithers_scorers (run_id, node_id, iteration, attempt, scorer_id, source);
CREATE INDEX _smithers_scorers_by_age ON _smithers_scorers (run_id, scored_at_ms, node_id, iteration, attempt, scorer_id, id);
CREATE TABLE "_smithers_ralph" (
    run_id TEXT NOT NULL,
    ralph_id TEXT NOT NULL,
    frame_no INTEGER NOT NULL,
    iteration INTEGER NOT NULL,
    done INTEGER NOT NULL,
    updated_at_ms INTEGER NOT NULL,
    PRIMARY KEY (run_id, ralph_id, frame_no)
) STRICT, WITHOUT ROWID;
CREATE TABLE _smithers_jumps (
    run_id TEXT NOT NULL,
    seq INTEGER NOT NULL,
    from_frame INTEGER NOT NULL,
    to_frame INTEGER NOT NULL,
    cut_seq INTEGER NOT NULL,
    caller TEXT,
    timestamp_ms INTEGER NOT NULL,
    PRIMARY KEY (run_id, seq)
) STRICT, WITHOUT ROWID;
CREATE TABLE _smithers_branches (
    run_id TEXT PRIMARY KEY,
    parent_run_id TEXT NOT NULL,
    parent_frame_no INTEGER NOT NULL,
    branch_label TEXT,
    fork_description TEXT,
    created_at_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX _smithers_branches_by_parent ON _smithers_branches (parent_run_id, parent_frame_no);
CREATE TABLE _smithers_rewind_leases (
    run_id TEXT PRIMARY KEY,
    owner_token TEXT NOT NULL,
    expires_at_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE _smithers_time_travel_audit (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    run_id TEXT NOT NULL,
    from_frame_no INTEGER NOT NULL,
    to_frame_no INTEGER NOT NULL,
    caller TEXT NOT NULL,
    timestamp_ms INTEGER NOT NULL,
    result TEXT NOT NULL,
    duration_ms INTEGER
) STRICT;
CREATE INDEX _smithers_time_travel_audit_by_caller ON _smithers_time_travel_audit (run_id, caller, timestamp_ms);
CREATE INDEX _smithers_time_travel_audit_open ON _smithers_time_travel_audit (run_id) WHERE result = 'in_progress';
CREATE TABLE _smithers_tool_call_archive (
    run_id TEXT NOT NULL,
    node_id TEXT NOT NULL,
    iteration INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    call_token TEXT NOT NULL,
    tool_name TEXT NOT NULL,
    input_json TEXT,
    output_json TEXT,
    started_at_ms INTEGER NOT NULL,
    finished_at_ms INTEGER,
    status TEXT NOT NULL,
    error_json TEXT,
    kind TEXT NOT NULL,
    side_effect INTEGER NOT NULL,
    idempotent INTEGER NOT NULL,
    accepts_idempotency_key INTEGER NOT NULL,
    has_revert INTEGER NOT NULL,
    idempotency_key TEXT,
    revert_status TEXT,
    reverted_at_ms INTEGER,
    revert_error_json TEXT,
    forced_past_json TEXT,
    frame_no INTEGER NOT NULL,
    archived_by_op TEXT NOT NULL,
    archived_at_ms INTEGER NOT NULL,
    archive_reason TEXT NOT NULL, contained INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (run_id, node_id, iteration, attempt, seq, archived_by_op)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX _smithers_tool_call_archive_by_token ON _smithers_tool_call_archive (call_token);
CREATE INDEX _smithers_tool_calls_effects ON _smithers_tool_calls (run_id) WHERE side_effect = 1;
CREATE TABLE _smithers_workspaces (
    run_id TEXT NOT NULL,
    cwd TEXT NOT NULL,
    vcs_type TEXT,
    vcs_root TEXT,
    git_dir TEXT,
    base_ref TEXT,
    base_tree TEXT,
    problem TEXT,
    is_worktree INTEGER NOT NULL DEFAULT 0,
    branch TEXT,
    launch_root TEXT,
    created_at_ms INTEGER NOT NULL,
    removed_at_ms INTEGER,
    PRIMARY KEY (run_id, cwd)
) STRICT, WITHOUT ROWID;
CREATE INDEX _smithers_workspaces_worktrees ON _smithers_workspaces (created_at_ms)
    WHERE is_worktree = 1 AND removed_at_ms IS NULL;
CREATE TABLE _smithers_workspace_checkpoints (
    run_id TEXT NOT NULL,
    node_id TEXT NOT NULL,
    iteration INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    position INTEGER NOT NULL,
    frame_no INTEGER NOT NULL,
    cwd TEXT NOT NULL,
    commit_id TEXT,
    tree_id TEXT,
    problem TEXT,
    source TEXT NOT NULL,
    label TEXT,
    created_at_ms INTEGER NOT NULL,
    PRIMARY KEY (run_id, node_id, iteration, attempt, seq)
) STRICT, WITHOUT ROWID;
CREATE INDEX _smithers_workspace_checkpoints_by_position ON _smithers_workspace_checkpoints (run_id, position);
CREATE TABLE _smithers_node_diffs (
    run_id TEXT NOT NULL,
    node_id TEXT NOT NULL,
    iteration INTEGER NOT NULL,
    base_ref TEXT NOT NULL,
    target_ref TEXT NOT NULL,
    diff_json TEXT NOT NULL,
    computed_at_ms INTEGER NOT NULL,
    size_bytes INTEGER NOT NULL,
    PRIMARY KEY (run_id, node_id, iteration, base_ref)
) STRICT, WITHOUT ROWID;
CREATE INDEX _smithers_wakeups_by_tx ON _smithers_wakeups (tx) WHERE tx IS NOT NULL;
CREATE INDEX _smithers_webhook_deliveries_done ON _smithers_webhook_deliveries (delivered_at_ms)
    WHERE delivered_at_ms IS NOT NULL;
CREATE INDEX _smithers_runs_ended_again ON _smithers_runs (finished_at_ms) WHERE finished_at_ms IS NOT NULL AND epoch > 1;
CREATE TABLE _smithers_queue (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    run_id TEXT NOT NULL,
    lane TEXT NOT NULL,
    queue TEXT NOT NULL,
    workflow TEXT NOT NULL,
    priority INTEGER NOT NULL,
    taken_until_ms INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE UNIQUE INDEX _smithers_queue_by_run ON _smithers_queue (run_id);
CREATE INDEX _smithers_queue_order ON _smithers_queue (lane, priority DESC, id);
CREATE TABLE _smithers_queue_limits (
    name TEXT PRIMARY KEY,
    concurrency INTEGER,
    rate_count INTEGER,
    rate_period_ms INTEGER,
    arrival_ms REAL NOT NULL DEFAULT 0,
    updated_at_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE _smithers_replaced_rows (
    run_id TEXT NOT NULL,
    node_id TEXT NOT NULL,
    iteration INTEGER NOT NULL,
    until_frame INTEGER NOT NULL,
    kind TEXT NOT NULL,
    frame_no INTEGER NOT NULL,
    output_seq INTEGER,
    output_table TEXT,
    row_json TEXT NOT NULL,
    replaced_by_op TEXT NOT NULL,
    replaced_at_ms INTEGER NOT NULL,
    PRIMARY KEY (run_id, node_id, iteration, until_frame, kind)
) STRICT, WITHOUT ROWID;
CREATE INDEX _smithers_tool_calls_unsafe ON _smithers_tool_calls
    (run_id, node_id, iteration, side_effect, idempotent, accepts_idempotency_key, contained)
    WHERE side_effect = 1 AND idempotent = 0 AND accepts_idempotency_key = 0 AND contained = 0;
