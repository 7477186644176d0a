"""Reads: plain queries on a read-only connection (or inside a write job, where a decision depends on them)."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic_core import from_json

from smithers.errors import RunNotFound
from smithers.events import EventRow
from smithers.jsons import int_of, object_of
from smithers.store.columns import TableDef
from smithers.store.interface import (
    ApprovalRow,
    AttemptRow,
    FrameRow,
    HumanRow,
    Inbox,
    LoadedRun,
    LoopRow,
    NodeRow,
    RunRow,
    SqlValue,
    StoredSignal,
    TimerRow,
)
from smithers.store.sql.session import Session as Session
from smithers.store.sql.tables import as_encoded, columns_of
from smithers.store.sql.unsafe import UNSAFE, unsafe_calls

_RUN = ", ".join(RunRow._fields)
_NODE = ", ".join(NodeRow._fields)
_ATTEMPT = ", ".join(AttemptRow._fields)
_EVENT = ", ".join(EventRow._fields)
_LOG_PAGE = (
    f"SELECT r.status, {', '.join(f'e.{name}' for name in EventRow._fields)} FROM _smithers_runs r "
    "LEFT JOIN _smithers_events e ON e.run_id = r.run_id AND e.seq > ? WHERE r.run_id = ? ORDER BY e.seq LIMIT ?"
)
_APPROVAL = ", ".join(ApprovalRow._fields)
_HUMAN = ", ".join(HumanRow._fields)
_SIGNAL = ", ".join(StoredSignal._fields)


_RUN_BY_ID = f"SELECT {_RUN} FROM _smithers_runs WHERE run_id = ?"
_SPEC_BY_ID = "SELECT input_json, config_json FROM _smithers_run_specs WHERE run_id = ?"
_NODES = f"SELECT {_NODE} FROM _smithers_nodes WHERE run_id = ?"
_LOOPS = """
SELECT r.ralph_id, r.iteration, r.done FROM _smithers_ralph r JOIN (
    SELECT ralph_id, max(frame_no) AS newest FROM _smithers_ralph WHERE run_id = ? GROUP BY ralph_id
) last ON last.ralph_id = r.ralph_id AND last.newest = r.frame_no WHERE r.run_id = ?
"""
_SIGNALS = f"SELECT {_SIGNAL} FROM _smithers_signals WHERE run_id = ? AND seq > ? ORDER BY seq"
_TIMERS = "SELECT node_id, iteration, kind, due_at_ms FROM _smithers_timers WHERE run_id = ? ORDER BY due_at_ms"
_APPROVALS_OF = (
    f"SELECT {_APPROVAL} FROM _smithers_approvals WHERE run_id = ? ORDER BY requested_at_ms, node_id, iteration"
)
_HUMANS_OF = f"SELECT {_HUMAN} FROM _smithers_human_requests WHERE run_id = ? ORDER BY requested_at_ms, request_id"
_OPEN_ATTEMPTS = f"SELECT {_ATTEMPT} FROM _smithers_attempts WHERE run_id = ? AND finished_at_ms IS NULL"
_FAILURES = """
SELECT node_id, iteration, count(*) FROM _smithers_attempts WHERE run_id = ? AND state = 'failed' GROUP BY node_id, iteration
"""
_CONSUMED = """
SELECT node_id, iteration, meta_json FROM _smithers_attempts WHERE run_id = ? AND meta_json LIKE '%resolvedSignalSeq%'
"""
_ERRORS = """
SELECT node_id, iteration, error_json FROM _smithers_attempts
WHERE run_id = ? AND state = 'failed' AND error_json IS NOT NULL ORDER BY attempt
"""
_CHECKPOINTS = """
SELECT a.node_id, a.iteration, a.heartbeat_data_json FROM _smithers_attempts a
JOIN _smithers_nodes n USING (run_id, node_id, iteration)
WHERE a.run_id = ? AND a.heartbeat_data_json IS NOT NULL AND n.state <> 'finished' ORDER BY a.attempt
"""
_LAST_WAKEUP = "SELECT max(id) FROM _smithers_wakeups WHERE run_id = ?"


def run(connection: Session, run_id: str) -> RunRow:
    """One run. Raises `RunNotFound`."""
    row = connection.execute(_RUN_BY_ID, (run_id,)).fetchone()
    if row is None:
        raise RunNotFound(run_id)
    return RunRow(*row)


def spec(connection: Session, run_id: str) -> tuple[str, str]:
    """A run's input and configuration as JSON text. Raises `RunNotFound`."""
    row = connection.execute(
        "SELECT input_json, config_json FROM _smithers_run_specs WHERE run_id = ?", (run_id,)
    ).fetchone()
    if row is None:
        raise RunNotFound(run_id)
    return str(row[0]), str(row[1])


def run_of_key(connection: Session, key: str) -> str | None:
    """The run that was launched with an idempotency key, if there is one."""
    row = connection.execute("SELECT run_id FROM _smithers_run_specs WHERE idempotency_key = ?", (key,)).fetchone()
    return None if row is None else str(row[0])


def idempotency_key(connection: Session, run_id: str) -> str | None:
    """The key that a run was launched with, if any."""
    row = connection.execute("SELECT idempotency_key FROM _smithers_run_specs WHERE run_id = ?", (run_id,)).fetchone()
    return None if row is None or row[0] is None else str(row[0])


def runs(connection: Session, statuses: Sequence[str], limit: int, parent: str | None = None) -> list[RunRow]:
    """Runs, newest first; of these statuses if any are given, children of `parent` if it is."""
    where, parameters = list[str](), list[SqlValue]()
    if statuses:
        where.append(f"status IN ({', '.join('?' for _ in statuses)})")
        parameters += statuses
    if parent is not None:
        where.append("parent_run_id = ?")
        parameters.append(parent)
    text = f"SELECT {_RUN} FROM _smithers_runs"
    if where:
        text += " WHERE " + " AND ".join(where)
    rows = connection.execute(text + " ORDER BY created_at_ms DESC, run_id DESC LIMIT ?", (*parameters, limit))
    return [RunRow(*row) for row in rows]


def owners(connection: Session) -> list[str]:
    """Everybody who has a run, living or dead."""
    rows = connection.execute("SELECT DISTINCT runtime_owner_id FROM _smithers_runs WHERE runtime_owner_id IS NOT NULL")
    return [str(row[0]) for row in rows]


def left_behind(connection: Session, dead: Sequence[str], silent_before_ms: int, limit: int) -> list[RunRow]:
    """Runs that are marked as running and have no owner, one of these, or one that has shown no life since a moment."""
    of_dead = f" OR runtime_owner_id IN ({', '.join('?' for _ in dead)})" if dead else ""
    rows = connection.execute(
        f"SELECT {_RUN} FROM _smithers_runs WHERE status = 'running' AND (runtime_owner_id IS NULL "
        f"OR coalesce(heartbeat_at_ms, started_at_ms, 0) < ?{of_dead}) "
        "AND coalesce(runtime_owner_id, '') NOT LIKE 'mirror:%' ORDER BY created_at_ms LIMIT ?",
        (silent_before_ms, *dead, limit),
    )
    return [RunRow(*row) for row in rows]


def nodes(connection: Session, run_id: str) -> list[NodeRow]:
    """All nodes of a run."""
    return [NodeRow(*row) for row in connection.execute(_NODES, (run_id,))]


def attempts(connection: Session, run_id: str, node_id: str | None = None) -> list[AttemptRow]:
    """Attempts of a run, or of one of its nodes."""
    text, parameters = f"SELECT {_ATTEMPT} FROM _smithers_attempts WHERE run_id = ?", [run_id]
    if node_id is not None:
        text, parameters = text + " AND node_id = ?", [run_id, node_id]
    return [AttemptRow(*row) for row in connection.execute(text, parameters)]


def events(connection: Session, run_id: str, after: int, limit: int, *, node_id: str | None = None) -> list[EventRow]:
    """Events with a number above `after`, in order."""
    text, parameters = (
        f"SELECT {_EVENT} FROM _smithers_events WHERE run_id = ? AND seq > ?",
        list[SqlValue]([run_id, after]),
    )
    if node_id is not None:
        text += " AND node_id = ?"
        parameters.append(node_id)
    rows = connection.execute(text + " ORDER BY seq LIMIT ?", (*parameters, limit))
    return [EventRow(*row) for row in rows]


def log_page(connection: Session, run_id: str, after: int, limit: int) -> tuple[str, list[EventRow]]:
    """A run's status, and its events with a number above `after`, in one statement. Raises `RunNotFound`."""
    rows = [*connection.execute(_LOG_PAGE, (after, run_id, limit))]
    if not rows:
        raise RunNotFound(run_id)
    return str(rows[0][0]), [EventRow(*row[1:]) for row in rows if row[1] is not None]


def successor(connection: Session, run_id: str) -> str | None:
    """The run that goes on for a continued one, None if it was not continued."""
    row = connection.execute(
        "SELECT payload FROM _smithers_events WHERE run_id = ? AND type = 'RunContinuedAsNew' ORDER BY seq DESC LIMIT 1",
        (run_id,),
    ).fetchone()
    return None if row is None else str(from_json(row[0])["newRunId"])


def last_seq(connection: Session, run_id: str) -> int:
    """The number of a run's newest event, -1 for none. Raises `RunNotFound`."""
    return run(connection, run_id).next_seq - 1


def approval(connection: Session, run_id: str, node_id: str, iteration: int) -> ApprovalRow | None:
    """One approval."""
    row = connection.execute(
        f"SELECT {_APPROVAL} FROM _smithers_approvals WHERE run_id = ? AND node_id = ? AND iteration = ?",
        (run_id, node_id, iteration),
    ).fetchone()
    return None if row is None else ApprovalRow(*row)


def approvals(connection: Session, run_id: str | None = None, *, only_open: bool = True) -> list[ApprovalRow]:
    """Approvals, oldest first; of one run if given."""
    where, parameters = _asked_of(run_id, "requested" if only_open else None)
    text = f"SELECT {_APPROVAL} FROM _smithers_approvals{where} ORDER BY requested_at_ms, run_id, node_id, iteration"
    rows = connection.execute(text, parameters)
    return [ApprovalRow(*row) for row in rows]


def approval_history(connection: Session, workflow: str, node_id: str, limit: int) -> list[ApprovalRow]:
    """The newest manual decisions on one node of a workflow, over all runs."""
    rows = connection.execute(
        f"SELECT {_APPROVAL} FROM _smithers_approvals WHERE workflow_name = ? AND node_id = ? "
        "AND decided_at_ms IS NOT NULL AND auto_approved = 0 AND coalesce(decided_by, '') NOT LIKE 'smithers:%' "
        "ORDER BY decided_at_ms DESC LIMIT ?",
        (workflow, node_id, limit),
    )
    return [ApprovalRow(*row) for row in rows]


def human_request(connection: Session, request_id: str) -> HumanRow | None:
    """One request to a person."""
    row = connection.execute(
        f"SELECT {_HUMAN} FROM _smithers_human_requests WHERE request_id = ?", (request_id,)
    ).fetchone()
    return None if row is None else HumanRow(*row)


def human_requests(connection: Session, run_id: str | None = None, *, only_open: bool = True) -> list[HumanRow]:
    """Requests to people, oldest first; of one run if given."""
    where, parameters = _asked_of(run_id, "pending" if only_open else None)
    text = f"SELECT {_HUMAN} FROM _smithers_human_requests{where} ORDER BY requested_at_ms, request_id"
    return [HumanRow(*row) for row in connection.execute(text, parameters)]


def _asked_of(run_id: str | None, status: str | None) -> tuple[str, list[SqlValue]]:
    """What people are asked: of one run or of all, in one status or any. A condition, and what its mark stands for."""
    where = [] if run_id is None else ["run_id = ?"]
    if status is not None:
        where.append(f"status = '{status}'")  # spelled out, as in the partial indexes of what is open
    return " WHERE " + " AND ".join(where) if where else "", [] if run_id is None else [run_id]


def signals(connection: Session, run_id: str, after: int = -1) -> list[StoredSignal]:
    """Signals of a run above a number, in order."""
    return [StoredSignal(*row) for row in connection.execute(_SIGNALS, (run_id, after))]


def timers(connection: Session, run_id: str) -> list[TimerRow]:
    """What a run waits for by the clock, earliest first."""
    return [TimerRow(*row) for row in connection.execute(_TIMERS, (run_id,))]


def loops(connection: Session, run_id: str) -> list[LoopRow]:
    """Loop counters of a run."""
    return [LoopRow(*row) for row in connection.execute(_LOOPS, (run_id, run_id))]


def frames(connection: Session, run_id: str, after: int = 0, limit: int = 1000) -> list[FrameRow]:
    """Stored frames above a number, in order. Steps that left the tree as it was have none."""
    rows = connection.execute(
        "SELECT frame_no, created_at_ms, encoding, tree, tree_hash, reason FROM _smithers_frames "
        "WHERE run_id = ? AND frame_no > ? ORDER BY frame_no LIMIT ?",
        (run_id, after, limit),
    )
    return [FrameRow(*row) for row in rows]


def output(
    connection: Session, table: str, run_id: str, node_id: str, iteration: int | None
) -> tuple[int, dict[str, SqlValue]] | None:
    """A stored output row with its iteration (the newest if None), as raw columns; None when there is none."""
    columns = [*columns_of(connection, table)]
    if not columns:
        return None
    text, parameters = f'SELECT * FROM "{table}" WHERE run_id = ? AND node_id = ?', list[SqlValue]([run_id, node_id])
    if iteration is not None:
        text += " AND iteration = ?"
        parameters.append(iteration)
    row = connection.execute(text + " ORDER BY iteration DESC LIMIT 1", parameters).fetchone()
    if row is None:
        return None
    found: dict[str, SqlValue] = {name: as_encoded(value) for name, value in zip(columns, row, strict=True)}
    number = found["iteration"]
    assert isinstance(number, int)
    return number, {k: v for k, v in found.items() if k not in ("run_id", "node_id", "iteration")}


def column_kinds(connection: Session, table: str) -> dict[str, str]:
    """How an author's columns were encoded, for readers without the models."""
    rows = connection.execute(
        "SELECT column_name, kind FROM _smithers_output_schema_columns WHERE table_name = ?", (table,)
    )
    return {str(name): str(kind) for name, kind in rows}


def cache_entry(connection: Session, key: str) -> tuple[int, str, str] | None:
    """A cached result: (created_at_ms, schema signature, payload JSON)."""
    row = connection.execute(
        "SELECT created_at_ms, schema_sig, payload_json FROM _smithers_cache WHERE cache_key = ?", (key,)
    ).fetchone()
    return None if row is None else (int(row[0]), str(row[1]), str(row[2]))


def inbox(connection: Session, run_id: str, after_signal: int) -> Inbox:
    """What others have written for a run; decided approvals are given again each time, applying them is idempotent."""
    last = connection.execute("SELECT max(id) FROM _smithers_wakeups WHERE run_id = ?", (run_id,)).fetchone()
    row = run(connection, run_id)
    decided = connection.execute(
        f"SELECT {_APPROVAL} FROM _smithers_approvals WHERE run_id = ? AND status <> 'requested'", (run_id,)
    )
    answered = connection.execute(
        f"SELECT {_HUMAN} FROM _smithers_human_requests WHERE run_id = ? AND status = 'answered'", (run_id,)
    )
    return Inbox(
        row.cancel_requested_at_ms is not None,
        row.cancel_request_source,
        row.pause_requested_at_ms is not None,
        [ApprovalRow(*r) for r in decided],
        [HumanRow(*r) for r in answered],
        signals(connection, run_id, after_signal),
        int(last[0] or 0) if last is not None else 0,
    )


def _signal_of(meta_json: str) -> int | None:
    """The signal that an attempt to wait has taken."""
    return int_of(object_of(object_of(from_json(meta_json)).get("waitForEvent")).get("resolvedSignalSeq"))


def load(connection: Session, run_id: str, tables: Sequence[tuple[TableDef, str]]) -> LoadedRun:
    """Everything that is needed to go on with a run. `tables` with the statement that reads each. Raises `RunNotFound`."""
    one, two = (run_id,), (run_id, run_id)
    # all are sent before the first is read: PostgreSQL answers them in one go
    run_rows, specs = connection.execute(_RUN_BY_ID, one), connection.execute(_SPEC_BY_ID, one)
    node_rows, loop_rows = connection.execute(_NODES, one), connection.execute(_LOOPS, two)
    signal_rows, timer_rows = connection.execute(_SIGNALS, (run_id, -1)), connection.execute(_TIMERS, one)
    approval_rows, human_rows = connection.execute(_APPROVALS_OF, one), connection.execute(_HUMANS_OF, one)
    open_rows, failures = connection.execute(_OPEN_ATTEMPTS, one), connection.execute(_FAILURES, one)
    consumed, errors = connection.execute(_CONSUMED, one), connection.execute(_ERRORS, one)
    checkpoints, last = connection.execute(_CHECKPOINTS, one), connection.execute(_LAST_WAKEUP, one)
    outputs = [(table.key, connection.execute(text, one)) for table, text in tables]
    unsafe = connection.execute(UNSAFE, one)
    row, spec_row, last_row = run_rows.fetchone(), specs.fetchone(), last.fetchone()
    if row is None or spec_row is None:
        raise RunNotFound(run_id)
    return LoadedRun(
        RunRow(*row),
        str(spec_row[0]),
        str(spec_row[1]),
        [NodeRow(*r) for r in node_rows],
        [LoopRow(*r) for r in loop_rows],
        [StoredSignal(*r) for r in signal_rows],
        [TimerRow(*r) for r in timer_rows],
        [ApprovalRow(*r) for r in approval_rows],
        [HumanRow(*r) for r in human_rows],
        [AttemptRow(*r) for r in open_rows],
        {(str(n), int(i)): int(c) for n, i, c in failures},
        {(str(n), int(i)): s for n, i, meta in consumed if (s := _signal_of(meta)) is not None},
        {(str(n), int(i)): str(e) for n, i, e in errors},
        {(str(n), int(i)): str(d) for n, i, d in checkpoints},
        {key: [tuple(r) for r in rows] for key, rows in outputs},
        int(last_row[0] or 0) if last_row is not None else 0,
        unsafe_calls(unsafe),
    )
