"""Approvals, gates, human tasks, signals and timers: each durable when it is reached, each independent of the others."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

import pytest
from pydantic import BaseModel
from tests.integration.engine.support import Bench, Calls, Row, Verdict, until, within

from smithers import (
    Approval,
    AutoApprove,
    HumanTask,
    Loop,
    Parallel,
    RunResult,
    Sequence,
    Signal,
    Task,
    Timer,
    WaitForEvent,
    Workflow,
    create_smithers,
    run_workflow,
)
from smithers.components.context import Context
from smithers.components.element import Element
from smithers.errors import AlreadyDecided, RunNotActive

pytestmark = pytest.mark.anyio
Ctx = Context[dict[str, object]]


class Choice(BaseModel):
    selected: str | None = None
    notes: str | None = None


class Ranking(BaseModel):
    ranked: list[str]
    notes: str | None = None


class Tagged(BaseModel):
    kind: str
    payload: object = None


waiting, outs = create_smithers(
    {"row": Row, "verdict": Verdict, "choice": Choice, "ranking": Ranking, "tagged": Tagged}
)
OPTIONS = [{"key": "a", "label": "A"}, {"key": "b", "label": "B"}]


# ── approvals ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_an_approval_parks_the_run_and_its_decision_becomes_a_row(bench: Bench) -> None:
    @waiting
    def flow(ctx: Ctx) -> Workflow:
        return Workflow(name="gate")[
            Approval("ok", output=Verdict, request={"title": "Go?"})[Task("then", output=Row)[{"text": "gated"}]],
            Task("after", output=Row)[{"text": "after"}],
        ]

    parked = await bench.run(flow)
    assert parked.status == "waiting-approval"
    assert bench.row().runtime_owner_id is None
    assert bench.states() == {"ok": "waiting-approval", "after": "pending"}
    await bench.decide("ok", note="fine")
    result = await bench.resume(flow)

    assert result.status == "finished"
    assert bench.texts() == ["gated", "after"]
    ctx_row = bench.store.read(lambda c: c.execute("SELECT approved, note, decided_by FROM verdict").fetchall())
    assert ctx_row == [(1, "fine", "ann")]
    assert bench.types(node_id="ok") == [
        "NodePending",
        "ApprovalRequested",
        "NodeWaitingApproval",
        "ApprovalGranted",
        "NodeFinished",
    ]


@pytest.mark.parametrize(
    ("on_deny", "status", "states"),
    [
        ("fail", "failed", {"ok": "failed", "after": "pending"}),
        ("continue", "finished", {"ok": "finished", "after": "finished"}),
        ("skip", "finished", {"ok": "skipped", "after": "finished", "needs": "skipped"}),
    ],
)
async def test_on_deny_says_what_becomes_of_a_denied_approval(
    bench: Bench, on_deny: str, status: str, states: dict[str, str]
) -> None:
    @waiting
    def flow(ctx: Ctx) -> Workflow:
        return Workflow(name="deny")[
            Approval("ok", output=Verdict, on_deny=on_deny)[Task("then", output=Row)[{"text": "gated"}]],  # type: ignore[arg-type]
            on_deny == "skip" and Task("needs", output=Row, depends_on=["ok"])[{"text": "x"}],
            Task("after", output=Row)[{"text": "after"}],
        ]

    await bench.run(flow)
    await bench.decide("ok", approved=False, note="not now")
    result = await bench.resume(flow)

    assert result.status == status
    assert bench.states() == states


async def test_select_and_rank_write_what_was_chosen(bench: Bench) -> None:
    @waiting
    def flow(ctx: Ctx) -> Workflow:
        return Workflow(name="choose")[
            Approval("pick", output=Choice, mode="select", options=OPTIONS),
            Approval("order", output=Ranking, mode="rank", options=OPTIONS),
            Approval("default", output=Choice, mode="select", options=OPTIONS),
            Approval("none", output=Choice, mode="select", options=OPTIONS, on_deny="continue"),
        ]

    await bench.run(flow)
    for node, decision in (("pick", {"selected": "b"}), ("order", {"ranked": ["b", "a"]}), ("default", None)):
        await bench.decide(node, decision=decision, note="n")
        await bench.resume(flow)
    await bench.decide("none", approved=False)
    result = await bench.resume(flow)

    assert result.status == "finished"
    rows = bench.store.read(lambda c: c.execute("SELECT node_id, selected FROM choice ORDER BY node_id").fetchall())
    assert rows == [("default", "a"), ("none", None), ("pick", "b")]
    assert bench.store.read(lambda c: c.execute("SELECT ranked FROM ranking").fetchall()) == [('["b","a"]',)]


async def test_a_second_decision_is_refused_and_changes_nothing(bench: Bench) -> None:
    @waiting
    def flow(ctx: Ctx) -> Workflow:
        return Workflow(name="twice")[Approval("ok", output=Verdict)]

    await bench.run(flow)
    await bench.decide("ok")
    with pytest.raises(AlreadyDecided):
        await bench.decide("ok", approved=False)
    assert (await bench.resume(flow)).status == "finished"
    with pytest.raises(RunNotActive):
        await bench.decide("ok", approved=False)


async def test_parallel_approvals_are_all_requested_at_once_while_work_goes_on(bench: Bench) -> None:
    calls = Calls()

    @waiting
    def flow(ctx: Ctx) -> Workflow:
        return Workflow(name="three")[
            Parallel()[
                [Approval(f"ok{i}", output=Verdict) for i in range(3)],
                Task("slow", output=Row)[calls.held("slow")],
            ]
        ]

    handle = await bench.start(flow)
    await within(calls.begun["slow"].wait())
    assert {a.node_id for a in bench.approvals(only_open=True)} == {"ok0", "ok1", "ok2"}
    await bench.decide("ok1")  # decided while the run is busy: taken in at once
    await bench.seen("NodeFinished", "ok1")
    calls.release("slow")
    assert (await within(handle.result)).status == "waiting-approval"
    await bench.decide("ok0")
    await bench.decide("ok2")

    assert (await bench.resume(flow)).status == "finished"


async def test_a_wait_async_approval_lets_later_siblings_go_on(bench: Bench) -> None:
    @waiting
    def flow(ctx: Ctx) -> Workflow:
        return Workflow(name="async")[
            Sequence()[
                Approval("ok", output=Verdict, wait_async=True),
                Task("free", output=Row)[{"text": "free"}],
                Task("bound", output=Row, depends_on=["ok"])[{"text": "bound"}],
            ]
        ]

    assert (await bench.run(flow)).status == "waiting-approval"
    assert bench.texts() == ["free"]
    await bench.decide("ok")
    assert (await bench.resume(flow)).status == "finished"
    assert bench.texts() == ["free", "bound"]


async def test_a_gated_task_runs_only_when_approved(bench: Bench) -> None:
    calls = Calls()

    @waiting
    def flow(ctx: Ctx) -> Workflow:
        return Workflow(name="gated")[
            Task("a", output=Row, needs_approval="Run a?", retries=1, retry_policy={"backoff": "fixed"})[
                calls.task("a", fails=lambda n: ValueError("once") if n == 1 else None)
            ],
            Task("b", output=Row, needs_approval=True, continue_on_fail=True)[calls.task("b")],
        ]

    assert (await bench.run(flow)).status == "waiting-approval"
    assert calls["a"] == 0
    await bench.decide("a")
    assert (await bench.resume(flow)).status == "waiting-approval"
    assert calls["a"] == 2  # the retry asks nobody again
    await bench.decide("b", approved=False)
    result = await bench.resume(flow)

    assert result.status == "finished"
    assert calls["b"] == 0
    assert bench.states() == {"a": "finished", "b": "failed"}


async def test_an_approval_in_a_loop_asks_anew_in_each_iteration(bench: Bench) -> None:
    @waiting
    def flow(ctx: Ctx) -> Workflow:
        verdict = ctx.latest(Verdict, "ok")
        return Workflow(name="again")[
            Loop("l", until=bool(verdict and verdict.approved), max_iterations=3)[
                Approval("ok", output=Verdict, on_deny="continue")
            ]
        ]

    await bench.run(flow)
    await bench.decide("ok", approved=False)
    assert (await bench.resume(flow)).status == "waiting-approval"
    await bench.decide("ok", iteration=1)
    assert (await bench.resume(flow)).status == "finished"
    assert bench.states() == {"ok": "finished", "ok::1": "finished"}


async def test_a_loop_goes_on_while_an_approval_is_open_elsewhere(bench: Bench) -> None:
    @waiting
    def flow(ctx: Ctx) -> Workflow:
        return Workflow(name="independent")[
            Parallel()[
                Approval("ok", output=Verdict),
                Loop("l", max_iterations=3)[Task("work", output=Row)[{"text": "w"}]],
            ]
        ]

    assert (await bench.run(flow)).status == "waiting-approval"
    assert bench.texts() == ["w", "w", "w"]


async def test_an_approval_that_times_out_fails_and_a_decision_in_time_wins(bench: Bench) -> None:
    @waiting
    def flow(ctx: Ctx) -> Workflow:
        return Workflow(name="slow")[Approval("ok", output=Verdict, timeout_ms=1000)]

    await bench.run(flow)
    await bench.run(flow, run_id="in-time")
    assert bench.timers() == [("ok", "timeout", 1000)]
    await bench.decide("ok", run_id="in-time")
    bench.clock.advance(1000)
    late = await bench.resume(flow)
    in_time = await bench.resume(flow, run_id="in-time")

    assert (late.status, in_time.status) == ("failed", "finished")
    assert bench.approvals()[0].decided_by == "smithers:timeout"


@pytest.mark.parametrize("history", [["yes", "yes"], ["yes", "no"], ["yes"], []])
async def test_auto_approve_after_n_needs_n_manual_approvals_in_a_row(bench: Bench, history: list[str]) -> None:
    @waiting
    def flow(ctx: Ctx) -> Workflow:
        auto = AutoApprove(after=2) if ctx.input.get("auto") else None
        return Workflow(name="auto")[Approval("ok", output=Verdict, auto_approve=auto, on_deny="continue")]

    for index, answer in enumerate(history):
        bench.clock.advance(10)
        await bench.run(flow, run_id=f"h{index}")
        await bench.decide("ok", approved=answer == "yes", run_id=f"h{index}")
        await bench.resume(flow, run_id=f"h{index}")
    result = await bench.run(flow, {"auto": True})

    assert result.status == ("finished" if history == ["yes", "yes"] else "waiting-approval")


async def test_auto_approve_looks_at_its_condition_and_revert_on(bench: Bench) -> None:
    @waiting
    def flow(ctx: Ctx) -> Workflow:
        def auto(**given: object) -> AutoApprove:
            return AutoApprove(**given)  # type: ignore[arg-type]

        return Workflow(name="auto")[
            Approval("always", output=Verdict, auto_approve=True),
            Approval("silent", output=Verdict, auto_approve=auto(audit=False)),
            Approval("if", output=Verdict, auto_approve=auto(condition=lambda: True)),
            Approval("unless", output=Verdict, auto_approve=auto(condition=True, revert_on=lambda: True)),
        ]

    assert (await bench.run(flow)).status == "waiting-approval"
    assert bench.states() == {
        "always": "finished",
        "silent": "finished",
        "if": "finished",
        "unless": "waiting-approval",
    }
    assert {(a.node_id, a.auto_approved) for a in bench.approvals()} == {("always", 1), ("if", 1), ("unless", 0)}


async def test_a_condition_that_raises_fails_the_run_with_a_typed_error(bench: Bench) -> None:
    @waiting
    def flow(ctx: Ctx) -> Workflow:
        return Workflow(name="auto")[Approval("ok", output=Verdict, auto_approve=AutoApprove(condition=lambda: 1 / 0))]

    result = await bench.run(flow)

    assert result.status == "failed"
    assert result.error is not None
    assert result.error["code"] == "WORKFLOW_RENDER_FAILED"


async def test_what_waits_in_a_failed_part_is_withdrawn(bench: Bench) -> None:
    calls = Calls()

    async def bad() -> Row:
        raise ValueError("no")

    @waiting
    def flow(ctx: Ctx) -> Workflow:
        return Workflow(name="withdrawn")[
            Parallel()[
                Approval("ok", output=Verdict),
                Timer("t", duration="1h"),
                WaitForEvent("e", event="e", output=Row),
                HumanTask("h", output=Row, prompt="?"),
                Task("bad", output=Row)[bad],
                Task("x", output=Row)[calls.task("x")],
            ]
        ]

    assert (await bench.run(flow)).status == "failed"
    states = bench.states()
    assert [states[n] for n in ("ok", "t", "e", "h")] == ["cancelled"] * 4
    assert bench.approvals(only_open=True) == []
    assert [h.status for h in bench.humans()] == ["cancelled"]
    assert bench.timers() == []


# ── human tasks ────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_human_task_takes_an_answer_and_asks_again_for_one_that_does_not_fit(bench: Bench) -> None:
    @waiting
    def flow(ctx: Ctx) -> Workflow:
        return Workflow(name="human")[HumanTask("ask", output=Row, timeout_ms=60_000)["How many?"]]

    assert (await bench.run(flow)).status == "waiting-approval"
    await bench.answer("ask", {"n": "lots"})
    bench.clock.advance(30_000)
    assert (await bench.resume(flow)).status == "waiting-approval"
    assert [h.status for h in bench.humans()] == ["pending"]
    assert bench.timers() == [("ask", "timeout", 30_000)]  # asking again gives no more time
    await bench.answer("ask", {"n": 3})
    assert (await bench.resume(flow)).status == "finished"
    assert [a.state for a in bench.attempts("ask")] == ["failed", "finished"]


async def test_a_human_task_fails_after_max_attempts_also_over_restarts(bench: Bench) -> None:
    @waiting
    def flow(ctx: Ctx) -> Workflow:
        return Workflow(name="human")[HumanTask("ask", output=Row, max_attempts=2)["How many?"]]

    await bench.run(flow)
    await bench.answer("ask", {"n": "lots"})
    await bench.resume(flow)
    bench.abandon()
    await bench.answer("ask", {"n": "more"})
    result = await bench.resume(flow)

    assert result.status == "failed"
    assert bench.states() == {"ask": "failed"}


async def test_a_human_task_that_times_out_expires(bench: Bench) -> None:
    @waiting
    def flow(ctx: Ctx) -> Workflow:
        return Workflow(name="human")[HumanTask("ask", output=Row, timeout_ms=10)["How many?"]]

    await bench.run(flow)
    bench.clock.advance(10)
    assert (await bench.resume(flow)).status == "failed"
    assert [h.status for h in bench.humans()] == ["expired"]


# ── signals ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_signal_wakes_its_waiter_also_when_it_came_while_nobody_drove_the_run(bench: Bench) -> None:
    @waiting
    def flow(ctx: Ctx) -> Workflow:
        return Workflow(name="signal")[WaitForEvent("go", event="go", output=Row), Task("x", output=Row)[{"text": "x"}]]

    assert (await bench.run(flow)).status == "waiting-event"
    await bench.signal("go", {"text": "sent"})
    bench.abandon()

    assert (await bench.resume(flow)).status == "finished"
    assert bench.texts() == ["sent", "x"]


async def test_signals_queue_before_anybody_waits_and_are_taken_one_after_the_other(bench: Bench) -> None:
    calls = Calls()

    @waiting
    def flow(ctx: Ctx) -> Workflow:
        return Workflow(name="mailbox")[
            Task("first", output=Row)[calls.held("first")],
            [WaitForEvent(f"w{i}", event="go", output=Row) for i in range(3)],
        ]

    handle = await bench.start(flow)
    await bench.signal("go", {"text": "1"})
    await bench.signal("go", {"text": "2"})
    calls.release("first")
    assert (await within(handle.result)).status == "waiting-event"
    assert bench.texts() == ["first", "1", "2"]
    await bench.signal("go", {"text": "3"})
    bench.abandon()
    await bench.resume(flow)

    assert bench.texts() == ["first", "1", "2", "3"]


@pytest.mark.parametrize("is_parked", [True, False])
async def test_one_signal_satisfies_all_who_wait_for_it_at_the_same_time(bench: Bench, is_parked: bool) -> None:
    calls = Calls()

    @waiting
    def flow(ctx: Ctx) -> Workflow:
        return Workflow(name="broadcast")[
            Parallel()[
                WaitForEvent("a", event="go", output=Row),
                WaitForEvent("b", event="go", output=Row),
                WaitForEvent("other", event="go", correlation_id="7", output=Row),
                not is_parked and Task("busy", output=Row)[calls.held("busy")],
            ]
        ]

    handle = await bench.start(flow)
    if is_parked:
        await within(handle.result)
    await bench.signal("go", {"text": "all"})
    if is_parked:
        await bench.resume(flow)
    else:
        await bench.seen("NodeFinished", "b")
    states = bench.states()

    assert (states["a"], states["b"], states["other"]) == ("finished", "finished", "waiting-event")
    for name in calls.gates:
        calls.release(name)


async def test_correlation_is_compared_trimmed_and_none_matches_only_none(bench: Bench) -> None:
    @waiting
    def flow(ctx: Ctx) -> Workflow:
        return Workflow(name="correlated")[
            Parallel()[
                WaitForEvent("mine", event=" go ", correlation_id=" 7 ", output=Row),
                WaitForEvent("plain", event="go", correlation_id="  ", output=Row),
            ]
        ]

    await bench.run(flow)
    await bench.signal("go", {"text": "7"}, correlation="7")
    await bench.resume(flow)

    assert bench.states() == {"mine": "finished", "plain": "waiting-event"}


@pytest.mark.parametrize(
    ("on_timeout", "status", "state"),
    [("fail", "failed", "failed"), ("skip", "finished", "skipped"), ("continue", "finished", "finished")],
)
async def test_a_wait_for_an_event_that_times_out(bench: Bench, on_timeout: str, status: str, state: str) -> None:
    @waiting
    def flow(ctx: Ctx) -> Workflow:
        return Workflow(name="late")[
            WaitForEvent("e", event="e", output=Tagged, timeout_ms=50, on_timeout=on_timeout, tagged=True)  # type: ignore[arg-type]
        ]

    await bench.run(flow)
    bench.clock.advance(49)
    assert (await bench.resume(flow)).status == "waiting-event"
    bench.clock.advance(1)
    assert (await bench.resume(flow)).status == status
    assert bench.states() == {"e": state}
    if on_timeout == "continue":
        assert bench.store.read(lambda c: c.execute("SELECT kind FROM tagged").fetchall()) == [("timeout",)]


async def test_a_tagged_wait_says_that_it_was_a_signal(bench: Bench) -> None:
    @waiting
    def flow(ctx: Ctx) -> Workflow:
        return Workflow(name="tagged")[WaitForEvent("e", event="e", output=Tagged, timeout_ms=50, tagged=True)]

    await bench.run(flow)
    await bench.signal("e", {"x": 1})
    assert (await bench.resume(flow)).status == "finished"
    assert bench.timers() == []
    rows = bench.store.read(lambda c: c.execute("SELECT kind, payload FROM tagged").fetchall())
    assert rows == [("signal", '{"x":1}')]


async def test_a_payload_that_does_not_fit_fails_its_waiter(bench: Bench) -> None:
    @waiting
    def flow(ctx: Ctx) -> Workflow:
        return Workflow(name="unfit")[WaitForEvent("e", event="e", output=Row, continue_on_fail=True)]

    await bench.run(flow)
    await bench.signal("e", {"n": "lots"})
    result = await bench.resume(flow)

    assert result.status == "finished"
    assert result.failed_child_keys == ("e::0",)


async def test_signals_mount_children_made_from_what_arrived(bench: Bench) -> None:
    def then(row: Row) -> Element:
        return Task("ship", output=Row)[{"text": f"ship {row.text}"}]

    @waiting
    def flow(ctx: Ctx) -> Workflow:
        return Workflow(name="then")[Signal("go", schema=Row)[then]]

    await bench.run(flow)
    await bench.signal("go", {"text": "it"})
    assert (await bench.resume(flow)).status == "finished"
    assert bench.texts() == ["it", "ship it"]


async def test_a_terminal_run_takes_no_signals(bench: Bench) -> None:
    @waiting
    def flow(ctx: Ctx) -> Workflow:
        return Workflow(name="done")[Task("x", output=Row)[{"text": "x"}]]

    await bench.run(flow)
    with pytest.raises(RunNotActive):
        await bench.signal("go", {})


async def test_ctx_shows_all_signals_and_renders_again_when_one_arrives(bench: Bench) -> None:
    @waiting
    def flow(ctx: Ctx) -> Workflow:
        return Workflow(name="rows")[
            WaitForEvent("stop", event="stop", output=Row),
            [Task(f"t{row.seq}", output=Row)[{"text": str(row.payload)}] for row in ctx.signal_rows("note")],
        ]

    await bench.run(flow)
    await bench.signal("note", "a")
    await bench.signal("note", "b")
    await bench.signal("stop", {"text": "stop"})
    assert (await bench.resume(flow)).status == "finished"
    assert bench.texts() == ["stop", "a", "b"]


# ── timers ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_timer_parks_the_run_until_its_moment_which_a_restart_does_not_move(bench: Bench) -> None:
    @waiting
    def flow(ctx: Ctx) -> Workflow:
        return Workflow(name="timer")[Timer("t", duration="10s"), Task("x", output=Row)[{"text": "x"}]]

    assert (await bench.run(flow)).status == "waiting-timer"
    bench.clock.advance(6_000)
    bench.abandon()
    assert (await bench.resume(flow)).status == "waiting-timer"
    assert bench.timers() == [("t", "timer", 4_000)]
    bench.clock.advance(5_000)
    assert (await bench.resume(flow)).status == "finished"
    fired = next(e for e in bench.events() if e["type"] == "TimerFired")
    assert (fired["delayMs"], int(str(fired["firedAtMs"])) - int(str(fired["firesAtMs"]))) == (1_000, 1_000)


async def test_a_timer_fires_while_the_run_is_busy(bench: Bench) -> None:
    calls = Calls()

    @waiting
    def flow(ctx: Ctx) -> Workflow:
        return Workflow(name="busy")[
            Parallel()[
                Sequence()[Timer("t", duration=500), Task("x", output=Row)[{"text": "x"}]],
                Task("slow", output=Row)[calls.held("slow")],
            ]
        ]

    handle = await bench.start(flow)
    await within(calls.begun["slow"].wait())
    bench.clock.advance(500)
    await bench.seen("NodeFinished", "x")
    calls.release("slow")
    assert (await within(handle.result)).status == "finished"


@pytest.mark.parametrize("kind", ["zero", "past"])
async def test_a_timer_of_no_length_or_of_the_past_fires_at_once(bench: Bench, kind: str) -> None:
    @waiting
    def flow(ctx: Ctx) -> Workflow:
        past = datetime(2020, 1, 1, tzinfo=UTC)
        return Workflow(name="now")[Timer("t", duration=0) if kind == "zero" else Timer("t", until=past)]

    assert (await bench.run(flow)).status == "finished"


async def test_a_timer_until_a_moment(bench: Bench) -> None:
    @waiting
    def flow(ctx: Ctx) -> Workflow:
        start = datetime.fromtimestamp(1_767_225_600, UTC)
        return Workflow(name="until")[Timer("t", until=start + timedelta(seconds=3))]

    assert (await bench.run(flow)).status == "waiting-timer"
    assert bench.timers() == [("t", "timer", 3_000)]


async def test_several_waits_at_once_go_on_each_by_itself(bench: Bench) -> None:
    @waiting
    def flow(ctx: Ctx) -> Workflow:
        def after(name: str, wait: Element) -> Element:
            return Sequence()[wait, Task(f"after-{name}", output=Row)[{"text": name}]]

        return Workflow(name="many")[
            Parallel()[
                after("ok", Approval("ok", output=Verdict)),
                after("go", WaitForEvent("go", event="go", output=Tagged, tagged=True)),
                after("t", Timer("t", duration=100)),
                after("h", HumanTask("h", output=Choice, prompt="?")),
            ]
        ]

    await bench.run(flow)
    acts: list[Callable[[], Awaitable[None]]] = [
        lambda: bench.signal("go", 1),
        lambda: bench.answer("h", {"selected": "x"}),
        lambda: _advanced(bench, 100),
        lambda: bench.decide("ok"),
    ]
    results: list[RunResult] = []
    for act in acts:
        await act()
        results.append(await bench.resume(flow))

    assert results[-1].status == "finished"
    assert bench.texts() == ["go", "h", "t", "ok"]


async def test_run_workflow_with_wait_goes_on_by_itself_when_something_arrives(bench: Bench) -> None:
    @waiting
    def flow(ctx: Ctx) -> Workflow:
        return Workflow(name="wait")[
            Approval("ok", output=Verdict),
            Approval("ok2", output=Verdict),
            WaitForEvent("go", event="go", output=Row),
            Timer("t", duration="1h"),
            Task("x", output=Row)[{"text": "x"}],
        ]

    whole = asyncio.ensure_future(run_workflow(flow, run_id="r", engine=bench.engine, wait=True))
    acts: list[tuple[str, Callable[[], Awaitable[None]]]] = [
        ("ok", lambda: bench.decide("ok")),
        ("ok2", lambda: bench.decide("ok2")),
        ("go", lambda: bench.signal("go", {"text": "go"})),
        ("t", lambda: _advanced(bench, 3_600_000)),
    ]
    for node, act in acts:
        await _parked(bench, node, whole)
        await act()
    result = await within(whole)

    assert result.status == "finished"
    assert bench.types().count("RunStarted") <= 5  # it does not spin while it waits


async def _parked(bench: Bench, node: str, whole: asyncio.Future[RunResult]) -> None:
    """The run is parked, with this node waiting."""

    def is_parked() -> bool:
        assert not whole.done(), whole
        return bench.states().get(node, "").startswith("waiting") and bench.row().runtime_owner_id is None

    await bench.stored("r")
    await until(is_parked, lambda: f"{node} is not reached: {bench.states()}")


async def _advanced(bench: Bench, ms: int) -> None:
    bench.clock.advance(ms)


class StrictVerdict(BaseModel, extra="forbid"):
    approved: bool


async def test_a_decision_fits_a_model_that_forbids_what_it_does_not_have(bench: Bench) -> None:
    strict, outputs = create_smithers({"strict": StrictVerdict})

    @strict
    def flow(ctx: Ctx) -> Workflow:
        return Workflow(name="strict")[Approval("ok", output=outputs.strict)["Go?"]]

    assert (await bench.run(flow)).status == "waiting-approval"
    await bench.decide("ok", note="fine")
    assert (await bench.resume(flow)).status == "finished"
