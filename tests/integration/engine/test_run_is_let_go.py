"""What is left of a run in memory once it has ended, and how its first step numbers what it writes."""

from __future__ import annotations

import asyncio
import gc
import weakref

import pytest
from tests.integration.engine.support import Bench, Calls, Row, smithers, until, within

from smithers import SmithersWorkflow, Task, Workflow
from smithers.components.context import Context

pytestmark = pytest.mark.anyio
Ctx = Context[dict[str, object]]


def one_task(calls: Calls, *, held: bool = False) -> SmithersWorkflow:
    @smithers
    def flow(ctx: Ctx) -> Workflow:
        return Workflow(name="one")[Task("a", output=Row)[calls.held("a") if held else calls.task("a")]]

    return flow


async def test_a_run_that_has_ended_is_gone_without_the_garbage_collector(bench: Bench) -> None:
    calls = Calls()
    gc.disable()
    try:
        handle = await bench.start(one_task(calls, held=True))
        driver = weakref.ref(bench.engine.drivers["r"])
        plan = weakref.ref(bench.engine.drivers["r"].flow)
        calls.release("a")
        await within(asyncio.shield(handle.result))
        # the loop still holds the run's tasks for a moment, and a heartbeat under way may hold the driver
        await until(lambda: driver() is None and plan() is None, lambda: f"still there: {driver()} {plan()}")
    finally:
        gc.enable()


async def test_events_are_numbered_without_a_gap_from_the_launch_on(bench: Bench) -> None:
    await bench.run(one_task(Calls()))
    events = bench.store.read(
        lambda c: c.execute("SELECT seq FROM _smithers_events WHERE run_id = 'r' ORDER BY seq").fetchall()
    )
    assert [row[0] for row in events] == list(range(len(events)))
    row = bench.row()
    assert row.next_seq == len(events)
    assert bench.types()[:2] == ["RunStarted", "RunStatusChanged"]
