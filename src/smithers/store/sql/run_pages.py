"""Run pages: the reads behind a gateway's lists of runs, approvals, nodes and events; no list walks more than it gives
or, where it is about one run, more than that run.

What a single run's driver or a status page reads is in `reads.py` and `pages.py`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NamedTuple

from smithers.errors import RunNotFound
from smithers.events import EventRow
from smithers.store.interface import ApprovalRow, AttemptRow, HumanRow, NodeRow, RunRow, SqlValue
from smithers.store.sql.session import Dialect, Session, dialect_of

_ATTEMPT = ", ".join(AttemptRow._fields)
_EVENT = ", ".join(EventRow._fields)
_NODE = ", ".join(NodeRow._fields)
_LIVE = "r.status NOT IN ('finished', 'failed', 'cancelled', 'continued')"
_LISTED = (
    "s.config_json, s.workflow_key, s.listed_as, s.is_system, s.started_by_json, "
    "s.hijack_requested_at_ms, s.hijack_target, s.resumed_by_json"
)
_WIDTH = len(RunRow._fields)


def _columns(driver: str) -> str:
    """A run's columns, and its spec's; what a list is ordered by from the table that is walked."""
    ordered = ("run_id", "created_at_ms")
    run = ", ".join(f"{driver if name in ordered else 'r'}.{name} AS {name}" for name in RunRow._fields)
    return f"{run}, {_LISTED}"


_BY: Final = {
    "r": f"SELECT {_columns('r')} FROM _smithers_runs r CROSS JOIN _smithers_run_specs s WHERE",
    "s": f"SELECT {_columns('s')} FROM _smithers_run_specs s CROSS JOIN _smithers_runs r WHERE",
}
"""How a list begins that walks an index of runs, or of their specs."""

_RUN: Final = f"SELECT {', '.join(RunRow._fields)} FROM _smithers_runs WHERE run_id = ?"
_SPEC: Final = f"SELECT {_LISTED} FROM _smithers_run_specs s WHERE run_id = ?"


class ListedRun(NamedTuple):
    """A run with what was stored of it at its launch, and what has been asked of it since."""

    run: RunRow
    config_json: str
    workflow_key: str | None
    listed_as: str
    is_system: int
    started_by_json: str | None
    hijack_requested_at_ms: int | None = None
    hijack_target: str | None = None
    resumed_by_json: str | None = None


@dataclass(frozen=True, slots=True)
class RunFilter:
    """Which runs a list holds; everything by default, but for system runs.

    Attributes:
        registered: the keys of all registered workflows; by them the key of a run that was not started here is found.
        before: (creation time, run id) of the run that the list goes on after.
    """

    statuses: tuple[str, ...] = ()
    workflow_key: str | None = None
    registered: tuple[str, ...] = ()
    parent_run_id: str | None = None
    include_system: bool = False
    before: tuple[int, str] | None = None


def listed_run(connection: Session, run_id: str) -> ListedRun:
    """One run. Raises `RunNotFound`."""
    # Two statements, because SQLite plans a join with parameters anew each time, which takes longer than both of these.
    run = connection.execute(_RUN, (run_id,)).fetchone()
    spec = connection.execute(_SPEC, (run_id,)).fetchone()
    if run is None or spec is None:
        raise RunNotFound(run_id)
    return ListedRun(RunRow(*run), *spec)


def run_page(connection: Session, wanted: RunFilter, limit: int, offset: int = 0) -> list[ListedRun]:
    """Runs, newest first."""
    text, parameters = run_page_sql(wanted)
    rows = connection.execute(text, (*parameters, limit, offset))
    return [ListedRun(RunRow(*row[:_WIDTH]), *row[_WIDTH:]) for row in rows]


@lru_cache(maxsize=256)
def run_page_sql(wanted: RunFilter) -> tuple[str, tuple[SqlValue, ...]]:
    """The statement of `run_page`, with its parameters but for the limit and the offset.

    Each branch walks one index that is in the list's order, so that it ends with the page; CROSS JOIN keeps the planner
    from starting at the other table.
    """
    branches: list[_Branch] = []
    if wanted.parent_run_id is not None:
        branches.append(_branch(wanted, "r", ["r.parent_run_id = ?"], [wanted.parent_run_id]))
    elif wanted.statuses:
        # one branch a status, because an index gives one status at a time in order of age
        for status in wanted.statuses:
            branches.append(_branch(wanted, "r", ["r.status = ?"], [status]))
    elif (key := wanted.workflow_key) is not None:
        branches.append(_branch(wanted, "s", ["s.listed_as = ?"], [key]))
        if key in wanted.registered:
            where = ["r.workflow_name = ?", "s.workflow_key IS NULL", "s.listed_as <> ?"]
            branches.append(_branch(wanted, "r", where, [key, key]))
    elif wanted.include_system:
        branches.append(_branch(wanted, "r", [], []))
    else:
        branches.append(_branch(wanted, "s", [], []))
    order = "" if len(branches) > 1 else f"{branches[0].driver}."
    text = (
        " UNION ALL ".join(branch.text for branch in branches)
        + f" ORDER BY {order}created_at_ms DESC, {order}run_id DESC LIMIT ? OFFSET ?"
    )
    return text, tuple(each for branch in branches for each in branch.parameters)


class _Branch(NamedTuple):
    driver: str
    text: str
    parameters: list[SqlValue]


def _branch(wanted: RunFilter, driver: str, where: list[str], parameters: list[SqlValue]) -> _Branch:
    where, parameters = [*where, "r.run_id = s.run_id"], [*parameters]
    if wanted.statuses and wanted.parent_run_id is not None:
        where.append(f"r.status IN ({', '.join('?' for _ in wanted.statuses)})")
        parameters += wanted.statuses
    if wanted.workflow_key is not None:
        condition, more = key_is(wanted.workflow_key, wanted.registered)
        where.append(condition)
        parameters += more
    if not wanted.include_system:
        where.append("s.is_system = 0")
    if wanted.before is not None:
        where.append(f"({driver}.created_at_ms, {driver}.run_id) < (?, ?)")
        parameters += wanted.before
    return _Branch(driver, f"{_BY[driver]} {' AND '.join(where)}", parameters)


def key_is(key: str, registered: Collection[str]) -> tuple[str, list[SqlValue]]:
    """The condition that the workflow of a run (r, with its spec s) is listed under a key, as `resolve_key` has it."""
    others = [name for name in registered if name != key]
    by_name = "r.workflow_name = ? AND s.workflow_key IS NULL" if key in registered else "0 = 1"
    parameters: list[SqlValue] = [key] if key in registered else []
    not_named = f" AND r.workflow_name NOT IN ({', '.join('?' for _ in others)})" if others else ""
    condition = f"(s.workflow_key = ? OR ({by_name}) OR (s.workflow_key IS NULL AND s.listed_as = ?{not_named}))"
    return condition, [key, *parameters, key, *others]


# ── one run ────────────────────────────────────────────────────────────────────────────────────────────────────────


def waiting_node(connection: Session, run_id: str, state: str) -> tuple[str, int] | None:
    """The first node of a run in a state: (id, iteration)."""
    row = connection.execute(
        "SELECT node_id, iteration FROM _smithers_nodes WHERE run_id = ? AND state = ? LIMIT 1", (run_id, state)
    ).fetchone()
    return None if row is None else (str(row[0]), int(row[1]))


def open_attempt_meta(connection: Session, run_id: str, node_id: str, iteration: int) -> str | None:
    """What is noted with a node's attempt that is under way."""
    row = connection.execute(
        "SELECT meta_json FROM _smithers_attempts WHERE run_id = ? AND node_id = ? AND iteration = ? "
        "AND finished_at_ms IS NULL ORDER BY attempt DESC LIMIT 1",
        (run_id, node_id, iteration),
    ).fetchone()
    return None if row is None or row[0] is None else str(row[0])


def last_payload(connection: Session, run_id: str, type: str) -> str | None:
    """The payload of a run's newest event of a type; for types that stand near the end of the log."""
    row = connection.execute(
        "SELECT payload FROM _smithers_events WHERE run_id = ? AND type = ? ORDER BY seq DESC LIMIT 1", (run_id, type)
    ).fetchone()
    return None if row is None or row[0] is None else str(row[0])


def child_runs(connection: Session, run_id: str, limit: int) -> list[str]:
    """The runs that a run has started, oldest first."""
    rows = connection.execute(
        "SELECT run_id FROM _smithers_runs WHERE parent_run_id = ? ORDER BY created_at_ms, run_id LIMIT ?",
        (run_id, limit),
    )
    return [str(row[0]) for row in rows]


def usage_events(connection: Session, run_id: str) -> list[EventRow]:
    """Every report of used tokens of a run, in order. Walks the run's log: an index would slow every event down."""
    rows = connection.execute(
        f"SELECT {_EVENT} FROM _smithers_events WHERE run_id = ? AND type = 'TokenUsageReported' ORDER BY seq",
        (run_id,),
    )
    return [EventRow(*row) for row in rows]


def newest_events(connection: Session, run_id: str, after: int, limit: int, node_id: str) -> list[EventRow]:
    """The newest events above a number that name a node, in order."""
    rows = connection.execute(
        f"SELECT {_EVENT} FROM _smithers_events WHERE run_id = ? AND seq > ? AND node_id = ? ORDER BY seq DESC LIMIT ?",
        (run_id, after, node_id, limit),
    )
    return [EventRow(*row) for row in rows][::-1]


class NodeTimes(NamedTuple):
    """A node's state with the times of its latest attempt."""

    node_id: str
    iteration: int
    state: str
    last_attempt: int | None
    updated_at_ms: int
    label: str | None
    started_at_ms: int | None
    finished_at_ms: int | None


def node_times(connection: Session, run_id: str) -> list[NodeTimes]:
    """All nodes of a run, by id and iteration."""
    rows = connection.execute(
        "SELECT n.node_id, n.iteration, n.state, n.last_attempt, n.updated_at_ms, n.label, a.started_at_ms, "
        "a.finished_at_ms FROM _smithers_nodes n LEFT JOIN _smithers_attempts a ON a.run_id = n.run_id "
        "AND a.node_id = n.node_id AND a.iteration = n.iteration AND a.attempt = n.last_attempt "
        "WHERE n.run_id = ? ORDER BY n.node_id, n.iteration",
        (run_id,),
    )
    return [NodeTimes(*row) for row in rows]


def node_row(connection: Session, run_id: str, node_id: str, iteration: int) -> NodeRow | None:
    """One node."""
    row = connection.execute(
        f"SELECT {_NODE} FROM _smithers_nodes WHERE run_id = ? AND node_id = ? AND iteration = ?",
        (run_id, node_id, iteration),
    ).fetchone()
    return None if row is None else NodeRow(*row)


def has_node(connection: Session, run_id: str, node_id: str) -> bool:
    """Whether a run has a node, in whichever iteration."""
    row = connection.execute(
        "SELECT 1 FROM _smithers_nodes WHERE run_id = ? AND node_id = ? LIMIT 1", (run_id, node_id)
    ).fetchone()
    return row is not None


def attempts_of_run(connection: Session, run_id: str) -> list[AttemptRow]:
    """All attempts of a run, by the time that they were started."""
    rows = connection.execute(
        f"SELECT {_ATTEMPT} FROM _smithers_attempts WHERE run_id = ? ORDER BY started_at_ms, node_id, iteration, attempt",
        (run_id,),
    )
    return [AttemptRow(*row) for row in rows]


def attempts_of_node(
    connection: Session, run_id: str, node_id: str, iteration: int, attempt: int | None = None, limit: int = 10_000
) -> list[AttemptRow]:
    """Attempts of one iteration of a node, newest first; only the one with a number if it is given."""
    text, parameters = (
        f"SELECT {_ATTEMPT} FROM _smithers_attempts WHERE run_id = ? AND node_id = ? AND iteration = ?",
        list[SqlValue]([run_id, node_id, iteration]),
    )
    if attempt is not None:
        text += " AND attempt = ?"
        parameters.append(attempt)
    rows = connection.execute(text + " ORDER BY attempt DESC LIMIT ?", (*parameters, limit))
    return [AttemptRow(*row) for row in rows]


# ── approvals ──────────────────────────────────────────────────────────────────────────────────────────────────────


_NODES: Final = "_smithers_nodes n"
_ITS_NODE: Final = "n.run_id = a.run_id AND n.node_id = a.node_id AND n.iteration = a.iteration"


class Pending(NamedTuple):
    """Something that a person has to decide or answer, with what its list shows of its run."""

    ask: ApprovalRow | HumanRow
    label: str | None
    workflow_name: str
    workflow_key: str | None
    listed_as: str


def pending(connection: Session, wanted: RunFilter, run_id: str | None, limit: int) -> list[Pending]:
    """Open approvals and human tasks of runs that have not ended, oldest first."""
    found: list[Pending] = []
    for kind in (ApprovalRow, HumanRow):
        text, parameters = pending_sql(kind, wanted, run_id)
        rows = connection.execute(text, (*parameters, limit))
        width = len(kind._fields)
        found += [Pending(kind(*row[:width]), *row[width:]) for row in rows]
    found.sort(key=lambda p: (p.ask.requested_at_ms, p.ask.run_id, p.ask.node_id, p.ask.iteration))
    return found[:limit]


def pending_sql(
    kind: type[ApprovalRow] | type[HumanRow], wanted: RunFilter, run_id: str | None
) -> tuple[str, list[SqlValue]]:
    """The statement of `pending` for one kind, with its parameters but for the limit.

    A node that waits for approval has either kind of request: an approval's own, or that of a human task.
    """
    if kind is ApprovalRow:
        table, is_open, node = "_smithers_approvals", "a.status = 'requested'", f"LEFT JOIN {_NODES} ON {_ITS_NODE}"
    else:
        table, is_open, node = "_smithers_human_requests", "a.status = 'pending'", f"CROSS JOIN {_NODES}"
    where, parameters = ["r.run_id = a.run_id", "s.run_id = a.run_id", is_open, _LIVE], list[SqlValue]()
    if kind is HumanRow:
        where += [_ITS_NODE, "n.state = 'waiting-approval'"]
    if run_id is not None:
        where.append("a.run_id = ?")
        parameters.append(run_id)
    if wanted.workflow_key is not None:
        condition, more = key_is(wanted.workflow_key, wanted.registered)
        where.append(condition)
        parameters += more
    columns = ", ".join(f"a.{name}" for name in kind._fields)
    text = (
        f"SELECT {columns}, n.label, r.workflow_name, s.workflow_key, s.listed_as FROM {table} a "
        f"CROSS JOIN _smithers_runs r CROSS JOIN _smithers_run_specs s {node} "
        f"WHERE {' AND '.join(where)} ORDER BY a.requested_at_ms LIMIT ?"
    )
    return text, parameters


# ── the schema ─────────────────────────────────────────────────────────────────────────────────────────────────────


_DEFINITIONS: Final[dict[Dialect, str]] = {
    "sqlite": "SELECT tbl_name, sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY tbl_name, type, name",
    # columns in their order, then indexes by name
    "postgres": """
        SELECT c.relname, d.text
        FROM pg_class c JOIN (
            SELECT attrelid AS id, 1 AS part, lpad(attnum::text, 5, '0') AS name,
                   concat_ws(' ', attname, format_type(atttypid, atttypmod), CASE WHEN attnotnull THEN 'NOT NULL' END) AS text
            FROM pg_attribute WHERE attnum > 0 AND NOT attisdropped
            UNION ALL
            SELECT x.indrelid, 2, i.relname::text, pg_get_indexdef(x.indexrelid)
            FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid
        ) d ON d.id = c.oid
        WHERE c.relkind = 'r' AND c.relnamespace = current_schema()::regnamespace
        ORDER BY c.relname COLLATE "C", d.part, d.name COLLATE "C"
    """,
}


def schema(connection: Session) -> tuple[str, dict[str, str]]:
    """The newest migration's id, and a hash of each table's definition with its indexes."""
    newest = connection.execute("SELECT max(id) FROM _smithers_schema_migrations").fetchone()
    parts: dict[str, list[str]] = {}
    for table, text in connection.execute(_DEFINITIONS[dialect_of(connection)]):
        parts.setdefault(str(table), []).append(str(text))
    hashes = {table: hashlib.sha256("\n".join(texts).encode()).hexdigest() for table, texts in parts.items()}
    return "0000" if newest is None or newest[0] is None else str(newest[0]), hashes
