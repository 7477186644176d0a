-- The journal of tool calls: a row is there before a call with a side effect begins, so that a crash leaves a trace of it.

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
    frame_no INTEGER NOT NULL,
    PRIMARY KEY (run_id, node_id, iteration, attempt, seq)
) STRICT, WITHOUT ROWID;

CREATE UNIQUE INDEX _smithers_tool_calls_by_token ON _smithers_tool_calls (call_token);
