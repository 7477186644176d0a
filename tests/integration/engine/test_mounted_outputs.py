"""Workflows that are mounted in another one and have outputs of their own: their tables are made and their rows survive."""

from __future__ import annotations

import pytest
from pydantic import BaseModel
from tests.integration.engine.support import Bench, Calls, Row, Verdict, smithers

from smithers import Approval, Loop, Subflow, Task, Workflow, create_smithers
from smithers.components.context import Context
from smithers.scheduler.states import RunStatus

pytestmark = pytest.mark.anyio
BOTH_DATABASES = True
Ctx = Context[dict[str, object]]


class Count(BaseModel):
    """What only the mounted workflows have."""

    n: int


inner_smithers, inner_outputs = create_smithers({"count": Count})
innermost_smithers, innermost_outputs = create_smithers({"total": Count})


async def test_a_mounted_workflow_writes_to_tables_of_its_own_and_goes_on_with_its_rows_after_a_takeover(
    bench: Bench,
) -> None:
    calls = Calls()

    async def three() -> dict[str, object]:
        calls.by_name["three"] = calls["three"] + 1
        return {"n": 3}

    @innermost_smithers
    def innermost(ctx: Ctx) -> Workflow:
        return Workflow("innermost")[Task("sum", output=innermost_outputs.total)[lambda: {"n": 4}]]

    @inner_smithers
    def inner(ctx: Ctx) -> Workflow:
        counted = ctx.output_maybe(Count, "a")
        return Workflow("inner")[
            Task("a", output=inner_outputs.count)[three],
            counted and Subflow("deep", workflow=innermost, mode="inline", output="count"),
            counted and Task("b", output=inner_outputs.count)[lambda: {"n": counted.n + 1}],
        ]

    @smithers
    def outer(ctx: Ctx) -> Workflow:
        begun = ctx.output_maybe(Row, "first")
        return Workflow("outer")[
            Task("first", output="row")[lambda: {"text": "first"}],
            begun and Subflow("sub", workflow=inner, mode="inline", output="row"),
            begun and Approval("gate", output=Verdict),
        ]

    assert (await bench.run(outer)).status is RunStatus.WAITING_APPROVAL
    bench.abandon()
    await bench.decide("gate")
    assert (await bench.resume(outer)).status is RunStatus.FINISHED
    assert bench.states() == dict.fromkeys(["first", "sub/a", "sub/b", "sub/deep/sum", "gate"], "finished")
    assert calls["three"] == 1
    rows = bench.store.read(lambda c: c.execute('SELECT node_id, n FROM "count" ORDER BY n').fetchall())
    totals = bench.store.read(lambda c: c.execute('SELECT node_id, n FROM "total"').fetchall())
    assert (rows, totals) == ([("sub/a", 3), ("sub/b", 4)], [("sub/deep/sum", 4)])


async def test_a_mounted_workflow_whose_output_is_another_table_here_fails_the_run_and_says_so(bench: Bench) -> None:
    class Other(BaseModel):
        """Not what `row` is outside."""

        text: int

    clashing, clashing_outputs = create_smithers({"row": Other})

    @clashing
    def inner(ctx: Ctx) -> Workflow:
        return Workflow("inner")[Task("a", output=clashing_outputs.row)[lambda: {"text": 1}]]

    @smithers
    def outer(ctx: Ctx) -> Workflow:
        return Workflow("outer")[Subflow("sub", workflow=inner, mode="inline", output="row")]

    result = await bench.run(outer)
    assert (result.status, (result.error or {}).get("code")) == (RunStatus.FAILED, "DB_MISSING_COLUMNS")


async def test_rows_of_two_models_in_one_table_are_each_read_as_their_own_after_a_takeover(bench: Bench) -> None:
    sharing, shared = create_smithers({"verdict": Count})
    seen: list[int] = []

    @sharing
    def inner(ctx: Ctx) -> Workflow:
        counted = ctx.output_maybe(Count, "a")
        if counted is not None:
            seen.append(counted.n)
        return Workflow("inner")[Task("a", output=shared.verdict)[lambda: {"n": 3}]]

    @smithers
    def outer(ctx: Ctx) -> Workflow:
        return Workflow("outer")[
            Subflow("sub", workflow=inner, mode="inline", output="row"),
            Approval("first", output=Verdict),
            Approval("second", output=Verdict),
        ]

    await bench.run(outer)
    for gate in ("first", "second"):
        bench.abandon()
        seen.clear()
        await bench.decide(gate)
        result = await bench.resume(outer)
        assert seen, gate
        assert set(seen) == {3}
    assert result.status is RunStatus.FINISHED


async def test_rows_of_a_mounted_workflow_are_carried_over_when_a_loop_hands_over(bench: Bench) -> None:
    calls = Calls()

    async def count() -> dict[str, object]:
        calls.by_name["count"] = calls["count"] + 1
        return {"n": 3}

    @inner_smithers
    def inner(ctx: Ctx) -> Workflow:
        return Workflow("inner")[Task("a", output=inner_outputs.count)[count]]

    @smithers
    def outer(ctx: Ctx) -> Workflow:
        return Workflow("outer")[
            Subflow("sub", workflow=inner, mode="inline", output="row"),
            Loop("l", max_iterations=3, continue_as_new_every=1)[Task("t", output="row")[lambda: {"text": "t"}]],
            Task("end", output="output")[lambda: {"text": "end"}],
        ]

    result = await bench.run(outer)
    assert (result.status, calls["count"]) == (RunStatus.FINISHED, 1)
    assert bench.states(result.run_id)["sub/a"] == "finished"
