"""Narration: the reads by which a run's story is told and what it waits for is found; each takes as much as it gives, but for
those that say that they walk a run's log or attempts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from smithers.events import EventRow
from smithers.store.interface import ApprovalRow, HumanRow, NodeRow
from smithers.store.sql.session import Session

_EVENT: Final = ", ".join(EventRow._fields)
_NODE: Final = ", ".join(NodeRow._fields)
_APPROVAL: Final = ", ".join(ApprovalRow._fields)
_HUMAN: Final = ", ".join(HumanRow._fields)


# ── where a run stands ─────────────────────────────────────────────────────────────────────────────────────────────


def changed_at(connection: Session, run_id: str) -> int | None:
    """When a run's status changed last; that is near the end of the log of a run that waits."""
    row = connection.execute(
        "SELECT timestamp_ms FROM _smithers_events WHERE run_id = ? AND type = 'RunStatusChanged' ORDER BY seq DESC LIMIT 1",
        (run_id,),
    ).fetchone()
    return None if row is None else int(row[0])


class Change(NamedTuple):
    """A change of a run's history: `frame_no` is where a rewind has taken it back to, None for nodes that are done again."""

    type: str
    timestamp_ms: int
    frame_no: int | None
    node_id: str | None


def unresumed_change(connection: Session, run_id: str) -> Change | None:
    """What has made a run that nobody drives be as it is, if its history was changed and nobody has taken it up since."""
    row = connection.execute(
        "SELECT e.type, e.timestamp_ms, j.to_frame, e.node_id FROM _smithers_events e LEFT JOIN _smithers_jumps j "
        "ON j.run_id = e.run_id AND j.seq = e.seq WHERE e.run_id = ? AND e.type IN "
        "('RunStarted', 'TimeTravelJumped', 'RetryTaskFinished', 'TimeTravelFinished') ORDER BY e.seq DESC LIMIT 1",
        (run_id,),
    ).fetchone()
    return None if row is None or row[0] == "RunStarted" else Change(*row)


def failed_nodes(connection: Session, run_id: str, limit: int) -> list[tuple[NodeRow, str | None]]:
    """The nodes of a run that have failed, the latest first, each with the error of its last attempt."""
    columns = ", ".join(f"n.{name}" for name in NodeRow._fields)
    found = connection.execute(
        f"SELECT {columns}, a.error_json FROM _smithers_nodes n LEFT JOIN _smithers_attempts a ON a.run_id = n.run_id "
        "AND a.node_id = n.node_id AND a.iteration = n.iteration AND a.attempt = n.last_attempt "
        "WHERE n.run_id = ? AND n.state = 'failed' ORDER BY n.updated_at_ms DESC, n.node_id, n.iteration LIMIT ?",
        (run_id, limit),
    )
    return [(NodeRow(*row[:-1]), row[-1]) for row in found]


def nodes_in(connection: Session, run_id: str, states: Sequence[str], limit: int) -> list[NodeRow]:
    """Nodes of a run in one of these states, those that have been in it longest first."""
    marks = ", ".join("?" for _ in states)
    found = connection.execute(
        f"SELECT {_NODE} FROM _smithers_nodes WHERE run_id = ? AND state IN ({marks}) "
        "ORDER BY updated_at_ms, node_id, iteration LIMIT ?",
        (run_id, *states, limit),
    )
    return [NodeRow(*row) for row in found]


def last_iteration(connection: Session, run_id: str, node_id: str) -> int | None:
    """A node's highest iteration; None if there is no such node."""
    row = connection.execute(
        "SELECT max(iteration) FROM _smithers_nodes WHERE run_id = ? AND node_id = ?", (run_id, node_id)
    ).fetchone()
    return None if row is None or row[0] is None else int(row[0])


def has_run(connection: Session, run_id: str) -> bool:
    """Whether there is such a run."""
    return connection.execute("SELECT 1 FROM _smithers_runs WHERE run_id = ?", (run_id,)).fetchone() is not None


def open_attempt(connection: Session, run_id: str, node_id: str, iteration: int) -> tuple[int, int | None] | None:
    """When a node's attempt that is under way was started, and when it last gave a sign of life."""
    row = connection.execute(
        "SELECT started_at_ms, heartbeat_at_ms FROM _smithers_attempts WHERE run_id = ? AND node_id = ? AND iteration = ? "
        "AND finished_at_ms IS NULL ORDER BY attempt DESC LIMIT 1",
        (run_id, node_id, iteration),
    ).fetchone()
    return None if row is None else (int(row[0]), row[1])


def open_call(connection: Session, run_id: str, node_id: str, iteration: int, attempt: int | None) -> str | None:
    """The tool that an attempt has called and that has not answered yet."""
    row = connection.execute(
        "SELECT tool_name FROM _smithers_tool_calls WHERE run_id = ? AND node_id = ? AND iteration = ? AND attempt = ? "
        "AND status = 'started' AND kind = 'tool' ORDER BY seq DESC LIMIT 1",
        (run_id, node_id, iteration, attempt or 0),
    ).fetchone()
    return None if row is None else str(row[0])


# ── what has become of it ──────────────────────────────────────────────────────────────────────────────────────────


class Totals(NamedTuple):
    """The attempts of a run or node, counted."""

    attempts: int
    failed: int
    repeated: int
    """Failed attempts after which there was another."""
    cached: int


def totals(connection: Session, run_id: str) -> Totals:
    """The attempts of a run, counted; walks them."""
    row = connection.execute(
        "SELECT count(*), count(CASE WHEN a.state = 'failed' THEN 1 END), count(CASE WHEN a.state = 'failed' AND EXISTS ("
        "SELECT 1 FROM _smithers_attempts b WHERE b.run_id = a.run_id AND b.node_id = a.node_id "
        "AND b.iteration = a.iteration AND b.attempt > a.attempt) THEN 1 END), "
        "count(CASE WHEN a.cached = 1 THEN 1 END) FROM _smithers_attempts a WHERE a.run_id = ?",
        (run_id,),
    ).fetchone()
    return Totals(*row) if row is not None else Totals(0, 0, 0, 0)


def longest(connection: Session, run_id: str, limit: int) -> list[tuple[str, int, int, str]]:
    """The longest attempts of a run that finished: node, iteration, milliseconds, how what is noted with it begins. Walks
    the run's attempts."""
    rows = connection.execute(
        "SELECT node_id, iteration, finished_at_ms - started_at_ms AS took, coalesce(substr(meta_json, 1, 40), '') "
        "FROM _smithers_attempts WHERE run_id = ? AND state = 'finished' AND finished_at_ms IS NOT NULL "
        "ORDER BY took DESC, node_id, iteration LIMIT ?",
        (run_id, limit),
    )
    return [(str(n), int(i), int(t), str(m)) for n, i, t, m in rows]


def events_of(
    connection: Session, run_id: str, types: Sequence[str], limit: int, node_id: str | None = None
) -> list[EventRow]:
    """A run's events of these types, in order, the newest so many; walks its log."""
    marks = ", ".join("?" for _ in types)
    of_node = "" if node_id is None else " AND node_id = ?"
    rows = connection.execute(
        f"SELECT {_EVENT} FROM _smithers_events WHERE run_id = ? AND type IN ({marks}){of_node} ORDER BY seq DESC LIMIT ?",
        (run_id, *types, *(() if node_id is None else (node_id,)), limit),
    )
    return [EventRow(*row) for row in rows][::-1]


_STEPS: Final = (
    "NodeStarted",
    "NodeFinished",
    "NodeFailed",
    "NodeSkipped",
    "NodeCancelled",
    "NodeWaitingApproval",
    "NodeWaitingEvent",
    "NodeWaitingTimer",
    "NodeWaitingQuota",
    "ApprovalGranted",
    "ApprovalDenied",
    "ApprovalAutoApproved",
    "SignalReceived",
    "TimerFired",
    "RunFinished",
    "RunFailed",
    "RunCancelled",
    "RunContinuedAsNew",
    "RunForked",
    "RetryTaskStarted",
    "TimeTravelStarted",
    "TimeTravelJumped",
    "WorkflowReloaded",
)


def steps(connection: Session, run_id: str, from_frame: int) -> list[EventRow]:
    """What a run's steps from a frame on have brought, in order, but for what a rewind has left behind; walks its log."""
    marks = ", ".join("?" for _ in _STEPS)
    rows = connection.execute(
        f"SELECT {_EVENT} FROM _smithers_events e WHERE run_id = ? AND frame_no >= ? AND type IN ({marks}) "
        "AND NOT EXISTS (SELECT 1 FROM _smithers_jumps j WHERE j.run_id = e.run_id AND e.seq > j.cut_seq AND e.seq < j.seq) "
        "ORDER BY seq",
        (run_id, from_frame, *_STEPS),
    )
    return [EventRow(*row) for row in rows]


def decided(connection: Session, run_id: str, limit: int) -> list[ApprovalRow]:
    """The approvals of a run that have been decided, the latest first."""
    rows = connection.execute(
        f"SELECT {_APPROVAL} FROM _smithers_approvals WHERE run_id = ? AND status <> 'requested' "
        "ORDER BY decided_at_ms DESC, node_id, iteration LIMIT ?",
        (run_id, limit),
    )
    return [ApprovalRow(*row) for row in rows]


def answered(connection: Session, run_id: str, limit: int) -> list[HumanRow]:
    """The questions of a run that have been answered, the latest first."""
    rows = connection.execute(
        f"SELECT {_HUMAN} FROM _smithers_human_requests WHERE run_id = ? AND status = 'answered' "
        "ORDER BY answered_at_ms DESC, node_id, iteration LIMIT ?",
        (run_id, limit),
    )
    return [HumanRow(*row) for row in rows]


def child_counts(connection: Session, run_id: str) -> dict[str, int]:
    """How many runs of subflows a run has, by status."""
    rows = connection.execute(
        "SELECT status, count(*) FROM _smithers_runs WHERE parent_run_id = ? AND run_id LIKE ? ESCAPE '!' "
        "GROUP BY status ORDER BY status",
        (run_id, _like(f"{run_id}:child:") + "%"),
    )
    return {str(status): int(count) for status, count in rows}


def called(connection: Session, run_id: str, node_id: str, iteration: int) -> list[tuple[str, str, int]]:
    """The tools that a node has called: (name, status, how often)."""
    rows = connection.execute(
        "SELECT tool_name, status, count(*) FROM _smithers_tool_calls WHERE run_id = ? AND node_id = ? AND iteration = ? "
        "AND kind = 'tool' GROUP BY tool_name, status ORDER BY tool_name, status",
        (run_id, node_id, iteration),
    )
    return [(str(name), str(status), int(count)) for name, status, count in rows]


def _like(text: str) -> str:
    return text.replace("!", "!!").replace("%", "!%").replace("_", "!_")
