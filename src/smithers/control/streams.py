"""Streams: reading a run's log on from a cursor, and a hub that wakes only the readers for whom there is something new."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from smithers.engine.hub import Hub, Subscription
from smithers.errors import SmithersError
from smithers.events import EventRow
from smithers.store.sql import pages, reads

if TYPE_CHECKING:
    from smithers.store.interface import Step
    from smithers.store.sql.store import SqlStore

BATCH = 200
REST = 3.0
"""How long to rest between two looks at what others have written, as a multiple of how long a look takes."""
MAX_YOUNG = 256
MAX_YOUNG_EVENTS = 64
TERMINAL = ("finished", "failed", "cancelled", "continued")


class Reader(Subscription):
    """A subscription that keeps what this process stores while it goes on without a gap, so that nothing is read for it.

    Args:
        held: events after `after` that are stored, if they are at hand.
    """

    def __init__(self, run_id: str, after: int, held: list[EventRow]) -> None:
        super().__init__(run_id, after)
        self._held = held
        self._has_all = False
        self.must_look = not held
        """Whether the log may hold more than is held here."""

    @property
    def known(self) -> int:
        """The newest event that was read or is held."""
        return self._held[-1].seq if self._held else self.cursor

    def wake(self) -> None:
        """There may be more, written by whomever."""
        self.must_look = True
        self.more.set()

    def take(self, rows: list[EventRow], *, is_last: bool) -> None:
        """These were stored by this process just now."""
        if not self.must_look:
            known = self.known
            if rows[0].seq > known + 1 or len(self._held) + len(rows) > BATCH:
                self.must_look = True
                self._held = []
            else:
                self._held += rows[known + 1 - rows[0].seq :]
                self._has_all = is_last
        self.more.set()

    def give(self) -> tuple[list[EventRow], bool] | None:
        """What is held, and whether the run has ended with it; None when the log must be read instead."""
        if self.must_look:
            self.must_look = self._has_all = False
            self._held = []
            return None
        rows, self._held = self._held, []
        return rows, self._has_all


class StreamHub(Hub):
    """A hub for many readers. What is stored here is handed to them; when somebody else has written, one query tells which
    logs have grown."""

    def __init__(self, store: SqlStore) -> None:
        super().__init__()
        self._store = store
        self._is_stale = False
        self._checking: asyncio.Task[None] | None = None
        self._unwatch: Callable[[], None] | None = None
        self._young: dict[str, list[EventRow]] = {}
        """The whole log of runs that were launched here lately and have gone on here since: whoever follows a run that he
        has just started gets it from memory."""
        self.on_step.append(self._keep)

    def _keep(self, run_id: str, step: Step, first_seq: int, rows: list[EventRow]) -> None:
        """A step was committed here."""
        log = [] if step.launch is not None else self._young.pop(run_id, None)
        if log is None or step.status is not None:  # it has ended, or waits: others may go on with it
            return
        if first_seq == len(log) and first_seq + len(rows) <= MAX_YOUNG_EVENTS:
            self._young[run_id] = log + rows
            if len(self._young) > MAX_YOUNG:
                del self._young[next(iter(self._young))]

    def let_go(self, run_id: str) -> None:
        """This process drives a run no longer. If it was taken over, whoever reads it must look what others write."""
        if run_id in self._young:
            self.wake(run_id)

    @property
    def young(self) -> frozenset[str]:
        """The runs whose whole log is at hand."""
        return frozenset(self._young)

    def wake(self, run_id: str) -> None:
        """The run's log may have grown."""
        self._young.pop(run_id, None)
        super().wake(run_id)

    def wake_all(self) -> None:
        """Any log may have grown; look which."""
        self._is_stale = True
        if self._checking is None and self._by_run:
            self._checking = asyncio.get_running_loop().create_task(self._check())

    def read_on(self, run_id: str, after: int) -> tuple[Reader, Callable[[], None]]:
        """Begin to read a run's log after a number, from memory where that is possible. Returns the reader and how to end it.

        What others have written to a young run lies behind what is held: the run, which is woken by it, goes on with a step
        whose number shows that something is missing.
        """
        held = self._young.get(run_id, [])[max(after, -1) + 1 :]
        reader = Reader(run_id, after, held)
        return reader, self._add(reader)

    async def _check(self) -> None:
        """Wake whoever has more to read. A busy database reports commits all the time, so this takes its time, but no more
        than a part of the process's."""
        loop = asyncio.get_running_loop()
        try:
            while self._is_stale:
                self._is_stale = False
                began = loop.time()
                seen = {run_id: min(_known(s) for s in group) for run_id, group in self._by_run.items()}
                try:
                    grown = await self._store.aread(partial(pages.grown, seen=seen))
                except SmithersError:
                    grown = list(seen)  # each reader finds out by itself
                for run_id in grown:
                    self.wake(run_id)
                await asyncio.sleep((loop.time() - began) * REST)
        finally:
            self._checking = None

    def watch_store(self) -> None:
        """Listen for commits by itself, where no engine does it for this hub."""
        if self._unwatch is None:
            loop = asyncio.get_running_loop()

            def heard() -> None:
                with suppress(RuntimeError):  # the loop is closed
                    loop.call_soon_threadsafe(self.wake_all)

            self._unwatch = self._store.watch(heard)

    def close(self) -> None:
        """Listen no more."""
        if self._unwatch is not None:
            self._unwatch()
            self._unwatch = None
        if self._checking is not None:
            self._checking.cancel()


class Batch(NamedTuple):
    """What one look at a log gave.

    Attributes:
        has_more: there is more to read at once.
        is_over: the run has ended and everything was read.
    """

    rows: list[EventRow]
    has_more: bool
    is_over: bool


class RunStream:
    """One reader of one run's log. Replay and live are one path: read from the cursor, sleep until there is more."""

    def __init__(self, hub: StreamHub, store: SqlStore, run_id: str, after: int) -> None:
        self.run_id = run_id
        self._store = store
        self._reader, self._end = hub.read_on(run_id, after)
        self._ahead: Batch | None = None

    def look_ahead(self) -> None:
        """Read the first batch now, for the next `read` to give. Raises `RunNotFound`, and has ended then."""
        try:
            self._ahead = self.read()
        except BaseException:
            self.close()
            raise

    def read(self) -> Batch:
        """What there is after the cursor, up to a batch; moves the cursor. Raises `RunNotFound` at the first one.

        Reads on the spot: a page of a log takes less time than a thread would need to get its turn.
        """
        if self._ahead is not None:
            batch, self._ahead = self._ahead, None
            return batch
        reader = self._reader
        reader.more.clear()
        held = reader.give()
        if held is not None:
            rows, is_over = held
            if rows:
                reader.cursor = rows[-1].seq
            return Batch(rows, False, is_over)
        query = partial(reads.log_page, run_id=self.run_id, after=reader.cursor, limit=BATCH)
        status, rows = self._store.read(query, is_single=True)
        if rows:
            reader.cursor = rows[-1].seq
        has_more = len(rows) == BATCH
        reader.must_look = has_more
        return Batch(rows, has_more, not has_more and status in TERMINAL)

    async def wait(self, seconds: float, *, again: bool = False) -> None:
        """Until there may be more, at most so long; with `again`, more than at the moment."""
        more = self._reader.more
        if again:
            more.clear()
        if more.is_set():
            return
        alarm = asyncio.get_running_loop().call_later(max(seconds, 0.0), more.set)
        try:
            await more.wait()
        finally:
            alarm.cancel()

    def wake(self) -> None:
        """End a `wait`."""
        self._reader.more.set()

    def close(self) -> None:
        """Read no more."""
        self._end()


def _known(subscription: Subscription) -> int:
    return subscription.known if isinstance(subscription, Reader) else subscription.cursor
