"""What a database tells after a crash: whether it agrees with itself, and the story of a run without what crashes change."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pydantic_core import from_json
from tests.acceptance.crash.workflows import DATABASE, Execution, executions

from smithers.events import EventRow
from smithers.store import open_store
from smithers.store.interface import ApprovalRow, AttemptRow, NodeRow, RunRow, StoredSignal
from smithers.store.sql import reads
from smithers.store.sql.session import Session
from smithers.store.sql.store import SqlStore

Key = tuple[str, int]

STATE_AFTER = {
    "NodePending": "pending",
    "NodeStarted": "in-progress",
    "NodeFinished": "finished",
    "NodeFailed": "failed",
    "NodeRetrying": "pending",
    "NodeSkipped": "skipped",
    "NodeCancelled": "cancelled",
    "NodeWaitingApproval": "waiting-approval",
    "NodeWaitingEvent": "waiting-event",
    "NodeWaitingTimer": "waiting-timer",
    "NodeWaitingQuota": "waiting-quota",
}
"""The state of a node after an event about it."""

VARYING = frozenset({"attempt", "firesAtMs", "firedAtMs", "delayMs", "newRunId", "carriedStateSize", "signalSeq"})
"""Fields of events that say when, or how often something was tried."""


@dataclass
class StoredRun:
    """Everything about one run, read in one snapshot."""

    row: RunRow
    nodes: dict[Key, NodeRow]
    events: list[EventRow]
    attempts: list[AttemptRow]
    approvals: list[ApprovalRow]
    signals: list[StoredSignal]
    outputs: dict[tuple[str, str, int], tuple[object, ...]]

    @property
    def finished(self) -> set[Key]:
        """The nodes that a committed event calls finished."""
        return {(e.node_id or "", e.iteration or 0) for e in self.events if e.type == "NodeFinished"}


@dataclass
class Story:
    """What a run came to, as far as no crash may change it."""

    status: str
    nodes: dict[Key, str]
    outputs: dict[tuple[str, str, int], tuple[object, ...]]
    told: dict[Key, list[tuple[str, str]]]
    """Per node the events about it, without interrupted attempts."""
    ending: list[str]
    failures: dict[Key, int] = field(default_factory=dict[Key, int])
    approvals: dict[Key, str] = field(default_factory=dict[Key, str])
    signals: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])


@contextmanager
def opened(folder: Path) -> Generator[SqlStore]:
    """The store of a test, for the time of a look."""
    store = open_store(folder / DATABASE, create=False)
    try:
        yield store
    finally:
        store.close()


def read_runs(store: SqlStore) -> dict[str, StoredRun]:
    """All runs of a database."""

    def query(connection: Session) -> dict[str, StoredRun]:
        found = dict[str, StoredRun]()
        for row in reads.runs(connection, (), 1000):
            nodes = {(n.node_id, n.iteration): n for n in reads.nodes(connection, row.run_id)}
            found[row.run_id] = StoredRun(
                row,
                nodes,
                reads.events(connection, row.run_id, -1, 100_000),
                reads.attempts(connection, row.run_id),
                reads.approvals(connection, row.run_id, only_open=False),
                reads.signals(connection, row.run_id),
                _outputs(connection, row.run_id, {n.output_table for n in nodes.values() if n.output_table}),
            )
        return found

    return store.read(query)


def _outputs(connection: Session, run_id: str, tables: set[str]) -> dict[tuple[str, str, int], tuple[object, ...]]:
    found = dict[tuple[str, str, int], tuple[object, ...]]()
    for table in sorted(tables):
        for values in connection.execute(f'SELECT * FROM "{table}" WHERE run_id = ?', (run_id,)):
            found[(table, str(values[1]), int(str(values[2])))] = tuple(values[3:])
    return found


def check(folder: Path) -> dict[str, StoredRun]:
    """Hold a database to the invariants that hold at every moment. Returns what is in it."""
    with opened(folder) as store:
        verdict = store.read(lambda c: c.execute("PRAGMA integrity_check").fetchall()[0][0])
        assert verdict == "ok", verdict
        runs = read_runs(store)
    for run in runs.values():
        name = run.row.run_id
        assert [e.seq for e in run.events] == list(range(run.row.next_seq)), f"{name}: numbers of events are not dense"
        replayed = replay(run.events)
        stored = {key: node.state for key, node in run.nodes.items()}
        assert stored == replayed, f"{name}: nodes are not what the events tell"
        rows = {(node, iteration) for _, node, iteration in run.outputs}
        with_rows = {key for key, node in run.nodes.items() if node.state == "finished" and node.output_seq is not None}
        assert rows == with_rows, f"{name}: rows without a finished node, or the other way round"
    _check_executions(runs, executions(folder))
    return runs


def replay(events: list[EventRow]) -> dict[Key, str]:
    """The states of a run's nodes, from its events alone."""
    found = dict[Key, str]()
    for event in events:
        state = STATE_AFTER.get(event.type)
        if state is not None and event.node_id is not None:
            found[(event.node_id, event.iteration or 0)] = state
    return found


def _check_executions(runs: dict[str, StoredRun], ran: list[Execution]) -> None:
    """Nothing ran twice as the same attempt, and nothing ran whose start is not committed."""
    attempts = [(e.run_id, e.node_id, e.iteration, e.attempt) for e in ran]
    assert len(attempts) == len(set(attempts)), "an attempt ran twice"
    started = {
        (run_id, e.node_id, e.iteration, from_json(e.payload or "{}")["attempt"])
        for run_id, run in runs.items()
        for e in run.events
        if e.type == "NodeStarted"
    }
    assert set(attempts) <= started, "something ran before its start was durable"


class Witness:
    """Looks at a database after each crash, and holds what happens later to what it saw."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._finished: dict[tuple[str, str, int], int] = {}
        """Finished nodes, with how many executions there were when that was seen first."""
        self._decided: set[tuple[str, str, int, str]] = set()
        self._signals: set[tuple[str, int, str]] = set()

    def look(self) -> dict[str, StoredRun]:
        """Check everything. Only while no process works on the database."""
        if not (self._folder / DATABASE).exists():
            assert not executions(self._folder)
            return {}
        runs = check(self._folder)
        ran = executions(self._folder)
        finished = {(run_id, *key) for run_id, run in runs.items() for key in run.finished}
        decided = {
            (r.row.run_id, a.node_id, a.iteration, a.status)
            for r in runs.values()
            for a in r.approvals
            if a.status != "requested"
        }
        signals = {(r.row.run_id, s.seq, s.signal_name) for r in runs.values() for s in r.signals}
        assert self._finished.keys() <= finished, "a finished node was forgotten"
        assert self._decided <= decided, "a decision was lost"
        assert self._signals <= signals, "a signal was lost"
        for key in finished:
            self._finished.setdefault(key, len(ran))
        for number, execution in enumerate(ran):
            seen_at = self._finished.get(execution[:3])
            assert seen_at is None or number < seen_at, f"{execution} ran although its node had finished"
        self._decided, self._signals = decided, signals
        return runs


def stories(runs: dict[str, StoredRun]) -> dict[str, Story]:
    """The stories of all runs. Ids of continuations, which are random, become `>`."""
    names = dict[str, str]()
    for run_id, run in runs.items():
        names[run_id] = _name(run, runs)
    return {names[run_id]: _story(run) for run_id, run in runs.items()}


def _name(run: StoredRun, runs: dict[str, StoredRun]) -> str:
    row = run.row
    if row.parent_run_id is None:
        return row.run_id
    parent = _name(runs[row.parent_run_id], runs)
    own = row.run_id.removeprefix(row.parent_run_id)
    return parent + (own if own.startswith(":child:") else ">")


def _story(run: StoredRun) -> Story:
    told: dict[Key, list[tuple[str, str]]] = defaultdict(list)
    for event in run.events:
        if event.node_id is not None and event.type != "TaskHeartbeat":
            told[(event.node_id, event.iteration or 0)].append((event.type, _plain(event.payload)))
    ends = {"RunFinished", "RunFailed", "RunCancelled", "RunContinuedAsNew"}
    failures: dict[Key, int] = defaultdict(int)
    for attempt in run.attempts:
        if attempt.state == "failed":
            failures[(attempt.node_id, attempt.iteration)] += 1
    return Story(
        run.row.status,
        {key: node.state for key, node in run.nodes.items()},
        run.outputs,
        {key: _uninterrupted(events) for key, events in told.items()},
        [e.type + " " + _plain(e.payload) for e in run.events if e.type in ends],
        dict(failures),
        {(a.node_id, a.iteration): f"{a.status} by {a.decided_by}: {a.note}" for a in run.approvals},
        sorted((s.signal_name, s.payload_json) for s in run.signals),
    )


def _plain(payload: str | None) -> str:
    """A payload without what varies: moments, attempts, stack traces."""
    fields: dict[str, object] = from_json(payload or "{}")
    error = fields.get("error")
    if isinstance(error, dict):
        fields["error"] = {k: error[k] for k in ("name", "code", "message") if k in error}
    return repr(sorted((k, v) for k, v in fields.items() if k not in VARYING))


def _uninterrupted(events: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Without what depends on the moment.

    That is attempts that were cut short (started, cancelled because the owner was lost, pending again), and the waits of
    a subflow, which waits or not depending on whether its child is faster (started, waiting, started again).
    """
    kept = list[tuple[str, str]]()
    for event in events:
        kept.append(event)
        match [name for name, _ in kept[-3:]]:
            case ["NodeStarted", "NodeCancelled", "NodePending"] if "owner-lost" in kept[-2][1]:
                del kept[-3:]
            case ["NodeStarted", str() as waiting, "NodeStarted"] if waiting.startswith("NodeWaiting"):
                del kept[-2:]
            case _:
                pass
    return kept


def order_of(run: StoredRun, nodes: tuple[str, ...]) -> list[str]:
    """Those of `nodes` that came to an end, in the order in which they did so last."""
    last = {e.node_id: e.seq for e in run.events if e.type in ("NodeFinished", "NodeFailed")}
    return sorted((node for node in nodes if node in last), key=lambda node: last[node])
