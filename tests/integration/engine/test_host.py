"""Host: whom it goes on with, and that nobody starves behind those whom it cannot go on with."""

from __future__ import annotations

import pytest
from tests.integration.engine.support import Bench, Verdict, smithers

from smithers import Approval, Context, SmithersWorkflow, Workflow
from smithers.engine import host as hosts
from smithers.engine.host import Host
from smithers.store.interface import RunRow
from smithers.store.sql import reads

pytestmark = pytest.mark.anyio
BOTH_DATABASES = True


@smithers
def asks(ctx: Context[object]) -> Workflow:
    return Workflow(name="asks")[Approval("ok", output=Verdict)]


async def test_runs_of_unknown_workflows_starve_nobody_in_the_same_sweep(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hosts, "BATCH", 2)
    run_ids = [*(f"foreign-{n}" for n in range(5)), "ours"]
    for run_id in run_ids:
        await bench.run(asks, run_id=run_id)
    bench.abandon()
    engine = bench.new_engine()
    for run_id in run_ids:
        await bench.decide("ok", run_id=run_id)

    def resolve(row: RunRow) -> SmithersWorkflow | None:
        return asks if row.run_id == "ours" else None

    report = await Host(engine, resolve).sweep(finds_orphans=False)

    assert report.resumed == ["ours"]
    assert set(report.skipped) == set(run_ids) - {"ours"}


async def test_dead_owners_are_looked_for_only_when_asked_and_unowned_runs_always(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[object] = []
    found = reads.runs

    def runs(connection: reads.Session, statuses: tuple[str, ...], limit: int) -> list[RunRow]:
        looks.append(statuses)
        return found(connection, statuses, limit)

    monkeypatch.setattr(reads, "runs", runs)
    await bench.run(asks)
    bench.abandon()
    host = Host(bench.new_engine(), lambda _row: asks)
    await bench.store.awrite(lambda c: c.execute("UPDATE _smithers_runs SET status = 'running'"))

    assert (await host.sweep(finds_orphans=False)).resumed == []
    assert looks == []
    await bench.store.awrite(lambda c: c.execute("INSERT INTO _smithers_wakeups (run_id) VALUES ('r')"))
    assert (await host.sweep(finds_orphans=False)).resumed == ["r"]
