"""Host: whom it goes on with, and that nobody starves behind those whom it cannot go on with."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import pytest
from tests.integration.engine.support import Bench, Verdict, smithers, until

from smithers import Approval, Context, SmithersWorkflow, Timer, Workflow
from smithers.engine import host as hosts
from smithers.engine.host import Host
from smithers.store.columns import TableDef
from smithers.store.interface import LoadedRun, RunRow
from smithers.store.sql import reads, wakeups
from smithers.store.sql.store import SqlStore

pytestmark = pytest.mark.anyio
BOTH_DATABASES = True


@smithers
def sleeps(ctx: Context[object]) -> Workflow:
    return Workflow(name="sleeps")[Timer("nap", duration="1s")]


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


async def test_a_host_remembers_the_runs_that_are_others_no_longer_than_it_leaves_them_alone(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bench.run(asks)
    await bench.decide("ok")
    host = Host(bench.new_engine(), lambda _row: None)
    assert (await host.sweep()).skipped == {"r": "missing-workflow"}
    await bench.run(asks, run_id="other")
    await bench.resume(asks)  # whoever knows it has gone on with it
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 2 * hosts.MAX_BACKOFF_S + 1)
    await host.sweep()
    monkeypatch.undo()
    assert list(host._failing) == []  # pyright: ignore[reportPrivateUsage]


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


async def test_of_several_hosts_each_woken_run_is_loaded_by_one_and_no_race_is_lost(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_ids = [f"r{n:02}" for n in range(20)]
    for run_id in run_ids:
        await bench.run(asks, run_id=run_id)
    bench.abandon()
    hosted = [Host(bench.new_engine(), lambda _row: asks, max_concurrent=8) for _ in range(3)]
    for run_id in run_ids:
        await bench.decide("ok", run_id=run_id)
    loads: list[str] = []
    load = SqlStore.load

    async def noted(self: SqlStore, run_id: str, tables: Sequence[TableDef]) -> LoadedRun:
        loads.append(run_id)
        return await load(self, run_id, tables)

    monkeypatch.setattr(SqlStore, "load", noted)
    while set(loads) != set(run_ids):
        reports = await asyncio.gather(*[host.sweep(finds_orphans=False) for host in hosted])
        assert all(report.skipped == {} for report in reports)
    for run_id in run_ids:
        await bench.reached(run_id, "finished")
    assert sorted(loads) == run_ids


async def test_a_run_whose_taker_cannot_go_on_with_it_is_left_to_others(bench: Bench) -> None:
    await bench.run(asks, run_id="r")
    bench.abandon()
    unable, able = Host(bench.new_engine(), lambda _row: asks), Host(bench.new_engine(), lambda _row: asks)
    await bench.decide("ok", run_id="r")

    before = bench.row("r").workflow_hash
    is_of = "UPDATE _smithers_runs SET workflow_hash = ? WHERE run_id = 'r'"
    await bench.store.awrite(lambda c: c.execute(is_of, ("another",)).fetchall())
    report = await unable.sweep(finds_orphans=False)
    assert report.skipped["r"].startswith("RESUME_METADATA_MISMATCH")
    assert bench.row("r").heartbeat_at_ms is None
    await bench.store.awrite(lambda c: c.execute(is_of, (before,)).fetchall())
    assert (await able.sweep(finds_orphans=False)).resumed == ["r"]


async def test_a_run_that_somebody_took_and_died_with_is_looked_for_again_when_the_hold_is_over(bench: Bench) -> None:
    await bench.run(asks, run_id="r")
    bench.abandon()
    host = Host(bench.new_engine(), lambda _row: asks)
    await bench.decide("ok", run_id="r")
    assert bench.store.write(lambda c: wakeups.take(c, ["r"], bench.clock.now_ms())) == {"r"}

    assert (await host.sweep(finds_orphans=True)).resumed == []
    bench.clock.advance(wakeups.HOLD_MS)
    assert (await host.sweep(finds_orphans=False)).resumed == ["r"]


async def test_a_due_run_of_another_hosts_does_not_keep_a_host_awake(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bench.run(sleeps, run_id="r")
    bench.abandon()
    bench.clock.advance(5_000)
    sweeps: list[int] = []
    moved_runs = wakeups.moved_runs

    def noted(*given: Any) -> list[str]:
        sweeps.append(1)
        return moved_runs(*given)

    monkeypatch.setattr(wakeups, "moved_runs", noted)
    host, stop = Host(bench.new_engine(), lambda _row: None, interval_s=60), asyncio.Event()
    serving = asyncio.create_task(host.run(stop))
    await until(lambda: bool(sweeps), lambda: "nobody looks")
    for _ in range(100):
        await bench.store.aread(wakeups.next_due)
    stop.set()
    await serving
    assert len(sweeps) < 5
