"""DevTools' reads: the frames that a tree is made of, and what is stored of the tasks in it.

What is read grows with what is asked for, not with the run: tasks are read by their keys, frames from the keyframe on that
the first of them builds upon.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from smithers.store.interface import FrameRow, SqlValue
from smithers.store.sql.session import Session

META_CHARS: Final = 20_000
"""What is read of an attempt's notes: its prompt and its agent come first, the conversation, which may be long, last."""
_AT_ONCE: Final = 400
_FRAME = ", ".join(FrameRow._fields)


class TaskRow(NamedTuple):
    """What is stored of a task, with the notes of its latest attempt as far as they were read."""

    node_id: str
    iteration: int
    state: str
    last_attempt: int | None
    output_table: str | None
    label: str | None
    meta_json: str | None


def chain(connection: Session, run_id: str, frame_no: int) -> list[FrameRow]:
    """The frames that the tree as of a frame is made of: a keyframe and what follows it; none before a run's first."""
    newest = connection.execute(
        "SELECT max(frame_no) FROM _smithers_frames WHERE run_id = ? AND frame_no <= ?", (run_id, frame_no)
    ).fetchall()[0][0]
    if newest is None:
        return []
    rows = connection.execute(
        f"SELECT {_FRAME} FROM _smithers_frames WHERE run_id = ? AND frame_no <= ? "
        "AND frame_no >= coalesce((SELECT max(frame_no) FROM _smithers_frames WHERE run_id = ? "
        "AND encoding = 'keyframe' AND frame_no <= ?), 0) ORDER BY frame_no",
        (run_id, newest, run_id, newest),
    )
    return [FrameRow(*row) for row in rows]


def frames_from(connection: Session, run_id: str, first: int, last: int, limit: int) -> list[FrameRow]:
    """The stored frames from one number to another, in order, at most so many."""
    rows = connection.execute(
        f"SELECT {_FRAME} FROM _smithers_frames WHERE run_id = ? AND frame_no >= ? AND frame_no <= ? "
        "ORDER BY frame_no LIMIT ?",
        (run_id, first, last, limit),
    )
    return [FrameRow(*row) for row in rows]


def tasks(connection: Session, run_id: str, keys: Iterable[tuple[str, int]]) -> dict[tuple[str, int], TaskRow]:
    """What is stored of these tasks; those that are not stored are left out."""
    by_iteration: dict[int, list[str]] = {}
    for node_id, iteration in keys:
        by_iteration.setdefault(iteration, []).append(node_id)
    found: dict[tuple[str, int], TaskRow] = {}
    for iteration, node_ids in by_iteration.items():
        for start in range(0, len(node_ids), _AT_ONCE):
            part = node_ids[start : start + _AT_ONCE]
            for row in _tasks(connection, run_id, iteration, part):
                found[(row.node_id, row.iteration)] = row
    return found


def _tasks(connection: Session, run_id: str, iteration: int, node_ids: list[str]) -> list[TaskRow]:
    marks = ", ".join("?" for _ in node_ids)
    parameters: list[SqlValue] = [run_id, iteration, *node_ids]
    rows = connection.execute(
        "SELECT n.node_id, n.iteration, n.state, n.last_attempt, n.output_table, n.label, "
        f"substr(a.meta_json, 1, {META_CHARS}) FROM _smithers_nodes n LEFT JOIN _smithers_attempts a "
        "ON a.run_id = n.run_id AND a.node_id = n.node_id AND a.iteration = n.iteration AND a.attempt = n.last_attempt "
        f"WHERE n.run_id = ? AND n.iteration = ? AND n.node_id IN ({marks})",
        parameters,
    )
    found = [TaskRow(*row) for row in rows]
    return [_whole(connection, run_id, row) if _is_cut(row) else row for row in found]


def _is_cut(row: TaskRow) -> bool:
    """Whether the notes end before they say which agent there was: its prompt was very long."""
    return row.meta_json is not None and len(row.meta_json) == META_CHARS and '"agentId"' not in row.meta_json


def _whole(connection: Session, run_id: str, row: TaskRow) -> TaskRow:
    found = connection.execute(
        "SELECT meta_json FROM _smithers_attempts WHERE run_id = ? AND node_id = ? AND iteration = ? AND attempt = ?",
        (run_id, row.node_id, row.iteration, row.last_attempt),
    ).fetchone()
    return row if found is None else row._replace(meta_json=found[0])
