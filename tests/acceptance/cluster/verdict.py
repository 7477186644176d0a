"""What has to be so in the end, whatever went wrong: everything finished, nothing done twice, nothing missing in any log."""

from __future__ import annotations

from collections import Counter, defaultdict

from pydantic_core import from_json
from tests.acceptance.cluster.flows import Execution
from tests.acceptance.crash.observe import Key, replay

from smithers.events import EventRow
from smithers.store.checking import check
from smithers.store.sql import reads
from smithers.store.sql.session import Session
from smithers.store.sql.store import SqlStore

MANY = 1_000_000


def hold_to_account(store: SqlStore, expected: set[str], executions: list[Execution]) -> None:
    """Check a database that nobody works on any more against what was launched and what really ran."""
    assert check(store) == []
    runs = {row.run_id: row for row in store.read(lambda c: reads.runs(c, (), MANY))}
    assert expected <= runs.keys(), f"lost: {sorted(expected - runs.keys())}"
    assert all(run_id in expected or row.parent_run_id in expected for run_id, row in runs.items())
    unfinished = {run_id: (row.status, row.error_json) for run_id, row in runs.items() if row.status != "finished"}
    assert not unfinished, f"unfinished: {unfinished}"
    ran: dict[str, list[Execution]] = defaultdict(list)
    for execution in executions:
        ran[execution.run_id].append(execution)
    assert ran.keys() <= runs.keys()
    for run_id, row in runs.items():
        _check_run(store, run_id, row.next_seq, ran[run_id])


def _check_run(store: SqlStore, run_id: str, next_seq: int, ran: list[Execution]) -> None:
    def query(c: Session) -> tuple[list[EventRow], dict[Key, str]]:
        nodes = {(n.node_id, n.iteration): n.state for n in reads.nodes(c, run_id)}
        return reads.events(c, run_id, -1, MANY), nodes

    events, nodes = store.read(query)
    assert [e.seq for e in events] == list(range(next_seq)), f"{run_id}: its log has gaps"
    assert replay(events) == nodes, f"{run_id}: its tasks are not what its log tells"
    assert set(nodes.values()) <= {"finished"}, f"{run_id}: {nodes}"
    started: set[tuple[str, int, int]] = set()
    finished: Counter[Key] = Counter()
    for e in events:
        key = (e.node_id or "", e.iteration or 0)
        if e.type == "NodeStarted":
            assert key not in finished, f"{run_id}: {key} was started again after its result was stored"
            started.add((*key, from_json(e.payload or "{}")["attempt"]))
        elif e.type == "NodeFinished":
            finished[key] += 1
    assert set(finished.values()) == {1}, f"{run_id}: {finished}"
    attempts = Counter((e.node_id, e.iteration, e.attempt) for e in ran)
    assert set(attempts.values()) <= {1}, f"{run_id}: an attempt ran twice: {attempts}"
    assert attempts.keys() <= started, f"{run_id}: something ran before its start was durable"
