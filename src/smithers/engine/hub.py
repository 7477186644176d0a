"""Hub: tells subscribers in this process what a run's log has gained, without asking the database when it can be avoided."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

from smithers.events import TERMINAL_TYPES, EventRow
from smithers.store.interface import Step
from smithers.store.sql import reads
from smithers.store.sql.store import SqlStore

PAGE = 1000

OnStep = Callable[[str, Step, int, list[EventRow]], None]
"""Given the run, the step, and the events that it has stored with the number of the first: its launch's among them."""


def step_rows(step: Step, first_seq: int) -> tuple[int, list[EventRow]]:
    """The events that a step has stored, those of its launch first, and the number of the first.

    Args:
        first_seq: the number of the step's own first event.
    """
    rows = [EventRow(seq, step.now_ms, step.frame_no, *each) for seq, each in enumerate(step.events, first_seq)]
    launch = step.launch
    if launch is None:
        return first_seq, rows
    first_seq -= len(launch.events)
    return first_seq, [EventRow(n, launch.now_ms, 0, *each) for n, each in enumerate(launch.events, first_seq)] + rows


class Subscription:
    """One reader of one run's log: a cursor, and a flag that there is more."""

    def __init__(self, run_id: str, after: int) -> None:
        self.run_id = run_id
        self.cursor = after
        self.more = asyncio.Event()
        self.more.set()

    def wake(self) -> None:
        """There may be more."""
        self.more.set()

    def take(self, rows: list[EventRow], *, is_last: bool) -> None:
        """These were stored by this process just now; `is_last` if the run has ended with them."""
        self.more.set()


class Hub:
    """Wakes the subscriptions of a run when its log has grown. Used in one event loop."""

    def __init__(self) -> None:
        self._by_run: dict[str, set[Subscription]] = {}
        self.on_step: list[OnStep] = []
        """Told of each step that is committed in this process."""
        self.on_touch: list[Callable[[str], None]] = []
        """Told of a run that was written to in this process otherwise."""

    def publish(self, run_id: str, step: Step, first_seq: int) -> None:
        """A step was committed."""
        if not (self._by_run or self.on_step):
            return
        first_seq, rows = step_rows(step, first_seq)
        if rows:
            is_last = step.status is not None and step.status.is_terminal
            for subscription in self._by_run.get(run_id, ()):
                subscription.take(rows, is_last=is_last)
        for tell in self.on_step:
            tell(run_id, step, first_seq, rows)

    def touch(self, run_id: str) -> None:
        """Somebody here has written to a run otherwise than by a step."""
        self.wake(run_id)
        for tell in self.on_touch:
            tell(run_id)

    def let_go(self, run_id: str) -> None:
        """This process drives a run no longer, whether it has ended or was taken over."""

    @property
    def has_subscribers(self) -> bool:
        """Whether anybody reads here."""
        return bool(self._by_run)

    def wake(self, run_id: str) -> None:
        """The run's log may have grown."""
        for subscription in self._by_run.get(run_id, ()):
            subscription.wake()

    def wake_all(self) -> None:
        """Any log may have grown: somebody else has written to the database."""
        for subscriptions in self._by_run.values():
            for subscription in subscriptions:
                subscription.wake()

    def subscribe(self, run_id: str, after: int) -> tuple[Subscription, Callable[[], None]]:
        """Begin to read a run's log after a number. Returns the subscription and how to end it."""
        subscription = Subscription(run_id, after)
        return subscription, self._add(subscription)

    def _add(self, subscription: Subscription) -> Callable[[], None]:
        run_id = subscription.run_id
        self._by_run.setdefault(run_id, set()).add(subscription)

        def end() -> None:
            group = self._by_run.get(run_id)
            if group is not None:
                group.discard(subscription)
                if not group:
                    del self._by_run[run_id]

        return end


async def follow(hub: Hub, store: SqlStore, run_id: str, after: int = -1) -> AsyncIterator[EventRow]:
    """A run's events after a number: stored ones first, then each as it is committed, until the run has ended.

    Replay and live are one path (read from the cursor, sleep until there is more), so nothing is lost, doubled or out of
    order. Ends after a terminal event that nothing follows.
    """
    subscription, end = hub.subscribe(run_id, after)
    try:
        while True:
            subscription.more.clear()
            rows = await store.aread(lambda c: reads.events(c, run_id, subscription.cursor, PAGE))
            for row in rows:
                subscription.cursor = row.seq
                yield row
            if len(rows) == PAGE:
                continue
            run = await store.aread(lambda c: reads.run(c, run_id))
            if run.next_seq - 1 > subscription.cursor:
                continue
            if run.status in ("finished", "failed", "cancelled", "continued"):
                return
            await subscription.more.wait()
    finally:
        end()


__all__ = ["TERMINAL_TYPES", "Hub", "Subscription", "follow"]
