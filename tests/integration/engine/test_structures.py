"""Structures: loops, continued runs, sagas, try blocks and subflows."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import cast

import pytest
from tests.integration.engine.support import Bench, Calls, Out, Row, Verdict, smithers, within

from smithers import (
    Approval,
    Branch,
    ContinueAsNew,
    Loop,
    Parallel,
    Saga,
    SagaStep,
    Sequence,
    SmithersWorkflow,
    Subflow,
    Task,
    Timer,
    TryCatchFinally,
    Workflow,
    run_workflow,
    use_ctx,
)
from smithers.components.context import Context
from smithers.components.element import Element
from smithers.store.sql import reads

pytestmark = pytest.mark.anyio
BOTH_DATABASES = True
Ctx = Context[dict[str, object]]


def code_of(error: Mapping[str, object] | None) -> object:
    assert error is not None
    return error["code"]


# ── loops ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_loop_repeats_until_its_condition_holds(bench: Bench) -> None:
    @smithers
    def flow(ctx: Ctx) -> Workflow:
        last = ctx.latest(Row, "judge")
        count = ctx.iteration
        return Workflow(name="loop")[
            Loop("l", until=bool(last and last.n == 2), max_iterations=9)[
                Task("draft", output=Row)[{"text": f"draft {count}"}], Task("judge", output=Row)[{"n": count}]
            ],
            Task("after", output=Row)[{"text": "after"}],
        ]

    assert (await bench.run(flow)).status == "finished"
    assert bench.texts() == ["draft 0", "", "draft 1", "", "draft 2", "", "after"]
    assert bench.store.read(lambda c: reads.loops(c, "r")) == [("l", 2, 1)]


@pytest.mark.parametrize(("on_max", "status"), [("return-last", "finished"), ("fail", "failed")])
async def test_a_loop_at_its_maximum(bench: Bench, on_max: str, status: str) -> None:
    @smithers
    def flow(ctx: Ctx) -> Workflow:
        return Workflow(name="max")[
            Loop("l", max_iterations=2, on_max_reached=on_max)[Task("a", output=Row)[{"text": "a"}]]  # type: ignore[arg-type]
        ]

    result = await bench.run(flow)

    assert result.status == status
    assert bench.texts() == ["a", "a"]
    if on_max == "fail":
        assert code_of(result.error) == "RALPH_MAX_REACHED"


async def test_a_loop_whose_condition_holds_at_once_runs_nothing(bench: Bench) -> None:
    @smithers
    def flow(ctx: Ctx) -> Workflow:
        return Workflow(name="zero")[
            Loop("l", until=True)[Task("a", output=Row)[{"text": "a"}]], Task("b", output=Row)[{"text": "b"}]
        ]

    assert (await bench.run(flow)).status == "finished"
    assert bench.texts() == ["b"]


async def test_nested_loops_in_parallel_keep_their_rows_apart_and_references_local(bench: Bench) -> None:
    @smithers
    def flow(ctx: Ctx) -> Workflow:
        at = ctx.iterations
        return Workflow(name="nested")[
            Parallel()[
                Loop("outer", max_iterations=2)[
                    Task("head", output=Row)[{"text": f"h{at.get('outer', 0)}"}],
                    Loop("inner", max_iterations=2)[
                        Task("x", output=Row)[{"text": f"x{at.get('outer', 0)}{at.get('inner', 0)}"}],
                        Task("y", output=Row, deps={"x": Row, "head": Row})[_joined],
                    ],
                ],
                Loop("other", max_iterations=2)[Task("o", output=Row)[{"text": "o"}]],
            ]
        ]

    assert (await bench.run(flow)).status == "finished"
    assert [t for t in bench.texts() if t[0] != "o"] == [
        "h0", "x00", "yx00h0", "x01", "yx01h0", "h1", "x10", "yx10h1", "x11", "yx11h1",
    ]  # fmt: skip
    assert set(bench.states()) == {
        "head", "head::1", "o", "o::1",
        "x@@outer=0", "x@@outer=0::1", "x@@outer=1", "x@@outer=1::1",
        "y@@outer=0", "y@@outer=0::1", "y@@outer=1", "y@@outer=1::1",
    }  # fmt: skip


async def test_a_loop_goes_on_where_it_was_after_a_crash(bench: Bench) -> None:
    calls = Calls()

    @smithers
    def flow(ctx: Ctx) -> Workflow:
        name = f"t{ctx.iteration}"
        return Workflow(name="crash")[
            Loop("l", max_iterations=3)[Task("a", output=Row)[calls.held(name) if name == "t1" else calls.task(name)],]
        ]

    await bench.start(flow)
    calls.held("t1")
    await within(calls.begun["t1"].wait())
    bench.abandon()
    calls.release("t1")
    assert (await bench.resume(flow, force=True)).status == "finished"
    assert [calls["t0"], calls["t1"], calls["t2"]] == [1, 2, 1]


async def test_a_branch_that_flips_unmounts_the_other_arm(bench: Bench) -> None:
    @smithers
    def flow(ctx: Ctx) -> Workflow:
        row = ctx.output_maybe(Row, "first")
        return Workflow(name="branch")[
            Task("first", output=Row)[{"n": 1}],
            Branch(
                if_=row is not None,
                then=Task("yes", output=Row)[{"text": "yes"}],
                else_=Task("no", output=Row)[{"text": "no"}],
            ),
        ]

    assert (await bench.run(flow)).status == "finished"
    assert bench.states() == {"first": "finished", "yes": "finished", "no": "pending"}


# ── continued runs ─────────────────────────────────────────────────────────────────────────────────────────────────


async def test_continue_as_new_hands_its_state_over_and_gives_the_last_result(bench: Bench) -> None:
    @smithers
    def flow(ctx: Ctx) -> Workflow:
        state = cast("dict[str, int]", ctx.continuation or {"page": 0})
        page = state["page"]
        return Workflow(name="pages")[
            Task("page", output="output")[{"n": page}],
            ContinueAsNew({"page": page + 1}, when=page < 2),
            page >= 2 and Task("end", output=Row)[{"text": "end"}],
        ]

    result = await bench.run(flow)
    first = bench.row()
    runs = bench.store.read(lambda c: reads.runs(c, (), 10))

    assert result.status == "finished"
    assert result.output == [Out(n=2)]
    assert first.status == "continued"
    assert sorted(r.status for r in runs) == ["continued", "continued", "finished"]
    told = next(e for e in bench.events() if e["type"] == "RunContinuedAsNew")
    successor = bench.row(str(told["newRunId"]))
    assert successor.parent_run_id == "r"
    assert bench.events()[-2]["type"] == "RunContinuedAsNew"


async def test_continue_as_new_carries_only_what_it_is_told_to(bench: Bench) -> None:
    calls = Calls()

    @smithers
    def flow(ctx: Ctx) -> Workflow:
        return Workflow(name="carry")[
            Task("kept", output="output")[calls.task("kept")],
            Task("again", output=Row)[calls.task("again")],
            ContinueAsNew({"x": 1}, when=ctx.continuation is None, carry=[Out]),
        ]

    result = await bench.run(flow)

    assert result.status == "finished"
    assert (calls["kept"], calls["again"]) == (1, 2)
    assert bench.states(result.run_id) == {"kept": "finished", "again": "finished"}


async def test_what_runs_is_drained_before_the_run_is_continued_and_nothing_later_starts(bench: Bench) -> None:
    calls = Calls()

    @smithers
    def flow(ctx: Ctx) -> Workflow:
        seen = len(ctx.outputs(Row))
        if ctx.continuation:
            return Workflow(name="drain")[Task("done", output=Row)[{"text": "done"}]]
        return Workflow(name="drain")[
            Parallel()[
                Sequence()[
                    Task("a", output=Row)[{"n": seen}],
                    ContinueAsNew({"x": 1}),
                    Task("never", output=Row)[calls.task("never")],
                ],
                Sequence()[
                    Task("slow", output=Row)[calls.held("slow")], Task("never2", output=Row)[calls.task("never2")]
                ],
            ]
        ]

    handle = await bench.start(flow)
    await bench.seen("NodeFinished", "a")
    calls.release("slow")
    assert (await within(handle.result)).status == "finished"
    assert bench.states()["slow"] == "finished"
    assert (calls["never"], calls["never2"]) == (0, 0)


@pytest.mark.parametrize(
    ("state", "code"),
    [
        (object(), "INVALID_CONTINUATION_STATE"),
        (float("nan"), "INVALID_CONTINUATION_STATE"),
        ("x" * 11_000_000, "CONTINUATION_STATE_TOO_LARGE"),
    ],
    ids=["object", "nan", "large"],
)
async def test_a_state_that_cannot_be_handed_over_fails_the_run(bench: Bench, state: object, code: str) -> None:
    @smithers
    def flow(ctx: Ctx) -> Workflow:
        return Workflow(name="bad")[ContinueAsNew(state)]

    assert code_of((await bench.run(flow)).error) == code


async def test_a_loop_with_continue_as_new_every_goes_on_in_new_runs(bench: Bench) -> None:
    calls = Calls()

    @smithers
    def flow(ctx: Ctx) -> Workflow:
        _ = ctx.iterations
        return Workflow(name="long")[
            Task("once", output=Row)[calls.task("once")],
            Timer("nap", duration=0),
            Loop("l", max_iterations=5, continue_as_new_every=2)[Task("a", output="output")[calls.task("a")]],
        ]

    result = await bench.run(flow)
    runs = bench.store.read(lambda c: reads.runs(c, (), 10))

    assert result.status == "finished"
    assert (calls["once"], calls["a"]) == (1, 5)
    assert len(runs) == 3
    assert bench.store.read(lambda c: reads.loops(c, result.run_id)) == [("l", 4, 1)]


async def test_a_loop_that_goes_on_in_a_new_run_brings_timers_that_fired_and_what_was_skipped(bench: Bench) -> None:
    seen: list[bool] = []

    def work() -> dict[str, object]:
        seen.append(True)
        return {"n": 1}

    @smithers
    def flow(ctx: Ctx) -> Workflow:
        _ = ctx.iterations
        return Workflow(name="long")[
            Timer("nap", duration=0),
            Task("skipped", output=Row, skip_if=not seen)[{"text": "skipped"}],
            Loop("l", max_iterations=3, continue_as_new_every=1)[
                Timer("pause", duration=0), Task("a", output="output")[work]
            ],
        ]

    result = await bench.run(flow)

    assert result.status == "finished"
    assert result.run_id != "r"
    assert bench.states(result.run_id)["skipped"] == "skipped"
    fired = [event["nodeId"] for event in bench.events(result.run_id) if event["type"] == "TimerFired"]
    assert fired == ["pause"]
    assert "pause" not in bench.states(result.run_id)  # of an iteration that is over


async def test_a_continued_run_is_picked_up_by_another_engine(bench: Bench) -> None:
    calls = Calls()

    @smithers
    def flow(ctx: Ctx) -> Workflow:
        return Workflow(name="pick")[
            Task("kept", output="output")[calls.task("kept")],
            ctx.continuation is not None and Task("held", output=Row)[calls.held("held")],
            ContinueAsNew({"n": 1}, when=ctx.continuation is None, carry=[Out]),
        ]

    await bench.start(flow)
    calls.held("held")
    await within(calls.begun["held"].wait())
    told = next(e for e in bench.events() if e["type"] == "RunContinuedAsNew")
    bench.abandon()
    calls.release("held")
    result = await bench.resume(flow, run_id=str(told["newRunId"]), force=True)

    assert result.status == "finished"
    assert calls["kept"] == 1


# ── sagas ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def saga(calls: Calls, on_failure: str, *, undo_fails: bool = False) -> SmithersWorkflow:
    @smithers
    def flow(ctx: Ctx) -> Workflow:
        def step(name: str, fails: bool = False) -> SagaStep:
            undo_breaks = undo_fails and name == "b"
            return SagaStep(
                name,
                compensation=Task(f"undo-{name}", output=Row)[
                    calls.task(f"undo-{name}", fails=(lambda _n: ValueError("stuck")) if undo_breaks else None)
                ],
            )[Task(name, output=Row)[calls.task(name, fails=(lambda _n: ValueError("no")) if fails else None)]]

        return Workflow(name="saga")[
            Saga("trip", on_failure=on_failure)[step("a"), step("b"), step("c", fails=True), step("d")],  # type: ignore[arg-type]
            Task("after", output=Row)[calls.task("after")],
        ]

    return flow


@pytest.mark.parametrize(
    ("on_failure", "texts", "status"),
    [
        ("compensate", ["a", "b", "undo-b", "undo-a", "after"], "finished"),
        ("compensate-and-fail", ["a", "b", "undo-b", "undo-a"], "failed"),
        ("fail", ["a", "b"], "failed"),
    ],
)
async def test_a_saga_undoes_what_was_done_in_reverse_order(
    bench: Bench, on_failure: str, texts: list[str], status: str
) -> None:
    calls = Calls()

    result = await bench.run(saga(calls, on_failure))

    assert result.status == status
    assert bench.texts() == texts
    assert calls["undo-c"] == 0
    if status == "failed":
        assert code_of(result.error) == "SCHEDULER_ERROR"


async def test_a_compensation_that_fails_fails_the_run(bench: Bench) -> None:
    calls = Calls()

    result = await bench.run(saga(calls, "compensate", undo_fails=True))

    assert result.status == "failed"
    assert bench.texts() == ["a", "b"]
    assert calls["undo-a"] == 0


# ── try, catch, finally ────────────────────────────────────────────────────────────────────────────────────────────


def raises(message: str) -> Callable[[], object]:
    async def work() -> object:
        raise ValueError(message)

    return work


def text(name: str) -> Task:
    return Task(name, output=Row)[{"text": name}]


async def test_catch_may_be_an_element_or_a_function_of_the_error_and_finally_always_runs(bench: Bench) -> None:
    seen: list[Mapping[str, object]] = []

    def catch(error: Mapping[str, object]) -> Element:
        seen.append(error)
        assert use_ctx().run_id == "r"
        return Task("caught2", output=Row)[{"text": f"caught {error['nodeId']}: {error['message']}"}]

    @smithers
    def flow(ctx: Ctx) -> Workflow:
        return Workflow(name="try")[
            TryCatchFinally(
                "t1",
                try_=[Task("bad", output=Row)[raises("one")], text("never")],
                catch=text("caught"),
                finally_=text("f1"),
            ),
            TryCatchFinally("t2", try_=Task("bad2", output=Row)[raises("two")], catch=catch, finally_=text("f2")),
            TryCatchFinally("t3", try_=text("good"), catch=text("unused"), finally_=text("f3")),
        ]

    result = await bench.run(flow)

    assert result.status == "finished"
    assert bench.texts() == ["caught", "f1", "caught bad2: two", "f2", "good", "f3"]
    assert seen[0]["nodeId"] == "bad2"


async def test_errors_that_are_not_to_be_caught_run_finally_and_fail_the_run(bench: Bench) -> None:
    @smithers
    def flow(ctx: Ctx) -> Workflow:
        return Workflow(name="try")[
            TryCatchFinally(
                "t",
                try_=Task("bad", output=Row)[raises("x")],
                catch=text("c"),
                catch_errors=["TASK_TIMEOUT"],
                finally_=text("f"),
            )
        ]

    result = await bench.run(flow)

    assert result.status == "failed"
    assert bench.texts() == ["f"]
    assert code_of(result.error) == "SCHEDULER_ERROR"


async def test_nested_try_blocks_hand_failures_outward(bench: Bench) -> None:
    @smithers
    def flow(ctx: Ctx) -> Workflow:
        inner = TryCatchFinally(
            "inner",
            try_=Task("bad", output=Row)[raises("x")],
            catch=Task("bad2", output=Row)[raises("y")],
            finally_=text("f1"),
        )
        return Workflow(name="nested")[
            TryCatchFinally("outer", try_=[inner, text("never")], catch=text("c"), finally_=text("f2"))
        ]

    assert (await bench.run(flow)).status == "finished"
    assert bench.texts() == ["f1", "c", "f2"]


async def test_a_catch_function_that_raises_fails_the_run_with_a_typed_error(bench: Bench) -> None:
    def catch(_error: object) -> Element:
        raise KeyError("oops")

    @smithers
    def flow(ctx: Ctx) -> Workflow:
        return Workflow(name="try")[TryCatchFinally("t", try_=Task("bad", output=Row)[raises("x")], catch=catch)]

    assert code_of((await bench.run(flow)).error) == "WORKFLOW_RENDER_FAILED"


async def test_a_catch_arm_goes_on_after_a_crash(bench: Bench) -> None:
    calls = Calls()

    @smithers
    def flow(ctx: Ctx) -> Workflow:
        return Workflow(name="try")[
            TryCatchFinally(
                "t",
                try_=Task("bad", output=Row)[calls.task("bad", fails=lambda _n: ValueError("x"))],
                catch=lambda e: Task("c", output=Row)[calls.held("c")],
                finally_=text("f"),
            )
        ]

    await bench.start(flow)
    calls.held("c")
    await within(calls.begun["c"].wait())
    bench.abandon()
    calls.release("c")

    assert (await bench.resume(flow, force=True)).status == "finished"
    assert bench.texts() == ["c", "f"]
    assert calls["bad"] == 1


# ── subflows ───────────────────────────────────────────────────────────────────────────────────────────────────────

CHILD = "r:child:sub:0"


def parent(child: SmithersWorkflow, **options: object) -> SmithersWorkflow:
    @smithers
    def flow(ctx: Ctx) -> Workflow:
        return Workflow(name="parent")[
            Subflow("sub", workflow=child, input={"n": 7}, output=Row, **options),  # type: ignore[arg-type]
            Task("after", output=Row)[{"text": "after"}],
        ]

    return flow


async def test_a_subflow_runs_as_a_child_and_its_row_becomes_the_parents(bench: Bench) -> None:
    @smithers
    def child(ctx: Ctx) -> Workflow:
        return Workflow(name="child")[Task("a", output="output")[{"text": "child", "n": ctx.input["n"]}]]

    assert (await bench.run(parent(child))).status == "finished"
    assert bench.texts() == ["child", "after"]
    assert bench.row(CHILD).parent_run_id == "r"


@pytest.mark.parametrize("wait", ["approval", "timer", "event"])
async def test_a_child_that_waits_parks_its_parent_and_both_go_on_by_themselves(bench: Bench, wait: str) -> None:
    from smithers import WaitForEvent

    @smithers
    def child(ctx: Ctx) -> Workflow:
        waits: dict[str, Element] = {
            "approval": Approval("ok", output=Verdict),
            "timer": Timer("ok", duration="1h"),
            "event": WaitForEvent("ok", event="ok", output=Row),
        }
        return Workflow(name="child")[waits[wait], Task("a", output="output")[{"text": "child"}]]

    whole = asyncio.ensure_future(run_workflow(parent(child), run_id="r", engine=bench.engine, wait=True))
    await bench.seen("RunStatusChanged", status=f"waiting-{wait}")
    assert bench.row(CHILD).status == f"waiting-{wait}"
    if wait == "approval":
        await bench.decide("ok", run_id=CHILD)
    elif wait == "event":
        await bench.signal("ok", {"text": "x"}, run_id=CHILD)
    else:
        await bench.waited_for()  # the child's timer
        bench.clock.advance(3_600_000)
    result = await within(whole)

    assert result.status == "finished"
    assert bench.texts()[-2:] == ["child", "after"]
    assert bench.states() == {"sub": "finished", "after": "finished"}
    assert len(bench.attempts("sub")) == 1


async def test_a_child_that_fails_fails_its_parent_and_a_retry_resumes_it(bench: Bench) -> None:
    calls = Calls()

    @smithers
    def child(ctx: Ctx) -> Workflow:
        return Workflow(name="child")[
            Task("good", output="output")[calls.task("good")],
            Task("bad", output=Row)[calls.task("bad", fails=lambda n: ValueError("no") if n < 3 else None)],
        ]

    once = await bench.run(parent(child))
    assert once.status == "failed"
    assert (
        code_of(cast("dict[str, object]", cast("dict[str, object]", once.error)["cause"]))
        == "WORKFLOW_EXECUTION_FAILED"
    )
    retried = parent(child, retries=1, retry_policy={"backoff": "fixed"})
    assert (await bench.run(retried, run_id="r2")).status == "finished"
    assert (calls["good"], calls["bad"]) == (2, 3)


async def test_cancelling_the_parent_cancels_the_child_and_resuming_it_resumes_the_child(bench: Bench) -> None:
    calls = Calls()

    @smithers
    def child(ctx: Ctx) -> Workflow:
        return Workflow(name="child")[
            Task("done", output="output")[calls.task("done")],
            Task("a", output=Row)[calls.held("a")],
        ]

    flow = parent(child)
    handle = await bench.start(flow)
    calls.held("a")
    await within(calls.begun["a"].wait())
    await bench.store.request_cancel("r", bench.clock.now_ms(), "test")
    assert (await within(handle.result)).status == "cancelled"
    await bench.reached(CHILD, "cancelled")
    calls.release("a")
    assert (await bench.resume(flow)).status == "finished"
    assert (calls["done"], calls["a"]) == (1, 2)


async def test_a_parked_child_is_cancelled_with_its_parent(bench: Bench) -> None:
    @smithers
    def child(ctx: Ctx) -> Workflow:
        return Workflow(name="child")[Approval("ok", output=Verdict)]

    await bench.run(parent(child))
    assert await bench.store.finalize_cancel("r", bench.clock.now_ms(), None)
    assert bench.row(CHILD).status == "cancelled"
    assert bench.approvals(CHILD)[0].decided_by == "smithers:cancel"


async def test_a_crash_attaches_to_the_child_that_is_there(bench: Bench) -> None:
    calls = Calls()

    @smithers
    def child(ctx: Ctx) -> Workflow:
        return Workflow(name="child")[
            Task("done", output="output")[calls.task("done")],
            Task("a", output=Row)[calls.held("a")],
        ]

    flow = parent(child)
    await bench.start(flow)
    calls.held("a")
    await within(calls.begun["a"].wait())
    bench.abandon()
    calls.release("a")
    bench.clock.advance(60_000)  # the child's lease runs out too
    assert (await bench.resume(flow)).status == "finished"
    assert (calls["done"], calls["a"]) == (1, 2)


async def test_a_subflow_that_takes_too_long_fails_and_its_child_is_not_broken(bench: Bench) -> None:
    calls = Calls()

    @smithers
    def child(ctx: Ctx) -> Workflow:
        return Workflow(name="child")[Task("a", output="output")[calls.held("a")]]

    result = await bench.run(parent(child, timeout_ms=30))

    assert result.status == "failed"
    assert "TASK_TIMEOUT" in (bench.attempts("sub")[0].error_json or "")
    calls.release("a")
    await bench.reached(CHILD, "finished", "cancelled")


async def test_an_inline_subflow_mounts_its_tree_under_prefixed_ids(bench: Bench) -> None:
    @smithers
    def child(ctx: Ctx) -> Workflow:
        first = ctx.output_maybe(Row, "a")
        return Workflow(name="child")[
            Task("a", output=Row)[{"text": f"n{ctx.input['n']}"}],
            first and Task("b", output=Row, deps={"a": Row})[_loud],
        ]

    @smithers
    def flow(ctx: Ctx) -> Workflow:
        return Workflow(name="parent")[
            Subflow("one", workflow=child, input={"n": 1}, mode="inline"),
            Subflow("two", workflow=child, input={"n": 2}, mode="inline"),
        ]

    assert (await bench.run(flow)).status == "finished"
    assert bench.texts() == ["n1", "n1!", "n2", "n2!"]
    assert set(bench.states()) == {"one/a", "one/b", "two/a", "two/b"}


def _joined(x: Row, head: Row) -> Row:
    return Row(text=f"y{x.text}{head.text}")


def _loud(a: Row) -> Row:
    return Row(text=a.text + "!")
