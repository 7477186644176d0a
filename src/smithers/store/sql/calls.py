"""The journal of tool calls: written under the run's fence with the event that tells of it, read by run, node or attempt."""

from __future__ import annotations

from typing import Final

from smithers.errors import LeaseLost, RunNotFound
from smithers.store.calls import CallEnd, JournalEntry, ToolCallRow
from smithers.store.interface import CancelRequested, SqlValue
from smithers.store.sql import effects
from smithers.store.sql import statements as sql
from smithers.store.sql.session import Session

_COLUMNS = ", ".join(ToolCallRow._fields)

_FENCE: Final = """
UPDATE _smithers_runs SET next_seq = next_seq + 1
WHERE run_id = ? AND runtime_owner_id = ? AND epoch = ? AND status = 'running' AND (cancel_requested_at_ms IS NULL OR ? = 1)
RETURNING next_seq, frame_no
"""

_BEGIN: Final = f"""
INSERT INTO _smithers_tool_calls ({_COLUMNS}, frame_no)
VALUES ({", ".join("?" for _ in ToolCallRow._fields)}, ?)
"""

_END: Final = """
UPDATE _smithers_tool_calls SET status = ?, finished_at_ms = ?, output_json = ?, error_json = ?
WHERE call_token = ? AND status = 'started'
"""


def write(connection: Session, entry: JournalEntry) -> None:
    """Write an entry. The end of a call is written once, the first that arrives; also for a call that time travel has
    removed from its run.

    Raises:
        LeaseLost: the run is somebody else's by now.
        CancelRequested: the run is to be cancelled, so no call begins; those under way may still end.
    """
    call = entry.call
    is_end = isinstance(call, CallEnd)
    fence = connection.execute(_FENCE, (entry.run_id, entry.owner, entry.epoch, int(is_end))).fetchone()
    if fence is None:
        if isinstance(call, CallEnd) and effects.late_end(connection, entry.run_id, call, entry.now_ms):
            return
        raise _refusal(connection, entry)
    next_seq, frame = fence[0], fence[1] + 1  # the call begins, or ends, after that frame
    if isinstance(call, ToolCallRow):
        connection.execute(_BEGIN, (*call, frame))
    else:
        token, status, finished, output, error = call
        connection.execute(_END, (status, finished, output, error, token))
    connection.execute(sql.EVENT, (entry.run_id, next_seq - 1, entry.now_ms, frame, *entry.event))


def _refusal(connection: Session, entry: JournalEntry) -> Exception:
    row = connection.execute(
        "SELECT runtime_owner_id, epoch, status FROM _smithers_runs WHERE run_id = ?", (entry.run_id,)
    ).fetchone()
    if row is None:
        return RunNotFound(entry.run_id)
    owner, epoch, status = row
    if owner == entry.owner and epoch == entry.epoch and status == "running":
        return CancelRequested()
    return LeaseLost(
        f"run {entry.run_id!r} was taken over (now {status}, epoch {epoch}; this process held epoch {entry.epoch})",
        {"runId": entry.run_id, "epoch": entry.epoch, "currentEpoch": epoch},
    )


def tool_calls(
    connection: Session,
    run_id: str,
    node_id: str | None = None,
    iteration: int | None = None,
    attempt: int | None = None,
    limit: int = 1000,
) -> list[ToolCallRow]:
    """Calls of a run, or of a node, an iteration or an attempt of it, in the order in which they began; the newest
    `limit` of them."""
    text, parameters = f"SELECT {_COLUMNS} FROM _smithers_tool_calls WHERE run_id = ?", list[SqlValue]([run_id])
    for column, value in (("node_id", node_id), ("iteration", iteration), ("attempt", attempt)):
        if value is not None:
            text += f" AND {column} = ?"
            parameters.append(value)
    newest = " ORDER BY started_at_ms DESC, node_id DESC, iteration DESC, attempt DESC, seq DESC LIMIT ?"
    rows = connection.execute(text + newest, (*parameters, limit))
    return [ToolCallRow(*row) for row in rows][::-1]


def risky_calls(
    connection: Session, run_id: str, node_id: str, iteration: int, before_attempt: int
) -> list[ToolCallRow]:
    """What attempts before that one have called and may not be repeated blindly, in order."""
    rows = connection.execute(
        f"SELECT {_COLUMNS} FROM _smithers_tool_calls WHERE run_id = ? AND node_id = ? AND iteration = ? AND attempt < ? "
        "AND side_effect = 1 AND idempotent = 0 AND kind = 'tool' ORDER BY attempt, seq",
        (run_id, node_id, iteration, before_attempt),
    )
    return [ToolCallRow(*row) for row in rows]
