"""Cron scheduler: sleeps until a schedule is due, claims its moment and has a run started. What a schedule is and who may
claim it is known in `control/crons.py`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass

from smithers.control import crons
from smithers.control.control import Control
from smithers.control.crons import CronFire
from smithers.engine.clock import Clock
from smithers.errors import SmithersError

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CronPlace:
    """A database whose schedules are looked after, with the keys of the workflows that can be started from it."""

    control: Control
    workflows: Collection[str]


class CronScheduler:
    """Looks after the schedules of several databases. Belongs to one event loop.

    It wakes when the next schedule is due, when it is told of a change, and at least every `period_s`, because other
    processes change schedules too.

    Args:
        places: what to look after; asked anew each time.
        fire: starts a run for a moment and gives its id; may be called again for one whose process died meanwhile, so it
            launches with the moment's idempotency key.
        on_triggered: told (cron id, workflow, run id) of each run that was started.
        period_s: the longest sleep, in seconds.
    """

    def __init__(
        self,
        clock: Clock,
        places: Callable[[], Sequence[CronPlace]],
        fire: Callable[[CronFire], Awaitable[str]],
        on_triggered: Callable[[str, str, str], None],
        period_s: float = 15.0,
    ) -> None:
        self._clock = clock
        self._places = places
        self._fire = fire
        self._on_triggered = on_triggered
        self._period_ms = max(1, int(period_s * 1000))
        self._woken = asyncio.Event()
        self._is_closing = False
        self._task: asyncio.Task[None] | None = None
        self._firing: dict[str, asyncio.Task[None]] = {}

    def start(self) -> None:
        """Begin; once."""
        if self._task is None and not self._is_closing:
            self._task = asyncio.get_running_loop().create_task(self._run())

    def changed(self) -> None:
        """A schedule, or what is registered, was changed here: look again."""
        self._woken.set()

    async def next_due(self) -> int | None:
        """The next moment of any schedule that is looked after, in milliseconds since the epoch; None for none."""
        found = [await crons.next_due(place.control, place.workflows) for place in self._places()]
        return min((moment for moment in found if moment is not None), default=None)

    async def close(self) -> None:
        """Claim nothing more, and wait until what was claimed has been started and noted."""
        self._is_closing = True
        self._woken.set()
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)
        while self._firing:
            await asyncio.gather(*self._firing.values(), return_exceptions=True)

    async def _run(self) -> None:
        while not self._is_closing:
            self._woken.clear()
            due_at = await self._sweep()
            latest = self._clock.now_ms() + self._period_ms
            wake_at = latest if due_at is None else min(due_at, latest)
            stop = self._clock.call_at(wake_at, self._woken.set)
            try:
                await self._woken.wait()
            finally:
                stop()

    async def _sweep(self) -> int | None:
        """Claim what is due, and have it fired. When the next moment comes that can be waited for."""
        moments: list[int] = []
        for place in self._places():
            if self._is_closing:
                break
            try:
                for fire in await crons.claim_due(place.control, place.workflows):
                    self._begin(place.control, fire)
                moment = await crons.next_due(place.control, place.workflows)
            except SmithersError as error:
                log.warning("schedules cannot be looked at", extra={"code": error.error_code})
            except Exception:
                log.exception("schedules cannot be looked at")
            else:
                if moment is not None:
                    moments.append(moment)
        return min(moments, default=None)

    def _begin(self, control: Control, fire: CronFire) -> None:
        key = fire.idempotency_key
        if key not in self._firing:  # else it was claimed again, because starting it takes so long
            task = self._firing[key] = asyncio.get_running_loop().create_task(self._trigger(control, fire))
            task.add_done_callback(lambda _: self._firing.pop(key, None))

    async def _trigger(self, control: Control, fire: CronFire) -> None:
        cron = fire.cron
        try:
            run_id = await self._fire(fire)
        except Exception as error:
            log.warning("a schedule could not start its workflow", exc_info=error, extra={"cron_id": cron.cron_id})
            await self._note(crons.settle_failed(control, fire, error))
            self.changed()  # it is due earlier, or later, than was known
            return
        await self._note(crons.settle_started(control, fire, run_id))
        self._on_triggered(cron.cron_id, cron.workflow, run_id)

    async def _note(self, noting: Awaitable[None]) -> None:
        try:
            await noting
        except SmithersError as error:
            # another look will find the moment unsettled, and the same run by its key
            log.warning("what a schedule has done cannot be noted", extra={"code": error.error_code})
