"""A run goes back to a frame, and on from there: what is put back, who may, what stays if it breaks off."""

from __future__ import annotations

import asyncio

import pytest
from tests.integration.engine.support import Bench, Calls, outputs, smithers, within
from tests.integration.engine.travel_support import back, chain, control_of

from smithers import (
    Approval,
    HumanTask,
    Loop,
    Parallel,
    Sequence,
    Task,
    Timer,
    WaitForEvent,
    Workflow,
)
from smithers.components.context import Context
from smithers.control.caller import Caller
from smithers.control.travel.audit import recover_interrupted
from smithers.errors import (
    ConfirmationRequired,
    FrameOutOfRange,
    NotRunOwner,
    RewindFailed,
    RunNotFound,
    SmithersError,
    TravelBusy,
    TravelRateLimited,
    VcsError,
)
from smithers.store.sql import audit, history, travel

pytestmark = pytest.mark.anyio


async def test_a_rewound_run_does_what_came_after_once_more(bench: Bench) -> None:
    calls = Calls()
    workflow = chain(calls, "a", "b", "c")
    await bench.run(workflow)
    assert bench.row().frame_no == 4

    found = await back(bench, 2)

    assert (found.from_frame_no, found.new_frame_no, found.deleted_attempts) == (4, 2, 1)
    assert bench.states() == {"a": "finished", "b": "pending", "c": "pending"}
    assert (bench.row().status, bench.row().runtime_owner_id, bench.row().frame_no) == ("running", None, 2)
    assert bench.texts() == ["a"]
    result = await bench.resume(workflow)
    assert result.status == "finished"
    assert bench.texts() == ["a", "b", "c"]
    assert calls.by_name == {"a": 1, "b": 2, "c": 2}


async def test_the_log_is_kept_and_says_where_the_run_went(bench: Bench) -> None:
    workflow = chain(Calls(), "a", "b")
    await bench.run(workflow)
    before = bench.events()

    await back(bench, 1)
    await bench.resume(workflow)

    events = bench.events()
    assert events[: len(before)] == before
    assert [e["seq"] for e in events] == list(range(len(events)))
    jumped = next(e for e in events if e["type"] == "TimeTravelJumped")
    assert (jumped["fromFrameNo"], jumped["toFrameNo"], jumped["caller"]) == (3, 1, "ann")
    live = bench.store.read(lambda c: history.events_between(c, "r", 0, bench.row().frame_no))
    assert [e.type for e in live if e.type == "NodeFinished"] == ["NodeFinished"] * 2


async def test_a_rewind_to_the_beginning_runs_everything_again(bench: Bench) -> None:
    calls = Calls()
    workflow = chain(calls, "a", "b")
    await bench.run(workflow)

    await back(bench, 0)

    assert bench.states() == {}
    assert (await bench.resume(workflow)).status == "finished"
    assert calls.by_name == {"a": 2, "b": 2}


async def test_what_others_wrote_after_the_frame_is_asked_for_again(bench: Bench) -> None:
    @smithers
    def workflow(ctx: Context[object]) -> Workflow:
        return Workflow(name="asks")[
            Sequence[
                Parallel[
                    Approval(id="ship", output=outputs.verdict)["Ship?"],
                    HumanTask(id="name", output=outputs.row)["Name?"],
                    WaitForEvent(id="event", event="go", output=outputs.row),
                ],
                Task(id="last", output=outputs.row)[{"text": "end"}],
            ]
        ]

    parked = await bench.run(workflow)
    assert parked.status == "waiting-approval"
    at = bench.row().frame_no
    states = bench.states()
    await bench.decide("ship")
    await bench.answer("name", {"text": "Ann"})
    await bench.signal("go", {"text": "gone"})
    assert (await bench.resume(workflow)).status == "finished"

    await back(bench, at)

    assert bench.states() == states
    assert [row.status for row in bench.approvals()] == ["requested"]
    assert [row.status for row in bench.humans()] == ["pending"]
    assert (await bench.resume(workflow)).status == "waiting-approval"
    await bench.signal("go", {"text": "other"})
    await bench.decide("ship")
    await bench.answer("name", {"text": "Bob"})
    assert (await bench.resume(workflow)).status == "finished"
    assert sorted(bench.texts()) == ["Bob", "end", "other"]


async def test_loops_and_timers_go_back_as_well(bench: Bench) -> None:
    calls = Calls()

    @smithers
    def workflow(ctx: Context[object]) -> Workflow:
        return Workflow(name="loops")[
            Sequence[
                Loop(id="l", until=ctx.iterations.get("l", 0) >= 2, max_iterations=9)[
                    Sequence[Task(id="t", output=outputs.row)[calls.task("t")], Timer(id="wait", duration="1m")]
                ],
                Task(id="after", output=outputs.row)[calls.task("after")],
            ]
        ]

    result = await bench.run(workflow)
    frames: dict[int, tuple[dict[str, str], list[tuple[str, str, int]]]] = {}
    while result.status == "waiting-timer":
        frames[bench.row().frame_no] = (bench.states(), bench.timers())
        bench.clock.advance(60_000)
        result = await bench.resume(workflow)
    assert result.status == "finished"
    first = min(frames)

    await back(bench, first)

    assert bench.states() == frames[first][0]
    assert [(t[0], t[1]) for t in bench.timers()] == [("wait", "timer")]
    result = await bench.resume(workflow)
    while result.status == "waiting-timer":
        bench.clock.advance(60_000)
        result = await bench.resume(workflow)
    assert result.status == "finished"
    assert calls["after"] == 2


async def test_a_live_run_is_stopped_and_its_work_is_done_again(bench: Bench) -> None:
    calls = Calls()
    held = calls.held("slow")

    @smithers
    def workflow(ctx: Context[object]) -> Workflow:
        return Workflow(name="live")[
            Sequence[Task(id="a", output=outputs.row)[calls.task("a")], Task(id="slow", output=outputs.row)[held]]
        ]

    handle = await bench.start(workflow)
    await within(calls.begun["slow"].wait())
    at = bench.row().frame_no

    await within(back(bench, at))

    assert bench.row().runtime_owner_id is None
    assert bench.attempts("slow")[0].state == "cancelled"
    with pytest.raises(SmithersError):
        await within(asyncio.shield(handle.result))
    calls.release("slow")
    assert (await bench.resume(workflow)).status == "finished"
    assert calls.by_name == {"a": 1, "slow": 2}
    assert [row.state for row in bench.attempts("slow")] == ["cancelled", "finished"]


async def test_of_two_rewinds_at_once_one_is_busy(bench: Bench) -> None:
    await bench.run(chain(Calls(), "a", "b"))
    is_at_work, may_go_on = asyncio.Event(), asyncio.Event()

    class Restoring:
        async def check(self, run_id: str, frame_no: int, attempt: object = None) -> None:
            """Nothing stands against it."""

        async def __call__(self, run_id: str, frame_no: int, attempt: object = None) -> int:
            is_at_work.set()
            await may_go_on.wait()
            return 0

    first = asyncio.create_task(back(bench, 1, restore=Restoring()))
    await within(is_at_work.wait())
    with pytest.raises(TravelBusy):
        await back(bench, 1)
    may_go_on.set()

    assert (await within(first)).new_frame_no == 1
    assert (await back(bench, 0)).new_frame_no == 0


async def test_a_run_that_is_held_is_not_taken_over(bench: Bench) -> None:
    workflow = chain(Calls(), "a", "b")
    await bench.run(workflow)
    await back(bench, 1)
    now = bench.clock.now_ms()
    bench.store.write(lambda c: travel.hold(c, "r", "mine", now, 60_000))

    with pytest.raises(SmithersError, match="claimed"):
        await bench.resume(workflow)
    with pytest.raises(TravelBusy):
        await back(bench, 1)
    bench.clock.advance(60_001)
    assert (await bench.resume(workflow)).status == "finished"


async def test_refusals_change_nothing_and_are_on_record(bench: Bench) -> None:
    workflow = chain(Calls(), "a")
    await bench.run(workflow)
    before = bench.row()

    with pytest.raises(ConfirmationRequired):
        await back(bench, 0, confirm=False)
    with pytest.raises(RunNotFound):
        await back(bench, 0, run_id="other")
    with pytest.raises(NotRunOwner):
        await back(bench, 0, caller=Caller(user="bob"))
    with pytest.raises(FrameOutOfRange):
        await back(bench, before.frame_no + 1)
    with pytest.raises(FrameOutOfRange):
        await back(bench, -1)

    assert bench.row() == before
    rows = bench.store.read(lambda c: audit.rows(c, "r"))
    assert [(r.caller, r.from_frame_no, r.result) for r in rows] == [
        ("bob", -1, "failed"),
        ("ann", -1, "failed"),
        ("ann", -1, "failed"),
    ]


async def test_who_launched_a_run_may_take_it_back(bench: Bench) -> None:
    await bench.run(chain(Calls(), "a"), auth={"triggeredBy": "bob"})

    await back(bench, 0, caller=Caller(user="bob"))

    rows = bench.store.read(lambda c: audit.rows(c, "r"))
    assert [(r.caller, r.from_frame_no, r.to_frame_no, r.result) for r in rows] == [("bob", 2, 0, "success")]


async def test_ten_rewinds_an_hour_are_enough(bench: Bench) -> None:
    await bench.run(chain(Calls(), "a"))
    for _ in range(audit.MOST):
        await back(bench, 1)

    with pytest.raises(TravelRateLimited):
        await back(bench, 1)
    await back(bench, 1, caller=Caller(user="eve", role="Admin"))
    bench.clock.advance(audit.WINDOW_MS + 1)
    await back(bench, 1)


@pytest.mark.parametrize(("raised", "expected"), [(VcsError("no"), VcsError), (ValueError("bug"), RewindFailed)])
async def test_a_rewind_that_breaks_off_leaves_the_run_as_it_was(
    bench: Bench, raised: Exception, expected: type[SmithersError]
) -> None:
    workflow = chain(Calls(), "a", "b")
    await bench.run(workflow)
    before = bench.row()

    class Restore:
        async def check(self, run_id: str, frame_no: int, attempt: tuple[str, int, int] | None = None, /) -> None:
            pass

        async def __call__(self, run_id: str, frame_no: int, attempt: tuple[str, int, int] | None = None, /) -> int:
            raise raised

    with pytest.raises(expected):
        await back(bench, 1, restore=Restore())

    assert bench.row() == before
    assert [r.result for r in bench.store.read(lambda c: audit.rows(c, "r"))] == ["failed"]
    await back(bench, 1)


async def test_a_rewind_that_was_cut_off_is_closed_at_the_next_start(bench: Bench) -> None:
    workflow = chain(Calls(), "a", "b")
    await bench.run(workflow)
    now = bench.clock.now_ms()
    bench.store.write(lambda c: travel.hold(c, "r", "dead", now, 60_000))
    bench.store.write(lambda c: audit.begin(c, "r", 3, 1, "ann", now))

    assert await recover_interrupted(control_of(bench)) == []  # it may still be at work
    bench.clock.advance(60_001)
    assert await recover_interrupted(control_of(bench)) == ["r"]

    assert [r.result for r in bench.store.read(lambda c: audit.rows(c, "r"))] == ["partial"]
    assert bench.types()[-1] == "TimeTravelInterrupted"
    assert await recover_interrupted(control_of(bench)) == []
