"""Schedules as gateways keep them: fired once, whoever looks after the database; on time, and no more often than needed."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import apsw
import pytest

from smithers.control.control import Control
from smithers.control.crons import (
    HISTORY,
    RETRY_MS,
    STALE_MS,
    CronFire,
    claim_due,
    cron_history,
    declare_cron,
    delete_cron,
    get_cron,
    list_crons,
    next_due,
    put_cron,
    record_run,
    settle_failed,
    settle_started,
)
from smithers.errors import CronNotFound, InvalidInput, WorkflowLoadFailed
from smithers.gateway.cron import CronPlace, CronScheduler
from smithers.store import open_store
from smithers.store.sql import crons
from smithers.store.sql.session import Session
from smithers.testing import VirtualClock

MINUTE = 60_000


class HeardClock(VirtualClock):
    """A clock that tells when somebody begins to wait for a moment."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = asyncio.Event()

    def call_at(self, moment_ms: int, callback: Callable[[], None]) -> Callable[[], None]:
        self.asked.set()
        return super().call_at(moment_ms, callback)

    async def until_due_at(self, moment_ms: int) -> None:
        """Until the next moment that is waited for is this one."""
        async with asyncio.timeout(60):
            while self.next_due != moment_ms:
                self.asked.clear()
                await self.asked.wait()


@pytest.fixture
def clock() -> HeardClock:
    return HeardClock()


@pytest.fixture
def control(tmp_path: Path, clock: VirtualClock) -> Iterator[Control]:
    store = open_store(tmp_path / "t.db", durability="normal")
    yield Control(store, clock=clock)
    store.close()


async def minutely(control: Control, cron_id: str = "c", missed: str = "skip", **given: object) -> None:
    await put_cron(control, workflow="w", pattern="* * * * *", cron_id=cron_id, time_zone="UTC", missed=missed, **given)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def at(moment: int) -> str:
    return datetime.fromtimestamp(moment / 1000, UTC).strftime("%H:%M:%S")


# ── keeping ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_schedule_is_listed_with_its_next_moment(control: Control, clock: VirtualClock) -> None:
    async def run() -> None:
        cron = await put_cron(control, workflow="w", pattern=" 0  8 * * 1-5", time_zone="Europe/Berlin")
        assert cron == {
            "cronId": cron["cronId"],
            "pattern": "0 8 * * 1-5",
            "workflowPath": "gateway:w",
            "workflow": "w",
            "enabled": True,
            "createdAtMs": clock.now_ms(),
            "lastRunAtMs": None,
            "nextRunAtMs": clock.now_ms() + 7 * 60 * MINUTE,
            "errorJson": None,
        }
        clock.advance(1)
        other = await put_cron(control, workflow="v", pattern="0 8 * * *", enabled=False)
        assert await list_crons(control) == [cron, other]
        assert await list_crons(control, workflow="v") == [other]

    asyncio.run(run())


def test_replacing_a_schedule_keeps_its_creation_time_last_run_and_owner(control: Control, clock: VirtualClock) -> None:
    async def run() -> None:
        await minutely(control, owner_key="anna")
        created = clock.now_ms()
        clock.advance(MINUTE)
        await record_run(control, "c")
        cron = await put_cron(control, workflow="v", pattern="0 0 1 1 *", cron_id="c", time_zone="UTC", owner_key="bob")
        assert (cron["createdAtMs"], cron["lastRunAtMs"], cron["workflow"]) == (created, created + MINUTE, "v")
        assert cron["nextRunAtMs"] == int(datetime(2027, 1, 1, tzinfo=UTC).timestamp() * 1000)
        assert (await get_cron(control, "c")).owner_key == "anna"

    asyncio.run(run())


@pytest.mark.parametrize(
    "given",
    [
        {"pattern": "never"},
        {"pattern": "0 0 31 2 *"},
        {"pattern": "60 * * * *"},
        {"time_zone": "Mars/Olympus"},
        {"missed": "all"},
        {"cron_id": ""},
        {"workflow": ""},
    ],
)
def test_what_no_schedule_can_be_is_refused(control: Control, given: dict[str, str]) -> None:
    with pytest.raises(InvalidInput):
        asyncio.run(put_cron(control, **{"workflow": "w", "pattern": "* * * * *", **given}))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    assert asyncio.run(list_crons(control)) == []


def test_a_deleted_schedule_is_gone_with_its_history(control: Control) -> None:
    async def run() -> None:
        await minutely(control)
        await record_run(control, "c", "run-1")
        assert await delete_cron(control, "c") == {"cronId": "c", "removed": True}
        assert await cron_history(control, "c") == []
        for refused in (delete_cron(control, "c"), record_run(control, "c"), get_cron(control, "c")):
            with pytest.raises(CronNotFound):
                await refused

    asyncio.run(run())


def test_a_run_by_hand_is_the_last_run_and_clears_the_error(control: Control, clock: VirtualClock) -> None:
    async def run() -> None:
        await minutely(control)
        clock.advance(MINUTE)
        (fire,) = await claim_due(control, ["w"])
        await settle_failed(control, fire, WorkflowLoadFailed("broken"))
        clock.advance(1)
        cron = await record_run(control, "c", "run-1")
        assert (cron["lastRunAtMs"], cron["errorJson"]) == (clock.now_ms(), None)
        assert cron["nextRunAtMs"] == clock.now_ms() - 1 + MINUTE
        newest, _ = await cron_history(control, "c")
        assert (newest["outcome"], newest["runId"]) == ("started", "run-1")

    asyncio.run(run())


def test_declaring_a_schedule_again_neither_loses_nor_moves_a_moment(control: Control, clock: VirtualClock) -> None:
    async def run() -> None:
        first = await declare_cron(control, workflow="w", pattern="* * * * *")
        assert first["cronId"] == "gateway:w"
        clock.advance(MINUTE + 1)
        assert await declare_cron(control, workflow="w", pattern="* * * * *") == first
        assert len(await claim_due(control, ["w"])) == 1
        changed = await declare_cron(control, workflow="w", pattern="*/5 * * * *")
        assert changed["pattern"] == "*/5 * * * *"

    asyncio.run(run())


# ── claiming ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_moment_is_claimed_once_and_the_next_one_is_set(control: Control, clock: VirtualClock) -> None:
    async def run() -> None:
        await minutely(control)
        assert await claim_due(control, ["w"]) == []
        clock.advance(MINUTE)
        (fire,) = await claim_due(control, ["w"])
        assert (fire.fire_at_ms, fire.cron.next_run_at_ms) == (clock.now_ms(), clock.now_ms() + MINUTE)
        assert await claim_due(control, ["w"]) == []
        await settle_started(control, fire, "run-1")
        (noted,) = await cron_history(control, "c")
        assert (noted["fireAtMs"], noted["outcome"], noted["runId"]) == (fire.fire_at_ms, "started", "run-1")

    asyncio.run(run())


def test_schedules_of_other_workflows_and_disabled_ones_are_left_alone(control: Control, clock: VirtualClock) -> None:
    async def run() -> None:
        await minutely(control)
        await minutely(control, "off", enabled=False)
        clock.advance(MINUTE)
        assert await claim_due(control, ["v"]) == []
        assert await next_due(control, ["v"]) is None
        assert [fire.cron.cron_id for fire in await claim_due(control, ["v", "w"])] == ["c"]

    asyncio.run(run())


def test_missed_moments_are_skipped_or_fired_once(control: Control, clock: VirtualClock) -> None:
    async def run() -> None:
        await minutely(control, "skip", "skip")
        await minutely(control, "once", "once")
        first = clock.now_ms() + MINUTE
        clock.advance(60 * MINUTE + 30_000)
        (fire,) = await claim_due(control, ["w"])
        assert (fire.cron.cron_id, fire.fire_at_ms) == ("once", first)
        assert fire.cron.next_run_at_ms == first + 60 * MINUTE
        (missed,) = await cron_history(control, "skip")
        assert (missed["outcome"], (await get_cron(control, "skip")).last_run_at_ms) == ("missed", None)
        clock.advance(30_000)
        assert {fire.cron.cron_id for fire in await claim_due(control, ["w"])} == {"skip", "once"}

    asyncio.run(run())


def test_a_failure_is_shown_and_tried_again_a_minute_later(control: Control, clock: VirtualClock) -> None:
    async def run() -> None:
        await put_cron(control, workflow="w", pattern="0 * * * *", cron_id="c", time_zone="UTC")
        clock.advance(60 * MINUTE)
        (fire,) = await claim_due(control, ["w"])
        await settle_failed(control, fire, WorkflowLoadFailed("it is broken"))
        row = await get_cron(control, "c")
        assert row.next_run_at_ms == clock.now_ms() + RETRY_MS
        assert "it is broken" in str(row.error_json)
        clock.advance(RETRY_MS)
        (again,) = await claim_due(control, ["w"])
        assert (again.cron.error_json, (await get_cron(control, "c")).error_json) == (None, None)
        assert again.cron.next_run_at_ms == clock.now_ms() + 59 * MINUTE

    asyncio.run(run())


def test_a_schedule_that_was_changed_while_it_fired_keeps_the_change(control: Control, clock: VirtualClock) -> None:
    async def run() -> None:
        await minutely(control)
        clock.advance(MINUTE)
        (fire,) = await claim_due(control, ["w"])
        changed = await put_cron(control, workflow="w", pattern="0 0 * * *", cron_id="c", time_zone="UTC")
        await settle_failed(control, fire, WorkflowLoadFailed("broken"))
        assert (await get_cron(control, "c")).next_run_at_ms == changed["nextRunAtMs"]

    asyncio.run(run())


def test_what_a_dead_process_has_claimed_is_taken_up_with_the_same_key(control: Control, clock: VirtualClock) -> None:
    async def run() -> None:
        await minutely(control)
        clock.advance(MINUTE)
        (lost,) = await claim_due(control, ["w"])
        await put_cron(control, workflow="w", pattern="0 0 * * *", cron_id="c", time_zone="UTC")
        clock.advance(STALE_MS - 1)
        assert await claim_due(control, ["w"]) == []
        clock.advance(1)
        (found,) = await claim_due(control, ["w"])
        assert found.idempotency_key == lost.idempotency_key
        assert await claim_due(control, ["w"]) == []
        await settle_started(control, found, "run-1")
        clock.advance(STALE_MS)
        assert await claim_due(control, ["w"]) == []

    asyncio.run(run())


def test_a_row_that_nobody_could_have_stored_here_shows_its_error_and_fires_nothing(
    control: Control, clock: VirtualClock
) -> None:
    async def run() -> None:
        await minutely(control)
        await control.store.awrite(lambda c: _set_pattern(c, "x * * * *"))
        clock.advance(MINUTE)
        assert await claim_due(control, ["w"]) == []
        row = await get_cron(control, "c")
        assert row.next_run_at_ms == clock.now_ms() + RETRY_MS
        assert "INVALID_INPUT" in str(row.error_json)

    asyncio.run(run())


def _set_pattern(connection: Session, pattern: str) -> None:
    connection.execute("UPDATE _smithers_cron SET pattern = ?", (pattern,))


def test_history_is_bounded(control: Control, clock: VirtualClock) -> None:
    async def run() -> None:
        await minutely(control)
        for _ in range(HISTORY + 5):
            clock.advance(MINUTE)
            (fire,) = await claim_due(control, ["w"])
            await settle_started(control, fire, "run")
        assert len(await cron_history(control, "c")) == HISTORY
        count = await control.store.aread(lambda c: c.execute("SELECT count(*) FROM _smithers_cron_fires").fetchall())
        assert count == [(HISTORY,)]

    asyncio.run(run())


def test_looking_for_what_is_due_walks_indexes_only(control: Control) -> None:
    def query(c: Session) -> list[str]:
        statements = list[str]()
        assert isinstance(c, apsw.Connection)

        def traced(_cursor: object, text: str, _bindings: object) -> bool:
            statements.append(text)
            return True

        c.exec_trace = traced
        try:
            crons.due(c, "w", 1, 1)
            crons.next_due(c, ["w"])
            crons.stale(c, "w", 1)
        finally:
            c.exec_trace = None
        explained = [c.execute(f"EXPLAIN QUERY PLAN {text}", (1,) * text.count("?")) for text in statements]
        return [str(row[3]) for rows in explained for row in rows]

    plans = control.store.read(query)

    assert [plan for plan in plans if plan.startswith("SCAN") and "INDEX" not in plan] == []
    assert [plan for plan in plans if "TEMP B-TREE" in plan] == []


# ── the scheduler ──────────────────────────────────────────────────────────────────────────────────────────────────


class Gatewaylike:
    """A scheduler with what it did."""

    def __init__(
        self, controls: list[Control], clock: VirtualClock, launch: Callable[[CronFire], Awaitable[str]] | None = None
    ) -> None:
        self.clock = clock
        self.fired: list[str] = []
        self.triggered: list[tuple[str, str, str]] = []
        self.more = asyncio.Event()
        self._launch = launch
        places = [CronPlace(control, ["w"]) for control in controls]
        self.looks = 0

        def looked() -> list[CronPlace]:
            self.looks += 1
            self.more.set()
            return places

        self.scheduler = CronScheduler(clock, looked, self._fire, self._told, period_s=15)

    async def _fire(self, fire: CronFire) -> str:
        self.fired.append(at(fire.fire_at_ms))
        return f"run-{len(self.fired)}" if self._launch is None else await self._launch(fire)

    def _told(self, cron_id: str, workflow: str, run_id: str) -> None:
        self.triggered.append((cron_id, workflow, run_id))
        self.more.set()

    async def until(self, is_there: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not is_there():
                self.more.clear()
                await self.more.wait()


def test_a_scheduler_sleeps_until_the_moment_and_fires_then(control: Control, clock: HeardClock) -> None:
    async def run() -> None:
        await minutely(control)
        gateway = Gatewaylike([control], clock)
        gateway.scheduler.start()
        for _ in range(4):
            await clock.until_due_at(clock.now_ms() + 15_000)
            assert gateway.fired == []
            clock.advance(15_000)
        await gateway.until(lambda: bool(gateway.triggered))
        assert (gateway.fired, gateway.triggered) == (["00:01:00"], [("c", "w", "run-1")])
        await gateway.scheduler.close()
        assert gateway.looks == 5
        assert clock.next_due is None

    asyncio.run(run())


def test_a_scheduler_that_is_told_of_a_change_looks_again_at_once(control: Control, clock: HeardClock) -> None:
    async def run() -> None:
        gateway = Gatewaylike([control], clock)
        gateway.scheduler.start()
        await clock.until_due_at(clock.now_ms() + 15_000)
        await put_cron(control, workflow="w", pattern="*/5 * * * * *", cron_id="c", time_zone="UTC")
        gateway.scheduler.changed()
        await clock.until_due_at(clock.now_ms() + 5_000)
        assert gateway.looks == 2
        await gateway.scheduler.close()

    asyncio.run(run())


def test_closing_waits_for_what_was_claimed(control: Control, clock: VirtualClock) -> None:
    async def run() -> None:
        begun, go_on = asyncio.Event(), asyncio.Event()

        async def launch(fire: CronFire) -> str:
            begun.set()
            await go_on.wait()
            return fire.idempotency_key

        await minutely(control)
        clock.advance(MINUTE)
        gateway = Gatewaylike([control], clock, launch)
        gateway.scheduler.start()
        await begun.wait()
        closing = asyncio.create_task(gateway.scheduler.close())
        await asyncio.sleep(0)
        assert not closing.done()
        go_on.set()
        await closing
        (noted,) = await cron_history(control, "c")
        assert (noted["outcome"], noted["runId"]) == ("started", f"cron:c:{clock.now_ms()}")

    asyncio.run(run())


def test_one_that_cannot_be_started_stops_no_other(control: Control, clock: VirtualClock) -> None:
    async def run() -> None:
        async def launch(fire: CronFire) -> str:
            if fire.cron.cron_id == "bad":
                raise RuntimeError("no such workflow")
            return "run"

        await minutely(control, "bad")
        await minutely(control, "good")
        clock.advance(MINUTE)
        gateway = Gatewaylike([control], clock, launch)
        gateway.scheduler.start()
        await gateway.until(lambda: bool(gateway.triggered))
        await gateway.scheduler.close()
        assert [cron_id for cron_id, _, _ in gateway.triggered] == ["good"]
        bad = await get_cron(control, "bad")
        assert (bad.next_run_at_ms, "no such workflow" in str(bad.error_json)) == (clock.now_ms() + RETRY_MS, True)

    asyncio.run(run())


def test_a_database_that_cannot_be_read_does_not_stop_the_others(
    control: Control, clock: VirtualClock, tmp_path: Path
) -> None:
    async def run() -> None:
        broken = Control(open_store(tmp_path / "broken.db", durability="normal"), clock=clock)
        broken.store.close()
        await minutely(control)
        clock.advance(MINUTE)
        gateway = Gatewaylike([broken, control], clock)
        gateway.scheduler.start()
        await gateway.until(lambda: bool(gateway.triggered))
        await gateway.scheduler.close()

    asyncio.run(run())


# ── several on one database ────────────────────────────────────────────────────────────────────────────────────────


def test_several_schedulers_of_a_process_fire_each_moment_once(control: Control, clock: VirtualClock) -> None:
    async def run() -> None:
        for number in range(5):
            await minutely(control, f"c{number}")
        gateways = [Gatewaylike([control], clock) for _ in range(3)]
        more = asyncio.Event()
        for gateway in gateways:
            gateway.more = more
            gateway.scheduler.start()
        for minute in range(1, 4):
            clock.advance(MINUTE)
            for gateway in gateways:
                gateway.scheduler.changed()
            await gateways[0].until(lambda: sum(len(gateway.triggered) for gateway in gateways) >= 5 * minute)  # noqa: B023
        for gateway in gateways:
            await gateway.scheduler.close()
        assert sorted(moment for gateway in gateways for moment in gateway.fired) == sorted(
            ["00:01:00", "00:02:00", "00:03:00"] * 5
        )

    asyncio.run(run())


_CLAIMER = """
import asyncio, sys
from smithers.control import crons
from smithers.control.control import Control
from smithers.control.crons import claim_due, settle_started
from smithers.store import open_store
from smithers.testing import VirtualClock

crons.STALE_MS = 10**12  # these clocks are hours apart, so each would take the others for dead

async def main(path, start):
    store = open_store(path, durability="normal")
    clock = VirtualClock(start)
    control = Control(store, clock=clock)
    sys.stdin.readline()
    for _ in range(30):
        clock.advance(60_000)
        for fire in await claim_due(control, ["w"]):
            print(fire.fire_at_ms, flush=True)
            await settle_started(control, fire, "run")
    store.close()

asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""


def test_several_processes_fire_each_moment_once(control: Control, clock: VirtualClock, tmp_path: Path) -> None:
    asyncio.run(minutely(control))
    command = [sys.executable, "-c", _CLAIMER, str(tmp_path / "t.db"), str(clock.now_ms())]
    processes = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    moments = [int(line) for process in processes for line in process.communicate(timeout=120)[0].splitlines()]

    assert [process.returncode for process in processes] == [0, 0, 0]
    assert len(moments) == len(set(moments))
    assert min(moments) == clock.now_ms() + MINUTE
    assert max(moments) == clock.now_ms() + 30 * MINUTE
