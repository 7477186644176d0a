"""Attempts: retries and their durable backoff, timeouts, heartbeats, and how many run at once."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import cast

import pytest
from tests.integration.engine.support import Bench, Calls, Row, Verdict, smithers, within

from smithers import Approval, MergeQueue, Parallel, RetryPolicy, Sequence, Settings, Task, Workflow, task_runtime
from smithers.components.context import Context
from smithers.errors import AgentQuotaExceeded, SmithersError
from smithers.testing import fake_agent

pytestmark = pytest.mark.anyio
Ctx = Context[dict[str, object]]


# ── retries ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("backoff", "delays"), [("fixed", [100, 100, 100]), ("linear", [100, 200, 300]), ("exponential", [100, 200, 400])]
)
async def test_retries_wait_as_their_policy_says(bench: Bench, backoff: str, delays: list[int]) -> None:
    calls = Calls()

    @smithers
    def flow(ctx: Ctx) -> Workflow:
        policy = {"backoff": backoff, "initial_delay_ms": 100}
        return Workflow(name="retry")[
            Task("a", output=Row, retries=3, retry_policy=policy)[
                calls.task("a", fails=lambda n: ValueError(str(n)) if n < 4 else None)
            ]
        ]

    handle = await bench.start(flow)
    for number, delay in enumerate(delays, 2):
        await bench.seen("NodeRetrying", "a", attempt=number)
        assert bench.timers() == [("a", "retry", delay)]
        assert calls["a"] == number - 1
        bench.clock.advance(delay)
    assert (await within(handle.result)).status == "finished"
    assert [a.state for a in bench.attempts("a")] == ["failed", "failed", "failed", "finished"]
    assert bench.types(node_id="a")[1:5] == ["NodeStarted", "NodeFailed", "NodeRetrying", "NodeStarted"]


async def test_a_backoff_survives_a_restart_neither_skipped_nor_begun_again(bench: Bench) -> None:
    calls = Calls()

    @smithers
    def flow(ctx: Ctx) -> Workflow:
        policy = RetryPolicy("fixed", 1000)
        return Workflow(name="retry")[
            Task("a", output=Row, retries=1, retry_policy=policy)[
                calls.task("a", fails=lambda n: ValueError() if n == 1 else None)
            ]
        ]

    await bench.start(flow)
    await bench.seen("NodeRetrying", "a")
    bench.clock.advance(400)
    bench.abandon()
    handle = await bench.engine.resume("r", flow, force=True)
    await bench.seen("FrameCommitted", trigger={"reason": "start"})
    assert bench.timers() == [("a", "retry", 600)]
    bench.clock.advance(599)
    await asyncio.sleep(0)
    assert calls["a"] == 1
    bench.clock.advance(1)
    assert (await within(handle.result)).status == "finished"
    assert calls["a"] == 2


async def test_the_retry_budget_is_counted_over_restarts(bench: Bench) -> None:
    calls = Calls()

    @smithers
    def flow(ctx: Ctx) -> Workflow:
        policy = RetryPolicy("fixed", 1000)
        return Workflow(name="retry")[
            Task("a", output=Row, retries=1, retry_policy=policy)[calls.task("a", fails=lambda n: ValueError())]
        ]

    await bench.start(flow)
    await bench.seen("NodeRetrying", "a")
    bench.abandon()
    bench.clock.advance(1000)
    result = await bench.resume(flow, force=True)

    assert result.status == "failed"
    assert calls["a"] == 2


async def test_a_retry_is_not_lost_when_the_tree_was_rendered_anew_meanwhile(bench: Bench) -> None:
    calls = Calls()
    failing = calls.held("a")

    async def work() -> object:
        await cast("Callable[[], asyncio.Future[object]]", failing)()
        if calls["a"] == 1:
            raise ValueError("once")
        return {"text": "a"}

    @smithers
    def flow(ctx: Ctx) -> Workflow:
        seen = len(ctx.outputs(Row))
        return (
            Workflow(name="rerender")[
                Parallel(max_concurrency=1, id="one")[
                    Task("a", output=Row, retries=1, retry_policy=RetryPolicy("fixed", 5))[work]
                ],
                Task("z", output=Row)[{"n": seen}],
            ]
            if ctx.input.get("serial")
            else Workflow(name="rerender")[
                Parallel(max_concurrency=2)[
                    Task("a", output=Row, retries=1, retry_policy=RetryPolicy("fixed", 5))[work],
                    Task("b", output=Row)[{"text": "b"}],
                    [Task(f"c{i}", output=Row)[{"text": "c"}] for i in range(seen and 2)],
                ]
            ]
        )

    handle = await bench.start(flow)
    await bench.seen("NodeFinished", "c1")
    calls.release("a")
    await bench.seen("NodeRetrying", "a")
    bench.clock.advance(5)
    assert (await within(handle.result)).status == "finished"


@pytest.mark.parametrize("outcome", ["fails", "finishes", "retries"])
async def test_work_that_is_unmounted_while_it_runs_is_waited_for_and_its_failure_ignored(
    bench: Bench, outcome: str
) -> None:
    calls = Calls()
    held = calls.held("a")

    async def work() -> object:
        await cast("Callable[[], asyncio.Future[object]]", held)()
        if outcome != "finishes":
            raise ValueError("too late to matter")
        return {"text": "a"}

    @smithers
    def flow(ctx: Ctx) -> Workflow:
        is_there = ctx.output_maybe(Row, "b") is None
        return Workflow(name="unmount")[
            Parallel()[
                is_there and Task("a", output=Row, retries=3 if outcome == "retries" else 0)[work],
                Task("b", output=Row)[{"text": "b"}],
            ]
        ]

    handle = await bench.start(flow)
    await bench.seen("FrameCommitted", trigger={"reason": "change"})
    assert not handle.result.done()
    calls.release("a")
    result = await within(handle.result)

    assert result.status == "finished"
    assert calls["a"] == 1
    assert bench.states()["a"] == {"fails": "failed", "finishes": "finished", "retries": "pending"}[outcome]


async def test_errors_that_say_so_are_not_tried_again(bench: Bench) -> None:
    calls = Calls()

    @smithers
    def flow(ctx: Ctx) -> Workflow:
        final = SmithersError("for good", {"failure_retryable": False})
        return Workflow(name="final")[
            Task("a", output=Row, retries=5, continue_on_fail=True)[calls.task("a", fails=lambda n: final)],
            Task("b", output=Row, no_retry=True, agent=fake_agent(Row, ValueError("x")), continue_on_fail=True)["Go."],
        ]

    assert (await bench.run(flow)).failed_child_keys == ("a::0", "b::0")
    assert (len(bench.attempts("a")), len(bench.attempts("b"))) == (1, 1)


async def test_agents_get_three_more_attempts_by_default(bench: Bench) -> None:
    @smithers
    def flow(ctx: Ctx) -> Workflow:
        policy = RetryPolicy("fixed", 0)
        return Workflow(name="agents")[
            Task("a", output=Row, agent=fake_agent(Row, ValueError("x")), retry_policy=policy)["Go."]
        ]

    assert (await bench.run(flow)).status == "failed"
    assert len(bench.attempts("a")) == 4


async def test_a_used_up_quota_parks_the_run_and_costs_no_retry(bench: Bench) -> None:
    reset = bench.clock.now_ms() + 5000
    agent = fake_agent.sequence(Row, [AgentQuotaExceeded("later", {"quotaResetAtMs": reset}), {"text": "ok"}])

    @smithers
    def flow(ctx: Ctx) -> Workflow:
        return Workflow(name="quota")[Task("a", output=Row, agent=agent, retries=0)["Go."]]

    assert (await bench.run(flow)).status == "waiting-quota"
    assert bench.timers() == [("a", "quota", 5000)]
    bench.clock.advance(5000)
    assert (await bench.resume(flow)).status == "finished"


# ── timeouts and heartbeats ────────────────────────────────────────────────────────────────────────────────────────


async def test_a_task_that_takes_too_long_fails_and_is_tried_again(bench: Bench) -> None:
    stopped: list[bool] = []

    async def work() -> Row:
        runtime = task_runtime()
        if runtime.attempt == 1:
            try:
                await asyncio.Event().wait()
            finally:
                stopped.append(True)
        return Row(text="second")

    @smithers
    def flow(ctx: Ctx) -> Workflow:
        return Workflow(name="slow")[
            Task("a", output=Row, timeout_ms=200, retries=1, retry_policy=RetryPolicy("fixed", 0))[work]
        ]

    assert (await bench.run(flow)).status == "finished"
    assert stopped == [True]
    assert "TASK_TIMEOUT" in (bench.attempts("a")[0].error_json or "")


async def test_a_sync_function_that_outlives_its_timeout_is_told_and_its_result_dropped(bench: Bench) -> None:
    go, over = threading.Event(), threading.Event()
    told: list[bool] = []

    def work() -> Row:
        runtime = task_runtime()
        go.wait(60)
        told.append(runtime.aborted.is_set())
        runtime.heartbeat({"late": True})
        over.set()
        return Row(text="too late")

    @smithers
    def flow(ctx: Ctx) -> Workflow:
        return Workflow(name="slow")[
            Task("a", output=Row, timeout_ms=300, continue_on_fail=True)[work], Task("b", output=Row)[{"text": "b"}]
        ]

    result = await bench.run(flow)
    go.set()
    assert over.wait(60)

    assert result.failed_child_keys == ("a::0",)
    assert told == [True]
    assert bench.texts() == ["b"]
    assert "TaskHeartbeat" not in bench.types()


async def test_an_agent_that_takes_too_long_fails(bench: Bench) -> None:
    async def answer(_call: object) -> Row:
        await asyncio.Event().wait()
        return Row()

    @smithers
    def flow(ctx: Ctx) -> Workflow:
        return Workflow(name="slow")[
            Task("a", output=Row, agent=fake_agent(Row, answer), timeout_ms=20, retries=0)["Go."]
        ]

    result = await bench.run(flow)

    assert result.error is not None
    assert cast("dict[str, object]", result.error["cause"])["code"] == "TASK_TIMEOUT"


async def test_a_silent_task_fails_and_one_that_beats_goes_on(bench: Bench) -> None:
    async def silent() -> Row:
        await asyncio.Event().wait()
        return Row()

    async def beats() -> Row:
        for _ in range(15):
            await asyncio.sleep(0.02)
            task_runtime().heartbeat()
        return Row(text="alive")

    @smithers
    def flow(ctx: Ctx) -> Workflow:
        return Workflow(name="beat")[
            Parallel()[
                Task("silent", output=Row, heartbeat_timeout_ms=50, continue_on_fail=True)[silent],
                Task("beats", output=Row, heartbeat_timeout_ms=250)[beats],
            ]
        ]

    assert (await bench.run(flow)).failed_child_keys == ("silent::0",)
    assert "TASK_HEARTBEAT_TIMEOUT" in (bench.attempts("silent")[0].error_json or "")
    assert bench.texts() == ["alive"]


@pytest.mark.parametrize("restart", ["no", "backoff", "crash"])
@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_the_next_attempt_finds_the_last_checkpoint(bench: Bench, restart: str, kind: str) -> None:
    found: list[object] = []
    begun, hang = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def beat() -> bool:
        runtime = task_runtime()
        found.append(runtime.last_heartbeat)
        runtime.heartbeat({"page": 1})
        runtime.heartbeat({"page": 2})
        runtime.heartbeat()
        return len(found) == 1

    def sync() -> Row:
        if beat():
            if restart == "crash":
                asyncio.run_coroutine_threadsafe(_set(begun), loop).result(60)
                asyncio.run_coroutine_threadsafe(hang.wait(), loop).result(60)
            raise ValueError("first")
        return Row()

    async def coroutine() -> Row:
        if beat():
            if restart == "crash":
                begun.set()
                await hang.wait()
            raise ValueError("first")
        return Row()

    @smithers
    def flow(ctx: Ctx) -> Workflow:
        policy = RetryPolicy("fixed", 0 if restart == "no" else 100)
        return Workflow(name="checkpoint")[
            Task("a", output=Row, retries=1, retry_policy=policy)[sync if kind == "sync" else coroutine]
        ]

    handle = await bench.start(flow)
    if restart == "backoff":
        await bench.seen("NodeRetrying", "a")
        bench.abandon()
        bench.clock.advance(100)
        assert (await bench.resume(flow, force=True)).status == "finished"
    elif restart == "crash":
        await within(begun.wait())
        await bench.seen("TaskHeartbeat", "a")
        bench.abandon()
        hang.set()
        assert (await bench.resume(flow, force=True)).status == "finished"
    else:
        assert (await within(handle.result)).status == "finished"

    assert found == [None, {"page": 2}]


@pytest.mark.parametrize(
    ("data", "code"),
    [(object(), "HEARTBEAT_PAYLOAD_NOT_JSON_SERIALIZABLE"), ("x" * 1_000_001, "HEARTBEAT_PAYLOAD_TOO_LARGE")],
    ids=["not-json", "too-large"],
)
async def test_a_checkpoint_that_cannot_be_kept_fails_the_task_for_good(bench: Bench, data: object, code: str) -> None:
    def work() -> Row:
        task_runtime().heartbeat(data)
        return Row()

    @smithers
    def flow(ctx: Ctx) -> Workflow:
        return Workflow(name="beat")[Task("a", output=Row, retries=3)[work]]

    assert (await bench.run(flow)).status == "failed"
    assert [code in (a.error_json or "") for a in bench.attempts("a")] == [True]


# ── how many at once ───────────────────────────────────────────────────────────────────────────────────────────────


class Meter:
    """Counts how many are inside at once."""

    def __init__(self) -> None:
        self.now = self.most = 0

    async def work(self, *_: object) -> Row:
        self.now += 1
        self.most = max(self.most, self.now)
        for _i in range(5):
            await asyncio.sleep(0.001)
        self.now -= 1
        return Row()


async def test_caps_of_groups_subtrees_runs_and_merge_queues_hold(bench: Bench) -> None:
    group, subtree, queue, run = Meter(), Meter(), Meter(), Meter()

    @smithers
    def flow(ctx: Ctx) -> Workflow:
        def tasks(name: str, meter: Meter, count: int = 6) -> list[Task]:
            return [Task(f"{name}{i}", output=Row)[_async(meter)] for i in range(count)]

        return Workflow(name="caps")[
            Parallel(max_concurrency=2)[tasks("g", group)],
            Parallel(subtree_concurrency=2)[[Sequence()[tasks(f"s{i}-", subtree, 2)] for i in range(4)]],
            MergeQueue()[tasks("q", queue)],
            Parallel()[tasks("r", run)],
        ]

    result = await bench.run(flow, max_concurrency=3)

    assert result.status == "finished"
    assert (group.most, subtree.most, queue.most, run.most) == (2, 2, 1, 3)


async def test_at_most_so_many_agents_work_at_once_in_all_runs_of_an_engine(bench: Bench) -> None:
    meter = Meter()
    agent = fake_agent(Row, meter.work)
    bench.new_engine(Settings(durability="normal", agents=4))

    @smithers
    def flow(ctx: Ctx) -> Workflow:
        return Workflow(name="agents")[Parallel()[[Task(f"a{i}", output=Row, agent=agent)["Go."] for i in range(7)]]]

    results = await asyncio.gather(*(bench.run(flow, run_id=f"r{i}") for i in range(5)))

    assert {r.status for r in results} == {"finished"}
    assert meter.most == 4
    assert bench.engine.agents.free == 4


async def test_agent_room_is_not_wasted_on_a_run_that_cannot_use_it(bench: Bench) -> None:
    calls = Calls()
    bench.new_engine(Settings(durability="normal", agents=1))
    first = fake_agent(Row, _held(calls, "first"))
    quick = fake_agent(Row, {"text": "quick"})

    @smithers
    def capped(ctx: Ctx) -> Workflow:
        return Workflow(name="capped")[
            Parallel()[
                Task("busy", output=Row)[calls.held("busy")],
                Task("agent", output=Row, agent=quick)["Go."],
            ]
        ]

    @smithers
    def plain(ctx: Ctx) -> Workflow:
        return Workflow(name="plain")[Task("a", output=Row, agent=first if ctx.input.get("first") else quick)["Go."]]

    calls.held("first")
    one = await bench.start(plain, {"first": True}, run_id="one")
    two = await bench.start(capped, run_id="two", max_concurrency=1)
    three = await bench.start(plain, run_id="three")
    calls.release("first")
    await within(one.result)
    assert (await within(three.result)).status == "finished"
    calls.release("busy")
    assert (await within(two.result)).status == "finished"


async def test_an_agents_room_is_given_back_when_its_run_is_cancelled_or_waits(bench: Bench) -> None:
    calls = Calls()
    bench.new_engine(Settings(durability="normal", agents=1))
    stuck = fake_agent(Row, _held(calls, "stuck"))

    @smithers
    def flow(ctx: Ctx) -> Workflow:
        return Workflow(name="stuck")[
            Parallel()[Approval("ok", output=Verdict), Task("a", output=Row, agent=stuck)["Go."]]
        ]

    calls.held("stuck")
    handle = await bench.start(flow)
    await within(calls.begun["stuck"].wait())
    await bench.store.request_cancel("r", bench.clock.now_ms(), "test")
    assert (await within(handle.result)).status == "cancelled"
    assert bench.engine.agents.free == 1


def _async(meter: Meter) -> object:
    async def work() -> Row:
        return await meter.work()

    return work


async def _set(event: asyncio.Event) -> None:
    event.set()


def _held(calls: Calls, name: str) -> Callable[[object], object]:
    def answer(_call: object) -> object:
        return calls.held(name)()

    return answer
