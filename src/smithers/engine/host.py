"""Host: goes on with every run of a database that can go on. Woken, due and orphaned runs are claimed and driven here.

Several hosts may serve one database. Runs that are woken, due or in the queue are taken by one of them before it loads them;
a claim is won by one of them, whoever else tried. Between wake-ups it sleeps until the next moment that any parked run waits
for; the sweep only catches what nobody announces (an owner that died).
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, NamedTuple, TypeVar

from smithers.components.workflow import SmithersWorkflow
from smithers.engine import leases
from smithers.engine.engine import Engine
from smithers.errors import OwnershipError, SmithersError, StorageError, StorageUnreachable
from smithers.events import event
from smithers.store.interface import RunRow
from smithers.store.sql import control, queue, reads, wakeups

log = logging.getLogger(__name__)
BATCH = 200
MANY = 1_000
"""So many runs of dead owners are found at a time, the oldest first; the next look finds more."""
AT_ONCE = 32
"""So many runs are taken and begun at once."""
AWAY_S = 1.0
"""How soon to look again after the database has refused."""
LIMITS_EVERY_S = 0.2
"""How soon to look again for runs that the limit of a queue or workflow holds back: nobody tells when others have ended theirs."""
PAUSED_EVERY_S = 2.0
"""The same for runs of a paused queue or workflow."""
FIRST_BACKOFF_S = 5.0
MAX_BACKOFF_S = 300.0


T = TypeVar("T")


class _Candidates(NamedTuple):
    """Runs that may go on: those that something has arrived for, and those whose owner is gone."""

    woken: list[str]
    left_behind: list[str]


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
        room: how many runs of the queue may be started, instead of that; `freed` says that there may be room.
        serves: whether this host starts runs of a workflow (by the key that it is listed under) that wait in a queue.
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
        room: Callable[[], int] | None = None,
        serves: Callable[[str, str], bool] = lambda _workflow, _queue: True,
        interval_s: float = 10.0,
        is_dry: bool = False,
        on_report: Callable[[HostReport], None] | None = None,
    ) -> None:
        self._engine = engine
        self._resolve = resolve
        self._run_ids = run_ids
        self._max = max_concurrent
        self._room = room or (lambda: max_concurrent - len(engine.drivers))
        self._serves = serves
        self._turns: dict[str, int] = {}
        """The number of each lane's last turn."""
        self._turn = itertools.count()
        self._held_until = math.inf
        """When to look again for runs that a limit holds back, in seconds of the monotonic clock."""
        self.on_room: Callable[[], None] = self.freed
        """Told whenever a run has ended or parked here; hosts that share their room tell each other."""
        self._is_short = False
        """Whether runs were left alone for lack of room."""
        self._interval_s = interval_s
        self._is_dry = is_dry
        self._on_report = on_report
        self._wake = asyncio.Event()
        self._failing: dict[str, tuple[float, float]] = {}
        """Runs that could not be resumed: (not before, backoff), in seconds of the monotonic clock."""
        self._looked_at_ms = 0
        """Up to when due runs have been looked for."""
        self._held_off = math.inf
        """When to look again for runs that others had taken, in seconds of the monotonic clock."""
        self._next_look = 0.0
        """When to look for dead owners again, in seconds of the monotonic clock."""

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop` is set."""
        engine = self._engine
        await engine.start()
        engine.on_wakeup = lambda _run_id: self._wake.set()
        engine.on_room = self.on_room
        stopping = asyncio.create_task(stop.wait())
        try:
            while not stop.is_set():
                self._wake.clear()
                try:
                    report = await self.sweep(finds_orphans=time.monotonic() >= self._next_look)
                    if self._on_report is not None and (report.resumed or report.skipped):
                        self._on_report(report)
                    await self._sleep(stopping)
                except StorageError as error:  # a database that is away comes back, and so do we
                    log.warning("cannot look for runs: %s", error.summary, extra={"code": error.error_code})
                    self._next_look = 0.0
                    await asyncio.wait([stopping], timeout=AWAY_S)
        finally:
            stopping.cancel()
            engine.on_wakeup = engine.on_room = None

    def freed(self) -> None:
        """There may be room for another run."""
        if self._is_short:
            self._wake.set()

    async def _sleep(self, stopping: asyncio.Task[Literal[True]]) -> None:
        looked_at = self._looked_at_ms
        due = await self._engine.store.aread(lambda c: wakeups.next_due(c, looked_at))
        cancel = None if due is None else self._engine.clock.call_at(due, self._wake.set)
        woken = asyncio.create_task(self._wake.wait())
        try:
            left = max(0.0, min(self._next_look, self._held_until, self._held_off) - time.monotonic())
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
            self._forget_old_failures()
        while candidates := await self._candidates(tried, finds_orphans=finds_orphans):
            woken, left_behind = candidates.woken, candidates.left_behind
            for run_ids, takes in ((woken, True), (left_behind, False)):
                while run_ids:
                    room = AT_ONCE if self._is_dry else min(self._max - len(self._engine.drivers), AT_ONCE)
                    if room <= 0:
                        self._is_short = True
                        return report
                    now, run_ids = run_ids[:room], run_ids[room:]
                    tried.update(now)
                    await self._go_on(now, report, takes=takes)
            if len(woken) + len(left_behind) < BATCH:
                break
            finds_orphans = False  # all of them were in the first lot
        await self._start_queued(tried, report)
        return report

    def _forget_old_failures(self) -> None:
        """Forget runs that have been left alone long enough for the longest wait to begin anew: most have ended elsewhere."""
        since = time.monotonic() - MAX_BACKOFF_S
        self._failing = {run_id: failing for run_id, failing in self._failing.items() if failing[0] > since}

    async def _start_queued(self, tried: set[str], report: HostReport) -> None:
        """Start runs of the queue in their order, as long as there is room."""
        store = self._engine.store
        self._is_short, self._held_until = False, math.inf
        while waiting := await store.aread(lambda c: queue.waiting(c, BATCH)):
            if self._is_dry:
                report.skipped |= dict.fromkeys(waiting, "dry run")
                return
            if (room := min(self._room(), AT_ONCE)) <= 0:
                self._is_short = True
                return
            now_ms = self._engine.clock.now_ms()
            taken = await store.awrite(partial(self._take, room=room, is_wanted=self._is_wanted(tried)))
            if taken.is_held:
                opens_in_s = math.inf if taken.opens_at_ms is None else (taken.opens_at_ms - now_ms) / 1000
                self._held_until = time.monotonic() + max(0.0, min(opens_in_s, LIMITS_EVERY_S))
            elif taken.is_paused:
                self._held_until = time.monotonic() + PAUSED_EVERY_S
            if not taken.runs:
                return
            tried |= {run.run_id for run in taken.runs}
            self._turns |= {run.lane: next(self._turn) for run in taken.runs}
            await self._go_on([run.run_id for run in taken.runs], report, takes=False)
            if begun := [run.run_id for run in taken.runs if run.run_id in report.resumed]:
                await store.awrite(partial(queue.done, run_ids=begun))

    def _take(self, session: reads.Session, room: int, is_wanted: Callable[[str], bool]) -> queue.Taken:
        return queue.take(
            session,
            self._engine.clock.now_ms(),
            room,
            is_wanted=is_wanted,
            serves=self._serves,
            last_turns=self._turns,
            passed_over=len(self._failing),
        )

    async def _candidates(self, tried: set[str], *, finds_orphans: bool) -> _Candidates | None:
        """Runs that may go on, without those that this sweep has tried, those that are to be left alone for a while, and those
        that others have taken. None if there is none."""
        engine, now = self._engine, self._engine.clock.now_ms()
        lease = engine.settings.lease_ms
        is_wanted = self._is_wanted(tried)
        self._looked_at_ms = now

        def query(c: reads.Session) -> tuple[_Candidates, bool]:
            holds = wakeups.Holds(now)
            moved = wakeups.moved_runs(c, BATCH, is_wanted, holds)
            woken = dict.fromkeys([*moved, *wakeups.due_runs(c, now, BATCH, is_wanted, holds)])
            orphans: list[str] = []
            if finds_orphans:
                dead = [owner for owner in reads.owners(c) if owner != engine.owner and leases.is_owner_dead(owner)]
                left = reads.left_behind(c, dead[:MANY], now - lease, MANY)
                orphans = [
                    r.run_id
                    for r in left
                    if is_wanted(r.run_id)
                    and leases.may_take_over(r, now, lease)
                    and not (r.runtime_owner_id is None and holds.has(r.heartbeat_at_ms))
                ]
            return _Candidates(list(woken), [run_id for run_id in orphans if run_id not in woken]), holds.are_met

        found, are_held = await engine.store.aread(query)
        self._held_off = time.monotonic() + wakeups.HOLD_MS / 1000 if are_held else math.inf
        return found if found.woken or found.left_behind else None

    def _is_wanted(self, tried: Collection[str]) -> Callable[[str], bool]:
        """Whether a run may be gone on with, if it can."""
        moment = time.monotonic()

        def is_wanted(run_id: str) -> bool:
            return (
                run_id not in self._engine.drivers
                and run_id not in tried
                and (self._run_ids is None or run_id in self._run_ids)
                and self._failing.get(run_id, (0.0, 0.0))[0] <= moment
            )

        return is_wanted

    async def _go_on(self, run_ids: Sequence[str], report: HostReport, *, takes: bool) -> None:
        """Go on with these runs at once, those of them that are ours.

        Args:
            takes: all hosts have heard of them: each loads only those that it has taken.
        """
        if self._is_dry:
            report.skipped |= dict.fromkeys(run_ids, "dry run")
            return
        looked = [self._told(run_id, report, partial(self._look, run_id, report)) for run_id in run_ids]
        known = {run.run_id: (run, workflow) for run, workflow in filter(None, await asyncio.gather(*looked))}
        if not takes:
            await self._resume(known.values(), report)
            return
        now_ms, store = self._engine.clock.now_ms(), self._engine.store
        taken = await store.awrite(partial(wakeups.take, run_ids=list(known), now_ms=now_ms)) if known else set[str]()
        try:
            await self._resume([found for run_id, found in known.items() if run_id in taken], report)
        finally:
            if failed := taken.difference(report.resumed):
                await store.awrite(partial(wakeups.leave, run_ids=list(failed), taken_at_ms=now_ms))

    async def _resume(self, runs: Iterable[tuple[RunRow, SmithersWorkflow]], report: HostReport) -> None:
        async def resume(run: RunRow, workflow: SmithersWorkflow) -> None:
            await self._engine.resume(
                run.run_id,
                workflow,
                is_automatic=run.status == "running",
                expect_epoch=run.epoch,
                accept_workflow_change=queue.is_queued(run),  # nothing of it has been done yet
            )
            self._failing.pop(run.run_id, None)
            report.resumed.append(run.run_id)

        begun = [self._told(run.run_id, report, partial(resume, run, workflow)) for run, workflow in runs]
        await asyncio.gather(*begun)

    async def _look(self, run_id: str, report: HostReport) -> tuple[RunRow, SmithersWorkflow] | None:
        """A run with its workflow, if there is anything for us to go on with."""
        run = await self._engine.run_row(run_id)
        if run.status != "running" and not run.status.startswith("waiting-"):  # it has ended or paused meanwhile
            return None
        if run.cancel_requested_at_ms is not None:
            await self._cancel(run)
            return None
        if run.parent_run_id is not None and await self._leave_to_parent(run_id):
            return None
        found = self._resolve(run)
        workflow = await found if isinstance(found, Awaitable) else found
        if workflow is None:
            # another host's: nothing is recorded, and it is not looked at again for a while
            self._failing[run_id] = (time.monotonic() + MAX_BACKOFF_S, MAX_BACKOFF_S)
            report.skipped[run_id] = "missing-workflow"
            return None
        return run, workflow

    async def _told(self, run_id: str, report: HostReport, work: Callable[[], Awaitable[T]]) -> T | None:
        """Do something for a run. What goes wrong is told of, in the run's events too, and the run is left alone for a while."""
        try:
            return await work()
        except OwnershipError as error:
            report.skipped[run_id] = error.error_code
        except StorageUnreachable:  # nothing is wrong with the run
            raise
        except SmithersError as error:
            backoff = min(self._failing.get(run_id, (0.0, FIRST_BACKOFF_S / 2))[1] * 2, MAX_BACKOFF_S)
            self._failing[run_id] = (time.monotonic() + backoff, backoff)
            report.skipped[run_id] = f"{error.error_code}: {error.summary}"
            log.warning("cannot go on with a run", extra={"run_id": run_id, "code": error.error_code})
            await self._tell_skipped(run_id, error)
        return None

    async def _leave_to_parent(self, run_id: str) -> bool:
        """Have whoever drives its parent go on with a subflow's run, as only the parent's code says what it is. False if
        it is none, or its parent has ended."""
        store = self._engine.store
        if await store.aread(lambda c: wakeups.parent_of_subflow(c, run_id)) is None:
            return False
        await store.awrite(lambda c: wakeups.wake_parent(c, run_id))
        self._failing[run_id] = (time.monotonic() + AWAY_S, FIRST_BACKOFF_S / 2)
        return True

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
