"""The life of a run: launch, resume, pause, cancel, release, crash, takeover, cache, patches, progress."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import pytest
from pydantic import BaseModel
from tests.integration.engine.support import SETTINGS, Bench, Calls, Row, Verdict, smithers, within

from smithers import (
    Approval,
    Branch,
    CachePolicy,
    ContinueAsNew,
    HumanTask,
    Parallel,
    RetryPolicy,
    RunResult,
    Sequence,
    SmithersWorkflow,
    Subflow,
    Task,
    Timer,
    TryCatchFinally,
    WaitForEvent,
    Workflow,
    close_engines,
    create_smithers,
    load_workflow,
    run_workflow,
    run_workflow_sync,
    use_patched,
)
from smithers.components.context import Context
from smithers.errors import (
    AlreadyDecided,
    AutoResumeGaveUp,
    InputMismatch,
    InvalidInput,
    LeaseLost,
    ResumeMetadataMismatch,
    RunAlreadyExists,
    RunNotFound,
    RunNotResumable,
    RunOwnerAlive,
    SmithersError,
)
from smithers.testing import fake_agent

pytestmark = pytest.mark.anyio
BOTH_DATABASES = True
Ctx = Context[dict[str, object]]


def one_task(calls: Calls, name: str = "a", *, held: bool = False) -> SmithersWorkflow:
    @smithers
    def flow(ctx: Ctx) -> Workflow:
        work = calls.held(name) if held else calls.task(name)
        return Workflow(name="one")[
            Task("before", output=Row)[calls.task("before")],
            Task(name, output=Row)[work],
        ]

    calls.held(name)
    return flow


# ── launching ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_used_run_id_is_refused_live_and_ended(bench: Bench) -> None:
    calls = Calls()
    flow = one_task(calls, held=True)
    handle = await bench.start(flow)
    with pytest.raises(RunAlreadyExists):
        await bench.start(flow)
    calls.release("a")
    await within(handle.result)
    with pytest.raises(RunAlreadyExists):
        await bench.start(flow)
    assert calls["a"] == 1


async def test_an_idempotency_key_gives_the_earlier_run(bench: Bench) -> None:
    calls = Calls()
    flow = one_task(calls, held=True)
    first = await bench.start(flow, {"x": 1}, idempotency_key="k")
    same = await bench.engine.launch(flow, {"x": 1}, idempotency_key="k")
    again = await bench.start(flow, {"x": 1}, idempotency_key="k")  # the same run id too
    with pytest.raises(InputMismatch):
        await bench.engine.launch(flow, {"x": 2}, idempotency_key="k")
    with pytest.raises(RunAlreadyExists):
        await bench.start(flow, {"x": 1}, idempotency_key="another")
    calls.release("a")
    results = await within(asyncio.gather(first.result, same.result, again.result))
    ended = await bench.engine.launch(flow, {"x": 1}, idempotency_key="k")

    assert {r.run_id for r in cast("list[RunResult]", results)} == {"r"} == {ended.run_id}
    assert (await ended.result).status == "finished"
    assert (calls["a"], bench.engine.drivers) == (1, {})


@pytest.mark.parametrize(
    ("input", "options"),
    [
        ([1], {}),
        ({"x": "y" * 70_000}, {}),
        ({}, {"max_concurrency": 0}),
        ({}, {"annotations": {"x": {}}}),
        ({}, {"run_id": ""}),
        ({}, {"run_id": "x" * 257}),
    ],
    ids=["list", "long", "concurrency", "annotations", "no-id", "long-id"],
)
async def test_a_launch_that_does_not_fit_is_refused_and_stores_nothing(
    bench: Bench, input: object, options: Mapping[str, object]
) -> None:
    flow = one_task(Calls())
    with pytest.raises(InvalidInput):
        await bench.start(flow, input, **{"run_id": "r", **options})  # type: ignore[arg-type]
    with pytest.raises(RunNotFound):
        bench.row()


async def test_an_unknown_run_cannot_be_resumed(bench: Bench) -> None:
    with pytest.raises(RunNotFound):
        await bench.resume(one_task(Calls()), run_id="nobody")


@pytest.mark.parametrize("when", ["first", "later"])
async def test_a_render_that_raises_fails_the_run_with_the_place(bench: Bench, when: str) -> None:
    @smithers
    def flow(ctx: Ctx) -> Workflow:
        if when == "first" or ctx.output_maybe(Row, "a"):
            raise KeyError("oops")
        return Workflow(name="bad")[Task("a", output=Row)[{"text": "kept"}]]

    result = await bench.run(flow)

    assert result.status == "failed"
    assert result.error is not None
    assert result.error["code"] == "WORKFLOW_RENDER_FAILED"
    assert "test_life.py" in str(result.error["summary"])
    assert bench.texts() == ([] if when == "first" else ["kept"])


async def test_a_name_that_changes_between_renders_fails_the_run(bench: Bench) -> None:
    @smithers
    def flow(ctx: Ctx) -> Workflow:
        return Workflow(name="a" if ctx.output_maybe(Row, "a") is None else "b")[Task("a", output=Row)[{"n": 1}]]

    result = await bench.run(flow)

    assert result.error is not None
    assert result.error["code"] == "RESUME_METADATA_MISMATCH"


async def test_tasks_that_wait_for_each_other_are_a_deadlock(bench: Bench) -> None:
    @smithers
    def flow(ctx: Ctx) -> Workflow:
        return Workflow(name="dead")[
            Parallel()[
                Task("a", output=Row, depends_on=["b"])[{"n": 1}], Task("b", output=Row, depends_on=["a"])[{"n": 1}]
            ]
        ]

    result = await bench.run(flow)

    assert result.error is not None
    assert result.error["code"] == "DEPENDENCY_DEADLOCK"


@pytest.mark.parametrize("arm", ["then", "else_", "catch"])
async def test_a_dependence_on_an_arm_that_is_not_entered_is_a_deadlock_that_names_the_arm(
    bench: Bench, arm: str
) -> None:
    hidden = Task("hidden", output=Row)[{"n": 1}]
    shown = Task("shown", output=Row)[{"n": 1}]

    @smithers
    def flow(ctx: Ctx) -> Workflow:
        arms = {
            "then": Branch(if_=False, then=hidden, else_=shown, id="choice"),
            "else_": Branch(if_=True, then=shown, else_=hidden, id="choice"),
            "catch": TryCatchFinally("choice", try_=shown, catch=hidden),
        }
        return Workflow(name="dead")[arms[arm], Task("after", output=Row, depends_on=["hidden"])[{"n": 1}]]

    result = await bench.run(flow)

    assert result.error is not None
    assert result.error["code"] == "DEPENDENCY_DEADLOCK"
    message = str(result.error["message"])
    assert f"after::0 waits for hidden (in the arm {arm} of " in message
    assert "choice" in message


# ── resuming ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_resuming_a_finished_run_gives_its_result_and_runs_nothing(bench: Bench) -> None:
    calls = Calls()
    flow = one_task(calls)
    await bench.run(flow)
    result = await run_workflow(flow, run_id="r", resume=True, engine=bench.engine)

    assert result.status == "finished"
    assert calls["a"] == 1


async def test_a_resume_must_bring_the_same_input_or_none(bench: Bench) -> None:
    @smithers
    def flow(ctx: Ctx) -> Workflow:
        return Workflow(name="input")[Approval("ok", output=Verdict)]

    await bench.run(flow, {"x": 1})
    before = bench.row()
    with pytest.raises(InputMismatch):
        await bench.resume(flow, input={"x": 2})
    assert bench.row() == before
    assert (await bench.resume(flow, input={"x": 1})).status == "waiting-approval"
    assert (await bench.resume(flow)).status == "waiting-approval"


SOURCE = """
from pydantic import BaseModel
from smithers import Approval, Task, Workflow, create_smithers

class Verdict(BaseModel):
    approved: bool

smithers, outputs = create_smithers({"verdict": Verdict})

@smithers
def flow(ctx):
    return Workflow(name="NAME")[Approval("ok", output=Verdict)]  # MARK
"""


async def test_a_changed_source_is_refused_unless_accepted_which_is_recorded(bench: Bench, tmp_path: Path) -> None:
    file = tmp_path / "flow.py"
    file.write_text(SOURCE)
    await bench.run(load_workflow(file))
    file.write_text(SOURCE.replace("MARK", "changed"))
    changed = load_workflow(file)
    with pytest.raises(ResumeMetadataMismatch):
        await bench.resume(changed)
    assert bench.row().status == "waiting-approval"
    assert (await bench.resume(changed, accept_workflow_change=True)).status == "waiting-approval"
    assert "WorkflowReloaded" in bench.types()
    assert (await bench.resume(changed)).status == "waiting-approval"  # it is the recorded one now


async def test_a_continued_run_cannot_be_resumed(bench: Bench) -> None:
    @smithers
    def flow(ctx: Ctx) -> Workflow:
        return Workflow(name="continued")[ContinueAsNew({}, when=ctx.continuation is None)]

    await bench.run(flow)
    with pytest.raises(RunNotResumable):
        await bench.resume(flow)


async def test_a_failed_run_tries_again_when_it_is_resumed(bench: Bench) -> None:
    calls = Calls()

    @smithers
    def flow(ctx: Ctx) -> Workflow:
        return Workflow(name="again")[
            Task("good", output=Row)[calls.task("good")],
            Task("bad", output=Row)[calls.task("bad", fails=lambda n: ValueError("no") if n == 1 else None)],
        ]

    assert (await bench.run(flow)).status == "failed"
    assert (await bench.resume(flow)).status == "finished"
    assert (calls["good"], calls["bad"]) == (1, 2)


async def test_a_resume_gives_all_retries_back_for_good_also_when_its_process_dies(bench: Bench) -> None:
    calls = Calls()
    calls.held("slow")

    async def work() -> dict[str, object]:
        calls.by_name["bad"] = calls["bad"] + 1
        if calls["bad"] == 4:
            calls.begun["slow"].set()
            await calls.gates["slow"].wait()
        if calls["bad"] < 6:
            raise ValueError("no")
        return {"text": "at last"}

    @smithers
    def flow(ctx: Ctx) -> Workflow:
        policy = RetryPolicy("fixed", 0)
        return Workflow(name="again")[Task("bad", output=Row, retries=1, retry_policy=policy)[work]]

    assert (await bench.run(flow)).status == "failed"
    await bench.engine.resume("r", flow)  # attempt 3 fails, 4 hangs
    await within(calls.begun["slow"].wait())
    bench.abandon()
    calls.release("slow")
    # attempt 4 was lost and costs nothing; 5 is the second failure since the resume
    assert (await bench.resume(flow, force=True)).status == "failed"
    assert calls["bad"] == 5
    assert (await bench.resume(flow)).status == "finished"


async def test_a_resumed_parent_tries_a_failed_child_again(bench: Bench) -> None:
    calls = Calls()

    @smithers
    def child(ctx: Ctx) -> Workflow:
        work = calls.task("bad", fails=lambda n: ValueError("no") if n == 1 else None)
        return Workflow(name="child")[Task("bad", output="output")[work]]

    @smithers
    def flow(ctx: Ctx) -> Workflow:
        return Workflow(name="parent")[Subflow("sub", workflow=child, output=Row)]

    assert (await bench.run(flow)).status == "failed"
    assert (await bench.resume(flow)).status == "finished"
    assert calls["bad"] == 2


# ── pause ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_pause_drains_what_runs_and_starts_nothing_until_it_is_resumed(bench: Bench) -> None:
    calls = Calls()

    @smithers
    def flow(ctx: Ctx) -> Workflow:
        return Workflow(name="pause")[Task("a", output=Row)[calls.held("a")], Task("b", output=Row)[calls.task("b")]]

    handle = await bench.start(flow)
    calls.held("a")
    await within(calls.begun["a"].wait())
    await bench.store.request_pause("r", bench.clock.now_ms())
    await bench.knows_of_pause()
    assert not handle.result.done()
    calls.release("a")
    assert (await within(handle.result)).status == "paused"
    assert bench.states() == {"a": "finished", "b": "pending"}
    assert (await bench.resume(flow)).status == "finished"
    assert calls["a"] == 1


# ── cancel ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_cancel_stops_everything_at_once_and_a_resume_runs_it_again(bench: Bench) -> None:
    calls = Calls()
    stopped: list[str] = []

    async def work() -> Row:
        calls.by_name["work"] = calls["work"] + 1
        if calls["work"] == 1:
            try:
                await asyncio.Event().wait()
            finally:
                stopped.append("work")
        return Row(text="work")

    @smithers
    def flow(ctx: Ctx) -> Workflow:
        return Workflow(name="cancel")[
            Task("done", output=Row)[calls.task("done")],
            Parallel()[
                Task("work", output=Row, retries=0)[work],
                Task("backoff", output=Row, retries=1, retry_policy=RetryPolicy("fixed", 60_000))[
                    calls.task("backoff", fails=lambda n: ValueError() if n == 1 else None)
                ],
                Approval("ok", output=Verdict),
                HumanTask("human", output=Row, prompt="?"),
                WaitForEvent("event", event="e", output=Row),
                Timer("timer", duration="1h"),
            ],
            Task("later", output=Row)[calls.task("later")],
        ]

    handle = await bench.start(flow)
    await bench.seen("NodeRetrying", "backoff")
    await bench.store.request_cancel("r", bench.clock.now_ms(), "test")
    assert (await within(handle.result)).status == "cancelled"
    assert stopped == ["work"]
    states = bench.states()
    assert states.pop("done") == "finished"
    assert (states.pop("later"), states.pop("backoff")) == ("pending", "pending")
    assert set(states.values()) == {"cancelled"}
    assert [(a.status, a.decided_by) for a in bench.approvals()] == [("denied", "smithers:cancel")]
    assert [h.status for h in bench.humans()] == ["cancelled"]
    assert bench.timers() == []
    assert bench.types()[-2:] == ["RunCancelled", "RunStatusChanged"]
    with pytest.raises(SmithersError):
        await bench.decide("ok")

    assert (await bench.resume(flow)).status == "waiting-approval"
    assert (calls["done"], calls["work"], calls["backoff"]) == (1, 2, 2)
    assert len(bench.approvals(only_open=True)) == 1
    await bench.decide("ok")
    await bench.answer("human", {"n": 1})
    await bench.signal("e", {"n": 1})
    bench.clock.advance(3_600_000)
    assert (await bench.resume(flow)).status == "finished"


async def test_a_cancel_request_survives_the_death_of_the_owner(bench: Bench) -> None:
    calls = Calls()
    flow = one_task(calls, held=True)
    await bench.start(flow)
    await within(calls.begun["a"].wait())
    bench.abandon()
    await bench.store.request_cancel("r", bench.clock.now_ms(), "test")
    result = await bench.resume(flow, force=True)

    assert result.status == "cancelled"
    assert calls["a"] == 1


async def test_a_cancel_request_of_a_parked_run_is_carried_out_by_who_goes_on_with_it(bench: Bench) -> None:
    @smithers
    def flow(ctx: Ctx) -> Workflow:
        return Workflow(name="parked")[Approval("ok", output=Verdict)]

    whole = asyncio.ensure_future(run_workflow(flow, run_id="r", engine=bench.engine, wait=True))
    await bench.seen("RunStatusChanged", status="waiting-approval")
    await bench.store.request_cancel("r", bench.clock.now_ms(), "test")

    assert (await within(whole)).status == "cancelled"


# ── owners ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_closed_engine_gives_its_runs_up_and_another_goes_on_without_a_retry(bench: Bench) -> None:
    calls = Calls()

    @smithers
    def flow(ctx: Ctx) -> Workflow:
        return Workflow(name="close")[
            Task("done", output=Row)[calls.task("done")],
            Parallel()[
                Task("a", output=Row, retries=0)[calls.held("a")],
                Approval("ok", output=Verdict),
            ],
        ]

    handle = await bench.start(flow)
    calls.held("a")
    await within(calls.begun["a"].wait())
    await bench.engine.close()
    assert (await within(handle.result)).status == "running"
    assert bench.row().runtime_owner_id is None
    assert bench.states()["a"] == "pending"
    bench.engines.clear()
    bench.new_engine()
    calls.release("a")
    assert (await bench.resume(flow)).status == "waiting-approval"
    assert (calls["done"], calls["a"]) == (1, 2)
    assert [a.state for a in bench.attempts("a")] == ["cancelled", "finished"]


async def test_no_finished_task_runs_again_after_a_crash_and_lost_attempts_cost_no_retry(bench: Bench) -> None:
    calls = Calls()

    @smithers
    def flow(ctx: Ctx) -> Workflow:
        return Workflow(name="crash")[
            Parallel()[
                [Task(f"t{i}", output=Row)[calls.task(f"t{i}")] for i in range(4)],
                Task("lost", output=Row, retries=0)[calls.held("lost")],
                Sequence()[Timer("nap", duration=0), Approval("ok", output=Verdict)],
            ]
        ]

    await bench.start(flow)
    calls.held("lost")
    await within(calls.begun["lost"].wait())
    await bench.seen("NodeWaitingApproval", "ok")
    await bench.seen("NodeFinished", "t3")
    for _ in range(3):  # die again and again
        calls.begun["lost"].clear()
        bench.abandon()
        await bench.engine.resume("r", flow, force=True)
        await within(calls.begun["lost"].wait())
    calls.release("lost")
    await bench.decide("ok")
    handle = await bench.engine.attach("r", flow)

    assert (await within(handle.result)).status == "finished"
    assert [calls[f"t{i}"] for i in range(4)] == [1] * 4
    assert [a.state for a in bench.attempts("lost")] == ["cancelled"] * 3 + ["finished"]
    assert [e["reason"] for e in bench.events() if e["type"] == "NodeCancelled"] == ["owner-lost"] * 3
    assert len(bench.attempts("nap")) == 1


async def test_a_live_owner_keeps_its_run_unless_it_is_forced(bench: Bench) -> None:
    calls = Calls()
    flow = one_task(calls, held=True)
    await bench.start(flow)
    await within(calls.begun["a"].wait())
    bench.new_engine()
    with pytest.raises(RunOwnerAlive):
        await bench.resume(flow)


async def test_a_zombie_writes_nothing_after_its_run_was_taken_over(bench: Bench) -> None:
    calls = Calls()
    zombie_work, second_work = asyncio.Event(), asyncio.Event()
    begun: list[asyncio.Event] = [asyncio.Event(), asyncio.Event()]

    async def work() -> Row:
        turn = calls["a"]
        calls.by_name["a"] = turn + 1
        begun[turn].set()
        await (zombie_work, second_work)[turn].wait()
        return Row(text=f"turn {turn}")

    @smithers
    def flow(ctx: Ctx) -> Workflow:
        return Workflow(name="zombie")[Task("a", output=Row)[work], Task("b", output=Row)[calls.task("b")]]

    first = await bench.start(flow)
    await within(begun[0].wait())
    bench.new_engine(SETTINGS)
    second = await bench.engine.resume("r", flow, force=True)
    await within(begun[1].wait())
    before = bench.row().next_seq
    zombie_work.set()
    with pytest.raises(LeaseLost):
        await within(first.result)
    assert bench.row().next_seq == before
    assert bench.texts() == []
    second_work.set()
    assert (await within(second.result)).status == "finished"
    assert bench.texts() == ["turn 1", "b"]
    assert calls["b"] == 1


async def test_a_run_that_kills_its_owners_is_given_up(bench: Bench) -> None:
    calls = Calls()
    flow = one_task(calls, held=True)
    await bench.start(flow)
    await within(calls.begun["a"].wait())

    async def die_again_and_again() -> None:
        for _ in range(6):
            bench.abandon()
            epoch, now = bench.row().epoch, bench.clock.now_ms()
            assert await bench.store.claim("r", "pid:1:x:1:y", now, expect_epoch=epoch, events=[]) is not None
            await bench.engine.resume("r", flow, force=True, is_automatic=True)
            bench.engine.drivers["r"].work.abort_all()

    with pytest.raises(AutoResumeGaveUp):
        await die_again_and_again()
    assert bench.row().status == "failed"


# ── cache ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def cached(bench: Bench, run_id: str, calls: Calls, policy: object, name: str = "a", **input: object) -> None:
    @smithers
    def flow(ctx: Ctx) -> Workflow:
        return Workflow(name="cached")[Task(name, output=Row, cache=policy)[calls.task("work")]]  # type: ignore[arg-type]

    assert (await bench.run(flow, input, run_id=run_id)).status == "finished"


async def test_a_cached_result_is_reused_over_runs_until_something_in_its_key_changes(bench: Bench) -> None:
    calls = Calls()

    async def is_hit(policy: object, name: str = "a", **input: object) -> bool:
        before = calls["work"]
        await cached(bench, f"r{next(numbers)}", calls, policy, name, **input)
        return calls["work"] == before

    numbers = iter(range(100))
    assert [await is_hit(True), await is_hit(True)] == [False, True]
    assert await is_hit(True, x=1) is False  # another input
    assert await is_hit(CachePolicy(version="2")) is False
    assert await is_hit(CachePolicy(version="2")) is True
    assert await is_hit(CachePolicy(key="shared")) is False
    assert await is_hit(CachePolicy(key="shared"), "other") is True
    assert await is_hit(CachePolicy(by=_question), q=1, x=1) is False
    assert await is_hit(CachePolicy(by=_question), q=1, x=2) is True
    assert await is_hit(CachePolicy(by=_question), q=2, x=2) is False
    assert await is_hit(CachePolicy(by=_broken)) is False
    assert await is_hit(CachePolicy(by=_broken)) is False
    assert await is_hit(CachePolicy(scope="run")) is False
    assert await is_hit(CachePolicy(scope="run")) is False
    assert await is_hit(CachePolicy(version="t", ttl_ms=1000)) is False
    bench.clock.advance(1000)
    assert await is_hit(CachePolicy(version="t", ttl_ms=1000)) is True
    bench.clock.advance(1)
    assert await is_hit(CachePolicy(version="t", ttl_ms=1000)) is False


async def test_agents_are_cached_by_their_definition_and_a_hit_says_so(bench: Bench) -> None:
    agent = fake_agent(Row, {"text": "hi"})

    @smithers
    def flow(ctx: Ctx) -> Workflow:
        return Workflow(name="agents", cache=True)[
            Task("a", output=Row, agent=agent)[str(ctx.input["prompt"])], Task("static", output=Row)[{"text": "s"}]
        ]

    for number, prompt in enumerate(["Go.", "Go.", "Stop."]):
        await bench.run(flow, {"prompt": prompt}, run_id=f"r{number}")

    assert [c.prompt for c in agent.calls] == ["Go.", "Stop."]
    assert [bench.attempts("a", f"r{i}")[0].cached for i in range(3)] == [None, 1, None]
    assert bench.texts("r1") == ["hi", "s"]


# ── patches, progress, sync ────────────────────────────────────────────────────────────────────────────────────────


async def test_a_patch_is_taken_by_new_runs_and_not_by_those_under_way(bench: Bench) -> None:
    def version(gate: bool) -> SmithersWorkflow:
        @smithers
        def flow(ctx: Ctx) -> Workflow:
            text = "new" if gate and use_patched("p") else "old"
            return Workflow(name="patched")[Approval("ok", output=Verdict), Task("a", output=Row)[{"text": text}]]

        return flow

    await bench.run(version(False), run_id="old")
    await bench.run(version(True), run_id="new")
    for run_id in ("old", "new"):
        await bench.resume(version(True), run_id=run_id)  # decided once, for good
        await bench.decide("ok", run_id=run_id)
        await bench.resume(version(True), run_id=run_id)

    assert (bench.texts("old"), bench.texts("new")) == (["old"], ["new"])
    told = [(r, e["decision"]) for r in ("old", "new") for e in bench.events(r) if e["type"] == "WorkflowPatchRecorded"]
    assert told == [("old", False), ("new", True)]


@pytest.mark.parametrize("raises", [False, True])
async def test_on_progress_is_told_every_event_in_order(bench: Bench, raises: bool) -> None:
    calls = Calls()
    seen: list[str] = []

    def on_progress(event: Mapping[str, object]) -> None:
        seen.append(str(event["type"]))
        if raises:
            raise RuntimeError("a listener that breaks must not break the run")

    await run_workflow(one_task(calls), run_id="r", engine=bench.engine, on_progress=on_progress)

    assert seen == bench.types()


async def test_on_progress_goes_on_with_what_the_run_is_continued_as(bench: Bench) -> None:
    seen: list[tuple[object, object]] = []

    @smithers
    def flow(ctx: Ctx) -> Workflow:
        return Workflow(name="new")[
            Task("a", output=Row)[{"n": 1}], ContinueAsNew({"n": 1}, when=ctx.continuation is None)
        ]

    def on_progress(event: Mapping[str, object]) -> None:
        seen.append((event["runId"], event["type"]))

    result = await run_workflow(flow, run_id="r", engine=bench.engine, on_progress=on_progress)

    assert result.run_id != "r"
    assert seen == [(run_id, type) for run_id in ("r", result.run_id) for type in bench.types(run_id)]


class Asked(BaseModel):
    n: int


def test_run_workflow_sync_runs_and_closes(tmp_path: Path) -> None:
    sync, outs = create_smithers({"output": Row}, input=Asked, db=tmp_path / "x.db")

    @sync
    def flow(ctx: Context[Asked]) -> Workflow:
        return Workflow(name="sync")[Task("a", output=outs.output)[{"n": ctx.input.n}]]

    assert run_workflow_sync(flow, input={"n": 3}).output == [Row(n=3)]
    assert run_workflow_sync(flow, input=Asked(n=4)).output == [Row(n=4)]


async def test_run_workflow_sync_refuses_a_running_loop_and_shared_engines_close(tmp_path: Path) -> None:
    other, _ = create_smithers({"output": Row}, db=tmp_path / "x.db")

    @other
    def flow(ctx: Ctx) -> Workflow:
        return Workflow(name="shared")[Task("a", output="output")[{"n": 1}]]

    with pytest.raises(InvalidInput):
        run_workflow_sync(flow)
    results = await asyncio.gather(*(run_workflow(flow) for _ in range(20)))
    assert {r.status for r in results} == {"finished"}
    await close_engines()


async def test_a_decision_beside_a_takeover_is_applied_once(bench: Bench) -> None:
    @smithers
    def flow(ctx: Ctx) -> Workflow:
        return Workflow(name="once")[Approval("ok", output=Verdict), Task("a", output=Row)[{"text": "a"}]]

    await bench.run(flow)
    await bench.decide("ok")
    outcomes = await asyncio.gather(bench.resume(flow), bench.resume(flow), bench.decide("ok"), return_exceptions=True)

    assert isinstance(outcomes[2], AlreadyDecided)
    assert bench.row().status == "finished"
    assert bench.types(node_id="ok").count("NodeFinished") == 1
    assert bench.texts() == ["a"]


def _question(ctx: Ctx) -> object:
    return ctx.input.get("q")


def _broken(_ctx: Ctx) -> object:
    raise ZeroDivisionError
