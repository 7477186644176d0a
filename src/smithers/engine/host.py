"""Host: goes on with every run of a database that can go on. Woken, due and orphaned runs are claimed and driven here.

Several hosts may serve one database: a claim is won by one of them, the others look away. Between wake-ups it sleeps until
the next moment that any parked run waits for; the sweep only catches what nobody announces (an owner that died).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Literal

from smithers.components.workflow import SmithersWorkflow
from smithers.engine import leases
from smithers.engine.engine import Engine
from smithers.errors import OwnershipError, SmithersError
from smithers.events import event
from smithers.store.interface import RunRow
from smithers.store.sql import control, reads

log = logging.getLogger(__name__)
BATCH = 200
FIRST_BACKOFF_S = 5.0
MAX_BACKOFF_S = 300.0


@dataclass(slots=True)
class HostReport:
    """What a sweep did: run ids that it went on with, and those that it left alone with the reason."""

    resumed: list[str] = field(default_factory=list[str])
    skipped: dict[str, str] = field(default_factory=dict[str, str])


class Host:
    """Drives whatever can go on.

    Args:
        engine: drives the runs.
        resolve: finds the workflow of a run; None leaves the run to others, a SmithersError is recorded in it.
        run_ids: only these runs; all if None.
        max_concurrent: at most so many runs at once.
        interval_s: how often to look for dead owners, in seconds.
        is_dry: only report what could go on.
        on_report: told of every sweep that did something.
    """

    def __init__(
        self,
        engine: Engine,
        resolve: Callable[[RunRow], SmithersWorkflow | Awaitable[SmithersWorkflow | None] | None],
        *,
        run_ids: frozenset[str] | None = None,
        max_concurrent: int = 1000,
        interval_s: float = 10.0,
        is_dry: bool = False,
        on_report: Callable[[HostReport], None] | None = None,
    ) -> None:
        self._engine = engine
        self._resolve = resolve
        self._run_ids = run_ids
        self._max = max_concurrent
        self._interval_s = interval_s
        self._is_dry = is_dry
        self._on_report = on_report
        self._wake = asyncio.Event()
        self._failing: dict[str, tuple[float, float]] = {}
        """Runs that could not be resumed: (not before, backoff), in seconds of the monotonic clock."""
        self._next_look = 0.0
        """When to look for dead owners again, in seconds of the monotonic clock."""

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop` is set."""
        engine = self._engine
        await engine.start()
        engine.on_wakeup = lambda _run_id: self._wake.set()
        stopping = asyncio.create_task(stop.wait())
        try:
            while not stop.is_set():
                self._wake.clear()
                report = await self.sweep(finds_orphans=time.monotonic() >= self._next_look)
                if self._on_report is not None and (report.resumed or report.skipped):
                    self._on_report(report)
                await self._sleep(stopping)
        finally:
            stopping.cancel()
            engine.on_wakeup = None

    async def _sleep(self, stopping: asyncio.Task[Literal[True]]) -> None:
        due = await self._engine.store.aread(reads.next_due)
        cancel = None if due is None else self._engine.clock.call_at(due, self._wake.set)
        woken = asyncio.create_task(self._wake.wait())
        try:
            left = max(0.0, self._next_look - time.monotonic())
            await asyncio.wait([stopping, woken], timeout=left, return_when=asyncio.FIRST_COMPLETED)
        finally:
            woken.cancel()
            if cancel is not None:
                cancel()

    async def sweep(self, *, finds_orphans: bool = True) -> HostReport:
        """Go on with every run that can go on now, as far as there is room.

        Args:
            finds_orphans: also look for runs whose owner has died; reads every running run.
        """
        report = HostReport()
        tried: set[str] = set()
        if finds_orphans:
            self._next_look = time.monotonic() + self._interval_s
        while run_ids := await self._candidates(tried, finds_orphans=finds_orphans):
            for run_id in run_ids:
                if not self._is_dry and len(self._engine.drivers) >= self._max:
                    return report
                tried.add(run_id)
                if self._is_dry:
                    report.skipped[run_id] = "dry run"
                else:
                    await self._go_on(run_id, report)
            if len(run_ids) < BATCH:
                break
            finds_orphans = False  # all of them were in the first lot
        return report

    async def _candidates(self, tried: set[str], *, finds_orphans: bool) -> list[str]:
        """Runs that may go on, without those that this sweep has tried and those that are to be left alone for a while."""
        engine, now, moment = self._engine, self._engine.clock.now_ms(), time.monotonic()
        lease = engine.settings.lease_ms

        def is_wanted(run_id: str) -> bool:
            return (
                run_id not in engine.drivers
                and run_id not in tried
                and (self._run_ids is None or run_id in self._run_ids)
                and self._failing.get(run_id, (0.0, 0.0))[0] <= moment
            )

        def query(c: reads.Session) -> list[str]:
            found = [*reads.moved_runs(c, BATCH, is_wanted), *reads.due_runs(c, now, BATCH, is_wanted)]
            if finds_orphans:
                live = reads.runs(c, ("running",), 10_000)
                found += [r.run_id for r in live if is_wanted(r.run_id) and leases.may_take_over(r, now, lease)]
            return list(dict.fromkeys(found))

        return await engine.store.aread(query)

    async def _go_on(self, run_id: str, report: HostReport) -> None:
        engine = self._engine
        try:
            row = await engine.run_row(run_id)
            if row.cancel_requested_at_ms is not None:
                await self._cancel(row)
                return
            found = self._resolve(row)
            workflow = await found if isinstance(found, Awaitable) else found
            if workflow is None:
                # another host's: nothing is recorded, and it is not looked at again for a while
                self._failing[run_id] = (time.monotonic() + MAX_BACKOFF_S, MAX_BACKOFF_S)
                report.skipped[run_id] = "missing-workflow"
                return
            await engine.resume(run_id, workflow, is_automatic=row.status == "running")
        except OwnershipError as error:
            report.skipped[run_id] = error.error_code
        except SmithersError as error:
            backoff = min(self._failing.get(run_id, (0.0, FIRST_BACKOFF_S / 2))[1] * 2, MAX_BACKOFF_S)
            self._failing[run_id] = (time.monotonic() + backoff, backoff)
            report.skipped[run_id] = f"{error.error_code}: {error.summary}"
            log.warning("cannot go on with a run", extra={"run_id": run_id, "code": error.error_code})
            await self._tell_skipped(run_id, error)
        else:
            self._failing.pop(run_id, None)
            report.resumed.append(run_id)

    async def _tell_skipped(self, run_id: str, error: SmithersError) -> None:
        draft = event("RunAutoResumeSkipped", reason=error.error_code, message=error.summary)
        now = self._engine.clock.now_ms()
        try:
            await self._engine.store.awrite(lambda c: control.append_events(c, run_id, now, [draft]))
        except SmithersError:
            log.warning("cannot record a skipped run", extra={"run_id": run_id})

    async def _cancel(self, row: RunRow) -> None:
        fence = None if row.runtime_owner_id is None else (row.runtime_owner_id, row.epoch)
        await self._engine.store.finalize_cancel(row.run_id, self._engine.clock.now_ms(), fence)
