"""Pages: the reads of lists that people look at, and of what many readers ask at once."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import NamedTuple

from smithers.jsons import object_of
from smithers.store.interface import ApprovalRow, FrameRow, RunRow, SqlValue
from smithers.store.sql.session import Session

_RUN = ", ".join(f"r.{name}" for name in RunRow._fields)
_APPROVAL = ", ".join(f"a.{name}" for name in ApprovalRow._fields)


def grown(connection: Session, seen: Mapping[str, int]) -> list[str]:
    """Of runs with the newest event number that is known of each, those whose log has more."""
    found: list[str] = []
    for run_id, cursor in seen.items():
        row = connection.execute("SELECT next_seq FROM _smithers_runs WHERE run_id = ?", (run_id,)).fetchone()
        if row is None or int(row[0]) - 1 > cursor:
            found.append(run_id)
    return found


def run_page(
    connection: Session, *, statuses: tuple[str, ...], workflow: str | None, limit: int
) -> list[tuple[RunRow, str]]:
    """Runs with their configuration, newest first; of these statuses and this workflow (its name, or the key that a
    gateway recorded) if given."""
    where, parameters = list[str](), list[SqlValue]()
    if statuses:
        where.append(f"r.status IN ({', '.join('?' for _ in statuses)})")
        parameters += statuses
    if workflow is not None:
        where.append("(r.workflow_name = ? OR s.workflow_key = ?)")
        parameters += [workflow, workflow]
    text = f"SELECT {_RUN}, s.config_json FROM _smithers_runs r JOIN _smithers_run_specs s USING (run_id)"
    if where:
        text += " WHERE " + " AND ".join(where)
    rows = connection.execute(text + " ORDER BY r.created_at_ms DESC, r.run_id DESC LIMIT ?", (*parameters, limit))
    return [(RunRow(*row[:-1]), str(row[-1])) for row in rows]


def node_counts(connection: Session, run_id: str) -> dict[str, int]:
    """How many nodes of a run are in which state."""
    rows = connection.execute("SELECT state, count(*) FROM _smithers_nodes WHERE run_id = ? GROUP BY state", (run_id,))
    return {str(state): int(count) for state, count in rows}


def newest_frames(connection: Session, run_id: str, after: int | None, limit: int) -> tuple[list[FrameRow], int]:
    """The newest frames above a number, oldest first, from the keyframe on that the first of them builds upon; and how
    many of them are asked for."""
    numbers = [
        int(row[0])
        for row in connection.execute(
            "SELECT frame_no FROM _smithers_frames WHERE run_id = ? AND frame_no > ? ORDER BY frame_no DESC LIMIT ?",
            (run_id, -1 if after is None else after, limit),
        )
    ]
    if not numbers:
        return [], 0
    rows = connection.execute(
        "SELECT frame_no, created_at_ms, encoding, tree, tree_hash, reason FROM _smithers_frames WHERE run_id = ? "
        "AND frame_no <= ? AND frame_no >= coalesce((SELECT max(frame_no) FROM _smithers_frames WHERE run_id = ? "
        "AND encoding = 'keyframe' AND frame_no <= ?), 0) ORDER BY frame_no",
        (run_id, numbers[0], run_id, numbers[-1]),
    )
    return [FrameRow(*row) for row in rows], len(numbers)


def frame_rows(connection: Session, run_id: str, frame_no: int | None) -> list[FrameRow]:
    """The frame whose tree was in force in this one (the newest for None), with those from the keyframe on that it builds
    upon, oldest first; empty before the first."""
    if frame_no is None:
        text = "SELECT max(frame_no) FROM _smithers_frames WHERE run_id = ?"
        newest = connection.execute(text, (run_id,)).fetchall()[0][0]
        if newest is None:
            return []
        frame_no = int(newest)
    rows = connection.execute(
        "SELECT frame_no, created_at_ms, encoding, tree, tree_hash, reason FROM _smithers_frames WHERE run_id = ? "
        "AND frame_no <= ? AND frame_no >= coalesce((SELECT max(frame_no) FROM _smithers_frames WHERE run_id = ? "
        "AND encoding = 'keyframe' AND frame_no <= ?), 0) ORDER BY frame_no",
        (run_id, frame_no, run_id, frame_no),
    )
    return [FrameRow(*row) for row in rows]


class OpenApproval(NamedTuple):
    """An open approval with what a list of them shows of its run."""

    row: ApprovalRow
    label: str | None
    run_status: str | None


def open_approvals(connection: Session) -> list[OpenApproval]:
    """Open approvals of runs that have not ended, oldest first."""
    rows = connection.execute(
        f"SELECT {_APPROVAL}, n.label, r.status FROM _smithers_approvals a JOIN _smithers_runs r USING (run_id) "
        "LEFT JOIN _smithers_nodes n ON n.run_id = a.run_id AND n.node_id = a.node_id AND n.iteration = a.iteration "
        "WHERE a.status = 'requested' AND r.status NOT IN ('finished', 'failed', 'cancelled', 'continued') "
        "ORDER BY a.requested_at_ms, a.run_id, a.node_id, a.iteration"
    )
    return [OpenApproval(ApprovalRow(*row[:-2]), row[-2], row[-1]) for row in rows]


def waiting_for(connection: Session, signal: str, correlation_id: str | None) -> list[str]:
    """Runs with a node that waits for a signal of this name and correlation id (None for none)."""
    rows = connection.execute(
        "SELECT n.run_id, a.meta_json FROM _smithers_runs r JOIN _smithers_nodes n USING (run_id) "
        "JOIN _smithers_attempts a ON a.run_id = n.run_id AND a.node_id = n.node_id AND a.iteration = n.iteration "
        "WHERE r.status NOT IN ('finished', 'failed', 'cancelled', 'continued') AND n.state = 'waiting-event' "
        "AND a.finished_at_ms IS NULL AND a.meta_json LIKE ? ESCAPE '!'",
        (f"%{_like(signal)}%",),
    )
    wanted = (signal, correlation_id)
    return list(dict.fromkeys(str(run_id) for run_id, meta in rows if _awaited(meta) == wanted))


def _like(name: str) -> str:
    """A pattern that every JSON text matches that holds this string; all do if it may be written in several ways."""
    if not (name.isascii() and name.isprintable()):
        return ""
    text = json.dumps(name)
    for sign in "!%_":
        text = text.replace(sign, f"!{sign}")
    return text


def _awaited(meta_json: str) -> tuple[object, object] | None:
    wait = object_of(object_of(json.loads(meta_json)).get("waitForEvent"))
    return (wait.get("signalName"), wait.get("correlationId")) if wait else None


def gauges(connection: Session) -> dict[str, int]:
    """What is going on now: live runs, nodes at work in them, open approvals, pending timers, runs that wait for room, and
    waits that hold nothing up."""
    text = (
        "SELECT (SELECT count(*) FROM _smithers_runs WHERE status = 'running'), "
        "(SELECT count(*) FROM _smithers_runs r JOIN _smithers_nodes n USING (run_id) "
        "WHERE r.status = 'running' AND n.state = 'in-progress'), "
        "(SELECT count(*) FROM _smithers_approvals WHERE status = 'requested'), "
        "(SELECT count(*) FROM _smithers_timers WHERE kind = 'timer'), "
        "(SELECT count(*) FROM _smithers_runs WHERE status = 'waiting-quota' AND frame_no = 0), "
        "(SELECT count(*) FROM _smithers_approvals WHERE status = 'requested' AND request_json LIKE ?), "
        "(SELECT count(*) FROM _smithers_runs r JOIN _smithers_nodes n USING (run_id) JOIN _smithers_attempts a "
        "ON a.run_id = n.run_id AND a.node_id = n.node_id AND a.iteration = n.iteration "
        "WHERE r.status IN ('running', 'waiting-event', 'waiting-approval', 'waiting-timer') "
        "AND n.state = 'waiting-event' AND a.finished_at_ms IS NULL AND a.meta_json LIKE ?)"
    )
    is_async = '%"waitAsync":true%'
    row = connection.execute(text, (is_async, is_async)).fetchall()[0]
    names = (
        "smithers.runs.active",
        "smithers.nodes.active",
        "smithers.approval.pending",
        "smithers.timers.pending",
        "smithers.scheduler.queue_depth",
        "smithers.external_wait.async_pending|kind=approval",
        "smithers.external_wait.async_pending|kind=event",
    )
    return {name: value if isinstance(value, int) else 0 for name, value in zip(names, row, strict=True)}
