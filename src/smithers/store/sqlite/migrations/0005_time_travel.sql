-- What time travel needs: at which frame rows came to be what they are, and the record of what was done to history.

-- created_frame: when the node was mounted. began_frame: when it first was something else than pending; before that frame a
-- node that has changed since was pending.
ALTER TABLE _smithers_nodes ADD COLUMN created_frame INTEGER NOT NULL DEFAULT 0;
ALTER TABLE _smithers_nodes ADD COLUMN began_frame INTEGER;

-- frame_no of an attempt is where it began.
ALTER TABLE _smithers_attempts ADD COLUMN finished_frame INTEGER;
ALTER TABLE _smithers_attempts ADD COLUMN heartbeat_frame INTEGER;

-- What others write for a run belongs to the frame that takes it up.
ALTER TABLE _smithers_approvals ADD COLUMN frame_no INTEGER NOT NULL DEFAULT 0;
ALTER TABLE _smithers_approvals ADD COLUMN decided_frame INTEGER;
ALTER TABLE _smithers_human_requests ADD COLUMN frame_no INTEGER NOT NULL DEFAULT 0;
ALTER TABLE _smithers_human_requests ADD COLUMN closed_frame INTEGER;
ALTER TABLE _smithers_signals ADD COLUMN frame_no INTEGER NOT NULL DEFAULT 0;

-- Rows from before are dated by their run's log, as far as it tells.
CREATE TABLE _smithers_dated (
    run_id TEXT NOT NULL,
    node_id TEXT NOT NULL,
    iteration INTEGER NOT NULL,
    created_frame INTEGER NOT NULL,
    began_frame INTEGER,
    asked_frame INTEGER,
    decided_frame INTEGER,
    PRIMARY KEY (run_id, node_id, iteration)
) STRICT, WITHOUT ROWID;

INSERT INTO _smithers_dated (run_id, node_id, iteration, created_frame, began_frame, asked_frame, decided_frame)
SELECT run_id, node_id, iteration, min(frame_no),
       min(CASE WHEN type LIKE 'Node%' AND type NOT IN ('NodePending', 'NodeOutput') THEN frame_no END),
       max(CASE WHEN type = 'ApprovalRequested' THEN frame_no END),
       max(CASE WHEN type IN ('ApprovalGranted', 'ApprovalDenied', 'ApprovalAutoApproved') THEN frame_no END)
FROM _smithers_events WHERE node_id IS NOT NULL AND iteration IS NOT NULL GROUP BY run_id, node_id, iteration;

UPDATE _smithers_nodes SET
    created_frame = coalesce((
        SELECT d.created_frame FROM _smithers_dated d WHERE d.run_id = _smithers_nodes.run_id
        AND d.node_id = _smithers_nodes.node_id AND d.iteration = _smithers_nodes.iteration), frame_no),
    began_frame = CASE WHEN state <> 'pending' OR last_attempt IS NOT NULL THEN coalesce((
        SELECT d.began_frame FROM _smithers_dated d WHERE d.run_id = _smithers_nodes.run_id
        AND d.node_id = _smithers_nodes.node_id AND d.iteration = _smithers_nodes.iteration), frame_no) END;

UPDATE _smithers_approvals SET
    frame_no = coalesce((
        SELECT d.asked_frame FROM _smithers_dated d WHERE d.run_id = _smithers_approvals.run_id
        AND d.node_id = _smithers_approvals.node_id AND d.iteration = _smithers_approvals.iteration), 0),
    decided_frame = CASE WHEN status <> 'requested' THEN coalesce((
        SELECT d.decided_frame FROM _smithers_dated d WHERE d.run_id = _smithers_approvals.run_id
        AND d.node_id = _smithers_approvals.node_id AND d.iteration = _smithers_approvals.iteration), 0) END;

UPDATE _smithers_human_requests SET
    frame_no = coalesce((
        SELECT d.asked_frame FROM _smithers_dated d WHERE d.run_id = _smithers_human_requests.run_id
        AND d.node_id = _smithers_human_requests.node_id AND d.iteration = _smithers_human_requests.iteration), 0),
    closed_frame = CASE WHEN status <> 'pending' THEN coalesce((
        SELECT d.decided_frame FROM _smithers_dated d WHERE d.run_id = _smithers_human_requests.run_id
        AND d.node_id = _smithers_human_requests.node_id AND d.iteration = _smithers_human_requests.iteration), 0) END;

DROP TABLE _smithers_dated;

-- An attempt was over when the next one of its node began, the last one when its node last changed.
UPDATE _smithers_attempts SET finished_frame = coalesce(
    (SELECT min(later.frame_no) FROM _smithers_attempts later WHERE later.run_id = _smithers_attempts.run_id
     AND later.node_id = _smithers_attempts.node_id AND later.iteration = _smithers_attempts.iteration
     AND later.attempt > _smithers_attempts.attempt),
    (SELECT n.frame_no FROM _smithers_nodes n WHERE n.run_id = _smithers_attempts.run_id
     AND n.node_id = _smithers_attempts.node_id AND n.iteration = _smithers_attempts.iteration),
    frame_no)
WHERE finished_at_ms IS NOT NULL;

-- A loop has a row for each change of its counter; the newest holds.
CREATE TABLE _smithers_ralph_turns (
    run_id TEXT NOT NULL,
    ralph_id TEXT NOT NULL,
    frame_no INTEGER NOT NULL,
    iteration INTEGER NOT NULL,
    done INTEGER NOT NULL,
    updated_at_ms INTEGER NOT NULL,
    PRIMARY KEY (run_id, ralph_id, frame_no)
) STRICT, WITHOUT ROWID;

INSERT INTO _smithers_ralph_turns (run_id, ralph_id, frame_no, iteration, done, updated_at_ms)
SELECT run_id, ralph_id, frame_no, iteration, done, updated_at_ms FROM _smithers_ralph;

DROP TABLE _smithers_ralph;
ALTER TABLE _smithers_ralph_turns RENAME TO _smithers_ralph;

-- A rewind keeps the log: events after cut_seq and before seq are what was left behind.
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

-- Tool calls of attempts that are not the run's any more.
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
    archive_reason TEXT NOT NULL,
    PRIMARY KEY (run_id, node_id, iteration, attempt, seq, archived_by_op)
) STRICT, WITHOUT ROWID;

CREATE UNIQUE INDEX _smithers_tool_call_archive_by_token ON _smithers_tool_call_archive (call_token);

-- What the effect guard looks through.
CREATE INDEX _smithers_tool_calls_effects ON _smithers_tool_calls (run_id) WHERE side_effect = 1;
