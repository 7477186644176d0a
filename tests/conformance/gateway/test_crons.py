"""Schedules through the gateway: declared at register, made and changed by calls, fired once whoever looks after them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest
from tests.conformance.gateway.flows import workflows
from tests.conformance.gateway.support import House, Json, Socket, eventually, house_of

from smithers.errors import InvalidInput
from smithers.gateway.gateway import Gateway
from smithers.testing.clock import VirtualClock

MINUTE = 60_000


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def timed(tmp_path: Path, clock: VirtualClock) -> Iterator[House]:
    with house_of(tmp_path, clock=clock) as found:
        yield found


def pass_(house: House, clock: VirtualClock, ms: int) -> None:
    """Let time pass, once the schedules are being waited for."""
    eventually(lambda: clock.next_due, "somebody waits for the time")
    house.do(lambda: clock.advance(ms))


def only(rows: list[Json]) -> Json:
    (row,) = rows
    return row


def test_a_schedule_given_at_register_is_stored_and_fires(tmp_path: Path, clock: VirtualClock) -> None:
    register = {"one": {"workflow": workflows(tmp_path / "gateway.db")["one"], "schedule": "* * * * *"}}
    with house_of(tmp_path, register=register, clock=clock) as house, house.socket() as socket:
        row = only(house.ok("cronList"))
        assert (row["cronId"], row["workflowPath"], row["enabled"]) == ("gateway:one", "gateway:one", True)
        assert row["nextRunAtMs"] == clock.now_ms() + MINUTE
        pass_(house, clock, MINUTE)
        told = socket.event("cron.triggered")
        assert (told["cronId"], told["workflow"]) == ("gateway:one", "one")
        house.until(told["runId"], "finished")
        run = house.ok("getRun", runId=told["runId"])
        assert '"triggeredBy":"cron:gateway"' in run["configJson"].replace(" ", "")
        after = eventually(lambda: r if (r := only(house.ok("cronList")))["lastRunAtMs"] else None, "the run is noted")
        assert after["nextRunAtMs"] == row["nextRunAtMs"] + MINUTE
        assert after["createdAtMs"] == row["createdAtMs"]


def test_a_schedule_given_while_it_listens_is_stored_too(timed: House, clock: VirtualClock, tmp_path: Path) -> None:
    late = workflows(tmp_path / "gateway.db")["one"]
    timed.do(lambda: timed.gateway.register("late", late, schedule="*/2 * * * *"))
    row = eventually(lambda: next(iter(timed.ok("cronList", filter={"workflow": "late"})), None), "the schedule")
    assert row["nextRunAtMs"] == clock.now_ms() + 2 * MINUTE


@pytest.mark.parametrize("pattern", ["", "* * * *", "* * * * * * *", "61 * * * *", "a b c d e", "@daily", "0 0 31 2 x"])
def test_a_pattern_that_is_none_is_refused_wherever_it_is_given(timed: House, tmp_path: Path, pattern: str) -> None:
    with pytest.raises(InvalidInput):
        Gateway().register("one", workflows(tmp_path / "x.db")["one"], schedule=pattern)
    before = timed.stored()
    answer = timed.call("cronCreate", {"workflow": "one", "pattern": pattern})
    assert (answer.status, answer.code in ("INVALID_INPUT", "INVALID_REQUEST")) == (400, True)
    assert timed.changes_since(before) == {}


def test_a_schedule_is_made_changed_and_deleted(timed: House, clock: VirtualClock) -> None:
    made = timed.ok("cronCreate", workflow="one", pattern="*/5 * * * *", cronId="mine")
    assert made["nextRunAtMs"] == clock.now_ms() + 5 * MINUTE
    assert made["lastRunAtMs"] is None
    changed = timed.ok("cronCreate", workflow="gated", pattern="*/10 * * * *", cronId="mine", enabled=False)
    assert (changed["workflow"], changed["pattern"], changed["enabled"]) == ("gated", "*/10 * * * *", False)
    assert only(timed.ok("cronList"))["cronId"] == "mine"
    assert timed.ok("cronDelete", cronId="mine") == {"cronId": "mine", "removed": True}
    assert timed.ok("cronList") == []
    assert timed.call("cronDelete", {"cronId": "mine"}).code == "NOT_FOUND"
    assert timed.call("cronRun", {"cronId": "mine"}).code == "NOT_FOUND"


def test_a_disabled_or_deleted_schedule_does_not_fire(timed: House, clock: VirtualClock) -> None:
    timed.ok("cronCreate", workflow="one", pattern="* * * * *", cronId="off", enabled=False)
    timed.ok("cronCreate", workflow="one", pattern="* * * * *", cronId="gone")
    timed.ok("cronDelete", cronId="gone")
    timed.ok("cronCreate", workflow="gated", pattern="* * * * *", cronId="on")
    with timed.socket() as socket:
        pass_(timed, clock, MINUTE)
        assert socket.event("cron.triggered")["cronId"] == "on"
        assert [run["workflowKey"] for run in timed.ok("listRuns")] == ["gated"]


def test_a_schedule_can_be_run_now(timed: House, clock: VirtualClock) -> None:
    timed.ok("cronCreate", workflow="gated", pattern="0 0 1 1 *", cronId="c")
    with timed.socket() as socket:
        started = timed.ok("cronRun", cronId="c", input={"x": 1})
        assert started == {"runId": started["runId"], "workflow": "gated", "system": False}
        timed.until(started["runId"], "waiting-approval")
        assert only(timed.ok("cronList"))["lastRunAtMs"] == clock.now_ms()
        by_name = timed.ok("cronRun", workflow="one")
        timed.until(by_name["runId"], "finished")
        assert socket.call("health").status == 200
        assert "cron.triggered" not in {frame["event"] for frame in socket.events}  # nothing was scheduled
    assert timed.call("cronRun", {}).code == "INVALID_REQUEST"
    assert timed.call("cronRun", {"workflow": "strict"}).code == "INVALID_INPUT"


def test_a_schedule_that_cannot_start_says_so_and_tries_again(timed: House, clock: VirtualClock) -> None:
    timed.ok("cronCreate", workflow="strict", pattern="0 * * * *", cronId="c")
    pass_(timed, clock, 60 * MINUTE)
    row = eventually(lambda: r if (r := only(timed.ok("cronList")))["errorJson"] else None, "the error is noted")
    assert "input" in row["errorJson"]
    assert row["nextRunAtMs"] == clock.now_ms() + MINUTE
    assert timed.ok("listRuns") == []


def listed(house: House, count: int) -> list[Json] | None:
    runs: list[Json] = house.ok("listRuns")
    return runs if len(runs) == count else None


def last_run(house: House) -> int | None:
    found: int | None = only(house.ok("cronList"))["lastRunAtMs"]
    return found


def triggered(sockets: list[Socket], count: int) -> list[str] | None:
    """The runs that were told, once they are so many: a run may be seen before it is told."""
    for socket in sockets:
        assert socket.call("health").status == 200
    frames = [frame for socket in sockets for frame in socket.events]
    told = [str(frame["payload"]["runId"]) for frame in frames if frame["event"] == "cron.triggered"]
    return told if len(told) >= count else None


def test_two_gateways_on_one_database_fire_once_and_tell_once(tmp_path: Path) -> None:
    clocks = [VirtualClock(), VirtualClock()]
    with ExitStack() as stack:
        houses = [stack.enter_context(house_of(tmp_path, clock=clock)) for clock in clocks]
        sockets = [stack.enter_context(house.socket()) for house in houses]
        houses[0].ok("cronCreate", workflow="one", pattern="* * * * *", cronId="c")
        for minute in range(1, 4):
            for house, clock in zip(houses, clocks, strict=True):
                pass_(house, clock, MINUTE)
            for run in eventually(partial(listed, houses[0], minute), f"{minute} runs"):
                houses[0].until(run["runId"], "finished")
        for house, socket in zip(houses, sockets, strict=True):
            eventually(partial(last_run, house), "the run is noted")
            assert socket.call("health").status == 200
        told = eventually(partial(triggered, sockets, 3), "three are told")
        assert sorted(told) == sorted(run["runId"] for run in houses[0].ok("listRuns"))
        assert len(told) == 3
