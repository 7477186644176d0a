"""Family: what a rewind means for the runs of a run's subflows, whatever those were continued as.

A subflow that had not begun at the frame begins anew, so its run is removed; one that was under way goes back to the same
moment, told by the clock, because logs of two runs share no numbers; one that had ended and is used still stays.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from smithers.store.interface import RunRow
from smithers.store.sql import reads
from smithers.store.sql.history import Key, Past
from smithers.store.sql.lineage import MAX_CHILDREN, is_child
from smithers.store.sql.session import Session

_TABLES: Final = (
    "run_specs",
    "nodes",
    "attempts",
    "frames",
    "ralph",
    "events",
    "approvals",
    "human_requests",
    "signals",
    "timers",
    "wakeups",
    "jumps",
    "branches",
    "rewind_leases",
    "tool_calls",
    "replaced_rows",
    "runs",
)


class Below(NamedTuple):
    """A run below one that goes back: to which frame it goes, None if it is removed."""

    run_id: str
    frame_no: int | None


def below(connection: Session, run_id: str, frame_no: int) -> list[Below]:
    """What becomes of the runs below a run that goes back to a frame, parents before their children."""
    children = _children(connection, run_id)
    if not children:
        return []
    past = Past(connection, run_id, frame_no)
    found: list[Below] = []
    for child in children:
        row = connection.execute(
            "SELECT created_frame, began_frame, frame_no FROM _smithers_nodes "
            "WHERE run_id = ? AND node_id = ? AND iteration = ?",
            (run_id, *key_of(child)),
        ).fetchone()
        began = None if row is None or row[0] > frame_no else row[1]
        if began is None or began > frame_no:
            found += _removed(connection, child.run_id)
        elif row is not None and row[2] > frame_no:
            found += _at_moment(connection, child, past.moment_ms)
    return found


def of_nodes(connection: Session, run_id: str, keys: Iterable[Key]) -> list[Below]:
    """The runs of these nodes, and all below them, which are removed."""
    wanted = set(keys)
    found: list[Below] = []
    for child in _children(connection, run_id):
        if key_of(child) in wanted:
            found += _removed(connection, child.run_id)
    return found


def key_of(child: RunRow) -> Key:
    """The node that a run is the subflow of."""
    node_id, _, iteration = child.run_id.removeprefix(f"{child.parent_run_id}:child:").rpartition(":")
    return node_id, int(iteration) if iteration.isdigit() else 0


def remove(connection: Session, run_id: str) -> None:
    """Delete everything of a run but its output rows, whose tables only its nodes name."""
    for table in _TABLES:
        connection.execute(f"DELETE FROM _smithers_{table} WHERE run_id = ?", (run_id,))


def _children(connection: Session, run_id: str) -> list[RunRow]:
    rows = reads.runs(connection, (), MAX_CHILDREN, parent=run_id)
    return sorted((row for row in rows if is_child(row.run_id, run_id)), key=lambda row: row.run_id)


def _heirs(connection: Session, run_id: str) -> list[RunRow]:
    heir = reads.successor(connection, run_id)
    return [row for row in reads.runs(connection, (), MAX_CHILDREN, parent=run_id) if row.run_id == heir]


def _removed(connection: Session, run_id: str) -> list[Below]:
    found = [Below(run_id, None)]
    for row in (*_children(connection, run_id), *_heirs(connection, run_id)):
        found += _removed(connection, row.run_id)
    return found


def _at_moment(connection: Session, run: RunRow, moment_ms: int) -> list[Below]:
    if run.created_at_ms > moment_ms:
        return _removed(connection, run.run_id)
    heirs = _heirs(connection, run.run_id)
    if any(heir.created_at_ms <= moment_ms for heir in heirs):
        return [each for heir in heirs for each in _at_moment(connection, heir, moment_ms)]
    frame_no = _frame_at(connection, run.run_id, moment_ms)
    if frame_no is None:
        return []
    found = [Below(run.run_id, frame_no), *below(connection, run.run_id, frame_no)]
    return found + [each for heir in heirs for each in _removed(connection, heir.run_id)]


def _frame_at(connection: Session, run_id: str, moment_ms: int) -> int | None:
    """The last frame that a run had left by a moment; None if nothing has happened in it since."""
    later = connection.execute(
        "SELECT min(frame_no) FROM _smithers_events WHERE run_id = ? AND timestamp_ms > ?", (run_id, moment_ms)
    ).fetchone()
    return None if later is None or later[0] is None else max(0, int(later[0]) - 1)
