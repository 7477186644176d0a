"""Engine: the host of this process's runs on one database. Launches and resumes them, and drives them on.

One engine serves one event loop and one store. It owns no run logic: that is the driver's. Leases, wake-ups and the engine's
own life are in `keeping`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from pydantic_core import from_json, to_json

from smithers.ambient import SandboxMode
from smithers.components.inputs import unknown_keys
from smithers.components.rundata import RunData
from smithers.components.workflow import SmithersWorkflow
from smithers.engine import leases
from smithers.engine.admission import (
    LaunchStamp,
    Place,
    check_claimable,
    check_limit,
    check_unchanged,
    checked_run_id,
    run_config,
    workflow_hash,
)
from smithers.engine.continuation import new_run_id
from smithers.engine.driver import Driver, DriverOptions
from smithers.engine.keeping import Keeper, RunHandle, path_of
from smithers.engine.mounting import restore_mounted
from smithers.engine.recovery import restore
from smithers.engine.result import RunResult
from smithers.engine.state import RunState
from smithers.engine.tooling import ToolOptions
from smithers.errors import LeaseLost, OwnershipError, RunAlreadyExists, SmithersError
from smithers.events import event
from smithers.jsons import int_of, text_of
from smithers.scheduler.states import RunStatus
from smithers.store.columns import TableDef
from smithers.store.interface import LaunchedBefore, LoadedRun, NewRun, RunRow
from smithers.store.sql import queue, reads
from smithers.store.sql.lineage import is_child

__all__ = ["Engine", "RunHandle"]
log = logging.getLogger(__name__)
_STARTED = (event("RunStarted"), event("RunStatusChanged", None, None, status="running"))


class Engine(Keeper):
    """Drives runs of one store in the running event loop.

    Args:
        store: where the runs live; the caller closes it.
        settings: how to work; from the environment by default.
        clock: the time; the machine's by default.
    """

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
        keep_worktrees: bool = False,
        stamp: LaunchStamp | None = None,
        waits: Place | None = None,
    ) -> RunHandle:
        """Start a run. Answers once the run and its first step are durable (or the run has failed for good).

        Args:
            allow_network: whether the commands of this run's tools may reach other machines; stored with the run.
            sandbox: `"off"` runs those commands without isolation; stored with the run.
            max_output_bytes: the most that a tool of this run reads, writes or returns; stored with the run.
            tool_timeout_ms: the longest that a command or search of these tools takes; stored with the run.
            keep_worktrees: remove no worktrees of the run when it has succeeded; stored with the run.
            stamp: what a host records with the run.
            waits: only store the run, in this place of the queue, for a host that has room to start it; the handle has no
                result then.

        Raises:
            InvalidInput: input, run id or options do not fit; names the field.
            RunAlreadyExists: the run id is taken.
            QuotaExceeded: too many runs wait.
        """
        if run_id is None:
            run_id = new_run_id()
        elif not is_child(run_id, parent_run_id):  # those of subflows grow with their depth, and are made here
            run_id = checked_run_id(run_id)
        value, text = workflow.parse_input(input)
        if hint := unknown_keys(workflow.input_model, input):
            log.warning(hint, extra={"run_id": run_id})
        tools = ToolOptions(
            allow_network=allow_network, sandbox=sandbox, max_output_bytes=max_output_bytes, timeout_ms=tool_timeout_ms
        )
        config = run_config(annotations, auth, root_dir, max_concurrency, tools)
        if keep_worktrees:
            config["keepWorktrees"] = True
        if stamp is not None:
            config |= {"gatewayWorkflowKey": stamp.workflow_key, "gatewaySystem": stamp.is_system, **stamp.config}
            tools = ToolOptions.of(config).check()
        await self._prepare(workflow)
        if idempotency_key is not None:  # the same may be asked for twice at once: then the first is not stored yet
            while (first := self.drivers.get(run_id)) is not None and not first.is_admitted:
                await asyncio.wait([first.admitted])
        if run_id in self.drivers:
            if idempotency_key is None or await self._key_of(run_id) != idempotency_key:
                raise RunAlreadyExists(run_id)
            return await self._earlier(run_id, workflow, text)
        path = path_of(workflow_path) if workflow_path else workflow.source_path
        state = RunState(run_id, workflow, RunData(run_id, input=value, auth=auth), self.owner, 1)
        state.input_json, state.config = text, config
        state.workflow_path, state.workflow_hash = None if path is None else str(path), workflow_hash(workflow, path)
        new = self._new_run(state, parent_run_id, idempotency_key, stamp)
        if waits is not None:
            return await self._enqueue(new, waits.check())
        return await self._start(state, DriverOptions(max_concurrency, root_dir, tools), new)

    def _new_run(
        self, state: RunState, parent_run_id: str | None, idempotency_key: str | None, stamp: LaunchStamp | None
    ) -> NewRun:
        """The row of a run that begins, as it is stored with its first step or in the queue."""
        workflow = state.workflow
        return NewRun(
            run_id=state.run_id,
            workflow_name=workflow.__dict__.get("_named", workflow.function_name),  # until it is rendered
            workflow_path=state.workflow_path,
            workflow_hash=state.workflow_hash,
            input_json=state.input_json,
            config_json=to_json(state.config, fallback=str).decode() if state.config else "{}",
            owner=self.owner,
            now_ms=self.clock.now_ms(),
            parent_run_id=parent_run_id,
            idempotency_key=idempotency_key,
            events=_STARTED,
            workflow_key=None if stamp is None else stamp.workflow_key,
            is_system=stamp is not None and stamp.is_system,
            started_by_json=None if stamp is None or not stamp.started_by else to_json(stamp.started_by).decode(),
        )

    async def _enqueue(self, new: NewRun, place: Place) -> RunHandle:
        new = new._replace(queue=place.queue)
        run_id, is_new = await self.store.awrite(lambda c: queue.enqueue(c, new, place.limit, place.priority))
        if is_new:
            self.hub.touch(run_id)
        else:
            await self._require_input(run_id, new.input_json)
        handle = RunHandle(run_id, self.loop.create_future())
        handle.result.cancel()
        return handle

    async def _start(self, state: RunState, options: DriverOptions, launch: NewRun | None) -> RunHandle:
        driver = Driver(self, state, options, launch)
        self.drivers[state.run_id] = driver
        handle = self._handles[state.run_id] = RunHandle(state.run_id, self.loop.create_future())
        self._spawn(self._host(driver, handle), is_hosting=True)
        try:
            # shielded: if the caller is cancelled, the run goes on for whoever else has, or gets, its handle
            await asyncio.shield(driver.admitted)
        except LaunchedBefore as earlier:
            handle.result.cancel()
            return await self._earlier(earlier.run_id, state.workflow, state.input_json)
        except Exception:
            handle.result.cancel()
            raise
        return handle

    async def _earlier(self, run_id: str, workflow: SmithersWorkflow, input_json: str) -> RunHandle:
        """The run that an idempotency key names; it must have been launched with the same input."""
        await self._require_input(run_id, input_json)
        return await self.attach(run_id, workflow)

    async def _host(self, driver: Driver, handle: RunHandle) -> None:
        """Drive a run, and the runs that it is continued as."""
        try:
            while True:
                if self._is_closing:
                    driver.release()
                await driver.run()
                result = driver.result.result()
                if result.status is not RunStatus.CONTINUED or result.next_run_id is None:
                    break
                async with self._claiming(result.next_run_id):
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
        finally:
            self.hub.let_go(driver.state.run_id)

    async def _successor(self, run_id: str, before: Driver) -> Driver:
        workflow = before.state.workflow
        tables = self.tables(workflow)
        loaded = await self.store.load(run_id, tables)
        state = restore(loaded, workflow, tables, self.owner, 1)  # the epoch that it was launched with, not a later one
        driver = Driver(self, state, before.options, None)
        driver.carried = await self._carried(state, tables)
        self.drivers[run_id] = driver
        if before.state.run_id in self.newest:
            self.newest[run_id] = workflow
        return driver

    # ── resuming ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def attach(
        self, run_id: str, workflow: SmithersWorkflow, *, accept_workflow_change: bool = False
    ) -> RunHandle:
        """A handle of a run whatever it is doing: drives it here if it can go on and nobody else does."""
        if run_id in self.drivers:
            return self._handles[run_id]
        row = await self.store.aread(lambda c: reads.run(c, run_id))
        status = RunStatus(row.status)
        if status is RunStatus.CONTINUED:
            heir = await self.next_run_id(run_id)
            return await self.attach(heir, workflow, accept_workflow_change=accept_workflow_change)
        if status.is_terminal:
            return self._ended(run_id, await self._stored_result(row, workflow))
        return await self.resume(
            run_id, workflow, accept_workflow_change=accept_workflow_change, expect_epoch=row.epoch
        )

    def _ended(self, run_id: str, result: RunResult) -> RunHandle:
        handle = RunHandle(run_id, self.loop.create_future())
        handle.result.set_result(result)
        return handle

    async def _stored_result(self, row: RunRow, workflow: SmithersWorkflow) -> RunResult:
        workflow = self.newest.get(row.run_id, workflow)
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
        expect_epoch: int | None = None,
        max_concurrency: int | None = None,
        root_dir: str | None = None,
        resumed_by: Mapping[str, object] | None = None,
    ) -> RunHandle:
        """Go on with a stored run; answers once it is ours. Resuming a run that this engine drives gives its handle,
        one that has finished gives its result. The tasks that a failed run failed with are tried again.

        Args:
            input: must be the stored one, if given.
            force: take over although another owner seems alive.
            accept_workflow_change: go on with changed source; recorded in the run.
            is_automatic: not asked for by a person: repeated takeovers without progress fail the run.
            expect_epoch: only if the run has not been taken over, ended or paused since it was read with this epoch.
            resumed_by: who asked, as JSON; recorded with the run, apart from who launched it.

        Raises:
            RunNotFound, RunNotResumable, RunOwnerAlive, RunStillRunning, InputMismatch, ResumeMetadataMismatch, LeaseLost;
            InvalidInput for a `max_concurrency` below 1.
        """
        async with self._claiming(run_id):
            if run_id in self.drivers:
                return self._handles[run_id]
            workflow = self.newest.get(run_id, workflow)
            tables = await self._prepare(workflow)
            loaded = await self.store.load(run_id, tables)
            run = loaded.run
            if run.status == "finished":
                return self._ended(run_id, await self._stored_result(run, workflow))
            if expect_epoch is not None and run.epoch != expect_epoch:
                raise _was_claimed(run_id)
            check_limit(max_concurrency)
            now, lease = self.clock.now_ms(), self.settings.lease_ms
            check_claimable(run, owner=self.owner, now_ms=now, lease_ms=lease, force=force)
            path = Path(run.workflow_path) if run.workflow_path else workflow.source_path
            changed = check_unchanged(loaded, workflow, path, input, accept=accept_workflow_change)
            loaded, epoch = await self._claim(loaded, tables, is_automatic=is_automatic, resumed_by=resumed_by)
            state = restore(loaded, workflow, tables, self.owner, epoch)
            await restore_mounted(self.store, state, loaded, tables)
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
            self._spawn(self._host(driver, handle), is_hosting=True)
            return handle

    async def _claim(
        self, loaded: LoadedRun, tables: list[TableDef], *, is_automatic: bool, resumed_by: Mapping[str, object] | None
    ) -> tuple[LoadedRun, int]:
        """Make a stored run ours. What is stored of it now, and the epoch that we hold it with. Raises `LeaseLost`."""
        run, now = loaded.run, self.clock.now_ms()
        gave_up = is_automatic and run.claim_count >= leases.MAX_CLAIMS and run.claim_frame == run.frame_no
        waited_ms = now - run.created_at_ms if queue.is_queued(run) else None
        events = [
            event("RunStarted", resumedBy=resumed_by, queuedMs=waited_ms),
            event("RunStatusChanged", None, None, status="running"),
        ]
        if is_automatic:
            # without an owner it was given up, and nobody has been missing
            beat = None if run.runtime_owner_id is None else run.heartbeat_at_ms or run.started_at_ms or 0
            stale = 0 if beat is None else now - beat
            events.insert(0, event("RunAutoResumed", lastHeartbeatAtMs=beat, staleDurationMs=stale))
        claimed = await self.store.claim(
            run.run_id,
            self.owner,
            now,
            expect_epoch=run.epoch,
            events=events,
            keeps_pause=is_automatic,
            resumed_by_json=None if resumed_by is None else to_json(resumed_by, fallback=str).decode(),
        )
        if claimed is None:
            raise _was_claimed(run.run_id)
        if gave_up:
            await self._give_up(run, claimed.epoch)
        if claimed.next_seq == run.next_seq + len(events):
            loaded = replace(loaded, run=claimed)
        else:  # what was written between the read and the claim (a decision, a signal) counts too
            loaded = await self.store.load(run.run_id, tables)
        return loaded, claimed.epoch

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
                    return await self.until_moved(await self.next_run_id(run_id), workflow)
                if status.is_terminal:
                    return await self._stored_result(row, workflow)
                if status is RunStatus.PAUSED:
                    return RunResult(run_id, status)
                timers = await self.store.aread(lambda c: reads.timers(c, run_id))
                due = timers[0].due_at_ms if timers else None
                if await self._can_go_on(row, due):
                    with suppress(OwnershipError):  # somebody else was faster: wait for what comes of it
                        is_orphan = status is RunStatus.RUNNING
                        handle = await self.resume(run_id, workflow, is_automatic=is_orphan, expect_epoch=row.epoch)
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

    def care_for(self, run_id: str, workflow: SmithersWorkflow) -> None:
        """Go on with a parked run when it can, if no host does."""
        if self.on_wakeup is None and run_id not in self._cared_for:
            self._cared_for.add(run_id)
            self._spawn(self._care(run_id, workflow))

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


def _was_claimed(run_id: str) -> LeaseLost:
    return LeaseLost(f"run {run_id!r} was claimed by another process, ended or paused first", {"runId": run_id})
