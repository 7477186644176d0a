"""Effects: what calls with side effects have left outside, and what becomes of it when history is changed.

Rows are the journal's (`calls.py`): a live one in `_smithers_tool_calls`, one that time travel has removed in
`_smithers_tool_call_archive`, which holds the same columns and why it was removed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from pydantic_core import to_json

from smithers.errors import LateToolCompletion, error_object
from smithers.events import EventDraft, event
from smithers.store.calls import CallEnd, ToolCallRow
from smithers.store.sql import statements as sql
from smithers.store.sql.control import append_events
from smithers.store.sql.locks import lock_end, lock_run
from smithers.store.sql.session import Session

_COLUMNS: Final = ", ".join(ToolCallRow._fields)

_EFFECTS: Final = """
SELECT node_id, iteration, attempt, seq, call_token, tool_name, kind, status, idempotent, has_revert, started_at_ms,
       frame_no, revert_status, revert_error_json, CASE WHEN tool_name = 'bash' THEN input_json END
FROM _smithers_tool_calls
WHERE run_id = ? AND side_effect = 1 AND (revert_status IS NULL OR revert_status <> 'reverted')
ORDER BY started_at_ms, node_id, iteration, attempt, seq
"""

_REVERTING: Final = f"""
UPDATE _smithers_tool_calls SET revert_status = 'reverting', revert_error_json = NULL, reverted_at_ms = NULL
WHERE call_token = ? AND (revert_status IS NULL OR revert_status <> 'reverted') RETURNING {_COLUMNS}
"""

_REVERTED: Final = """
UPDATE _smithers_tool_calls SET revert_status = ?, reverted_at_ms = ?, revert_error_json = ?
WHERE call_token = ? AND revert_status = 'reverting' RETURNING 1
"""

_FORCED: Final = "UPDATE _smithers_tool_calls SET forced_past_json = ? WHERE call_token = ?"

_UNDONE: Final = tuple(
    f"SELECT kind, idempotency_key, node_id, iteration FROM {table} "
    "WHERE run_id = ? AND side_effect = 1 AND revert_status = 'reverted'"
    for table in ("_smithers_tool_calls", "_smithers_tool_call_archive")
)

_LATE: Final = """
UPDATE {table} SET status = ?, finished_at_ms = ?, output_json = ?, error_json = ?,
    revert_status = CASE WHEN revert_status IN ('reverting', 'reverted') THEN 'revert-stale' ELSE revert_status END
WHERE call_token = ? AND status <> 'finished' AND (revert_status IS NOT NULL OR ? = 1)
RETURNING revert_status, tool_name, kind, node_id, iteration, attempt, seq, idempotent, has_revert, started_at_ms, {op}
"""

"""A task that ran out of time has failed before it ends, if it works in a thread."""

_LATE_LIVE: Final = _LATE.format(table="_smithers_tool_calls", op="NULL")
_LATE_ARCHIVED: Final = _LATE.format(table="_smithers_tool_call_archive", op="archived_by_op")

_FAIL: Final = """
UPDATE _smithers_runs SET status = 'failed', error_json = ?, runtime_owner_id = NULL, heartbeat_at_ms = NULL,
    finished_at_ms = ?, pause_requested_at_ms = NULL, epoch = epoch + 1
WHERE run_id = ? AND status NOT IN ('finished', 'failed', 'cancelled', 'continued') RETURNING parent_run_id
"""


class EffectRow(NamedTuple):
    """A call with a side effect that stands, without what it was given and gave; `command` is what `bash` was to run."""

    node_id: str
    iteration: int
    attempt: int
    seq: int
    call_token: str
    tool_name: str
    kind: str
    status: str
    idempotent: int
    has_revert: int
    started_at_ms: int
    frame_no: int
    revert_status: str | None
    revert_error_json: str | None
    command: str | None


def standing(connection: Session, run_id: str) -> list[EffectRow]:
    """The effects of a run that nothing has reverted, in the order in which they began."""
    return [EffectRow(*row) for row in connection.execute(_EFFECTS, (run_id,))]


def ended_by(connection: Session, run_id: str, frame_no: int) -> set[tuple[str, int, int]]:
    """The attempts of a run that had ended by a frame: (node, iteration, attempt)."""
    rows = connection.execute(
        "SELECT node_id, iteration, attempt FROM _smithers_attempts WHERE run_id = ? AND finished_frame <= ?",
        (run_id, frame_no),
    )
    return {(str(node), int(iteration), int(attempt)) for node, iteration, attempt in rows}


def at_work(connection: Session, run_id: str) -> set[tuple[str, int, int]]:
    """The attempts of a run that are under way: (node, iteration, attempt)."""
    rows = connection.execute(
        "SELECT node_id, iteration, attempt FROM _smithers_attempts WHERE run_id = ? AND state = 'in-progress'",
        (run_id,),
    )
    return {(str(node), int(iteration), int(attempt)) for node, iteration, attempt in rows}


def reverting(connection: Session, run_id: str, token: str, now_ms: int, told: EventDraft) -> ToolCallRow | None:
    """Note that an effect is about to be reverted; the call's row, None if that has been reverted by somebody else."""
    lock_run(connection, run_id)
    row = connection.execute(_REVERTING, (token,)).fetchone()
    if row is None:
        return None
    append_events(connection, run_id, now_ms, [told])
    return ToolCallRow(*row)


def reverted(
    connection: Session, run_id: str, token: str, now_ms: int, told: EventDraft, error_json: str | None = None
) -> bool:
    """Note how reverting an effect has ended. False, and nothing is noted, if the call itself has ended meanwhile."""
    lock_run(connection, run_id)
    state = "reverted" if error_json is None else "revert-failed"
    if connection.execute(_REVERTED, (state, now_ms, error_json, token)).fetchone() is None:
        return False
    append_events(connection, run_id, now_ms, [told])
    return True


def undone(connection: Session, run_id: str) -> tuple[frozenset[str], Counter[tuple[str, int]]]:
    """What was reverted in a run: the idempotency keys of calls of tools, and how often each task's own effect."""
    keys, tasks = set[str](), Counter[tuple[str, int]]()
    for statement in _UNDONE:
        for kind, key, node_id, iteration in connection.execute(statement, (run_id,)):
            if kind == "task":
                tasks[str(node_id), int(iteration)] += 1
            elif key is not None:
                keys.add(str(key))
    return frozenset(keys), tasks


def crossed(
    connection: Session, run_id: str, tokens: Iterable[str], now_ms: int, by_json: str, told: Sequence[EventDraft]
) -> None:
    """Note that history is changed although these effects stand."""
    lock_run(connection, run_id)
    for token in tokens:
        connection.execute(_FORCED, (by_json, token))
    append_events(connection, run_id, now_ms, told)


def late_end(connection: Session, run_id: str, end: CallEnd, now_ms: int) -> bool:
    """Note the end of a call whose run has gone on without it, if time travel has passed it by. Whether it has.

    If its effect counts as reverted, that is not so any more: the run is failed with `LateToolCompletion`, unless it has
    ended, so that nobody builds upon it.
    """
    lock_end(connection, run_id)
    given = (end.status, end.finished_at_ms, end.output_json, end.error_json, end.call_token)
    # a row in its place counts only if somebody has begun to revert it; without that the call's owner was merely lost
    row = connection.execute(_LATE_LIVE, (*given, 0)).fetchone()
    if row is None:
        row = connection.execute(_LATE_ARCHIVED, (*given, 1)).fetchone()
    if row is None:
        return False
    if row[0] != "revert-stale":
        return True
    _, tool_name, kind, node_id, iteration, attempt, seq, idempotent, has_revert, started, op = row
    effect: dict[str, object] = {
        "kind": kind,
        "toolName": tool_name,
        "nodeId": node_id,
        "iteration": iteration,
        "attempt": attempt,
        "seq": seq,
        "effectStatus": "succeeded" if end.status == "finished" else "unknown",
        "idempotent": bool(idempotent),
        "hasRevert": bool(has_revert),
        "startedAtMs": started,
        "reason": "the call ended after its effect was reverted",
    }
    error = LateToolCompletion(
        f"{tool_name} of {node_id!r} ended after its effect was reverted, so the effect may stand; "
        "undo it by hand before you go on with the run",
        {"runId": run_id, "effect": effect},
    )
    stored = error_object(error, with_stack=False)
    told = [
        event(
            "SideEffectBoundaryCrossed",
            opId=op or end.call_token,
            operation="late-completion",
            report={"blocking": [effect], "revertible": [], "warnings": []},
            lateCompletion=True,
            archivedByOp=op,
        )
    ]
    lock_end(connection, run_id)
    failed = connection.execute(_FAIL, (to_json(stored).decode(), now_ms, run_id)).fetchone()
    if failed is not None:
        told += [event("RunFailed", error=stored), event("RunStatusChanged", status="failed")]
        connection.execute(sql.WAKE_PARENT, (run_id,))
        connection.execute(sql.WAKEUP, (run_id,))
    append_events(connection, run_id, now_ms, told)
    return True
