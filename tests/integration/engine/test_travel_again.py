"""A task is done again with what was built upon it; and what becomes of the runs of subflows."""

from __future__ import annotations

import asyncio

import pytest
from tests.integration.engine.support import Bench, Calls, outputs, smithers, within
from tests.integration.engine.travel_support import ADMIN, back, chain, control_of

from smithers import (
    Approval,
    Loop,
    Sequence,
    SmithersWorkflow,
    Subflow,
    Task,
    WaitForEvent,
    Workflow,
)
from smithers.components.context import Context
from smithers.control.travel.resetting import retry_task, timetravel
from smithers.errors import (
    InvalidInput,
    NodeNotFound,
    RunActive,
    RunNotFound,
)

pytestmark = pytest.mark.anyio


async def test_a_task_of_a_finished_run_is_done_again_with_what_came_after(bench: Bench) -> None:
    calls = Calls()
    workflow = chain(calls, "a", "b", "c")
    await bench.run(workflow)

    found = await retry_task(control_of(bench), "r", "b", caller=ADMIN)

    assert found.reset_nodes == ("b::0", "c::0")
    assert bench.states() == {"a": "finished", "b": "pending", "c": "pending"}
    assert bench.texts() == ["a"]
    assert (await bench.resume(workflow)).status == "finished"
    assert calls.by_name == {"a": 1, "b": 2, "c": 2}
    types = bench.types()
    assert types.index("RetryTaskStarted") < types.index("RetryTaskFinished")


async def test_a_task_may_be_done_again_alone(bench: Bench) -> None:
    calls = Calls()
    workflow = chain(calls, "a", "b", "c")
    await bench.run(workflow)

    found = await retry_task(control_of(bench), "r", "a", caller=ADMIN, reset_dependents=False)

    assert found.reset_nodes == ("a::0",)
    assert (await bench.resume(workflow)).status == "finished"
    assert calls.by_name == {"a": 2, "b": 1, "c": 1}


async def test_a_failed_task_gets_all_its_tries_again(bench: Bench) -> None:
    calls = Calls()

    def fails(count: int) -> BaseException | None:
        return ValueError("no") if count < 5 else None

    @smithers
    def workflow(ctx: Context[object]) -> Workflow:
        return Workflow(name="fails")[
            Sequence[
                Task(id="a", output=outputs.row, retries=1)[calls.task("a", fails=fails)],
                Task(id="b", output=outputs.row)[calls.task("b")],
            ]
        ]

    handle = await bench.start(workflow)
    await bench.seen("NodeRetrying", "a")
    bench.clock.advance(600_000)
    assert (await within(asyncio.shield(handle.result))).status == "failed"
    assert calls["a"] == 2

    await retry_task(control_of(bench), "r", "a", caller=ADMIN)
    handle = await bench.engine.resume("r", workflow)
    await bench.seen("NodeRetrying", "a", attempt=4)
    bench.clock.advance(600_000)
    assert (await within(asyncio.shield(handle.result))).status == "failed"
    assert calls["a"] == 4

    await timetravel(control_of(bench), "r", "a", attempt=4, caller=ADMIN)
    assert (await bench.resume(workflow)).status == "finished"
    assert calls.by_name == {"a": 5, "b": 1}


async def test_a_task_of_a_live_run_is_not_touched(bench: Bench) -> None:
    calls = Calls()
    held = calls.held("slow")

    @smithers
    def workflow(ctx: Context[object]) -> Workflow:
        return Workflow(name="live")[
            Sequence[Task(id="a", output=outputs.row)[calls.task("a")], Task(id="slow", output=outputs.row)[held]]
        ]

    handle = await bench.start(workflow)
    await within(calls.begun["slow"].wait())

    with pytest.raises(RunActive):
        await within(retry_task(control_of(bench), "r", "a", caller=ADMIN))
    with pytest.raises(NodeNotFound):
        await within(retry_task(control_of(bench), "r", "zz", caller=ADMIN))
    calls.release("slow")
    assert (await within(asyncio.shield(handle.result))).status == "finished"


async def test_a_wait_that_is_done_again_takes_its_signal_again(bench: Bench) -> None:
    @smithers
    def workflow(ctx: Context[object]) -> Workflow:
        return Workflow(name="waits")[
            Sequence[
                WaitForEvent(id="w", event="go", output=outputs.row),
                Approval(id="ok", output=outputs.verdict)["Ok?"],
            ]
        ]

    await bench.run(workflow)
    await bench.signal("go", {"text": "one"})
    assert (await bench.resume(workflow)).status == "waiting-approval"
    await bench.decide("ok")
    assert (await bench.resume(workflow)).status == "finished"

    await retry_task(control_of(bench), "r", "w", caller=ADMIN)

    assert (await bench.resume(workflow)).status == "waiting-approval"
    assert bench.texts() == ["one"]
    await bench.decide("ok")
    assert (await bench.resume(workflow)).status == "finished"


async def test_an_iteration_that_was_left_is_done_again_with_the_loop(bench: Bench) -> None:
    calls = Calls()

    @smithers
    def workflow(ctx: Context[object]) -> Workflow:
        return Workflow(name="loops")[
            Sequence[
                Loop(id="l", until=ctx.iterations.get("l", 0) >= 2, max_iterations=9)[
                    Task(id="t", output=outputs.row)[calls.task("t")]
                ],
                Task(id="after", output=outputs.row)[calls.task("after")],
            ]
        ]

    assert (await bench.run(workflow)).status == "finished"
    assert calls.by_name == {"t": 3, "after": 1}

    with pytest.raises(InvalidInput):
        await retry_task(control_of(bench), "r", "t", 0, caller=ADMIN, reset_dependents=False)
    found = await retry_task(control_of(bench), "r", "t", 1, caller=ADMIN)

    assert found.reset_nodes == ("t::1", "after::0", "t::2")
    assert (await bench.resume(workflow)).status == "finished"
    assert calls.by_name == {"t": 5, "after": 2}


# ── subflows ───────────────────────────────────────────────────────────────────────────────────────────────────────


def with_child(calls: Calls) -> SmithersWorkflow:
    @smithers
    def child(ctx: Context[object]) -> Workflow:
        return Workflow(name="child")[
            Sequence[
                Task(id="c1", output=outputs.row)[calls.task("c1")],
                Approval(id="ok", output=outputs.verdict)["Ok?"],
                Task(id="c2", output=outputs.output)[calls.task("c2")],
            ]
        ]

    @smithers
    def parent(ctx: Context[object]) -> Workflow:
        return Workflow(name="parent")[
            Sequence[
                Task(id="a", output=outputs.row)[calls.task("a")],
                Subflow(id="sub", workflow=child, output=outputs.row),
                Task(id="z", output=outputs.row)[calls.task("z")],
            ]
        ]

    return parent


CHILD = "r:child:sub:0"


async def through(bench: Bench, workflow: SmithersWorkflow) -> None:
    """To the end, with a decision in the child on the way."""
    bench.clock.advance(10)
    await bench.decide("ok", run_id=CHILD)
    bench.clock.advance(10)
    handle = await bench.engine.resume("r", workflow)
    result = await within(asyncio.shield(handle.result))
    while result.status.is_parked:
        result = await within(bench.engine.until_moved("r", workflow))
    assert result.status == "finished"


async def test_a_subflow_that_had_not_begun_begins_anew(bench: Bench) -> None:
    calls = Calls()
    workflow = with_child(calls)
    assert (await bench.run(workflow)).status == "waiting-approval"
    await through(bench, workflow)

    await back(bench, 1)

    with pytest.raises(RunNotFound):
        bench.row(CHILD)
    assert (await bench.resume(workflow)).status == "waiting-approval"
    await through(bench, workflow)
    assert calls.by_name == {"a": 2, "c1": 2, "c2": 2, "z": 2}


async def test_a_subflow_that_was_under_way_goes_back_with_its_parent(bench: Bench) -> None:
    calls = Calls()
    workflow = with_child(calls)
    assert (await bench.run(workflow)).status == "waiting-approval"
    at = bench.row().frame_no
    await through(bench, workflow)

    await back(bench, at)

    assert [row.status for row in bench.approvals(CHILD)] == ["requested"]
    assert bench.states(CHILD) == {"c1": "finished", "ok": "waiting-approval", "c2": "pending"}
    await through(bench, workflow)
    assert calls.by_name == {"a": 1, "c1": 1, "c2": 2, "z": 2}


async def test_a_subflow_that_is_done_again_is_done_from_its_beginning(bench: Bench) -> None:
    calls = Calls()
    workflow = with_child(calls)
    assert (await bench.run(workflow)).status == "waiting-approval"
    await through(bench, workflow)

    found = await retry_task(control_of(bench), "r", "sub", caller=ADMIN)

    assert found.reset_nodes == ("sub::0", "z::0")
    assert (await bench.resume(workflow)).status == "waiting-approval"
    await through(bench, workflow)
    assert calls.by_name == {"a": 1, "c1": 2, "c2": 2, "z": 2}
