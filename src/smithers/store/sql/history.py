"""History: what a run was right after a frame: its nodes, loops, attempts, requests, signals, timers, tree, and its events
between two frames. How that is told is `past.py`'s.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from pydantic_core import from_json

from smithers.errors import FrameOutOfRange
from smithers.events import EventRow
from smithers.store.interface import (
    ApprovalRow,
    AttemptRow,
    FrameRow,
    HumanRow,
    LoopRow,
    StoredSignal,
    TimerRow,
)
from smithers.store.sql import reads
from smithers.store.sql.past import STATE_OF as STATE_OF
from smithers.store.sql.past import Key as Key
from smithers.store.sql.past import Past as Past
from smithers.store.sql.past import live_spans as live_spans
from smithers.store.sql.past_nodes import PastNode as PastNode
from smithers.store.sql.replaced import OUTPUT, replaced_since
from smithers.store.sql.session import Session

_EVENT: Final = ", ".join(EventRow._fields)


class FrameState(NamedTuple):
    """What a run was right after a frame. Nodes come in no particular order."""

    run_id: str
    frame_no: int
    moment_ms: int
    """When the frame's last event happened."""
    last_seq: int
    """The frame's last event; -1 for none."""
    nodes: list[PastNode]
    loops: list[LoopRow]


def require_frame(connection: Session, run_id: str, frame_no: int) -> None:
    """Raises `RunNotFound`, or `FrameOutOfRange` for a frame that the run does not have (yet)."""
    newest = reads.run(connection, run_id).frame_no
    if not 0 <= frame_no <= newest:
        raise FrameOutOfRange(
            f"run {run_id!r} has the frames 0 to {newest}, but no frame {frame_no}",
            {"runId": run_id, "frameNo": frame_no, "latestFrameNo": newest},
        )


def state_at(connection: Session, run_id: str, frame_no: int) -> FrameState:
    """A run right after a frame. Raises `RunNotFound` or `FrameOutOfRange`."""
    require_frame(connection, run_id, frame_no)
    past = Past(connection, run_id, frame_no)
    return FrameState(run_id, frame_no, past.moment_ms, past.last_seq, past.nodes(), past.loops())


def boundary(connection: Session, run_id: str, frame_no: int) -> int:
    """The number of the last event that belongs to a frame or one before; -1 for none."""
    return Past(connection, run_id, frame_no).last_seq


def nodes_at(connection: Session, run_id: str, frame_no: int) -> list[PastNode]:
    """The nodes right after a frame, in no particular order."""
    return Past(connection, run_id, frame_no).nodes()


def loops_at(connection: Session, run_id: str, frame_no: int) -> list[LoopRow]:
    """The loop counters right after a frame."""
    return Past(connection, run_id, frame_no).loops()


def attempts_at(connection: Session, run_id: str, frame_no: int, keys: Iterable[Key] | None = None) -> list[AttemptRow]:
    """The attempts right after a frame, of these nodes if any are given."""
    return Past(connection, run_id, frame_no).attempts(keys)


def approvals_at(connection: Session, run_id: str, frame_no: int) -> list[ApprovalRow]:
    """The approvals right after a frame."""
    return Past(connection, run_id, frame_no).approvals()


def humans_at(connection: Session, run_id: str, frame_no: int) -> list[HumanRow]:
    """The requests to people right after a frame."""
    return Past(connection, run_id, frame_no).humans()


def signals_at(connection: Session, run_id: str, frame_no: int) -> list[StoredSignal]:
    """The signals that had arrived by a frame."""
    return Past(connection, run_id, frame_no).signals()


def timers_at(connection: Session, run_id: str, frame_no: int) -> list[TimerRow]:
    """What the run waited for by the clock right after a frame."""
    return Past(connection, run_id, frame_no).timers()


def frame_rows_at(connection: Session, run_id: str, frame_no: int) -> list[FrameRow]:
    """The stored tree that was shown at a frame: rows from a keyframe on, to be decoded one after the other; empty before
    the first."""
    rows = connection.execute(
        f"SELECT {', '.join(FrameRow._fields)} FROM _smithers_frames WHERE run_id = ? AND frame_no <= ? AND frame_no >= "
        "(SELECT max(k.frame_no) FROM _smithers_frames k WHERE k.run_id = ? AND k.frame_no <= ? AND k.encoding = 'keyframe') "
        "ORDER BY frame_no",
        (run_id, frame_no, run_id, frame_no),
    )
    return [FrameRow(*row) for row in rows]


def events_between(
    connection: Session, run_id: str, after_frame: int, up_to_frame: int, limit: int = 10_000
) -> list[EventRow]:
    """The events of the frames after one and up to another, in order, without what rewinds left behind."""
    after = boundary(connection, run_id, after_frame)
    found: list[EventRow] = []
    for first, last in Past(connection, run_id, up_to_frame).spans:
        if last > after:
            rows = connection.execute(
                f"SELECT {_EVENT} FROM _smithers_events WHERE run_id = ? AND seq BETWEEN ? AND ? ORDER BY seq LIMIT ?",
                (run_id, max(first, after + 1), last, limit - len(found)),
            )
            found += [EventRow(*row) for row in rows]
    return found


def outputs_at(
    connection: Session, run_id: str, frame_no: int, nodes: Iterable[PastNode]
) -> dict[Key, tuple[str, dict[str, object]]]:
    """The output rows that nodes had right after a frame, by node: table, and the fields without the columns that every
    table has. `nodes` are the nodes as they were then."""
    had = {(n.node_id, n.iteration): n.output_table for n in nodes if n.output_table}
    found: dict[Key, tuple[str, dict[str, object]]] = {}
    for table in sorted({table for table in had.values() if table}):
        rows = _output_rows(connection, run_id, table)
        found |= {key: (table, row) for key, row in rows.items() if had.get(key) == table}
    for was in replaced_since(connection, run_id, frame_no):
        if was.kind == OUTPUT and was.output_table is not None and was.key in had:
            kinds = reads.column_kinds(connection, was.output_table)
            row = {name: _decoded(value, kinds.get(name, "text")) for name, value in was.values.items()}
            found[was.key] = (was.output_table, row)
    return found


def _output_rows(connection: Session, run_id: str, table: str) -> dict[Key, dict[str, object]]:
    """A run's rows in an author's table as they are now, by node."""
    kinds = reads.column_kinds(connection, table)
    names = ", ".join('"' + name.replace('"', '""') + '"' for name in kinds)
    rows = connection.execute(
        f'SELECT node_id, iteration{", " if names else ""}{names} FROM "{table}" WHERE run_id = ?', (run_id,)
    )
    return {
        (str(row[0]), int(row[1])): {n: _decoded(v, kinds[n]) for n, v in zip(kinds, row[2:], strict=True)}
        for row in rows
    }


def _decoded(value: object, kind: str) -> object:
    if value is None:
        return None
    if kind == "boolean":
        return bool(value)
    if kind == "number-int" and isinstance(value, str):  # beyond 64 bits
        return int(value.strip('"'))
    return from_json(value) if kind == "json" and isinstance(value, (str, bytes)) else value
