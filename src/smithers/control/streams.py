"""Streams: reading a run's log on from a cursor, and a hub that wakes only the readers for whom there is something new."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from smithers.engine.hub import Hub
from smithers.errors import SmithersError
from smithers.events import EventRow
from smithers.store.sql import pages, reads

if TYPE_CHECKING:
    from smithers.store.sql.store import SqlStore

BATCH = 200
TERMINAL = ("finished", "failed", "cancelled", "continued")


class StreamHub(Hub):
    """A hub for many readers: when somebody else has written, one query tells which logs have grown."""

    def __init__(self, store: SqlStore) -> None:
        super().__init__()
        self._store = store
        self._is_stale = False
        self._checking: asyncio.Task[None] | None = None
        self._unwatch: Callable[[], None] | None = None

    def wake_all(self) -> None:
        """Any log may have grown; look which."""
        self._is_stale = True
        if self._checking is None and self._by_run:
            self._checking = asyncio.get_running_loop().create_task(self._check())

    async def _check(self) -> None:
        try:
            while self._is_stale:
                self._is_stale = False
                seen = {run_id: min(s.cursor for s in group) for run_id, group in self._by_run.items()}
                try:
                    grown = await self._store.aread(partial(pages.grown, seen=seen))
                except SmithersError:
                    grown = list(seen)  # each reader finds out by itself
                for run_id in grown:
                    self.wake(run_id)
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

    def __init__(self, hub: Hub, store: SqlStore, run_id: str, after: int) -> None:
        self.run_id = run_id
        self._store = store
        self._subscription, self._end = hub.subscribe(run_id, after)
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
        subscription = self._subscription
        subscription.more.clear()

        query = partial(reads.log_page, run_id=self.run_id, after=subscription.cursor, limit=BATCH)
        status, rows = self._store.read(query, is_single=True)
        if rows:
            subscription.cursor = rows[-1].seq
        has_more = len(rows) == BATCH
        return Batch(rows, has_more, not has_more and status in TERMINAL)

    async def wait(self, seconds: float, *, again: bool = False) -> None:
        """Until there may be more, at most so long; with `again`, more than at the moment."""
        more = self._subscription.more
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
        self._subscription.more.set()

    def close(self) -> None:
        """Read no more."""
        self._end()
