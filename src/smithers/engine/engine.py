"""Engine: the host of this process's runs on one database. Launches, resumes, keeps leases, wakes what can go on.

One engine serves one event loop and one store. It owns no run logic: that is the driver's.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from pydantic_core import from_json, to_json

from smithers.ambient import SandboxMode
from smithers.components.rundata import RunData
from smithers.components.workflow import SmithersWorkflow
from smithers.engine import leases
from smithers.engine.admission import (
    LaunchStamp,
    check_claimable,
    check_unchanged,
    checked_run_id,
    run_config,
    workflow_hash,
)
from smithers.engine.clock import Clock, SystemClock
from smithers.engine.continuation import new_run_id
from smithers.engine.driver import Driver, DriverOptions
from smithers.engine.hub import Hub
from smithers.engine.recovery import restore
from smithers.engine.result import RunResult
from smithers.engine.room import AgentRoom
from smithers.engine.state import RunState
from smithers.engine.tooling import ToolOptions
from smithers.errors import (
    AutoResumeGaveUp,
    InputMismatch,
    LeaseLost,
    OwnershipError,
    RunAlreadyExists,
    RunNotResumable,
    SmithersError,
    error_object,
)
from smithers.events import event
from smithers.jsons import int_of, text_of
from smithers.records import dataclass
from smithers.scheduler.states import RunStatus
from smithers.settings import Settings
from smithers.store.columns import TableDef, table_def
from smithers.store.interface import LaunchedBefore, LoadedRun, NewRun, RunRow, StatusChange, Step
from smithers.store.sql import reads

if TYPE_CHECKING:
    from smithers.store.sql.store import SqlStore

log = logging.getLogger(__name__)
_STARTED = (event("RunStarted"), event("RunStatusChanged", None, None, status="running"))


@dataclass(slots=True)
class RunHandle:
    """A run that this engine drives. `result` is how it ends or parks; for a continued run, how its last successor does."""

    run_id: str
    result: asyncio.Future[RunResult]


@lru_cache(maxsize=256)
def _path(text: str) -> Path:
    """A path object; making one takes as long as a step's smaller parts, and runs name the same few."""
    return Path(text)


class Engine:
    """Drives runs of one store in the running event loop.

    Args:
        store: where the runs live; the caller closes it.
        settings: how to work; from the environment by default.
        clock: the time; the machine's by default.
    """

    def __init__(self, store: SqlStore, settings: Settings | None = None, clock: Clock | None = None) -> None:
        self.store = store
        self.settings = settings or Settings.from_environment()
        self.clock: Clock = clock or SystemClock()
        self.loop = asyncio.get_running_loop()
        self.owner = leases.new_owner_id()
        self.hub = Hub()
        self.threads = ThreadPoolExecutor(self.settings.sync_threads, thread_name_prefix="smithers-task")
        self.drivers: dict[str, Driver] = {}
        self._handles: dict[str, RunHandle] = {}
        self._claim_locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        """The handle of each driven run; a continued run's successors share its own."""
        self.agents = AgentRoom(self.settings.agents)
        self._cared_for: set[str] = set()
        self._tasks: set[asyncio.Task[object]] = set()
        self._forsaken: set[str] = set()
        """Runs that were marked as ours at the last heartbeat although nobody drives them."""
        self._heartbeat: asyncio.Task[None] | None = None
        self._unwatch: Callable[[], None] | None = None
        self._wakeup_cursor = 0
        self.on_wakeup: Callable[[str], None] | None = None
        """Told of wake-ups of runs that this engine does not drive; a host resumes them."""

    # ── launching ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def launch(
        self,
        workflow: SmithersWorkflow,
        input: object = None,
        *,
        run_id: str | None = None,
        parent_run_id: str | None = None,
        idempotency_key: str | None = None,
        annotations: Mapping[str, object] | None = None,
        auth: object = None,
        root_dir: str | None = None,
        max_concurrency: int | None = None,
        workflow_path: str | None = None,
        allow_network: bool = False,
        sandbox: SandboxMode = "required",
        max_output_bytes: int | None = None,
        tool_timeout_ms: int | None = None,
        stamp: LaunchStamp | None = None,
    ) -> RunHandle:
        """Start a run. Answers once the run and its first step are durable (or the run has failed for good).

        Args:
            allow_network: whether the commands of this run's tools may reach other machines; stored with the run.
            sandbox: `"off"` runs those commands without isolation; stored with the run.
            max_output_bytes: the most that a tool of this run reads, writes or returns; stored with the run.
            tool_timeout_ms: the longest that a command or search of these tools takes; stored with the run.
            stamp: what a host records with the run.

        Raises:
            InvalidInput: input, run id or options do not fit; names the field.
            RunAlreadyExists: the run id is taken.
        """
        run_id = checked_run_id(run_id) if run_id is not None else new_run_id()
        value, text = workflow.parse_input(input)
        tools = ToolOptions(
            allow_network=allow_network, sandbox=sandbox, max_output_bytes=max_output_bytes, timeout_ms=tool_timeout_ms
        )
        config = run_config(annotations, auth, root_dir, max_concurrency, tools)
        if stamp is not None:
            config |= {"gatewayWorkflowKey": stamp.workflow_key, "gatewaySystem": stamp.is_system, **stamp.config}
            tools = ToolOptions.of(config).check()
        await self._prepare(workflow)
        if run_id in self.drivers:
            if idempotency_key is None or await self._key_of(run_id) != idempotency_key:
                raise RunAlreadyExists(run_id)
            return await self._earlier(run_id, workflow, text)
        path = _path(workflow_path) if workflow_path else workflow.source_path
        now = self.clock.now_ms()
        state = RunState(run_id, workflow, RunData(run_id, input=value, auth=auth), self.owner, 1)
        state.input_json, state.config = text, config
        state.workflow_path, state.workflow_hash = None if path is None else str(path), workflow_hash(workflow, path)
        new = NewRun(
            run_id=run_id,
            workflow_name=workflow.__dict__.get("_named", workflow.function_name),  # until it is rendered
            workflow_path=state.workflow_path,
            workflow_hash=state.workflow_hash,
            input_json=text,
            config_json=to_json(config, fallback=str).decode() if config else "{}",
            owner=self.owner,
            now_ms=now,
            parent_run_id=parent_run_id,
            idempotency_key=idempotency_key,
            events=_STARTED,
            workflow_key=None if stamp is None else stamp.workflow_key,
            is_system=stamp is not None and stamp.is_system,
            started_by_json=None if stamp is None or not stamp.started_by else to_json(stamp.started_by).decode(),
        )
        return await self._start(state, DriverOptions(max_concurrency, root_dir, tools), new)

    async def _prepare(self, workflow: SmithersWorkflow) -> list[TableDef]:
        tables = self.tables(workflow)
        await self.store.ensure_tables(tables)
        if self._heartbeat is None:
            await self.start()
        return tables

    async def start(self) -> None:
        """Begin to keep leases and to listen for what others write; launching and resuming do it by themselves."""
        if self._heartbeat is None:
            self._heartbeat = self.loop.create_task(self._beat())
            self._wakeup_cursor = await self.store.aread(reads.last_wakeup)
            self._unwatch = self.store.watch(self._heard)

    def tables(self, workflow: SmithersWorkflow) -> list[TableDef]:
        """The tables of a workflow's outputs."""
        found: list[TableDef] | None = workflow.__dict__.get("_tables")
        if found is None:
            found = [table_def(key, output.model) for key, output in workflow.outputs.items()]
            workflow.__dict__["_tables"] = found
        return found

    async def _start(self, state: RunState, options: DriverOptions, launch: NewRun | None) -> RunHandle:
        driver = Driver(self, state, options, launch)
        self.drivers[state.run_id] = driver
        handle = self._handles[state.run_id] = RunHandle(state.run_id, self.loop.create_future())
        self._spawn(self._host(driver, handle))
        try:
            await driver.admitted
        except LaunchedBefore as earlier:
            handle.result.cancel()
            return await self._earlier(earlier.run_id, state.workflow, state.input_json)
        except BaseException:
            handle.result.cancel()
            raise
        return handle

    async def _key_of(self, run_id: str) -> str | None:
        return await self.store.aread(lambda c: reads.idempotency_key(c, run_id))

    async def _earlier(self, run_id: str, workflow: SmithersWorkflow, input_json: str) -> RunHandle:
        """The run that an idempotency key names; it must have been launched with the same input."""
        stored, _ = await self.store.aread(lambda c: reads.spec(c, run_id))
        if from_json(stored) != from_json(input_json):
            raise InputMismatch(
                f"the idempotency key was used for run {run_id!r} with another input", {"runId": run_id}
            )
        return await self.attach(run_id, workflow)

    async def _host(self, driver: Driver, handle: RunHandle) -> None:
        """Drive a run, and the runs that it is continued as."""
        try:
            while True:
                await driver.run()
                result = driver.result.result()
                if result.status is not RunStatus.CONTINUED or result.next_run_id is None:
                    break
                async with self._claim_lock(result.next_run_id):
                    other = self._handles.get(result.next_run_id)
                    if other is None:
                        driver = await self._successor(result.next_run_id, driver)
                        self._handles[result.next_run_id] = handle
                if other is not None:  # whoever followed this run has it already
                    result = await asyncio.shield(other.result)
                    break
            if not handle.result.done():
                handle.result.set_result(result)
        except asyncio.CancelledError:
            handle.result.cancel()
            raise
        except BaseException as error:
            if not handle.result.done():
                handle.result.set_exception(error)
                handle.result.exception()  # whoever waits gets it; nobody has to
            if not isinstance(error, Exception):
                raise

    async def _successor(self, run_id: str, before: Driver) -> Driver:
        workflow = before.state.workflow
        tables = self.tables(workflow)
        loaded = await self.store.load(run_id, tables)
        state = restore(loaded, workflow, tables, self.owner, 1)  # the epoch that it was launched with, not a later one
        driver = Driver(self, state, before.options, None)
        driver.carried = await self._carried(state, tables)
        self.drivers[run_id] = driver
        return driver

    async def _carried(self, state: RunState, tables: list[TableDef]) -> LoadedRun | None:
        source = state.config.get("carriedFrom")
        if state.frame_no or not isinstance(source, str):
            return None
        names = state.config.get("carried")
        wanted = [t for t in tables if isinstance(names, list) and t.key in names]
        return await self.store.load(source, wanted)

    # ── resuming ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def attach(self, run_id: str, workflow: SmithersWorkflow) -> RunHandle:
        """A handle of a run whatever it is doing: drives it here if it can go on and nobody else does."""
        if run_id in self.drivers:
            return self._handles[run_id]
        row = await self.store.aread(lambda c: reads.run(c, run_id))
        status = RunStatus(row.status)
        if status is RunStatus.CONTINUED:
            return await self.attach(await self._next_run_id(run_id), workflow)
        if status.is_terminal:
            return self._ended(run_id, await self._stored_result(row, workflow))
        return await self.resume(run_id, workflow)

    async def _next_run_id(self, run_id: str) -> str:
        """The run that goes on for a continued one."""
        found = await self.store.aread(lambda c: reads.successor(c, run_id))
        if found is None:
            raise RunNotResumable(f"run {run_id!r} was continued, but it is not recorded as what", {"runId": run_id})
        return found

    def _ended(self, run_id: str, result: RunResult) -> RunHandle:
        handle = RunHandle(run_id, self.loop.create_future())
        handle.result.set_result(result)
        return handle

    async def _stored_result(self, row: RunRow, workflow: SmithersWorkflow) -> RunResult:
        tables = self.tables(workflow)
        loaded = await self.store.load(row.run_id, tables)
        state = restore(loaded, workflow, tables, self.owner, row.epoch)
        output = None
        if row.status == "finished" and "output" in workflow.outputs:
            output = [r.payload for r in state.data.rows.get("output", {}).values()]
        error = None if row.error_json is None else from_json(row.error_json)
        return RunResult(row.run_id, RunStatus(row.status), output, error)

    async def resume(
        self,
        run_id: str,
        workflow: SmithersWorkflow,
        *,
        input: object = None,
        force: bool = False,
        accept_workflow_change: bool = False,
        is_automatic: bool = False,
        max_concurrency: int | None = None,
        root_dir: str | None = None,
    ) -> RunHandle:
        """Go on with a stored run; answers once it is ours. Resuming a run that this engine drives gives its handle,
        one that has finished gives its result. The tasks that a failed run failed with are tried again.

        Args:
            input: must be the stored one, if given.
            force: take over although another owner seems alive.
            accept_workflow_change: go on with changed source; recorded in the run.
            is_automatic: not asked for by a person: repeated takeovers without progress fail the run.

        Raises:
            RunNotFound, RunNotResumable, RunOwnerAlive, RunStillRunning, InputMismatch, ResumeMetadataMismatch, LeaseLost.
        """
        async with self._claim_lock(run_id):
            if run_id in self.drivers:
                return self._handles[run_id]
            tables = await self._prepare(workflow)
            loaded = await self.store.load(run_id, tables)
            run = loaded.run
            if run.status == "finished":
                return self._ended(run_id, await self._stored_result(run, workflow))
            now, lease = self.clock.now_ms(), self.settings.lease_ms
            check_claimable(run, owner=self.owner, now_ms=now, lease_ms=lease, force=force)
            path = Path(run.workflow_path) if run.workflow_path else workflow.source_path
            changed = check_unchanged(loaded, workflow, path, input, accept=accept_workflow_change)
            gave_up = is_automatic and run.claim_count >= leases.MAX_CLAIMS and run.claim_frame == run.frame_no
            events = [event("RunStarted"), event("RunStatusChanged", None, None, status="running")]
            if is_automatic:
                stale = self.clock.now_ms() - (run.heartbeat_at_ms or run.started_at_ms or 0)
                events.insert(0, event("RunAutoResumed", lastHeartbeatAtMs=run.heartbeat_at_ms, staleDurationMs=stale))
            epoch = await self.store.claim(
                run_id,
                self.owner,
                self.clock.now_ms(),
                expect_epoch=run.epoch,
                events=events,
                keeps_pause=is_automatic,
            )
            if epoch is None:
                raise LeaseLost(f"run {run_id!r} was claimed by another process first", {"runId": run_id})
            if gave_up:
                await self._give_up(run, epoch)
            # what was written between the read and the claim (a decision, a signal) counts too
            loaded = await self.store.load(run_id, tables)
            state = restore(loaded, workflow, tables, self.owner, epoch)
            limit = max_concurrency if max_concurrency is not None else int_of(state.config.get("max_concurrency"))
            root = root_dir or text_of(state.config.get("rootDir"))
            options = DriverOptions(limit, root, ToolOptions.of(state.config))
            driver = Driver(self, state, options, None)
            driver.recovered = loaded
            driver.reopens = run.status in ("cancelled", "failed")
            driver.flow.retries_failed = run.status == "failed" and not is_automatic
            driver.source_change = changed
            driver.carried = await self._carried(state, tables)
            self.drivers[run_id] = driver
            handle = self._handles[run_id] = RunHandle(run_id, self.loop.create_future())
            self._spawn(self._host(driver, handle))
            return handle

    def _claim_lock(self, run_id: str) -> asyncio.Lock:
        """Held while a run is being taken over here: two at once would take it from each other."""
        lock = self._claim_locks.get(run_id)
        if lock is None:
            lock = self._claim_locks[run_id] = asyncio.Lock()
        return lock

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

    async def run_row(self, run_id: str) -> RunRow:
        """The stored row of a run. Raises `RunNotFound`."""
        return await self.store.aread(lambda c: reads.run(c, run_id))

    async def until_moved(self, run_id: str, workflow: SmithersWorkflow) -> RunResult:
        """Wait until a parked run has moved (a decision, a signal, a due timer), drive it on, and give its next result."""
        subscription, end = self.hub.subscribe(run_id, -1)
        try:
            while True:
                subscription.more.clear()
                if run_id in self.drivers:
                    return await asyncio.shield(self._handles[run_id].result)
                row = await self.run_row(run_id)
                status = RunStatus(row.status)
                if status is RunStatus.CONTINUED:
                    return await self.until_moved(await self._next_run_id(run_id), workflow)
                if status.is_terminal:
                    return await self._stored_result(row, workflow)
                if status is RunStatus.PAUSED:
                    return RunResult(run_id, status)
                timers = await self.store.aread(lambda c: reads.timers(c, run_id))
                due = timers[0].due_at_ms if timers else None
                if await self._can_go_on(row, due):
                    with suppress(OwnershipError):  # somebody else was faster: wait for what comes of it
                        handle = await self.resume(run_id, workflow, is_automatic=status is RunStatus.RUNNING)
                        return await asyncio.shield(handle.result)
                cancel = None if due is None else self.clock.call_at(due, subscription.more.set)
                # an owner that dies says nothing: look again after its lease. Not wait_for: before Python 3.12 it
                # swallows a cancellation that meets the event
                with suppress(TimeoutError):
                    async with asyncio.timeout(self.settings.lease_ms / 1000):
                        await subscription.more.wait()
                if cancel is not None:
                    cancel()
        finally:
            end()

    async def _can_go_on(self, row: RunRow, due: int | None) -> bool:
        now = self.clock.now_ms()
        if row.status == "running":
            return leases.may_take_over(row, now, self.settings.lease_ms)
        inbox = await self.store.inbox(row.run_id, -1)
        return inbox.last_wakeup > row.seen_wakeup or (due is not None and due <= now)

    # ── wake-ups ───────────────────────────────────────────────────────────────────────────────────────────────────

    def care_for(self, run_id: str, workflow: SmithersWorkflow) -> None:
        """Go on with a parked run when it can, if no host does."""
        if self.on_wakeup is None and run_id not in self._cared_for:
            self._cared_for.add(run_id)
            self._spawn(self._care(run_id, workflow))

    def _heard(self) -> None:
        """Somebody has committed, perhaps we ourselves; called in the watcher's thread, up to 150 times a second."""
        try:
            found = self.store.read(lambda c: reads.wakeups(c, self._wakeup_cursor))
            if found:
                self._wakeup_cursor = found[-1][0]
            if found or self.hub.has_subscribers:
                self.loop.call_soon_threadsafe(self._wake, list(dict.fromkeys(run_id for _, run_id in found)))
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

    async def _care(self, run_id: str, workflow: SmithersWorkflow) -> None:
        try:
            while True:
                result = await self.until_moved(run_id, workflow)
                if not result.status.is_parked or result.status is RunStatus.PAUSED:
                    return
        except SmithersError as error:
            log.warning("cannot go on with a run", extra={"run_id": run_id, "code": error.error_code})
        finally:
            self._cared_for.discard(run_id)

    async def has_history(self, workflow: str, node_id: str, count: int) -> bool:
        """Whether the newest `count` manual decisions on a node of a workflow were all approvals."""
        rows = await self.store.aread(lambda c: reads.approval_history(c, workflow, node_id, count))
        return len(rows) >= count and all(row.status == "approved" for row in rows)

    # ── life ───────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(self.settings.heartbeat_ms / 1000)
            if not self.drivers and not self._forsaken:
                continue
            before = dict(self.drivers)
            try:
                alive = await self.store.heartbeat(self.owner, self.clock.now_ms())
                await self._let_go(alive, before)
            except SmithersError as error:
                log.warning("heartbeat failed", extra={"code": error.error_code})
                continue
            for run_id, driver in before.items():
                if (
                    run_id not in alive
                    and driver.is_admitted
                    and self.drivers.get(run_id) is driver
                    and not driver.is_ending
                ):
                    driver.lose()

    async def _let_go(self, alive: set[str], before: Mapping[str, Driver]) -> None:
        """Give up runs that are marked as ours but that nobody drives any more, because their driver broke off."""
        gone = {run_id for run_id in alive if run_id not in before and run_id not in self.drivers}
        for run_id in gone & self._forsaken:
            await self.store.release(run_id, self.owner)
        self._forsaken = gone

    def root_dir(self, given: str | None) -> Path:
        """The folder that a run's tasks work in."""
        return _path(given) if given else (self.settings.root_dir or _path(os.getcwd()))  # noqa: PTH109 - see _path

    def forget(self, driver: Driver) -> None:
        """A driver has ended."""
        run_id = driver.state.run_id
        if self.drivers.get(run_id) is driver:
            del self.drivers[run_id]
            del self._handles[run_id]
        self.agents.forget(driver)
        if driver.has_news and self.on_wakeup is not None:  # it came while the driver was writing its end
            self.on_wakeup(run_id)

    def background(self, work: Coroutine[object, object, object]) -> None:
        """Run something that nobody waits for."""
        self._spawn(work)

    def _spawn(self, work: Coroutine[object, object, object]) -> None:
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Give all runs up cleanly (their work is stopped, any process may go on with them) and stop."""
        for driver in list(self.drivers.values()):
            driver.release()
        waiting = [driver.result for driver in self.drivers.values()]
        if waiting:
            await asyncio.wait(waiting, timeout=10)
        if self._unwatch is not None:
            self._unwatch()
        if self._heartbeat is not None:
            self._heartbeat.cancel()
        while self._tasks:
            for task in list(self._tasks):
                task.cancel()
            await asyncio.wait(list(self._tasks), timeout=1)
        self.threads.shutdown(wait=False, cancel_futures=True)
