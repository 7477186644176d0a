"""The replay-unsafe guard: what may have done what must not be repeated is not done again before a person has agreed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Literal

import pytest
from pydantic import BaseModel
from tests.integration.engine.support import Bench, Out, smithers, within
from tests.integration.engine.travel_support import ADMIN, back, control_of

from smithers import Context, RunStatus, SideEffect, SmithersWorkflow, Task, Workflow, task_runtime
from smithers.agents.calls import AgentCall
from smithers.components.flow import Parallel
from smithers.components.task import RetryPolicy
from smithers.control.travel.resetting import retry_task
from smithers.engine import guard, requests
from smithers.errors import AgentQuotaExceeded, SideEffectBlocked, ToolSandboxUnavailable
from smithers.store.sql import calls, history, reads
from smithers.store.sql.unsafe import UNSAFE
from smithers.tools import ToolCtx, bash, define_tool, edit, tool_context, write

pytestmark = pytest.mark.anyio
BOTH_DATABASES = True

AT_ONCE = RetryPolicy("fixed", 0)
Policy = Literal["ask", "allow", "fail"]


class Order(BaseModel):
    sku: str
    api_key: str = ""


class Shop:
    """The world outside: what was ordered, by a tool that takes no key and by one that does."""

    def __init__(self) -> None:
        self.placed: list[str] = []
        self.begun = asyncio.Event()
        self.hold: asyncio.Event | None = None

        @define_tool(name="order", schema=Order, side_effect=True, idempotent=False)
        async def order(args: Order) -> str:
            self.placed.append(args.sku)
            self.begun.set()
            if self.hold is not None:
                await self.hold.wait()
            if args.sku == "bad":
                raise ValueError("no such article")
            return f"ordered {args.sku}"

        @define_tool(name="keyed", schema=Order, side_effect=True, idempotent=False)
        async def keyed(args: Order, ctx: ToolCtx) -> str:
            self.placed.append(args.sku)
            return f"ordered {args.sku} for {ctx.idempotency_key}"

        self.order, self.keyed = order, keyed


@pytest.fixture
def shop() -> Shop:
    return Shop()


def one(*tasks: Task) -> SmithersWorkflow:
    @smithers
    def workflow(ctx: Context[object]) -> Workflow:
        return Workflow("guarded")[list(tasks)]

    return workflow


def failing(
    act: Callable[[], Awaitable[object]], *, times: int = 1, always: bool = False
) -> Callable[[], Awaitable[dict[str, object]]]:
    """Work that acts and then fails, the first so many times; after that it acts only if it is to `always`."""

    async def work() -> dict[str, object]:
        attempt = task_runtime().attempt
        if attempt <= times:
            await act()
            raise ConnectionError(f"lost {attempt}")
        if always:
            await act()
        return {"text": "done", "n": attempt}

    return work


def buying(shop: Shop, *, policy: Policy = "ask", retries: int = 1, times: int = 1, **more: object) -> SmithersWorkflow:
    work = failing(lambda: shop.order(sku="a"), times=times)
    return one(
        Task("pay", output=Out, retries=retries, retry_policy=AT_ONCE, unsafe_replay=policy, **more)[work]  # type: ignore[arg-type]
    )


def request(bench: Bench) -> dict[str, object]:
    """What is asked at this moment."""
    (row,) = bench.approvals(only_open=True)
    found: dict[str, object] = json.loads(row.request_json)
    return found


def numbers(bench: Bench, node_id: str = "pay") -> list[tuple[int, str]]:
    return [(row.attempt, row.state) for row in bench.attempts(node_id)]


async def test_another_attempt_after_an_unsafe_call_waits_for_a_person(bench: Bench, shop: Shop) -> None:
    workflow = buying(shop)
    assert (await bench.run(workflow)).status is RunStatus.WAITING_APPROVAL
    assert shop.placed == ["a"]
    asked = request(bench)
    assert (asked["kind"], asked["mode"], asked["title"]) == ("ReplayUnsafeApproval", "approve", "Run 'pay' again?")
    assert asked["calls"] == [
        {"attempt": 1, "toolName": "order", "input": '{"sku":"a","api_key":""}', "outcome": "succeeded"}
    ]
    assert 'attempt 1: order {"sku":"a","api_key":""} succeeded' in str(asked["summary"])
    assert numbers(bench) == [(1, "failed")]

    await bench.decide("pay")
    result = await bench.resume(workflow)
    assert result.output == [Out(text="done", n=2)]
    assert numbers(bench) == [(1, "failed"), (2, "finished")]


async def test_a_refusal_is_final_whatever_retries_are_left(bench: Bench, shop: Shop) -> None:
    workflow = buying(shop, retries=5)
    await bench.run(workflow)
    await bench.decide("pay", approved=False, note="too dear")
    result = await bench.resume(workflow)
    assert result.status is RunStatus.FAILED
    assert result.error is not None
    error = json.loads(bench.attempts("pay")[-1].error_json or "{}")
    assert error["code"] == "APPROVAL_DENIED"
    assert error["details"]["kind"] == "ReplayUnsafeApproval"
    assert shop.placed == ["a"]
    assert numbers(bench) == [(1, "failed"), (2, "failed")]
    # a resume by hand asks again
    assert (await bench.resume(workflow)).status is RunStatus.WAITING_APPROVAL
    await bench.decide("pay")
    assert (await bench.resume(workflow)).output == [Out(text="done", n=3)]


# ── what asks, and what does not ───────────────────────────────────────────────────────────────────────────────────────


async def test_a_task_may_allow_it_or_refuse_it_by_itself(bench: Bench, shop: Shop) -> None:
    assert (await bench.run(buying(shop, policy="allow"))).output == [Out(text="done", n=2)]
    result = await bench.run(buying(shop, policy="fail", retries=5), run_id="f")
    assert result.status is RunStatus.FAILED
    error = json.loads(bench.attempts("pay", "f")[-1].error_json or "{}")
    assert error["code"] == "TASK_REPLAY_UNSAFE"
    assert "attempt 1: order" in error["summary"]
    assert shop.placed == ["a", "a"]
    assert bench.approvals() == bench.approvals("f") == []


async def test_without_another_attempt_nobody_is_asked(bench: Bench, shop: Shop) -> None:
    assert (await bench.run(buying(shop, retries=0))).status is RunStatus.FAILED
    assert bench.approvals() == []


async def test_a_call_that_takes_a_key_or_may_be_repeated_asks_nobody(bench: Bench, shop: Shop, tmp_path: Path) -> None:
    async def act() -> None:
        await shop.keyed(sku="k")
        await write("x", "text")

    task = Task("pay", output=Out, retries=1, retry_policy=AT_ONCE)[failing(act, always=True)]
    assert (await bench.run(one(task), root_dir=str(tmp_path))).output == [Out(text="done", n=2)]
    assert shop.placed == ["k", "k"]


async def test_what_can_change_only_the_tasks_folder_asks_nobody(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "x").write_text("a\n")

    async def act() -> None:
        await edit("x", "@@ -1 +1 @@\n-a\n+b\n")
        with suppress(ToolSandboxUnavailable):
            await bash("touch", ["y"])

    task = Task("pay", output=Out, retries=1, retry_policy=AT_ONCE)[failing(act)]
    assert (await bench.run(one(task), root_dir=str(tmp_path))).output == [Out(text="done", n=2)]
    found = bench.store.read(lambda c: calls.tool_calls(c, "r"))
    assert [(row.tool_name, row.side_effect, row.idempotent, row.contained) for row in found] == [
        ("edit", 1, 0, 1),
        ("bash", 1, 0, 1),
    ]


@pytest.mark.parametrize("how", ["off", "network", "elsewhere"])
async def test_a_program_that_can_reach_more_than_the_folder_asks(bench: Bench, tmp_path: Path, how: str) -> None:
    own, other = tmp_path / "own", tmp_path / "other"
    own.mkdir()
    other.mkdir()

    async def act() -> None:
        with suppress(ToolSandboxUnavailable):
            if how == "elsewhere":
                with tool_context(own / ".." / "other"):
                    await bash("true")
            else:
                await bash("true")

    task = Task("pay", output=Out, retries=1, retry_policy=AT_ONCE)[failing(act)]
    mode = "off" if how == "off" else "required"
    result = await bench.run(one(task), root_dir=str(own), sandbox=mode, allow_network=how == "network")
    assert result.status is RunStatus.WAITING_APPROVAL
    assert [call["toolName"] for call in request(bench)["calls"]] == ["bash"]  # type: ignore[attr-defined]


@pytest.mark.parametrize("takes_key", [True, False])
async def test_a_tasks_own_effect_asks_unless_it_hands_its_key_on(bench: Bench, takes_key: bool) -> None:
    async def nothing() -> None: ...

    effect = SideEffect(accepts_idempotency_key=takes_key)
    task = Task("pay", output=Out, retries=1, retry_policy=AT_ONCE, side_effect=effect)[failing(nothing)]
    result = await bench.run(one(task))
    if takes_key:
        assert result.output == [Out(text="done", n=2)]
        return
    assert result.status is RunStatus.WAITING_APPROVAL
    assert request(bench)["calls"] == [{"attempt": 1, "toolName": "pay", "input": None, "outcome": "unknown"}]
    await bench.decide("pay")
    assert (await bench.resume(one(task))).output == [Out(text="done", n=2)]


# ── one question for one set of calls ──────────────────────────────────────────────────────────────────────────────────


async def test_who_has_agreed_to_some_calls_has_not_agreed_to_more(bench: Bench, shop: Shop) -> None:
    workflow = buying(shop, retries=3, times=2)
    await bench.run(workflow)
    first = request(bench)
    await bench.decide("pay")
    assert (await bench.resume(workflow)).status is RunStatus.WAITING_APPROVAL
    second = request(bench)
    assert [call["attempt"] for call in second["calls"]] == [1, 2]  # type: ignore[attr-defined]
    assert first["fingerprint"] != second["fingerprint"]
    await bench.decide("pay")
    assert (await bench.resume(workflow)).output == [Out(text="done", n=3)]


async def test_an_attempt_that_adds_nothing_is_not_asked_about_again(bench: Bench, shop: Shop) -> None:
    async def work() -> dict[str, object]:
        attempt = task_runtime().attempt
        if attempt == 1:
            await shop.order(sku="a")
        if attempt < 4:
            raise ConnectionError("lost")
        return {"n": attempt}

    workflow = one(Task("pay", output=Out, retries=3, retry_policy=AT_ONCE)[work])
    await bench.run(workflow)
    await bench.decide("pay")
    assert (await bench.resume(workflow)).output == [Out(n=4)]
    assert len([type for type in bench.types() if type == "ApprovalRequested"]) == 1


async def test_an_ordinary_gate_is_asked_before_the_work_and_the_guard_in_its_place_after(
    bench: Bench, shop: Shop
) -> None:
    workflow = buying(shop, needs_approval={"title": "Pay?", "allowedUsers": ["ann"]}, timeout_ms=60_000)
    await bench.run(workflow)
    assert (request(bench)["title"], [kind for _, kind, _ in bench.timers()]) == ("Pay?", ["timeout"])
    await bench.decide("pay", note="go")
    assert (await bench.resume(workflow)).status is RunStatus.WAITING_APPROVAL
    asked = request(bench)
    assert (asked["kind"], asked["allowedUsers"]) == ("ReplayUnsafeApproval", ["ann"])
    assert bench.timers() == []  # the time is the work's
    await bench.decide("pay", note="again")
    assert (await bench.resume(workflow)).output == [Out(text="done", n=2)]

    frames = {str(e["title"]): frame for e, frame in _requests(bench)}
    assert list(frames) == ["Pay?", "Run 'pay' again?"]

    def notes(frame: int) -> list[tuple[str, str | None]]:
        rows = bench.store.read(lambda c: history.Past(c, "r", frame).approvals())
        return [(row.status, row.note) for row in rows]

    last = bench.row().frame_no
    found = [notes(frame) for frame in range(1, last + 1)]
    assert [notes for i, notes in enumerate(found) if i == 0 or found[i - 1] != notes] == [
        [("requested", None)],
        [("approved", "go")],
        [("requested", None)],
        [("approved", "again")],
    ]
    # back to when the ordinary gate had been opened: that is what stands again
    await back(bench, frames["Run 'pay' again?"] - 1, force=True)
    assert [(row.status, row.note) for row in bench.approvals()] == [("approved", "go")]


def _requests(bench: Bench) -> list[tuple[dict[str, object], int]]:
    rows = bench.store.read(
        lambda c: c.execute(
            "SELECT payload, frame_no FROM _smithers_events WHERE type = 'ApprovalRequested' ORDER BY seq"
        ).fetchall()
    )
    return [(json.loads(payload)["request"], int(frame)) for payload, frame in rows]


async def test_the_question_does_not_wait_for_room(bench: Bench, shop: Shop) -> None:
    go_on = asyncio.Event()

    async def long() -> dict[str, object]:
        await go_on.wait()
        return {}

    @smithers
    def workflow(ctx: Context[object]) -> Workflow:
        pay = Task("pay", output=Out, retries=1, retry_policy=RetryPolicy("fixed", 1000))[
            failing(lambda: shop.order(sku="a"))
        ]
        return Workflow("guarded")[Parallel("both")[pay, Task("long", output=Out)[long]]]

    handle = await bench.start(workflow, max_concurrency=1)
    await bench.seen("NodeStarted", "long")
    await bench.waited_for()
    bench.clock.advance(1000)
    await bench.seen("NodeWaitingApproval", "pay")
    go_on.set()
    assert (await within(asyncio.shield(handle.result))).status is RunStatus.WAITING_APPROVAL


# ── taken over ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def lost(bench: Bench) -> None:
    """The owner is gone in the midst of it, as a killed process is."""
    bench.store.write(lambda c: c.execute("UPDATE _smithers_runs SET epoch = epoch + 1").fetchall())
    bench.abandon()
    bench.new_engine()


async def test_a_call_that_was_cut_off_is_asked_about_even_where_no_retries_are(bench: Bench, shop: Shop) -> None:
    shop.hold = asyncio.Event()
    workflow = buying(shop, retries=0)
    await bench.start(workflow)
    await within(shop.begun.wait())
    await lost(bench)
    assert (await bench.resume(workflow, force=True)).status is RunStatus.WAITING_APPROVAL
    assert [call["outcome"] for call in request(bench)["calls"]] == ["unknown"]  # type: ignore[attr-defined]
    assert shop.placed == ["a"]
    await bench.decide("pay", approved=False)
    assert (await bench.resume(workflow)).status is RunStatus.FAILED
    assert numbers(bench) == [(1, "cancelled"), (2, "failed")]
    assert shop.placed == ["a"]


async def test_what_is_known_in_process_is_what_the_database_tells(bench: Bench, shop: Shop, tmp_path: Path) -> None:
    async def act() -> None:
        await shop.keyed(sku="k")
        await asyncio.gather(*(shop.order(sku=str(n), api_key="hush") for n in range(3)))
        await write("x", "text")
        with suppress(ValueError):
            await shop.order(sku="bad")

    effect = SideEffect(accepts_idempotency_key=False)
    task = Task("pay", output=Out, retries=1, retry_policy=AT_ONCE, side_effect=effect)[failing(act)]
    await bench.run(one(task), root_dir=str(tmp_path))
    asked = request(bench)
    assert asked["callCount"] == 5
    assert "hush" not in json.dumps(asked)
    loaded = bench.store.read(lambda c: reads.load(c, "r", []))
    found = loaded.unsafe_calls["pay", 0]
    assert guard.fingerprint(call.call_token for call in found) == asked["fingerprint"]
    task_again = requests.replay_request(task, found, guard.fingerprint(call.call_token for call in found))
    assert task_again == asked
    assert [(call.seq, call.tool_name, call.has_succeeded) for call in found] == [
        (0, "pay", False),
        (2, "order", True),
        (3, "order", True),
        (4, "order", True),
        (6, "order", False),
    ]


@pytest.mark.sqlite
async def test_what_guards_a_run_is_found_without_reading_its_other_calls(bench: Bench) -> None:
    plan = bench.store.read(lambda c: [str(row[3]) for row in c.execute(f"EXPLAIN QUERY PLAN {UNSAFE}", ("r",))])
    assert "COVERING INDEX _smithers_tool_calls_unsafe" in plan[0], plan


async def test_an_agreement_outlives_its_owner_and_holds_for_the_attempt_that_follows(bench: Bench, shop: Shop) -> None:
    begun = asyncio.Event()

    async def work() -> dict[str, object]:
        if task_runtime().attempt == 1:
            await shop.order(sku="a")
            raise ConnectionError("lost")
        if task_runtime().attempt == 2:
            begun.set()
            await asyncio.Event().wait()
        return {"n": task_runtime().attempt}

    workflow = one(Task("pay", output=Out, retries=1, retry_policy=AT_ONCE)[work])
    await bench.run(workflow)
    await bench.decide("pay")
    await bench.engine.resume("r", workflow)
    await within(begun.wait())
    await lost(bench)
    assert (await bench.resume(workflow, force=True)).output == [Out(n=3)]


async def test_a_call_that_outlives_its_attempts_time_is_asked_about(bench: Bench, shop: Shop) -> None:
    shop.hold = asyncio.Event()
    task = Task("pay", output=Out, retries=1, retry_policy=AT_ONCE, timeout_ms=300)[
        failing(lambda: shop.order(sku="a"))
    ]
    assert (await bench.run(one(task))).status is RunStatus.WAITING_APPROVAL
    assert [call["outcome"] for call in request(bench)["calls"]] == ["unknown"]  # type: ignore[attr-defined]


# ── agents ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_an_agent_is_asked_about_once_and_still_told_what_it_has_done(bench: Bench, shop: Shop) -> None:
    prompts: list[str] = []

    async def buyer(prompt: str, call: AgentCall) -> dict[str, object]:
        prompts.append(prompt)
        if call.attempt == 1:
            await shop.order(sku="a")
            raise ConnectionError("lost")
        return {"text": "bought"}

    workflow = one(Task("pay", output=Out, agent=buyer, retry_policy=AT_ONCE)["Buy it."])
    assert (await bench.run(workflow)).status is RunStatus.WAITING_APPROVAL
    await bench.decide("pay")
    assert (await bench.resume(workflow)).output == [Out(text="bought")]
    assert ["must not be repeated" in prompt for prompt in prompts] == [False, True]


async def test_an_agent_whose_quota_is_back_is_asked_about_first(bench: Bench, shop: Shop) -> None:
    async def buyer(prompt: str, call: AgentCall) -> dict[str, object]:
        if call.attempt == 1:
            await shop.order(sku="a")
            raise AgentQuotaExceeded("later", {"quotaResetAtMs": bench.clock.now_ms() + 1000})
        return {"text": "bought"}

    workflow = one(Task("pay", output=Out, agent=buyer, retries=0)["Buy it."])
    assert (await bench.run(workflow)).status is RunStatus.WAITING_QUOTA
    bench.clock.advance(1000)
    assert (await bench.resume(workflow)).status is RunStatus.WAITING_APPROVAL
    await bench.decide("pay")
    assert (await bench.resume(workflow)).output == [Out(text="bought")]


# ── history ────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_who_has_forced_a_task_to_be_done_again_is_not_asked_again(bench: Bench, shop: Shop) -> None:
    workflow = buying(shop)
    await bench.run(workflow)
    with pytest.raises(SideEffectBlocked):
        await retry_task(control_of(bench), "r", "pay", caller=ADMIN)
    await retry_task(control_of(bench), "r", "pay", caller=ADMIN, force=True)
    assert (await bench.resume(workflow)).output == [Out(text="done", n=2)]
    assert bench.approvals() == []


async def test_who_has_forced_a_run_back_into_an_attempt_is_not_asked_again(bench: Bench, shop: Shop) -> None:
    shop.hold = asyncio.Event()

    async def meanwhile() -> dict[str, object]:
        await shop.begun.wait()
        return {}

    @smithers
    def workflow(ctx: Context[object]) -> Workflow:
        pay = Task("pay", output=Out, retries=1, retry_policy=AT_ONCE)[failing(lambda: shop.order(sku="a"))]
        return Workflow("guarded")[Parallel("both")[pay, Task("meanwhile", output=Out)[meanwhile]]]

    handle = await bench.start(workflow)
    await bench.seen("NodeFinished", "meanwhile")
    (at,) = bench.store.read(lambda c: c.execute("SELECT frame_no FROM _smithers_tool_calls").fetchall())
    shop.hold.set()
    assert (await within(asyncio.shield(handle.result))).status is RunStatus.WAITING_APPROVAL
    with pytest.raises(SideEffectBlocked):
        await back(bench, int(at[0]))
    await back(bench, int(at[0]), force=True)
    assert bench.states() == {"pay": "pending", "meanwhile": "finished"}
    assert (await bench.resume(workflow)).status is RunStatus.FINISHED
    assert (numbers(bench), bench.approvals()) == ([(1, "cancelled"), (2, "finished")], [])


async def test_back_to_before_the_question_it_is_asked_again(bench: Bench, shop: Shop) -> None:
    workflow = buying(shop, retries=1)
    await bench.run(workflow)
    before = request(bench)["fingerprint"]
    await bench.decide("pay")
    await bench.resume(workflow)
    (_, asked), *_ = _requests(bench)
    await back(bench, asked)
    assert bench.states() == {"pay": "waiting-approval"}
    assert request(bench)["fingerprint"] == before
    await bench.decide("pay")
    assert (await bench.resume(workflow)).output == [Out(text="done", n=2)]
