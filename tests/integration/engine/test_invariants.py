"""Invariants 1, 4, 5 and 6 and the order of events, over random workflows, with and without a crash in the middle."""

from __future__ import annotations

import asyncio
import tempfile
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias, cast

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.integration.engine.support import Bench, Event, Row, Verdict, smithers, within

from smithers import (
    Approval,
    Loop,
    Parallel,
    RetryPolicy,
    Saga,
    SagaStep,
    Sequence,
    SmithersWorkflow,
    Task,
    Timer,
    TryCatchFinally,
    WaitForEvent,
    Workflow,
    task_runtime,
)
from smithers.components.context import Context
from smithers.components.element import Element
from smithers.store.sql import reads

Spec: TypeAlias = "tuple[str, int, list[Spec]]"
"""(kind, number, children)"""

LEAVES = ("ok", "retry", "tolerated", "skip", "static", "timer", "auto", "fail", "approval", "event", "gate")


def specs(*, waits: bool) -> st.SearchStrategy[Spec]:
    """Random trees; without `waits` nothing needs anybody from outside."""
    leaves = [k for k in LEAVES if waits or k not in ("approval", "event", "gate")]
    # `fail` is rare: most runs should get somewhere
    none: list[Spec] = []
    kinds = st.sampled_from(["seq", "par", "par", "loop", "try", "saga"])

    def inside(inner: st.SearchStrategy[Spec]) -> st.SearchStrategy[Spec]:
        return st.tuples(kinds, st.integers(1, 2), st.lists(inner, min_size=1, max_size=4))

    leaf = st.tuples(st.sampled_from([*leaves, "ok", "ok", "static"]), st.integers(0, 2), st.just(none))
    return st.recursive(leaf, inside, max_leaves=10)


@dataclass
class Recipe:
    """Makes a workflow of a spec, counts what runs, and can hang at one call to be killed there."""

    spec: Spec
    hangs_at: int | None = None
    calls: Counter[tuple[str, int]] = field(default_factory=Counter[tuple[str, int]])
    before_crash: dict[tuple[str, int], int] = field(default_factory=dict[tuple[str, int], int])
    """How often what had finished durably before the crash had run by then."""
    hanging: asyncio.Event = field(default_factory=asyncio.Event)

    def workflow(self) -> SmithersWorkflow:
        @smithers
        def flow(ctx: Context[dict[str, object]]) -> Workflow:
            assert len(ctx.outputs(Row)) < 10_000  # the render looks at every row, so it is done after every result
            return Workflow(name="random")[self.build(self.spec, "n")]

        return flow

    def work(self, id: str, fails: Callable[[int], bool]) -> Callable[[], Coroutine[object, object, Row]]:
        async def run() -> Row:
            key = (task_runtime().node_id, task_runtime().iteration)
            self.calls[key] += 1
            if self.hangs_at is not None and sum(self.calls.values()) == self.hangs_at:
                self.hanging.set()
                await asyncio.Event().wait()
            if fails(task_runtime().attempt):
                raise ValueError(id)
            return Row(text=id)

        return run

    def build(self, spec: Spec, id: str) -> Element:
        kind, number, inner = spec
        children = [self.build(child, f"{id}.{index}") for index, child in enumerate(inner)]
        never = self.work(id, lambda _: False)
        match kind:
            case "retry":
                policy = RetryPolicy("fixed", 0)
                return Task(id, output=Row, retries=number + 2, retry_policy=policy)[
                    self.work(id, lambda n: n <= number)
                ]
            case "tolerated":
                return Task(id, output=Row, continue_on_fail=True)[self.work(id, lambda _: True)]
            case "fail":
                return Task(id, output=Row)[self.work(id, lambda _: number == 2)]
            case "skip":
                return Task(id, output=Row, skip_if=True)[never]
            case "static":
                return Task(id, output=Row)[{"n": number}]
            case "timer":
                return Timer(id, duration=0)
            case "auto":
                return Approval(id, output=Verdict, auto_approve=True)
            case "approval":
                return Approval(id, output=Verdict, on_deny=("fail", "continue", "skip")[number])
            case "event":
                return WaitForEvent(id, event="go", output=Row)
            case "gate":
                return Task(id, output=Row, needs_approval=True, continue_on_fail=number > 0)[never]
            case "seq":
                return Sequence()[children]
            case "par":
                return Parallel(max_concurrency=number)[children]
            case "loop":
                return Loop(id, max_iterations=number)[children]
            case "try":
                return TryCatchFinally(
                    id, try_=children, catch=lambda e: Task(f"{id}.c", output=Row)[{"text": str(e["nodeId"])}],
                    finally_=Task(f"{id}.f", output=Row)[{"text": "f"}],
                )  # fmt: skip
            case "saga":
                undo = [Task(f"{id}.u{i}", output=Row)[{"text": "undo"}] for i in range(len(children))]
                return Saga(id)[[SagaStep(f"s{i}", compensation=undo[i])[c] for i, c in enumerate(children)]]
            case _:
                return Task(id, output=Row)[never]


STATE_AFTER = {
    "NodePending": "pending",
    "NodeStarted": "in-progress",
    "NodeFinished": "finished",
    "NodeFailed": "failed",
    "NodeRetrying": "pending",
    "NodeCancelled": "cancelled",
    "NodeSkipped": "skipped",
    "NodeWaitingApproval": "waiting-approval",
    "NodeWaitingEvent": "waiting-event",
    "NodeWaitingTimer": "waiting-timer",
    "NodeWaitingQuota": "waiting-quota",
}


def replay(events: list[Event]) -> dict[tuple[object, object], str]:
    """Node states as the log alone tells them."""
    states: dict[tuple[object, object], str] = {}
    for event in events:
        after = STATE_AFTER.get(str(event["type"]))
        if after is not None:
            states[(event["nodeId"], event["iteration"])] = after
    return states


ALLOWED_BEFORE = {
    "NodeStarted": {"pending", "waiting-approval", "waiting-event", "waiting-timer", "waiting-quota", "cancelled"},
    "NodeFinished": {"in-progress", "pending", "waiting-approval", "waiting-event", "waiting-timer", "cancelled"},
    "NodeRetrying": {"failed"},
}


def check(bench: Bench) -> None:
    """What holds of every run at every rest."""
    events = bench.events()
    assert [e["seq"] for e in events] == list(range(len(events))), "invariant 4: dense"
    assert events[0]["type"] == "RunStarted"
    nodes = bench.store.read(lambda c: reads.nodes(c, "r"))
    assert replay(events) == {(n.node_id, n.iteration): n.state for n in nodes}, "invariant 5: the log tells the states"
    status = next(e["status"] for e in reversed(events) if e["type"] == "RunStatusChanged")
    assert status == bench.row().status
    states: dict[object, str] = {}
    for before, event in zip([{}, *events], events, strict=False):
        key, type = (event.get("nodeId"), event.get("iteration")), str(event["type"])
        if type in STATE_AFTER:
            assert key in states or type == "NodePending", event
            assert states.get(key) not in ("finished", "skipped"), event
            assert type not in ALLOWED_BEFORE or states[key] in ALLOWED_BEFORE[type], (event, states[key])
            states[key] = STATE_AFTER[type]
        if type == "NodeWaitingApproval":
            assert before.get("type") == "ApprovalRequested", event
    for event in events[:-2]:
        assert event["type"] not in ("RunFinished", "RunFailed"), "a terminal event is the last but its status"


async def drive(spec: Spec, path: Path, *, hangs_at: int | None = None) -> tuple[Bench, Recipe]:
    """Run to the end, deciding and signalling what is waited for, dying once where `hangs_at` says."""
    bench = Bench(path / "runs.db")
    recipe = Recipe(spec, hangs_at)
    flow = recipe.workflow()
    handle = await bench.start(flow)
    hanging = asyncio.ensure_future(recipe.hanging.wait())
    for turn in range(60):
        waiting: list[asyncio.Future[object]] = [cast("asyncio.Future[object]", f) for f in (handle.result, hanging)]
        await within(asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED))
        if not handle.result.done():
            recipe.hangs_at = None
            recipe.hanging.clear()
            hanging = asyncio.ensure_future(recipe.hanging.wait())
            bench.abandon()
            nodes = bench.store.read(lambda c: reads.nodes(c, "r"))
            done = [(n.node_id, n.iteration) for n in nodes if n.state == "finished"]
            recipe.before_crash = {key: recipe.calls[key] for key in done}
            handle = await bench.engine.resume("r", flow, force=True)
            continue
        check(bench)
        if not handle.result.result().status.is_parked:
            break
        for approval in bench.approvals(only_open=True):
            await bench.decide(approval.node_id, turn % 3 != 1, iteration=approval.iteration)
        await bench.signal("go", {"text": str(turn)})
        handle = await bench.engine.resume("r", flow)
    else:
        raise AssertionError(f"the run does not end: {bench.states()}")
    hanging.cancel()
    return bench, recipe


SLOW = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


@SLOW
@given(specs(waits=True))
def test_the_log_tells_the_same_states_as_the_tables(spec: Spec) -> None:
    async def main(path: Path) -> None:
        bench, _ = await drive(spec, path)
        await bench.close()

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(main(Path(folder)))


@SLOW
@given(specs(waits=True), st.integers(1, 6))
def test_no_finished_task_runs_again_after_a_crash_anywhere(spec: Spec, hangs_at: int) -> None:
    async def main(path: Path) -> None:
        bench, recipe = await drive(spec, path, hangs_at=hangs_at)
        assert {key: recipe.calls[key] for key in recipe.before_crash} == recipe.before_crash, "invariant 1"
        finished = [(e["nodeId"], e["iteration"]) for e in bench.events() if e["type"] == "NodeFinished"]
        assert len(finished) == len(set(finished)), "invariant 1"
        await bench.close()

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(main(Path(folder)))


@settings(SLOW, max_examples=25)
@given(specs(waits=False))
def test_the_same_input_and_outcomes_give_the_same_frames_and_events(spec: Spec) -> None:
    async def main(path: Path) -> object:
        bench, _ = await drive(spec, path)
        events = [{k: v for k, v in e.items() if k not in ("timestampMs", "error")} for e in bench.events()]
        frames = [(f.frame_no, f.tree_hash, f.reason) for f in bench.store.read(lambda c: reads.frames(c, "r"))]
        result = (events, frames, bench.states(), bench.texts())
        await bench.close()
        return result

    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as two:
        first = asyncio.run(main(Path(one)))
        second = asyncio.run(main(Path(two)))
    assert first == second
