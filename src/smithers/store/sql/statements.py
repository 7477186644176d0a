"""The SQL of a step, by name. Portable text: `?` parameters, upserts, `RETURNING`; what a step changes rarely is named in `ROWS`."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

_NUMBERS = "next_seq = next_seq + ?, next_output_seq = next_output_seq + ?, frame_no = ?"
_GIVEN_UP = """status = ?, error_json = ?, runtime_owner_id = NULL, heartbeat_at_ms = NULL,
    finished_at_ms = CASE WHEN ? = 1 THEN ? ELSE finished_at_ms END,
    pause_requested_at_ms = CASE WHEN ? = 1 THEN pause_requested_at_ms END,
    seen_wakeup = CASE WHEN seen_wakeup < ? THEN ? ELSE seen_wakeup END
"""
_HELD = """WHERE run_id = ? AND runtime_owner_id = ? AND epoch = ? AND status = 'running'
  AND (cancel_requested_at_ms IS NULL OR ? = 1)
RETURNING next_seq, next_output_seq, pause_requested_at_ms, parent_run_id
"""

FENCE: Final = f"UPDATE _smithers_runs SET {_NUMBERS} {_HELD}"

LAST_FENCE: Final = f"UPDATE _smithers_runs SET {_NUMBERS}, {_GIVEN_UP} {_HELD}"
"""The fence of a step with which its owner gives the run up: it ends or parks."""

END: Final = f"UPDATE _smithers_runs SET epoch = epoch + 1, {_GIVEN_UP} WHERE run_id = ?"
"""Somebody else than its owner ends the run: who was about to claim it has to look again."""

NODE: Final = """
INSERT INTO _smithers_nodes (run_id, node_id, iteration, state, last_attempt, updated_at_ms, frame_no, output_seq,
                             output_table, label, loop_id, created_frame, began_frame)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (run_id, node_id, iteration) DO UPDATE SET
    state = excluded.state, updated_at_ms = excluded.updated_at_ms, frame_no = excluded.frame_no,
    last_attempt = coalesce(excluded.last_attempt, _smithers_nodes.last_attempt),
    output_seq = coalesce(excluded.output_seq, _smithers_nodes.output_seq),
    output_table = coalesce(excluded.output_table, _smithers_nodes.output_table),
    label = coalesce(excluded.label, _smithers_nodes.label), loop_id = coalesce(excluded.loop_id, _smithers_nodes.loop_id),
    began_frame = coalesce(_smithers_nodes.began_frame, excluded.began_frame)
"""

ATTEMPT: Final = """
INSERT INTO _smithers_attempts (run_id, node_id, iteration, attempt, state, frame_no, started_at_ms, finished_at_ms,
                                error_json, response_text, cached, meta_json, heartbeat_at_ms, heartbeat_data_json,
                                finished_frame)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (run_id, node_id, iteration, attempt) DO UPDATE SET
    frame_no = CASE WHEN _smithers_attempts.finished_at_ms IS NOT NULL AND excluded.finished_at_ms IS NULL
                    THEN excluded.frame_no ELSE _smithers_attempts.frame_no END,
    state = excluded.state, finished_at_ms = excluded.finished_at_ms, finished_frame = excluded.finished_frame,
    error_json = coalesce(excluded.error_json, _smithers_attempts.error_json),
    response_text = coalesce(excluded.response_text, _smithers_attempts.response_text),
    cached = coalesce(excluded.cached, _smithers_attempts.cached),
    meta_json = coalesce(excluded.meta_json, _smithers_attempts.meta_json),
    heartbeat_at_ms = coalesce(excluded.heartbeat_at_ms, _smithers_attempts.heartbeat_at_ms),
    heartbeat_data_json = coalesce(excluded.heartbeat_data_json, _smithers_attempts.heartbeat_data_json)
"""

EVENT: Final = """
INSERT INTO _smithers_events (run_id, seq, timestamp_ms, frame_no, type, node_id, iteration, payload)
VALUES (?, ?, ?, ?, ?, ?, ?, ?)
"""

MAX_EVENTS: Final = 32
"""As many events one statement stores."""


@lru_cache(maxsize=MAX_EVENTS)
def events_sql(count: int) -> str:
    """Store so many events at once: each statement has the writer wait for its turn among the threads again."""
    return EVENT + ", (?, ?, ?, ?, ?, ?, ?, ?)" * (count - 1)


SEEN_WAKEUPS: Final = "DELETE FROM _smithers_wakeups WHERE run_id = ? AND id <= ?"

NEWER_WAKEUP: Final = "SELECT 1 FROM _smithers_wakeups WHERE run_id = ? AND id > ? LIMIT 1"

WAKEUP: Final = "INSERT INTO _smithers_wakeups (run_id) VALUES (?)"

WAKE_PARENT: Final = """
WITH RECURSIVE above (run_id) AS (
    SELECT parent_run_id FROM _smithers_runs WHERE run_id = ?
    UNION ALL
    SELECT r.parent_run_id FROM _smithers_runs r JOIN above USING (run_id) WHERE r.status = 'continued'
)
INSERT INTO _smithers_wakeups (run_id) SELECT run_id FROM above JOIN _smithers_runs USING (run_id) WHERE status <> 'continued'
"""
"""A run that goes on for a continued one has that as its parent; who waits for it is further up."""

ROWS: Final[dict[str, str]] = {
    "frame": """
        INSERT INTO _smithers_frames (run_id, frame_no, created_at_ms, encoding, tree, tree_hash, reason)
        VALUES (?, ?, ?, ?, ?, ?, ?)
    """,
    "loop": """
        INSERT INTO _smithers_ralph (run_id, ralph_id, iteration, done, updated_at_ms, frame_no) VALUES (?, ?, ?, ?, ?, ?)
        ON CONFLICT (run_id, ralph_id, frame_no) DO UPDATE SET iteration = excluded.iteration, done = excluded.done,
            updated_at_ms = excluded.updated_at_ms
    """,
    "timer": """
        INSERT INTO _smithers_timers (run_id, node_id, iteration, kind, due_at_ms) VALUES (?, ?, ?, ?, ?)
        ON CONFLICT (run_id, node_id, iteration, kind) DO UPDATE SET due_at_ms = excluded.due_at_ms
    """,
    "timer_done": "DELETE FROM _smithers_timers WHERE run_id = ? AND node_id = ? AND iteration = ? AND kind = ?",
    "timers_done": "DELETE FROM _smithers_timers WHERE run_id = ?",
    "approval": """
        INSERT INTO _smithers_approvals (run_id, node_id, iteration, status, workflow_name, requested_at_ms, decided_at_ms,
                                         note, decided_by, request_json, decision_json, auto_approved, frame_no,
                                         decided_frame)
        VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
        ON CONFLICT (run_id, node_id, iteration) DO UPDATE SET status = excluded.status,
            requested_at_ms = excluded.requested_at_ms, decided_at_ms = excluded.decided_at_ms, note = excluded.note,
            decided_by = excluded.decided_by, request_json = excluded.request_json,
            decision_json = excluded.decision_json, auto_approved = excluded.auto_approved,
            decided_frame = excluded.decided_frame,
            frame_no = CASE WHEN excluded.decided_frame IS NULL THEN excluded.frame_no ELSE _smithers_approvals.frame_no END
    """,
    "approval_closed": """
        UPDATE _smithers_approvals SET status = 'denied', decided_at_ms = ?, decided_by = ?, decided_frame = ?
        WHERE run_id = ? AND node_id = ? AND iteration = ? AND status = 'requested'
    """,
    "human": """
        INSERT INTO _smithers_human_requests (request_id, run_id, node_id, iteration, kind, status, prompt, schema_json,
                                              options_json, requested_at_ms, timeout_at_ms, frame_no)
        VALUES (?, ?, ?, ?, ?, 'pending', ?, ?, ?, ?, ?, ?)
        ON CONFLICT (request_id) DO UPDATE SET status = 'pending', response_json = NULL, answered_at_ms = NULL,
            answered_by = NULL, closed_frame = NULL,
            frame_no = CASE WHEN _smithers_human_requests.status = 'answered' THEN _smithers_human_requests.frame_no
                            ELSE excluded.frame_no END
    """,
    "human_closed": """
        UPDATE _smithers_human_requests SET status = ?, closed_frame = ? WHERE request_id = ? AND status = 'pending'
    """,
    "cache": """
        INSERT INTO _smithers_cache (cache_key, created_at_ms, workflow_name, node_id, output_table, schema_sig, agent_sig,
                                     payload_json)
        VALUES (?, ?, ?, ?, ?, ?, ?, ?)
        ON CONFLICT (cache_key) DO UPDATE SET created_at_ms = excluded.created_at_ms, payload_json = excluded.payload_json,
            schema_sig = excluded.schema_sig
    """,
    "heartbeat": """
        UPDATE _smithers_attempts SET heartbeat_at_ms = ?, heartbeat_data_json = coalesce(?, heartbeat_data_json), heartbeat_frame = ?
        WHERE run_id = ? AND node_id = ? AND iteration = ? AND attempt = ?
    """,
    "attempts_closed": """
        UPDATE _smithers_attempts SET state = 'cancelled', finished_at_ms = ?, finished_frame = ?
        WHERE run_id = ? AND node_id = ? AND iteration = ? AND finished_at_ms IS NULL
    """,
    "attempt_meta": """
        UPDATE _smithers_attempts SET meta_json = ? WHERE run_id = ? AND node_id = ? AND iteration = ? AND attempt = ?
    """,
    "effect": """
        INSERT INTO _smithers_tool_calls (run_id, node_id, iteration, attempt, seq, call_token, tool_name, started_at_ms,
                                          status, kind, side_effect, idempotent, accepts_idempotency_key, has_revert,
                                          frame_no)
        VALUES (?, ?, ?, ?, 0, ?, ?, ?, 'started', 'task', 1, ?, ?, ?, ?)
    """,
    "effect_end": """
        UPDATE _smithers_tool_calls SET status = ?, finished_at_ms = ?, output_json = ?, error_json = ?
        WHERE run_id = ? AND node_id = ? AND iteration = ? AND attempt = ? AND seq = 0 AND status = 'started'
    """,
    "effect_none": """
        DELETE FROM _smithers_tool_calls
        WHERE run_id = ? AND node_id = ? AND iteration = ? AND attempt = ? AND seq = 0
    """,
    "checkpoint": """
        INSERT INTO _smithers_workspace_checkpoints (run_id, node_id, iteration, attempt, seq, frame_no, cwd, commit_id,
                                                     tree_id, problem, source, label, created_at_ms, position)
        VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?,
                (SELECT coalesce(max(c.position), 0) + 1 FROM _smithers_workspace_checkpoints c WHERE c.run_id = ?))
        ON CONFLICT (run_id, node_id, iteration, attempt, seq) DO UPDATE SET position = excluded.position,
            frame_no = excluded.frame_no, cwd = excluded.cwd, commit_id = excluded.commit_id, tree_id = excluded.tree_id,
            problem = excluded.problem, source = excluded.source, label = excluded.label,
            created_at_ms = excluded.created_at_ms
    """,
    "config": "UPDATE _smithers_run_specs SET config_json = ? WHERE run_id = ?",
    "name": "UPDATE _smithers_runs SET workflow_name = ? WHERE run_id = ?",
    "source": "UPDATE _smithers_runs SET workflow_hash = ?, workflow_path = ? WHERE run_id = ?",
}
