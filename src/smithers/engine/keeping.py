"""Keeping: what an engine does for all of its runs alike. Leases, wake-ups, what it reads of stored runs, and its own life.

How a run is launched, resumed and driven on is in `engine`.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from pydantic_core import from_json, to_json

from smithers.components.workflow import SmithersWorkflow
from smithers.engine import leases
from smithers.engine.clock import Clock, SharedClock, SystemClock
from smithers.engine.hub import Hub
from smithers.engine.mounting import restore_mounted
from smithers.engine.recovery import Carried, is_in_loop, restore
from smithers.engine.result import RunResult
from smithers.engine.room import AgentRoom
from smithers.engine.state import RunState
from smithers.errors import (
    AutoResumeGaveUp,
    InputMismatch,
    LeaseLost,
    RunNotResumable,
    SmithersError,
    StorageError,
    error_object,
)
from smithers.events import event
from smithers.records import dataclass
from smithers.settings import Settings
from smithers.store.columns import TableDef, table_def
from smithers.store.interface import RunRow, StatusChange, Step
from smithers.store.sql import moments, reads, wakeups

if TYPE_CHECKING:
    from smithers.engine.driver import Driver
    from smithers.store.sql.store import SqlStore

log = logging.getLogger(__name__)
CLOCK_EVERY_S = 5.0
"""How often a shared clock is looked at."""


@dataclass(slots=True)
class RunHandle:
    """A run that this engine drives. `result` is how it ends or parks; for a continued run, how its last successor does."""

    run_id: str
    result: asyncio.Future[RunResult]


@lru_cache(maxsize=256)
def path_of(text: str) -> Path:
    """A path object; making one takes as long as a step's smaller parts, and runs name the same few."""
    return Path(text)


class Keeper:
    """Keeps the runs that are driven in the running event loop. `Engine` is one, and says what it is made with."""

    def __init__(self, store: SqlStore, settings: Settings | None = None, clock: Clock | None = None) -> None:
        self.store = store
        self.settings = settings or Settings.from_environment()
        self.clock: Clock = clock or SystemClock()
        self._shared: SharedClock | None = None
        if isinstance(self.clock, SystemClock) and store.dialect == "postgres":
            self.clock = self._shared = SharedClock()
        self._clock_due = 0.0
        self.loop = asyncio.get_running_loop()
        self.owner = leases.new_owner_id()
        self.hub = Hub()
        self.threads = ThreadPoolExecutor(self.settings.sync_threads, thread_name_prefix="smithers-task")
        self.drivers: dict[str, Driver] = {}
        self._handles: dict[str, RunHandle] = {}
        """The handle of each driven run; a continued run's successors share its own."""
        self._claim_locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self.newest: dict[str, SmithersWorkflow] = {}
        """The code of runs that was loaded anew while they went on; goes before what a caller brings."""
        self.agents = AgentRoom(self.settings.agents)
        self._cared_for: set[str] = set()
        self._tasks: set[asyncio.Task[object]] = set()
        self._hosting: set[asyncio.Task[object]] = set()
        """Those of them that drive runs."""
        self._is_closing = False
        self._forsaken: set[str] = set()
        """Runs that may be marked as ours although nobody drives them."""
        self._heartbeat: asyncio.Task[None] | None = None
        self._unwatch: Callable[[], None] | None = None
        self._wakeup_cursor = 0
        self.on_wakeup: Callable[[str], None] | None = None
        """Told of wake-ups of runs that this engine does not drive; a host resumes them."""
        self.on_room: Callable[[], None] | None = None
        """Told whenever a run is driven no more; a host may start another."""

    async def start(self) -> None:
        """Begin to keep leases and to listen for what others write; launching and resuming do it by themselves."""
        if self._heartbeat is None:
            self._heartbeat = self.loop.create_task(self._beat())
            await self._set_clock()
            self._wakeup_cursor = await self.store.aread(wakeups.cursor_now)
            self._unwatch = self.store.watch(self._heard)

    # ── stored runs ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def _prepare(self, workflow: SmithersWorkflow) -> list[TableDef]:
        tables = self.tables(workflow)
        await self.store.ensure_tables(tables)
        if self._heartbeat is None:
            await self.start()
        return tables

    def tables(self, workflow: SmithersWorkflow) -> list[TableDef]:
        """The tables of a workflow's outputs."""
        found: list[TableDef] | None = workflow.__dict__.get("_tables")
        if found is None:
            found = [table_def(key, output.model) for key, output in workflow.outputs.items()]
            workflow.__dict__["_tables"] = found
        return found

    async def run_row(self, run_id: str) -> RunRow:
        """The stored row of a run. Raises `RunNotFound`."""
        return await self.store.aread(lambda c: reads.run(c, run_id))

    async def next_run_id(self, run_id: str) -> str:
        """The run that goes on for a continued one."""
        found = await self.store.aread(lambda c: reads.successor(c, run_id))
        if found is None:
            raise RunNotResumable(f"run {run_id!r} was continued, but it is not recorded as what", {"runId": run_id})
        return found

    async def _carried(self, state: RunState, tables: list[TableDef]) -> Carried | None:
        source = state.config.get("carriedFrom")
        if state.frame_no or not isinstance(source, str):
            return None
        names = state.config.get("carried")
        wanted = [t for t in tables if isinstance(names, list) and t.key in names]
        loaded = await self.store.load(source, wanted)
        written = {node.output_table for node in loaded.nodes if node.output_seq is not None}
        if is_in_loop(state) and written - {table.name for table in wanted}:
            before = restore(loaded, state.workflow, wanted, self.owner, 0)
            mounted = await restore_mounted(self.store, before, loaded, wanted)
            wanted += [table for table in mounted if table.key not in state.workflow.outputs]
            loaded = await self.store.load(source, wanted)
        return Carried(loaded, wanted)

    async def _key_of(self, run_id: str) -> str | None:
        return await self.store.aread(lambda c: reads.idempotency_key(c, run_id))

    async def _require_input(self, run_id: str, input_json: str) -> None:
        stored, _ = await self.store.aread(lambda c: reads.spec(c, run_id))
        if from_json(stored) != from_json(input_json):
            raise InputMismatch(
                f"the idempotency key was used for run {run_id!r} with another input", {"runId": run_id}
            )

    async def _can_go_on(self, row: RunRow, due: int | None) -> bool:
        now = self.clock.now_ms()
        if row.status == "running":
            return leases.may_take_over(row, now, self.settings.lease_ms)
        inbox = await self.store.inbox(row.run_id, -1)
        return inbox.last_wakeup > row.seen_wakeup or (due is not None and due <= now)

    async def _give_up(self, run: RunRow, epoch: int) -> None:
        error = AutoResumeGaveUp(
            f"run {run.run_id!r} was taken over {run.claim_count} times without getting any further",
            {"runId": run.run_id},
        )
        found = error_object(error)
        step = Step(run.run_id, self.owner, epoch, run.frame_no + 1, self.clock.now_ms())
        step.events = [event("RunFailed", error=found), event("RunStatusChanged", None, None, status="failed")]
        step.status = StatusChange("failed", True, to_json(found).decode())
        await self.store.commit(step)
        self.hub.touch(run.run_id)
        raise error

    async def has_history(self, workflow: str, node_id: str, count: int) -> bool:
        """Whether the newest `count` manual decisions on a node of a workflow were all approvals."""
        rows = await self.store.aread(lambda c: reads.approval_history(c, workflow, node_id, count))
        return len(rows) >= count and all(row.status == "approved" for row in rows)

    # ── wake-ups ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _heard(self) -> None:
        """Somebody has committed, perhaps we ourselves; called in the watcher's thread, up to 150 times a second."""
        try:
            found = self.store.read(lambda c: wakeups.read_on(c, self._wakeup_cursor))
            self._wakeup_cursor = found.cursor
            if found.run_ids or self.hub.has_subscribers:
                self.loop.call_soon_threadsafe(self._wake, found.run_ids)
        except SmithersError as error:
            log.warning("cannot read wake-ups", extra={"code": error.error_code})
        except RuntimeError:  # the loop is closed: nobody is left to be woken
            log.debug("commit heard after the loop was closed")

    def _wake(self, run_ids: list[str]) -> None:
        for run_id in run_ids:
            self._woken(run_id)
        self.hub.wake_all()

    def _woken(self, run_id: str) -> None:
        driver = self.drivers.get(run_id)
        if driver is not None:
            driver.look()
            return
        if self.on_wakeup is not None:
            self.on_wakeup(run_id)

    # ── life ───────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(self.settings.heartbeat_ms / 1000)
            before, forsaken = dict(self.drivers), set(self._forsaken)
            try:
                await self._set_clock()
                if not before and not forsaken:
                    continue
                alive = await self.store.heartbeat(self.owner, self.clock.now_ms())
                await self._let_go(alive, before, forsaken)
            except SmithersError as error:
                log.warning("heartbeat failed", extra={"code": error.error_code})
                continue
            except Exception:  # a bug of ours; without heartbeats others would take all runs over
                log.exception("heartbeat failed")
                continue
            for run_id, driver in before.items():
                if (
                    run_id not in alive
                    and driver.is_admitted
                    and self.drivers.get(run_id) is driver
                    and not driver.is_ending
                ):
                    driver.lose()

    async def _set_clock(self) -> None:
        if self._shared is not None and self.loop.time() >= self._clock_due:
            self._shared.set(await self.store.aread(moments.server_time))
            self._clock_due = self.loop.time() + CLOCK_EVERY_S

    async def _let_go(self, alive: set[str], before: Mapping[str, Driver], forsaken: set[str]) -> None:
        """Give up runs that are marked as ours but that nobody drives any more, because the database was away.

        Args:
            forsaken: those that seemed to be so before it was asked.
        """
        self._forsaken -= {run_id for run_id in forsaken if run_id not in self._claim_locks}
        for run_id in alive - before.keys():
            if run_id in self.drivers or run_id in self._claim_locks:
                continue
            self._forsaken.add(run_id)  # until it is released
            if run_id in forsaken:
                await self.store.release(run_id, self.owner)
                self._forsaken.discard(run_id)

    @asynccontextmanager
    async def _claiming(self, run_id: str) -> AsyncGenerator[None]:
        """Held while a run is being taken over here. If the database fails meanwhile, the run may be ours already."""
        async with self._claim_lock(run_id):
            try:
                yield
            except StorageError:
                self._forsaken.add(run_id)
                raise

    def _claim_lock(self, run_id: str) -> asyncio.Lock:
        """Held while a run is being taken over here: two at once would take it from each other."""
        lock = self._claim_locks.get(run_id)
        if lock is None:
            lock = self._claim_locks[run_id] = asyncio.Lock()
        return lock

    def root_dir(self, given: str | None) -> Path:
        """The folder that a run's tasks work in."""
        return path_of(given) if given else (self.settings.root_dir or path_of(os.getcwd()))  # noqa: PTH109 - see path_of

    def forget(self, driver: Driver) -> None:
        """A driver has ended."""
        run_id = driver.state.run_id
        if self.drivers.get(run_id) is driver:
            del self.drivers[run_id]
            del self._handles[run_id]
        self.agents.forget(driver)
        if _has_broken_off(driver):
            self._forsaken.add(run_id)
        if driver.has_news and self.on_wakeup is not None:  # it came while the driver was writing its end
            self.on_wakeup(run_id)
        if self.on_room is not None:
            self.on_room()

    async def drop(self, run_id: str) -> None:
        """Let go of a run whose history is about to be changed, if it is driven here: its work is stopped, nothing more is
        written. Returns once that is so."""
        driver = self.drivers.get(run_id)
        if driver is not None:
            ended = self._handles[run_id].result
            driver.lose()
            await asyncio.wait([ended])

    def background(self, work: Coroutine[object, object, object]) -> None:
        """Run something that nobody waits for."""
        self._spawn(work)

    def _spawn(self, work: Coroutine[object, object, object], *, is_hosting: bool = False) -> None:
        task = self.loop.create_task(work)
        for tasks in (self._tasks, self._hosting) if is_hosting else (self._tasks,):
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    async def close(self) -> None:
        """Give all runs up cleanly (their work is stopped, any process may go on with them) and stop."""
        self._is_closing = True
        for driver in list(self.drivers.values()):
            driver.release()
        if self._hosting:
            await asyncio.wait(list(self._hosting), timeout=10)
        if self._unwatch is not None:
            self._unwatch()
        if self._heartbeat is not None:
            self._heartbeat.cancel()
        while self._tasks:
            for task in list(self._tasks):
                task.cancel()
            await asyncio.wait(list(self._tasks), timeout=1)
        self.leave()

    def leave(self) -> None:
        """What of `close` needs no event loop, for when that is closed: hear of nothing any more, and let the threads go."""
        if self._unwatch is not None:
            self._unwatch()
        self.threads.shutdown(wait=False, cancel_futures=True)


def _has_broken_off(driver: Driver) -> bool:
    """Whether a driver has ended so that its run may still be marked as ours."""
    result = driver.result
    return (
        result.done()
        and not result.cancelled()
        and result.exception() is not None
        and not isinstance(result.exception(), LeaseLost)
    )
