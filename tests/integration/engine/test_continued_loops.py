"""Loops that hand over to new runs: however often they do, and wherever the new runs park or are taken over, the whole
computes what it would have computed in one run."""

from __future__ import annotations

import pytest
from tests.integration.engine.support import Bench, Row, outputs, smithers

from smithers import Loop, Task, Timer, WaitForEvent, Workflow
from smithers.components.context import Context
from smithers.scheduler.states import RunStatus
from smithers.store.interface import Committed, Step

pytestmark = pytest.mark.anyio
BOTH_DATABASES = True
Ctx = Context[dict[str, object]]
OUTER, INNER = 2, 3


@pytest.mark.parametrize("is_killed", [False, True], ids=["parks", "is killed"])
@pytest.mark.parametrize("every_inner", [None, 1, 2])
@pytest.mark.parametrize("every_outer", [None, 1])
async def test_a_continued_run_that_waits_in_the_middle_goes_on_where_its_loops_began(
    bench: Bench, every_outer: int | None, every_inner: int | None, is_killed: bool
) -> None:
    calls: list[tuple[int, int]] = []

    @smithers
    def workflow(ctx: Ctx) -> Workflow:
        at = (ctx.iterations.get("outer", 0), ctx.iterations.get("inner", 0))

        async def work() -> dict[str, object]:
            calls.append(at)
            return {"text": "{}.{}".format(*at)}

        return Workflow("w")[
            Loop("outer", max_iterations=OUTER, continue_as_new_every=every_outer)[
                Timer("before", duration="1s"),
                Loop("inner", max_iterations=INNER, continue_as_new_every=every_inner)[
                    Task("a", output=outputs.row)[work], Timer("between", duration="1s")
                ],
            ],
            Task("end", output="output")[lambda: {"n": len(ctx.outputs(Row))}],
        ]

    result = await bench.run(workflow)
    for _ in range(100):
        if result.status is not RunStatus.WAITING_TIMER:
            break
        if is_killed:
            bench.abandon()
        bench.clock.advance(1000)
        result = await bench.resume(workflow, result.run_id)
    assert calls == [(outer, inner) for outer in range(OUTER) for inner in range(INNER)]
    assert [row.model_dump()["n"] for row in result.output or []] == [OUTER * INNER]


@pytest.mark.parametrize("are_there_before", [True, False], ids=["queued", "sent one by one"])
async def test_signals_that_nobody_has_taken_go_on_to_the_run_that_a_loop_hands_over_to(
    bench: Bench, are_there_before: bool
) -> None:
    @smithers
    def workflow(ctx: Ctx) -> Workflow:
        return Workflow("w")[
            Loop("l", max_iterations=4, continue_as_new_every=1)[WaitForEvent("e", output=outputs.row, event="go")],
            Task("end", output="output")[lambda: {"text": ",".join(str(row.n) for row in ctx.outputs(Row))}],
        ]

    result = await bench.run(workflow)
    if are_there_before:
        await bench.signal("other", {})
        for n in range(4):
            await bench.signal("go", {"n": n})
    for n in range(4):
        if not are_there_before:
            await bench.signal("go", {"n": n}, run_id=result.run_id)
        result = await bench.resume(workflow, result.run_id)
        if result.status is RunStatus.FINISHED:
            break
    assert [row.model_dump()["text"] for row in result.output or []] == ["0,1,2,3"]


async def test_a_signal_that_meets_the_handing_over_is_not_lost(bench: Bench) -> None:
    @smithers
    def workflow(ctx: Ctx) -> Workflow:
        return Workflow("w")[
            Loop("l", max_iterations=2, continue_as_new_every=1)[WaitForEvent("e", output=outputs.row, event="go")]
        ]

    await bench.run(workflow)
    await bench.signal("go", {"n": 0})
    commit = bench.store.commit

    async def late(step: Step) -> Committed:
        if step.successor is not None and step.run_id == "r":  # the run has looked for the last time
            await bench.signal("go", {"n": 1})
        return await commit(step)

    bench.store.commit = late  # type: ignore[method-assign]
    assert (await bench.resume(workflow)).status is RunStatus.FINISHED
