"""The effect guard: what tasks did outside is judged, undone or held against whoever changes their run's history."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import cast

import pytest
from pydantic import BaseModel
from tests.integration.engine.support import Bench, outputs, smithers, within
from tests.integration.engine.travel_support import back

from smithers import SmithersWorkflow, Task, Workflow, bash, define_tool, task_runtime
from smithers.control.caller import Caller
from smithers.control.control import Control
from smithers.control.travel import effects
from smithers.control.travel.effects import EffectBoundaryReport
from smithers.control.travel.rewinding import rewind
from smithers.errors import SideEffectBlocked
from smithers.store.sql import calls
from smithers.tools import ToolCtx, tool_context
from smithers.tools.define import DefinedTool, RevertContext

pytestmark = pytest.mark.anyio
BOTH_DATABASES = True
ANN = Caller("ann", scopes=("*",))


class Order(BaseModel):
    sku: str


class Shop:
    """The world outside: orders that were placed and taken back."""

    def __init__(self) -> None:
        self.placed: list[str] = []
        self.undone: list[RevertContext] = []
        self.fails: set[str] = set()

    async def undo(self, context: RevertContext) -> None:
        sku = str(context.input["sku"])  # type: ignore[index]
        if sku in self.fails:
            raise RuntimeError(f"{sku} has been shipped")
        self.undone.append(context)

    def tool(self, name: str, *, revert: bool = False, idempotent: bool = False) -> DefinedTool[Order, object]:
        @define_tool(
            name=name, schema=Order, side_effect=True, idempotent=idempotent, revert=self.undo if revert else None
        )
        async def place(args: Order) -> dict[str, str]:
            self.placed.append(args.sku)
            return {"order": args.sku}

        return place  # type: ignore[return-value]


@pytest.fixture
def shop() -> Shop:
    return Shop()


def buying(*tools: tuple[str, DefinedTool[Order, object]]) -> SmithersWorkflow:
    """A workflow of one task a tool, one after the other; each orders the thing that it is named after."""

    def task(id: str, tool: DefinedTool[Order, object]) -> Task:
        async def work() -> dict[str, object]:
            await tool(sku=id)
            return {"text": id}

        return Task(id=id, output=outputs.row)[work]

    @smithers
    def workflow(ctx: object) -> Workflow:
        return Workflow(name="buying")[[task(id, tool) for id, tool in tools]]

    return workflow


async def cross(
    bench: Bench, after_frame: int = 0, *, force: bool = False, no_revert: bool = False, operation: str = "rewind"
) -> EffectBoundaryReport:
    control = Control(bench.store, clock=bench.clock)
    return await effects.cross(
        control, "r", after_frame, None, operation=operation, op_id="op", force=force, no_revert=no_revert, caller=ANN
    )


def names(found: tuple[effects.Effect, ...]) -> list[str]:
    return [effect.node_id for effect in found]


def reverts(bench: Bench) -> dict[str, str | None]:
    return {row.node_id: row.revert_status for row in bench.store.read(lambda c: calls.tool_calls(c, "r"))}


async def test_effects_are_blocking_revertible_or_warnings(bench: Bench, shop: Shop) -> None:
    tools = (
        ("a", shop.tool("judge.a", revert=True)),
        ("b", shop.tool("judge.b")),
        ("c", shop.tool("judge.c", idempotent=True)),
    )
    await bench.run(buying(*tools))
    control = Control(bench.store, clock=bench.clock)
    found = await effects.report(control, "r", 0, operation="rewind")
    assert (names(found.blocking), names(found.revertible), names(found.warnings)) == (["b"], ["a"], ["c"])
    assert found.wire()["blocking"] == [
        {
            "kind": "tool",
            "toolName": "judge.b",
            "nodeId": "b",
            "iteration": 0,
            "attempt": 1,
            "seq": 1,
            "effectStatus": "succeeded",
            "idempotent": False,
            "hasRevert": False,
            "startedAtMs": found.blocking[0].started_at_ms,
        }
    ]
    with pytest.raises(SideEffectBlocked) as refused:
        await cross(bench)
    assert refused.value.details["report"] == found.wire()
    assert shop.undone == []  # nothing is undone for a change of history that does not come about
    assert reverts(bench) == {"a": None, "b": None, "c": None}


async def test_only_effects_of_work_that_had_not_ended_by_the_frame_count(bench: Bench, shop: Shop) -> None:
    await bench.run(buying(*((id, shop.tool(f"frames.{id}")) for id in "abc")))
    ends = {str(e["nodeId"]): e["seq"] for e in bench.events() if e["type"] == "NodeFinished"}
    frames: dict[object, int] = dict(
        bench.store.read(
            lambda c: c.execute("SELECT seq, frame_no FROM _smithers_events WHERE run_id = 'r'").fetchall()
        )
    )
    control = Control(bench.store, clock=bench.clock)

    async def after(frame: int) -> list[str]:
        return names((await effects.report(control, "r", frame, operation="rewind")).blocking)

    b_ended = frames[ends["b"]]
    assert await after(b_ended) == ["c"]
    assert await after(b_ended - 1) == ["b", "c"]  # its call was made by then, and would be made again
    assert await after(frames[ends["c"]]) == []
    found = await effects.report(control, "r", 1_000, frozenset({("a", 0)}), operation="retry-task")
    assert names(found.blocking) == ["a"]


async def test_effects_are_undone_newest_first_and_each_is_on_record(bench: Bench, shop: Shop) -> None:
    await bench.run(buying(*((id, shop.tool(f"order.{id}", revert=True)) for id in "abc")))
    report = await cross(bench)
    assert names(report.revertible) == ["a", "b", "c"]
    assert [str(context.input["sku"]) for context in shop.undone] == ["c", "b", "a"]  # type: ignore[index]
    first = shop.undone[-1]
    assert (first.output, first.effect_status, first.tool_call_seq) == ({"order": "a"}, "succeeded", 1)
    assert reverts(bench) == {"a": "reverted", "b": "reverted", "c": "reverted"}
    told = [(e["type"], e["nodeId"]) for e in bench.events() if str(e["type"]).startswith("EffectRevert")]
    assert told == [(t, n) for n in "cba" for t in ("EffectRevertStarted", "EffectRevertFinished")]
    assert not await cross(bench)  # what is undone counts no more
    assert len(shop.undone) == 3


async def test_a_revert_that_fails_blocks_and_may_be_tried_again(bench: Bench, shop: Shop) -> None:
    await bench.run(buying(*((id, shop.tool(f"fail.{id}", revert=True)) for id in "abc")))
    shop.fails = {"b"}
    with pytest.raises(SideEffectBlocked) as refused:
        await cross(bench)
    report = cast("dict[str, list[dict[str, object]]]", refused.value.details["report"])
    assert [e["nodeId"] for e in report["blocking"]] == ["a", "b"]
    assert [e["nodeId"] for e in report["revertible"]] == ["c"]
    assert "b has been shipped" in str(report["blocking"][1]["reason"])
    assert reverts(bench) == {"a": None, "b": "revert-failed", "c": "reverted"}
    shop.fails = set()
    assert names((await cross(bench)).revertible) == ["a", "b"]
    assert [c.effect_status for c in shop.undone] == ["succeeded", "unknown", "succeeded"]


async def test_force_goes_past_what_stands_and_is_recorded(bench: Bench, shop: Shop) -> None:
    await bench.run(buying(("a", shop.tool("force.a", revert=True)), ("b", shop.tool("force.b"))))
    shop.fails = {"a"}
    report = await cross(bench, force=True)
    assert names(report.blocking) == ["a", "b"]
    (crossed,) = [e for e in bench.events() if e["type"] == "SideEffectBoundaryCrossed"]
    assert (crossed["opId"], crossed["operation"], crossed["report"]) == ("op", "rewind", report.wire())
    rows = bench.store.read(lambda c: calls.tool_calls(c, "r"))
    assert all('"by":"ann"' in str(row.forced_past_json) for row in rows)


async def test_reverts_are_left_out_on_demand_and_when_a_run_is_forked(bench: Bench, shop: Shop) -> None:
    await bench.run(buying(("a", shop.tool("out.a", revert=True))))
    with pytest.raises(SideEffectBlocked):
        await cross(bench, no_revert=True)
    assert names((await cross(bench, no_revert=True, force=True)).blocking) == ["a"]
    assert names((await cross(bench, operation=effects.FORK)).warnings) == ["a"]
    with pytest.raises(
        SideEffectBlocked
    ):  # the old run keeps what it has ordered, and the new one would order it again
        await cross(bench, operation=effects.REPLAY)
    assert shop.undone == []


async def test_a_revert_that_a_crash_cut_off_counts_as_unresolved(bench: Bench, shop: Shop) -> None:
    reached, gate = asyncio.Event(), asyncio.Event()

    async def hang(_context: RevertContext) -> None:
        reached.set()
        await gate.wait()

    @define_tool(name="crash.a", schema=Order, side_effect=True, revert=hang)
    async def place(args: Order) -> None:
        shop.placed.append(args.sku)

    await bench.run(buying(("a", place)))  # type: ignore[arg-type]
    crossing = asyncio.ensure_future(cross(bench))
    await within(reached.wait())
    assert reverts(bench) == {"a": "reverting"}  # on record before the handler has done anything
    crossing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await crossing
    assert reverts(bench) == {"a": "reverting"}
    control = Control(bench.store, clock=bench.clock)
    (effect,) = (await effects.report(control, "r", 0, operation="rewind")).revertible
    assert (effect.status, effect.reason) == ("unknown", "an earlier attempt to revert it was interrupted")
    gate.set()
    await cross(bench)
    assert reverts(bench) == {"a": "reverted"}


async def test_a_tool_that_is_not_loaded_blocks_with_that_reason(bench: Bench, shop: Shop) -> None:
    await bench.run(buying(("a", shop.tool("gone.a", revert=True))))
    from smithers.tools import define

    define._reverts.pop("gone.a")  # pyright: ignore[reportPrivateUsage]
    control = Control(bench.store, clock=bench.clock)
    (effect,) = (await effects.report(control, "r", 0, operation="rewind")).blocking
    assert effect.reason is not None
    assert "gone.a" in effect.reason or "loaded" in effect.reason


@pytest.mark.parametrize("ends_well", [True, False])
async def test_a_call_that_ends_after_its_revert_fails_the_run(bench: Bench, shop: Shop, ends_well: bool) -> None:
    reached, gate = asyncio.Event(), asyncio.Event()

    @define_tool(name="late.a", schema=Order, side_effect=True, revert=shop.undo)
    async def place(args: Order) -> None:
        reached.set()
        while not gate.is_set():
            try:
                await gate.wait()
            except asyncio.CancelledError:  # as a thread does: it cannot be stopped
                continue
        if not ends_well:
            raise RuntimeError("broken")

    await bench.start(buying(("a", place)))  # type: ignore[arg-type]
    await within(reached.wait())
    work = [task for task in asyncio.all_tasks() if task.get_name() == "a"]
    bench.abandon()
    run = bench.row()
    await bench.store.release("r", run.runtime_owner_id or "")
    assert names((await cross(bench)).revertible) == ["a"]
    assert reverts(bench) == {"a": "reverted"}
    gate.set()
    await within(asyncio.gather(*work, return_exceptions=True))
    assert reverts(bench) == {"a": "revert-stale"}
    run = bench.row()
    assert run.status == "failed"
    assert "LateToolCompletion" in str(run.error_json)
    told = {str(e["type"]): e for e in bench.events()}
    assert told["SideEffectBoundaryCrossed"]["lateCompletion"] is True
    assert told["RunFailed"]["error"]["code"] == "LateToolCompletion"  # type: ignore[index]


def _task_with(revert: Callable[..., object] | None, shop: Shop) -> SmithersWorkflow:
    def work() -> dict[str, object]:
        shop.placed.append("task")
        return {"text": "done", "n": 3}

    @smithers
    def workflow(ctx: object) -> Workflow:
        side: object = True if revert is None else {"revert": revert}
        return Workflow(name="task-effect")[Task(id="a", output=outputs.row, side_effect=side)[work]]  # type: ignore[arg-type]

    return workflow


async def test_a_task_with_a_side_effect_is_call_0_of_its_attempt(bench: Bench, shop: Shop) -> None:
    await bench.run(_task_with(None, shop))
    (row,) = bench.store.read(lambda c: calls.tool_calls(c, "r"))
    assert (row.kind, row.seq, row.tool_name, row.status, row.side_effect, row.idempotent) == (
        "task",
        0,
        "a",
        "finished",
        1,
        0,
    )
    with pytest.raises(SideEffectBlocked):
        await cross(bench)


async def test_a_tasks_own_revert_is_found_in_the_workflow_and_gets_its_row(bench: Bench, shop: Shop) -> None:
    seen: list[RevertContext] = []

    async def undo(context: RevertContext) -> None:
        seen.append(context)

    workflow = _task_with(undo, shop)
    await bench.run(workflow)
    control = Control(bench.store, clock=bench.clock)
    report = await effects.cross(
        control,
        "r",
        0,
        None,
        operation="rewind",
        op_id="op",
        force=False,
        no_revert=False,
        caller=ANN,
        workflow=workflow,
    )
    assert names(report.revertible) == ["a"]
    assert seen[0].output == {"text": "done", "n": 3}
    assert reverts(bench) == {"a": "reverted"}


async def test_git_is_exempt(bench: Bench) -> None:
    async def work() -> dict[str, object]:
        with tool_context(sandbox="off"):  # so that it runs where nothing can be isolated
            await bash("git", ["--version"])
            await bash("git --version")
            await bash("true")
        return {"text": "x"}

    @smithers
    def workflow(ctx: object) -> Workflow:
        return Workflow(name="git")[Task(id="a", output=outputs.row)[work]]

    await bench.run(workflow)
    control = Control(bench.store, clock=bench.clock)
    found = await effects.report(control, "r", 0, operation="rewind")
    assert [e.seq for e in found.warnings] == [1, 2]
    assert [e.seq for e in found.blocking] == [3]


async def test_what_was_undone_is_asked_for_with_another_key_and_what_stands_with_the_same(bench: Bench) -> None:
    keys: list[str | None] = []

    async def undo(_context: RevertContext) -> None:
        pass

    @define_tool(name="key.a", schema=Order, side_effect=True, revert=undo)
    async def place(args: Order, ctx: ToolCtx) -> None:
        keys.append(ctx.idempotency_key)

    def task() -> object:
        async def work() -> dict[str, object]:
            keys.append(task_runtime().idempotency_key())
            await place(sku="tea")
            return {"text": "x"}

        return work

    @smithers
    def workflow(ctx: object) -> Workflow:
        return Workflow(name="keys")[Task(id="a", output=outputs.row, side_effect={"revert": undo})[task()]]

    control = Control(bench.store, clock=bench.clock)
    admin = Caller("ann", role="admin", scopes=("*",))

    async def again(**options: bool) -> list[str | None]:
        await rewind(control, "r", 0, caller=admin, confirm=True, workflow=workflow, **options)  # type: ignore[arg-type]
        before = len(keys)
        await bench.resume(workflow)
        return keys[before:]

    await bench.run(workflow)
    assert keys == ["r:a:0:1", "smithers:r:a:0:key.a:1"]
    assert await again() == ["r:a:0:1:2", "smithers:r:a:0:key.a:1:2"]
    assert await again() == ["r:a:0:1:3", "smithers:r:a:0:key.a:1:3"]
    assert await again(force=True, no_revert=True) == ["r:a:0:1:3", "smithers:r:a:0:key.a:1:3"]


async def test_a_call_that_ends_after_a_rewind_is_noticed_where_it_was_put_aside(bench: Bench, shop: Shop) -> None:
    reached, gate = asyncio.Event(), asyncio.Event()

    @define_tool(name="late.b", schema=Order, side_effect=True, revert=shop.undo)
    async def place(args: Order) -> None:
        reached.set()
        while not gate.is_set():
            try:
                await gate.wait()
            except asyncio.CancelledError:
                continue

    await bench.start(buying(("z", shop.tool("late.z", idempotent=True)), ("a", place)))  # type: ignore[arg-type]
    await within(reached.wait())
    work = [task for task in asyncio.all_tasks() if task.get_name() == "a"]
    bench.abandon()
    control = Control(bench.store, clock=bench.clock)
    await rewind(control, "r", 0, caller=Caller("ann", role="admin"), confirm=True)
    assert reverts(bench) == {}
    gate.set()
    await within(asyncio.gather(*work, return_exceptions=True))
    (crossed,) = [e for e in bench.events() if e["type"] == "SideEffectBoundaryCrossed"]
    archived = bench.store.read(
        lambda c: c.execute(
            "SELECT revert_status, archived_by_op FROM _smithers_tool_call_archive WHERE tool_name = 'late.b'"
        ).fetchall()
    )
    assert archived == [("revert-stale", crossed["archivedByOp"])]
    assert bench.row().status == "failed"


# ── a task's own effect that ends late ─────────────────────────────────────────────────────────────────────────────


async def undone(context: RevertContext) -> None:
    """Whatever it was, it is undone."""


def _effect_of(work: Callable[[], object], timeout_ms: int | None = None) -> SmithersWorkflow:
    @smithers
    def workflow(ctx: object) -> Workflow:
        task = Task(id="a", output=outputs.row, side_effect={"revert": undone}, timeout_ms=timeout_ms)[work]
        return Workflow(name="late-task")[task]

    return workflow


async def _noticed(bench: Bench) -> None:
    told = await bench.seen("SideEffectBoundaryCrossed")
    assert (told["operation"], told["lateCompletion"]) == ("late-completion", True)
    run = bench.row()
    assert (run.status, "LateToolCompletion" in str(run.error_json)) == ("failed", True)
    archived = "SELECT kind, revert_status FROM _smithers_tool_call_archive WHERE run_id = 'r'"
    assert bench.store.read(lambda c: c.execute(archived).fetchall()) == [("task", "revert-stale")]


async def test_a_task_in_a_thread_that_ends_after_its_effect_was_reverted_fails_the_run(bench: Bench) -> None:
    reached, gate = threading.Event(), threading.Event()

    def work() -> dict[str, object]:
        reached.set()
        gate.wait(60)
        return {"text": "done"}

    workflow = _effect_of(work)
    await bench.start(workflow)
    assert await within(asyncio.to_thread(reached.wait, 60))

    await back(bench, 0, workflow=workflow)
    assert bench.row().status == "running"
    gate.set()

    await _noticed(bench)


async def test_a_task_in_a_thread_that_ran_out_of_time_and_ends_after_its_effect_was_reverted_is_told_of(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached, gate = threading.Event(), threading.Event()
    deadlines: dict[float | None, asyncio.Timeout] = {}
    timeout = asyncio.timeout

    def noted(delay: float | None) -> asyncio.Timeout:
        found = deadlines[delay] = timeout(delay)
        return found

    def work() -> dict[str, object]:
        reached.set()
        gate.wait(60)
        return {"text": "done"}

    workflow = _effect_of(work, timeout_ms=600_000)
    with monkeypatch.context() as patch:
        patch.setattr(asyncio, "timeout", noted)
        handle = await bench.start(workflow)
        assert await asyncio.to_thread(reached.wait, 60)
    deadlines[600].reschedule(asyncio.get_running_loop().time())  # its time is up
    assert (await within(asyncio.shield(handle.result))).status == "failed"

    await back(bench, 0, workflow=workflow)
    gate.set()

    await _noticed(bench)


async def test_a_task_elsewhere_that_ends_after_its_effect_was_reverted_fails_the_run(bench: Bench) -> None:
    reached, gate = asyncio.Event(), asyncio.Event()

    async def work() -> dict[str, object]:
        reached.set()
        while not gate.is_set():
            try:
                await gate.wait()
            except asyncio.CancelledError:
                continue
        return {"text": "done"}

    workflow = _effect_of(work)
    await bench.start(workflow)
    await within(reached.wait())
    running = [task for task in asyncio.all_tasks() if task.get_name() == "a"]
    bench.abandon()

    await rewind(
        Control(bench.store, clock=bench.clock),
        "r",
        0,
        caller=Caller("ann", role="admin"),
        confirm=True,
        workflow=workflow,
    )
    gate.set()
    await within(asyncio.gather(*running, return_exceptions=True))

    await _noticed(bench)


async def test_a_task_that_ends_late_but_was_not_reverted_says_nothing(bench: Bench) -> None:
    reached, gate = threading.Event(), threading.Event()

    def work() -> dict[str, object]:
        reached.set()
        gate.wait(60)
        return {"text": "done"}

    handle = await bench.start(_effect_of(work))
    assert await within(asyncio.to_thread(reached.wait, 60))
    await bench.store.request_cancel("r", bench.clock.now_ms(), "test")
    assert (await within(asyncio.shield(handle.result))).status == "cancelled"
    gate.set()
    await bench.engine.close()

    assert "SideEffectBoundaryCrossed" not in bench.types()
    assert bench.row().status == "cancelled"
