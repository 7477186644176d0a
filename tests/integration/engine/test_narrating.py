"""What has happened, and why a run is where it is: told from rows and the log, the same way for the same rows."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest
from tests.integration.engine.support import Bench, Calls, Row, outputs, smithers, within

from smithers import (
    Approval,
    Context,
    HumanTask,
    Loop,
    MergeQueue,
    Parallel,
    SmithersWorkflow,
    Subflow,
    Task,
    Timer,
    WaitForEvent,
    Workflow,
)
from smithers.components.task import RetryPolicy
from smithers.control.control import Control
from smithers.control.explaining import Diagnosis, why
from smithers.control.narrating import CACHED, Narrator, Storyteller
from smithers.errors import IterationNotFound, NodeNotFound, RunNotFound

pytestmark = pytest.mark.anyio
BOTH_DATABASES = True


def workflow(*children: object) -> SmithersWorkflow:
    @smithers
    def shop(ctx: Context[object]) -> Workflow:
        return Workflow(name="shop")[list(children)]

    return shop


def control(bench: Bench) -> Control:
    return Control(bench.store, clock=bench.clock)


async def told(bench: Bench, node_id: str | None = None, iteration: int | None = None) -> list[str]:
    story = await Storyteller().tell(control(bench), "r", node_id, iteration)
    return story.summary.splitlines()


async def kinds(bench: Bench, node_id: str | None = None) -> list[tuple[str, str]]:
    found = await why(control(bench), "r", node_id)
    return [(blocker.kind, blocker.place) for blocker in found.blockers]


def say(text: str) -> object:
    return lambda: {"text": text}


# ── what has happened ──────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_run_that_finished(bench: Bench) -> None:
    await bench.run(workflow(*(Task(id=id, output=outputs.row)[say(id)] for id in "ab")))
    first = await told(bench)
    assert first[0] == "Run r of shop finished after 0ms."
    assert first[1].startswith("It was started on ")
    assert first[2] == "All 2 steps have finished."
    assert len(first) == 3
    assert await told(bench) == first
    assert await told(bench, "a") == ["Step a of run r finished, and its row is in the table row."]


async def test_a_run_that_failed_tells_of_retries_and_errors(bench: Bench) -> None:
    calls = Calls()
    policy = RetryPolicy(initial_delay_ms=0)
    bad = calls.task("bad", fails=lambda n: ValueError(f"no {n}"))
    await bench.run(
        workflow(
            Task(id="good", output=outputs.row)[say("x")],
            Task(id="bad", output=outputs.row, retries=2, retry_policy=policy)[bad],
            Task(id="after", output=outputs.row)[say("y")],
        )
    )
    lines = await told(bench)
    assert lines[0] == "Run r of shop failed after 0ms: bad failed after 3 attempts: no 3 [ValueError]."
    assert lines[2] == "Of 3 steps: 1 finished, 1 failed, 1 not begun, with 2 retries."
    node = await told(bench, "bad")
    assert node[0] == "Step bad of run r failed: no 3 [ValueError]."
    assert "attempt 1 failed after 0ms: no 1 [ValueError]; attempt 2" in node[1]
    assert await told(bench, "after") == ["Step after of run r was not reached: its run failed."]
    assert await kinds(bench) == [("failed", "bad")]
    assert await kinds(bench, "after") == [("failed", "bad")]


async def test_decisions_and_answers_are_told_with_who_and_how_long(bench: Bench) -> None:
    shop = workflow(
        Approval(id="ship", output=outputs.verdict, request={"title": "Ship it?"}),
        HumanTask(id="ask", output=outputs.row, prompt="How many?"),
    )
    await bench.run(shop)
    bench.clock.advance(65_000)
    await bench.decide("ship", note="looks fine")
    await bench.resume(shop)
    bench.clock.advance(5_000)
    await bench.answer("ask", {"text": "two"})
    await bench.resume(shop)
    lines = await told(bench)
    assert lines[0] == "Run r of shop finished after 1m10s."
    assert 'ann approved ship after 1m05s ("looks fine"); ann answered ask after 5.0s.' in lines
    assert lines[1].endswith(", and it was resumed twice since.")
    assert (await told(bench, "ship"))[1] == 'ann approved ship after 1m05s ("looks fine").'


async def test_tokens_are_added_up_with_their_models(bench: Bench) -> None:
    from smithers.events import event
    from smithers.store.sql.control import append_events

    await bench.run(workflow(Task(id="a", output=outputs.row)[say("a")]))
    used = [
        event("TokenUsageReported", "a", 0, attempt=1, model=model, agent="x", inputTokens=1000, outputTokens=7)
        for model in ("small", "small", "large")
    ]
    await bench.store.awrite(lambda c: append_events(c, "r", 0, used))
    said = "3,000 tokens went in and 21 came out, with small and large."
    assert (await told(bench))[-1] == said
    assert (await told(bench, "a"))[-1] == said


async def test_stories_of_what_has_ended_are_kept_until_it_changes(bench: Bench) -> None:
    shop = workflow(Task(id="a", output=outputs.row)[say("a")], WaitForEvent(id="go", event="go", output=outputs.row))
    await bench.run(shop)
    teller = Storyteller()
    assert not (await teller.tell(control(bench), "r")).is_cached
    assert not (await teller.tell(control(bench), "r")).is_cached  # it may still change
    assert not (await teller.tell(control(bench), "r", "a")).is_cached
    assert (await teller.tell(control(bench), "r", "a")).is_cached
    await control(bench).cancel("r", source="cli")
    first = await teller.tell(control(bench), "r")
    bench.clock.advance(1_000)
    again = await teller.tell(control(bench), "r")
    assert (again.is_cached, again.generated_at_ms) == (True, first.generated_at_ms)
    await bench.resume(shop)
    assert (await teller.tell(control(bench), "r")).summary.startswith("Run r of shop waits for the signal go")


async def test_at_most_so_many_stories_are_kept(bench: Bench) -> None:
    many = CACHED + 1
    await bench.run(workflow(*(Task(id=f"t{i}", output=outputs.row)[{"text": "x"}] for i in range(many))))
    teller = Storyteller()
    for i in range(many):
        await teller.tell(control(bench), "r", f"t{i}")
    assert (await teller.tell(control(bench), "r", f"t{many - 1}")).is_cached
    assert not (await teller.tell(control(bench), "r", "t0")).is_cached


async def test_a_hosts_own_narrator_is_asked_and_its_failure_falls_back_to_the_facts(bench: Bench) -> None:
    await bench.run(workflow(Task(id="a", output=outputs.row)[say("a")]))
    seen: list[Mapping[str, object]] = []

    async def text(facts: Mapping[str, object]) -> str:
        seen.append(facts)
        return " All is well. "

    async def mapping(_facts: Mapping[str, object]) -> Mapping[str, object]:
        return {"summary": "Fine.", "agentId": "teller"}

    async def broken(_facts: Mapping[str, object]) -> str:
        raise RuntimeError("no model")

    async def empty(_facts: Mapping[str, object]) -> str:
        return "  "

    async def ask(narrator: Narrator) -> dict[str, object]:
        wire = (await Storyteller(narrator).tell(control(bench), "r")).wire()
        return {key: wire[key] for key in ("summary", "agentId", "source")}

    assert await ask(text) == {"summary": "All is well.", "agentId": None, "source": "agent"}
    assert (seen[0]["scope"], seen[0]["status"]) == ("run", "finished")
    assert await ask(mapping) == {"summary": "Fine.", "agentId": "teller", "source": "agent"}
    facts = (await Storyteller().tell(control(bench), "r")).summary
    for narrator in (broken, empty):
        assert await ask(narrator) == {"summary": facts, "agentId": None, "source": "facts"}


async def test_what_is_not_there_is_told_apart(bench: Bench) -> None:
    await bench.run(workflow(Task(id="a", output=outputs.row)[say("a")]))
    with pytest.raises(RunNotFound):
        await Storyteller().tell(control(bench), "s")
    with pytest.raises(NodeNotFound):
        await Storyteller().tell(control(bench), "r", "b")
    with pytest.raises(IterationNotFound):
        await Storyteller().tell(control(bench), "r", "a", 3)
    with pytest.raises(NodeNotFound):
        await why(control(bench), "r", "b")


async def test_the_highest_iteration_of_a_node_is_told_of(bench: Bench) -> None:
    loop = Loop(id="l", until=False, max_iterations=3, on_max_reached="return-last")[
        Task(id="a", output=outputs.row)[say("a")]
    ]
    await bench.run(workflow(loop))
    story = await Storyteller().tell(control(bench), "r", "a")
    assert story.iteration == 2
    assert story.summary.startswith("Step a (iteration 2) of run r finished")


# ── why ────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_everything_that_a_run_waits_for_is_named(bench: Bench) -> None:
    await bench.run(
        workflow(
            Parallel[
                Approval(
                    id="ship", output=outputs.verdict, request={"title": "Ship it?"}, allowed_users=["ann", "bob"]
                ),
                WaitForEvent(id="paid", event="payment", correlation_id="o-1", output=outputs.row),
                Timer(id="cool", duration="1h"),
                HumanTask(id="ask", output=outputs.row, prompt="How many?"),
            ],
            Task(id="last", output=outputs.row)[say("z")],
        )
    )
    found = {b.kind: b for b in (await why(control(bench), "r")).blockers}
    assert found["approval"].text == 'approval of "Ship it?" by ann or bob'
    assert found["signal"].text == "the signal payment about o-1"
    assert found["timer"].until_ms == bench.clock.now_ms() + 3_600_000
    assert found["question"].text == 'an answer to "How many?"'
    assert await kinds(bench, "paid") == [("signal", "paid")]
    assert {kind for kind, _ in await kinds(bench, "last")} == {"order", "approval", "signal", "timer", "question"}
    line = (await told(bench))[0]
    assert line.startswith('Run r of shop waits for approval of "Ship it?" by ann or bob (step ship), ')


async def test_a_full_group_and_a_dependency_are_in_the_way(bench: Bench) -> None:
    calls = Calls()

    def third(row: Row) -> dict[str, object]:
        return {"text": row.text}

    await bench.start(
        workflow(
            Parallel[
                MergeQueue(id="q")[
                    Task(id="first", output=outputs.row)[calls.held("first")],
                    Task(id="second", output=outputs.row)[say("2")],
                ],
                Task(id="third", output=outputs.row, needs={"row": "first"})[third],
            ]
        )
    )
    await within(calls.begun["first"].wait())
    (room, working) = (await why(control(bench), "r", "second")).blockers
    assert (room.kind, room.text) == (
        "room",
        "room in merge-queue q, where at most 1 may be at work: first (in-progress)",
    )
    assert (working.kind, working.node_id) == ("working", "first")
    assert [kind for kind, _ in await kinds(bench, "third")] == ["dependency", "working"]
    assert (await why(control(bench), "r", "first")).blockers[0].kind == "working"
    assert any(line.startswith("At work now: first for ") for line in await told(bench))
    calls.release("first")


async def test_a_retry_that_is_due_later_is_named_with_its_moment(bench: Bench) -> None:
    calls = Calls()
    work = calls.task("a", fails=lambda n: ValueError("x") if n == 1 else None)
    policy = RetryPolicy(initial_delay_ms=60_000)
    handle = await bench.start(workflow(Task(id="a", output=outputs.row, retries=1, retry_policy=policy)[work]))
    await bench.seen("NodeRetrying", "a")
    (retry,) = (await why(control(bench), "r", "a")).blockers
    assert (retry.kind, retry.until_ms) == ("retry", bench.clock.now_ms() + 60_000)
    bench.clock.advance(60_000)
    await within(asyncio.shield(handle.result))


async def test_a_dead_owner_a_pause_and_a_cancellation_are_told(bench: Bench) -> None:
    calls = Calls()
    await bench.start(workflow(Task(id="a", output=outputs.row)[calls.held("a")]))
    await within(calls.begun["a"].wait())
    assert await kinds(bench) == [("working", "a")]
    bench.abandon()
    bench.clock.advance(31_000)
    found: Diagnosis = await why(control(bench), "r")
    assert (found.state, found.blockers[0].kind) == ("stale", "owner-silent")
    await bench.store.release("r", bench.row().runtime_owner_id or "")
    found = await why(control(bench), "r")
    assert (found.state, found.blockers[0].kind) == ("orphaned", "unowned")
    assert await kinds(bench) == [("unowned", ""), ("interrupted", "a")]
    assert "Cut off, and to begin anew: a." in await told(bench)
    assert (await told(bench))[0].startswith("Run r of shop is marked as running, but nobody drives it")
    await control(bench).cancel("r", source="cli")
    assert await kinds(bench) == [("cancelled", "")]
    assert (await told(bench))[0].startswith("Run r of shop was cancelled by cli after ")


async def test_what_the_run_of_a_subflow_waits_for_is_what_its_parent_waits_for(bench: Bench) -> None:
    child = workflow(Approval(id="ok", output=outputs.verdict, request={"title": "Ok?"}))
    await bench.run(workflow(Subflow(id="sub", workflow=child, output=outputs.verdict)))
    found = (await why(control(bench), "r")).blockers
    assert [(b.kind, b.run_id) for b in found] == [("child", "r"), ("approval", "r:child:sub:0")]
    assert [(b.kind, b.run_id) for b in (await why(control(bench), "r", "sub")).blockers] == [
        ("child", "r"),
        ("approval", "r:child:sub:0"),
    ]
    lines = await told(bench)
    assert lines[0] == 'Run r of shop waits for approval of "Ok?" (step ok in r:child:sub:0).'
    assert "It has a run of a subflow below it, which is waiting-approval." in lines
