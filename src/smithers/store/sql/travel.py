"""Travel: a run goes back to a frame, in one transaction. Also what keeps others out meanwhile, and the record of it.

Rows that came after the frame are deleted, rows that changed after it become what they were (`history.py` knows), the log is
kept: `_smithers_jumps` says which part of it was left behind. Numbers that were given out are not given out again. Forks
are in `branching.py`, doing a node again is in `resets.py`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Final, NamedTuple

from smithers.errors import RunNotResumable, TravelBusy
from smithers.events import EventDraft, event
from smithers.jsons import int_of, object_of
from smithers.store.calls import ToolCallRow
from smithers.store.interface import NodeRow, RunRow, SqlValue
from smithers.store.sql import family, reads
from smithers.store.sql import statements as sql
from smithers.store.sql.checkpoints import forget_after, forget_run
from smithers.store.sql.control import append_events
from smithers.store.sql.history import Past, require_frame
from smithers.store.sql.locks import lock_run
from smithers.store.sql.replaced import put_back as put_replaced_back
from smithers.store.sql.session import Session

REWOUND: Final = "rewound"
"""Why attempts that were under way at a frame were cancelled when the run went back to it."""

_CALL: Final = ", ".join((*ToolCallRow._fields, "frame_no"))

BACK: Final = """
UPDATE _smithers_runs SET status = 'running', frame_no = ?, epoch = epoch + 1, runtime_owner_id = NULL, heartbeat_at_ms = NULL,
    finished_at_ms = NULL, error_json = NULL, cancel_requested_at_ms = NULL, cancel_request_source = NULL,
    pause_requested_at_ms = NULL, claim_count = 0, claim_frame = NULL
WHERE run_id = ?
"""

OF_NODE: Final = "run_id = ? AND node_id = ? AND iteration = ?"


class Rewinding(NamedTuple):
    """What a rewind came to."""

    from_frame: int
    deleted_frames: int
    deleted_attempts: int
    invalidated_diffs: int


# ── keeping others out ─────────────────────────────────────────────────────────────────────────────────────────────


def hold(connection: Session, run_id: str, token: str, now_ms: int, lease_ms: int) -> None:
    """Have nobody else change the history of a run, or take it over, for a while. Raises `TravelBusy` or `RunNotFound`."""
    lock_run(connection, run_id)
    reads.run(connection, run_id)
    held = connection.execute(
        "INSERT INTO _smithers_rewind_leases (run_id, owner_token, expires_at_ms) VALUES (?, ?, ?) "
        "ON CONFLICT (run_id) DO UPDATE SET owner_token = excluded.owner_token, expires_at_ms = excluded.expires_at_ms "
        "WHERE _smithers_rewind_leases.expires_at_ms <= ? OR _smithers_rewind_leases.owner_token = excluded.owner_token "
        "RETURNING 1",
        (run_id, token, now_ms + lease_ms, now_ms),
    ).fetchone()
    if held is None:
        raise busy(run_id)


def busy(run_id: str) -> TravelBusy:
    """Somebody else is at it."""
    return TravelBusy(
        f"the history of run {run_id!r} is being changed already; try again in a moment", {"runId": run_id}
    )


def let_go(connection: Session, run_id: str, token: str, *, wakes: bool) -> None:
    """Give the hold up. With `wakes`, a run that was halted and stays as it is goes on."""
    lock_run(connection, run_id)
    connection.execute("DELETE FROM _smithers_rewind_leases WHERE run_id = ? AND owner_token = ?", (run_id, token))
    if wakes:
        connection.execute(sql.WAKEUP, (run_id,))


def halt(connection: Session, run_id: str) -> RunRow:
    """Take a run from its owner, whoever that is and whatever it does: nothing more is written by it."""
    lock_run(connection, run_id)
    connection.execute(
        "UPDATE _smithers_runs SET epoch = epoch + 1, runtime_owner_id = NULL WHERE run_id = ? AND status = 'running'",
        (run_id,),
    )
    return reads.run(connection, run_id)


def require_hold(connection: Session, run_id: str, token: str, now_ms: int) -> None:
    """Raises `TravelBusy` if the hold has run out."""
    found = connection.execute(
        "SELECT 1 FROM _smithers_rewind_leases WHERE run_id = ? AND owner_token = ? AND expires_at_ms > ?",
        (run_id, token, now_ms),
    ).fetchone()
    if found is None:
        raise busy(run_id)


# ── rewinding ──────────────────────────────────────────────────────────────────────────────────────────────────────


def rewind(
    connection: Session, run_id: str, frame_no: int, *, token: str, op_id: str, caller: str, now_ms: int
) -> Rewinding:
    """Take a run back to right after a frame; it is running then, without an owner, and a wake-up is left.

    Attempts that were under way at the frame are cancelled, and their nodes are pending again.

    Raises:
        TravelBusy: the hold has run out. RunNotFound, FrameOutOfRange. RunNotResumable: the run was continued as another.
    """
    lock_run(connection, run_id)
    require_hold(connection, run_id, token, now_ms)
    run = reads.run(connection, run_id)
    if run.status == "continued":
        raise RunNotResumable(f"run {run_id!r} was continued as another run; that one can go back", {"runId": run_id})
    require_frame(connection, run_id, frame_no)
    frames = _count(connection, "_smithers_frames", run_id, frame_no)
    attempts = _count(connection, "_smithers_attempts", run_id, frame_no)
    for each in family.below(connection, run_id, frame_no):
        lock_run(connection, each.run_id)
        if each.frame_no is None:
            remove(connection, each.run_id, op_id=op_id, reason="rewind", now_ms=now_ms)
        else:
            _go_back(connection, reads.run(connection, each.run_id), each.frame_no, op_id, caller, now_ms)
    diffs = _go_back(connection, run, frame_no, op_id, caller, now_ms)
    let_go(connection, run_id, token, wakes=False)
    return Rewinding(run.frame_no, frames, attempts, diffs)


def _go_back(connection: Session, run: RunRow, frame_no: int, op_id: str, caller: str, now_ms: int) -> int:
    """Take one run back, and tell of it in its log. How many stored differences of files that has made void."""
    run_id = run.run_id
    cut = put_back(connection, run_id, frame_no, op_id=op_id, reason="rewind", now_ms=now_ms)
    diffs = forget_after(connection, run_id, frame_no)
    told = [event("TimeTravelJumped", fromFrameNo=run.frame_no, toFrameNo=frame_no, caller=caller)]
    told += stop_work(connection, run_id, frame_no + 1, REWOUND, now_ms)
    told.append(event("RunStatusChanged", status="running"))
    connection.execute(BACK, (frame_no, run_id))
    seq = append_events(connection, run_id, now_ms, told)
    connection.execute(
        "INSERT INTO _smithers_jumps (run_id, seq, from_frame, to_frame, cut_seq, caller, timestamp_ms) "
        "VALUES (?, ?, ?, ?, ?, ?, ?)",
        (run_id, seq, run.frame_no, frame_no, cut, caller, now_ms),
    )
    connection.execute(sql.WAKEUP, (run_id,))
    return diffs


def remove(connection: Session, run_id: str, *, op_id: str, reason: str, now_ms: int) -> None:
    """Delete a run of a subflow that begins anew; its tool calls are kept beside the journal."""
    archive_calls(connection, "run_id = ?", (run_id,), op_id, reason, now_ms)
    for table in output_tables(connection, run_id):
        connection.execute(f"DELETE FROM {quoted(table)} WHERE run_id = ?", (run_id,))
    forget_run(connection, run_id)
    family.remove(connection, run_id)


def put_back(connection: Session, run_id: str, frame_no: int, *, op_id: str, reason: str, now_ms: int) -> int:
    """Make a run's rows what they were right after a frame, but for the run's own. The number of the frame's last event."""
    past = Past(connection, run_id, frame_no)
    changed, cut = past.changed(), past.last_seq
    attempts = past.attempts([(node.node_id, node.iteration) for node in changed])
    timers = [timer for timer in past.timers() if (timer.node_id, timer.iteration) in past.told]
    replaced = list(past.replaced.values())
    waiting = [(node.node_id, node.iteration) for node in changed if node.state == "waiting-approval"]
    mounted = past.mounted
    tables = output_tables(connection, run_id)
    archive_calls(connection, "run_id = ? AND frame_no > ?", (run_id, frame_no), op_id, reason, now_ms)
    connection.execute(
        "DELETE FROM _smithers_timers WHERE run_id = ? AND NOT EXISTS (SELECT 1 FROM _smithers_nodes n WHERE "
        "n.run_id = _smithers_timers.run_id AND n.node_id = _smithers_timers.node_id "
        "AND n.iteration = _smithers_timers.iteration AND n.frame_no <= ?)",
        (run_id, frame_no),
    )
    _put_nodes_back(connection, run_id, frame_no, changed, mounted)
    put_replaced_back(connection, run_id, frame_no, replaced)
    for table in tables:
        connection.execute(_DROP_OUTPUTS.format(table=quoted(table)), (run_id,))
    for statement in _LATER:
        connection.execute(statement, (run_id, frame_no))
    for attempt in attempts:
        if attempt.finished_at_ms is None:
            connection.execute(_REOPEN, (attempt.state, attempt.meta_json, run_id, *attempt[:3]))
    for timer in timers:
        connection.execute(sql.ROWS["timer"], (run_id, *timer))
    _put_requests_back(connection, run_id, frame_no, waiting)
    _put_config_back(connection, run_id, frame_no)
    return cut


_DROP_OUTPUTS: Final = """
DELETE FROM {table} WHERE run_id = ? AND NOT EXISTS (SELECT 1 FROM _smithers_nodes n WHERE n.run_id = {table}.run_id
    AND n.node_id = {table}.node_id AND n.iteration = {table}.iteration AND n.output_seq IS NOT NULL)
"""

_LATER: Final = (
    "DELETE FROM _smithers_attempts WHERE run_id = ? AND frame_no > ?",
    "DELETE FROM _smithers_frames WHERE run_id = ? AND frame_no > ?",
    "DELETE FROM _smithers_ralph WHERE run_id = ? AND frame_no > ?",
    "DELETE FROM _smithers_signals WHERE run_id = ? AND frame_no > ?",
    "UPDATE _smithers_attempts SET heartbeat_at_ms = NULL, heartbeat_data_json = NULL, heartbeat_frame = NULL "
    "WHERE run_id = ? AND heartbeat_frame > ?",
)

_REOPEN: Final = f"""
UPDATE _smithers_attempts SET state = ?, meta_json = ?, finished_at_ms = NULL, finished_frame = NULL, error_json = NULL,
    response_text = NULL, cached = NULL WHERE {OF_NODE} AND attempt = ?
"""


def _put_nodes_back(
    connection: Session, run_id: str, frame_no: int, changed: list[NodeRow], mounted: dict[int, int]
) -> None:
    connection.execute("DELETE FROM _smithers_nodes WHERE run_id = ? AND created_frame > ?", (run_id, frame_no))
    for created, moment in mounted.items():
        connection.execute(
            "UPDATE _smithers_nodes SET state = 'pending', last_attempt = NULL, updated_at_ms = ?, frame_no = created_frame, "
            "output_seq = NULL, began_frame = NULL "
            "WHERE run_id = ? AND created_frame = ? AND frame_no > ? AND (began_frame IS NULL OR began_frame > ?)",
            (moment, run_id, created, frame_no, frame_no),
        )
    for node in changed:
        state = node.state
        if state == "finished" and node.output_table is not None and node.output_seq is None:
            state = "pending"  # a version that did not keep old rows has done it again later
        was = (state, node.last_attempt, node.updated_at_ms, node.frame_no, node.output_seq)
        connection.execute(
            "UPDATE _smithers_nodes SET state = ?, last_attempt = ?, updated_at_ms = ?, frame_no = ?, output_seq = ? "
            f"WHERE {OF_NODE}",
            (*was, run_id, node.node_id, node.iteration),
        )


def _put_requests_back(connection: Session, run_id: str, frame_no: int, waiting: list[tuple[str, int]]) -> None:
    for table in ("_smithers_approvals", "_smithers_human_requests"):
        for key in waiting:  # asked again later: what was asked then is asked still
            connection.execute(
                f"UPDATE {table} SET frame_no = ? WHERE {OF_NODE} AND frame_no > ?", (frame_no, run_id, *key, frame_no)
            )
        connection.execute(f"DELETE FROM {table} WHERE run_id = ? AND frame_no > ?", (run_id, frame_no))
    connection.execute(
        "UPDATE _smithers_approvals SET status = 'requested', decided_at_ms = NULL, note = NULL, decided_by = NULL, "
        "decision_json = NULL, auto_approved = 0, decided_frame = NULL WHERE run_id = ? AND decided_frame > ?",
        (run_id, frame_no),
    )
    connection.execute(
        "UPDATE _smithers_human_requests SET status = 'pending', response_json = NULL, answered_at_ms = NULL, "
        "answered_by = NULL, closed_frame = NULL WHERE run_id = ? AND closed_frame > ?",
        (run_id, frame_no),
    )


def _put_config_back(connection: Session, run_id: str, frame_no: int) -> None:
    """What a run has noted of its code and its retries holds as far as it was so by the frame."""
    _, config_json = reads.spec(connection, run_id)
    config = object_of(json.loads(config_json))
    forgiven = {key: int_of(count) or 0 for key, count in object_of(config.get("forgivenAttempts")).items()}
    if frame_no == 0:
        config.pop("workflowPatches", None)
    if forgiven:
        failed = {
            f"{node_id}::{iteration}": int(count)
            for node_id, iteration, count in connection.execute(
                "SELECT node_id, iteration, count(*) FROM _smithers_attempts WHERE run_id = ? AND state = 'failed' "
                "GROUP BY node_id, iteration",
                (run_id,),
            )
        }
        config["forgivenAttempts"] = {key: count for key, count in forgiven.items() if failed.get(key, 0) >= count}
    text = json.dumps(config)
    if config != json.loads(config_json):
        connection.execute(sql.ROWS["config"], (text, run_id))


# ── shared with forks and resets ───────────────────────────────────────────────────────────────────────────────────


def stop_work(connection: Session, run_id: str, frame_no: int, reason: str, now_ms: int) -> list[EventDraft]:
    """Cancel the attempts that are under way by the rows, and have their nodes be pending, at a frame. What that tells."""
    error = json.dumps({"name": "TaskAborted", "code": "TASK_ABORTED", "message": reason, "summary": reason})
    told: list[EventDraft] = []
    for node_id, iteration, attempt in connection.execute(
        "UPDATE _smithers_nodes SET state = 'pending', frame_no = ?, updated_at_ms = ? "
        "WHERE run_id = ? AND state = 'in-progress' RETURNING node_id, iteration, last_attempt",
        (frame_no, now_ms, run_id),
    ).fetchall():
        connection.execute(
            "UPDATE _smithers_attempts SET state = 'cancelled', finished_at_ms = ?, finished_frame = ?, error_json = ? "
            f"WHERE {OF_NODE} AND finished_at_ms IS NULL",
            (now_ms, frame_no, error, run_id, node_id, iteration),
        )
        told.append(event("NodeCancelled", node_id, iteration, attempt=attempt, reason=reason))
        told.append(event("NodePending", node_id, iteration))
    return told


def output_tables(connection: Session, run_id: str) -> list[str]:
    """The authors' tables that a run may have rows in."""
    rows = connection.execute(
        "SELECT DISTINCT output_table FROM _smithers_nodes WHERE run_id = ? AND output_table IS NOT NULL", (run_id,)
    )
    return sorted(str(row[0]) for row in rows)


def archive_calls(
    connection: Session, condition: str, values: Iterable[SqlValue], op_id: str, reason: str, now_ms: int
) -> None:
    """Take tool calls out of the journal, and keep them beside it."""
    given = tuple(values)
    connection.execute(
        f"INSERT INTO _smithers_tool_call_archive ({_CALL}, archived_by_op, archived_at_ms, archive_reason) "
        f"SELECT {_CALL}, ?, ?, ? FROM _smithers_tool_calls WHERE {condition}",
        (op_id, now_ms, reason, *given),
    )
    connection.execute(f"DELETE FROM _smithers_tool_calls WHERE {condition}", given)


def quoted(name: str) -> str:
    """A table's or column's name as it stands in a statement."""
    return '"' + name.replace('"', '""') + '"'


def _count(connection: Session, table: str, run_id: str, after: int) -> int:
    row = connection.execute(
        f"SELECT count(*) FROM {table} WHERE run_id = ? AND frame_no > ?", (run_id, after)
    ).fetchone()
    return 0 if row is None else int(row[0])
