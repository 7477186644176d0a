"""Lineage: what is asked of a run (pause, signal), what is shown of it, and what its clock says reach its subflows' runs."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest
from tests.integration.engine.support import Bench, Calls, Row, Verdict, smithers, within

from smithers import (
    Approval,
    Context,
    ContinueAsNew,
    HumanTask,
    Parallel,
    SmithersWorkflow,
    Subflow,
    Task,
    WaitForEvent,
    Workflow,
    run_workflow,
)
from smithers.control import listing, run_lists
from smithers.control.control import Control
from smithers.errors import InvalidInput, LeaseLost, RunNotActive
from smithers.store.sql import reads

pytestmark = pytest.mark.anyio
BOTH_DATABASES = True
Ctx = Context[object]
CHILD = "r:child:sub:0"
GRANDCHILD = f"{CHILD}:child:sub:0"


def above(child: SmithersWorkflow, **options: object) -> SmithersWorkflow:
    """A workflow that runs another."""

    @smithers
    def flow(ctx: Ctx) -> Workflow:
        return Workflow(name="above")[
            Subflow("sub", workflow=child, output=Row, **options),  # type: ignore[arg-type]
            Task("after", output="output")[{"text": "after"}],
        ]

    return flow


def two_tasks(calls: Calls) -> SmithersWorkflow:
    """A workflow whose first task goes on when it is released."""

    @smithers
    def flow(ctx: Ctx) -> Workflow:
        return Workflow(name="two")[Task("a", output="output")[calls.held("a")], Task("b", output=Row)[calls.task("b")]]

    return flow


def asks() -> SmithersWorkflow:
    """A workflow that waits for a decision."""

    @smithers
    def flow(ctx: Ctx) -> Workflow:
        return Workflow(name="asks")[Approval("ok", output=Verdict), Task("a", output="output")[{"text": "child"}]]

    return flow


async def pause(bench: Bench) -> None:
    """Ask for a pause, and wait until whoever drives a run here knows of it."""
    await Control(bench.store, clock=bench.clock).pause("r")
    for run_id in list(bench.engine.drivers):
        await bench.knows_of_pause(run_id)


# ── pausing ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_pause_reaches_the_runs_of_subflows_and_a_resume_of_the_parent_resumes_them(bench: Bench) -> None:
    calls = Calls()
    flow = above(above(two_tasks(calls)))
    calls.held("a")
    handle = await bench.start(flow)
    await within(calls.begun["a"].wait())

    await pause(bench)
    calls.release("a")

    assert (await within(asyncio.shield(handle.result))).status == "paused"
    assert [bench.row(run_id).status for run_id in (CHILD, GRANDCHILD)] == ["paused", "paused"]
    assert calls["b"] == 0
    assert (await bench.resume(flow)).status == "finished"
    assert (calls["a"], calls["b"]) == (1, 1)


async def test_a_child_that_waits_pauses_with_its_parent_and_is_not_woken_by_what_arrives(bench: Bench) -> None:
    calls = Calls()

    @smithers
    def flow(ctx: Ctx) -> Workflow:
        return Workflow(name="both")[
            Parallel()[Subflow("sub", workflow=asks(), output=Row), Task("a", output=Row)[calls.held("a")]]
        ]

    handle = await bench.start(flow)
    await bench.reached(CHILD, "waiting-approval")
    await pause(bench)
    assert bench.row(CHILD).status == "paused"
    await bench.decide("ok", run_id=CHILD)
    calls.release("a")
    assert (await within(asyncio.shield(handle.result))).status == "paused"
    assert bench.row(CHILD).status == "paused"

    assert (await bench.resume(flow)).status == "finished"
    assert bench.row(CHILD).status == "finished"


async def test_a_parked_parent_is_paused_with_its_child_that_works(bench: Bench) -> None:
    calls = Calls()

    @smithers
    def child(ctx: Ctx) -> Workflow:
        return Workflow(name="child")[
            Approval("ok", output=Verdict), Task("a", output="output")[calls.held("a")], Task("b", output=Row)[{"n": 1}]
        ]

    flow = above(child)
    calls.held("a")
    await bench.run(flow)
    with pytest.raises(RunNotActive):
        await bench.store.request_pause("r", bench.clock.now_ms())
    await bench.decide("ok", run_id=CHILD)
    await within(calls.begun["a"].wait())
    await pause(bench)
    calls.release("a")
    await bench.reached(CHILD, "paused")
    assert bench.row("r").status == "paused"
    assert (await bench.resume(flow)).status == "finished"


async def test_a_pending_pause_outlives_the_process_that_gives_the_run_up(bench: Bench) -> None:
    calls = Calls()
    flow = two_tasks(calls)
    calls.held("a")
    handle = await bench.start(flow)
    await within(calls.begun["a"].wait())
    driver = bench.engine.drivers["r"]
    await bench.store.request_pause("r", bench.clock.now_ms())
    driver.release()
    assert (await within(asyncio.shield(handle.result))).status == "running"

    engine = bench.new_engine()
    taken_over = await engine.resume("r", flow, is_automatic=True)
    assert (await within(asyncio.shield(taken_over.result))).status == "paused"
    calls.release("a")
    assert (await bench.resume(flow)).status == "finished"


async def test_resuming_a_run_takes_a_pending_pause_back(bench: Bench) -> None:
    calls = Calls()
    flow = two_tasks(calls)
    calls.held("a")
    handle = await bench.start(flow)
    await within(calls.begun["a"].wait())
    await bench.store.request_pause("r", bench.clock.now_ms())
    bench.engine.drivers["r"].release()
    assert (await within(asyncio.shield(handle.result))).status == "running"

    bench.new_engine()
    calls.release("a")
    assert (await bench.resume(flow)).status == "finished"


async def test_a_pending_pause_goes_over_to_the_run_that_goes_on(bench: Bench) -> None:
    calls = Calls()

    @smithers
    def flow(ctx: Ctx) -> Workflow:
        if ctx.continuation is not None:
            return Workflow(name="new")[Task("b", output=Row)[calls.task("b")]]
        return Workflow(name="new")[Task("a", output=Row)[calls.held("a")], ContinueAsNew(state={"n": 1})]

    calls.held("a")
    handle = await bench.start(flow)
    await within(calls.begun["a"].wait())
    await pause(bench)
    calls.release("a")
    paused = await within(asyncio.shield(handle.result))
    assert (paused.status, calls["b"]) == ("paused", 0)
    assert (await bench.resume(flow, paused.run_id)).status == "finished"


async def test_a_child_that_is_launched_after_the_pause_was_asked_for_pauses_too(bench: Bench) -> None:
    calls = Calls()
    calls.held("a")
    await bench.start(two_tasks(calls))
    await within(calls.begun["a"].wait())
    await pause(bench)

    child = await bench.start(asks(), run_id=CHILD, parent_run_id="r")

    assert (await within(asyncio.shield(child.result))).status == "paused"
    calls.release("a")
    await bench.reached("r", "paused")


# ── signals ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_signal_reaches_the_descendants_also_what_they_were_continued_as(bench: Bench) -> None:
    @smithers
    def child(ctx: Ctx) -> Workflow:
        if ctx.continuation is None:
            return Workflow(name="child")[ContinueAsNew(state={"n": 1})]
        return Workflow(name="child")[WaitForEvent("go", event="go", output="output")]

    control = Control(bench.store, clock=bench.clock)
    whole = asyncio.ensure_future(run_workflow(above(above(child)), run_id="r", engine=bench.engine, wait=True))
    await bench.seen("RunStatusChanged", status="waiting-event")
    stranger = await bench.run(asks(), run_id="stranger", parent_run_id="r")
    first = await control.signal("r", "go", {"text": "here"}, idempotency_key="k")
    assert (await within(whole)).status == "finished"
    assert await control.signal("r", "go", {"text": "here"}, idempotency_key="k") == first
    with pytest.raises(InvalidInput, match="another signal"):
        await control.signal("r", "go", {"text": "there"}, idempotency_key="k")
    assert bench.types("r").count("SignalReceived") == 1
    assert "SignalReceived" not in bench.types(stranger.run_id)
    told = [run.run_id for run in await control.runs() if "SignalReceived" in bench.types(run.run_id)]
    assert len(told) == 3
    assert {"r", CHILD} < set(told)


# ── what is shown ──────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_parent_of_a_run_that_asks_is_shown_as_blocked_by_that_question(bench: Bench) -> None:
    @smithers
    def answers(ctx: Ctx) -> Workflow:
        return Workflow(name="answers")[HumanTask("who", prompt="who?", output="output")]

    control = Control(bench.store, clock=bench.clock)
    await bench.run(above(above(asks())))
    await bench.run(above(answers), run_id="h")

    def blocked(state: object) -> object:
        assert isinstance(state, dict)
        found = cast("dict[str, dict[str, object]]", state)["blocked"]
        return found["kind"], found["nodeId"], found.get("childRunId")

    expected = ("approval", "ok", GRANDCHILD)
    assert blocked((await control.inspect("r")).state) == expected
    assert blocked((await run_lists.run_record(control, "r"))["runState"]) == expected
    assert blocked(listing.run_status(control, "r").state) == expected
    assert {run.run_id: blocked(state) for run, state in await control.overview()} == {
        "r": expected,
        CHILD: expected,
        GRANDCHILD: ("approval", "ok", None),
        "h": ("approval", "who", "h:child:sub:0"),
        "h:child:sub:0": ("approval", "who", None),
    }


# ── timeouts ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_subflows_timeout_goes_on_while_its_child_waits(bench: Bench) -> None:
    flow = above(asks(), timeout_ms=60_000)
    assert (await bench.run(flow)).status == "waiting-approval"
    assert bench.timers() == [("sub", "deadline", 60_000)]
    bench.clock.advance(40_000)
    bench.abandon()
    assert (await bench.resume(flow)).status == "waiting-approval"  # looking again does not begin it again
    assert bench.timers() == [("sub", "deadline", 20_000)]
    bench.abandon()
    bench.clock.advance(20_000)

    result = await bench.resume(flow)

    assert (result.status, bench.row(CHILD).status) == ("failed", "cancelled")
    assert "TASK_TIMEOUT" in (bench.attempts("sub")[0].error_json or "")
    assert (len(bench.attempts("sub")), bench.timers()) == (1, [])


async def test_who_was_about_to_go_on_with_a_run_leaves_it_when_it_is_cancelled_meanwhile(bench: Bench) -> None:
    await bench.run(asks())
    read_before = bench.row()
    await bench.store.request_cancel("r", bench.clock.now_ms(), "user")
    await bench.store.finalize_cancel("r", bench.clock.now_ms(), None)

    with pytest.raises(LeaseLost):
        await bench.engine.resume("r", asks(), expect_epoch=read_before.epoch)
    assert await bench.store.claim("r", "me", 1, expect_epoch=read_before.epoch, events=()) is None

    assert bench.row().status == "cancelled"


async def test_a_subflow_that_is_out_of_time_wakes_its_parent_by_itself_also_when_it_was_continued(
    bench: Bench,
) -> None:
    @smithers
    def child(ctx: Ctx) -> Workflow:
        return Workflow(name="child")[
            ContinueAsNew(state={"n": 1}, when=ctx.continuation is None), Approval("ok", output=Verdict)
        ]

    flow = above(child, timeout_ms=60_000, continue_on_fail=True)
    whole = asyncio.ensure_future(run_workflow(flow, run_id="r", engine=bench.engine, wait=True))
    await bench.seen("RunStatusChanged", status="waiting-approval")
    await bench.waited_for()  # the deadline
    bench.clock.advance(60_000)

    assert (await within(whole)).status == "finished"
    heir = bench.store.read(lambda c: reads.successor(c, CHILD))
    assert heir is not None
    await bench.reached(heir, "cancelled")
