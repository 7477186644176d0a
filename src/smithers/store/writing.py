"""The one thread that writes, whatever the database: its queue, how jobs are handed in, and how their answers go out.

A job is a function of the writing connection. How a batch of them is run and committed is the database's own:
`sqlite/writer.py`, `postgres/writer.py`.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Generic, TypeAlias, TypeVar, cast

from smithers.errors import StorageError
from smithers.store.doorbell import Answer, Doorbell, doorbell_of

log = logging.getLogger(__name__)

T = TypeVar("T")
C = TypeVar("C")

MAX_BATCH = 256
TIME_BOX_S = 0.02
"""How long a batch goes on taking jobs that arrive while it runs; what follows waits for the next one."""

Resolve: TypeAlias = Callable[[object, BaseException | None], None]
"""Told a job's result and None, or None and its error; called once, after the commit."""


class Call(Generic[C]):
    """A job whose answer goes to a callback."""

    __slots__ = ("job", "resolve")

    def __init__(self, job: Callable[[C], object], resolve: Resolve) -> None:
        self.job = job
        self.resolve = resolve


class Await(Generic[C]):
    """A job whose answer goes to a future of an event loop."""

    __slots__ = ("bell", "future", "job")

    def __init__(self, job: Callable[[C], object], future: asyncio.Future[object], bell: Doorbell) -> None:
        self.job = job
        self.future = future
        self.bell = bell


Waiting: TypeAlias = Call[C] | Await[C]
Settled: TypeAlias = tuple[Waiting[C], object, BaseException | None]


class GroupWriter(ABC, Generic[C]):
    """Runs jobs on one connection, in the order in which they were handed in. `name` appears in the thread's name."""

    def __init__(self, name: str) -> None:
        self._queue: queue.SimpleQueue[Waiting[C] | None] = queue.SimpleQueue()
        self._stopped: StorageError | None = None
        self._thread = threading.Thread(target=self._run, name=f"smithers-writer {name}", daemon=True)

    def submit(self, job: Callable[[C], T], resolve: Callable[[T | None, BaseException | None], None]) -> None:
        """Hand a job in, from any thread. `resolve` is called once, on the writer's thread, after the commit."""
        self._put(Call(job, cast("Resolve", resolve)))

    async def awrite(self, job: Callable[[C], T]) -> T:
        """Hand a job in and wait for its commit. Cancelling the wait does not cancel the job."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._put(Await(job, cast("asyncio.Future[object]", future), doorbell_of(loop)))
        return await future

    def write(self, job: Callable[[C], T]) -> T:
        """Hand a job in and block until its commit."""
        if threading.current_thread() is self._thread:
            raise StorageError("a write job must not wait for another write job; it would wait for itself")
        reply: queue.SimpleQueue[tuple[T | None, BaseException | None]] = queue.SimpleQueue()
        self.submit(job, lambda result, error: reply.put((result, error)))
        result, error = reply.get()
        if error is not None:
            raise error
        return cast("T", result)

    def close(self) -> None:
        """Commit what was handed in before, refuse what comes after, close the connection. May be called twice."""
        self._queue.put(None)
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def abandon(self, reason: StorageError) -> None:
        """Refuse all jobs without touching the connection: for a forked child, where the thread does not exist."""
        self._stopped = reason

    @abstractmethod
    def _batch(self, entry: Waiting[C]) -> bool:
        """Run and settle this job, and those that wait with it. False if the end of the queue was reached."""

    @abstractmethod
    def _close_connection(self) -> None:
        """Called last, on the writer's thread."""

    def _put(self, entry: Waiting[C]) -> None:
        self._queue.put(entry)
        # The thread sets `_stopped` before it empties the queue for the last time, so an entry that it did not see is
        # seen here.
        if self._stopped is not None:
            self._settle([(left, None, again(self._stopped)) for left in self._take_all()])

    def _take_all(self) -> list[Waiting[C]]:
        left: list[Waiting[C]] = []
        while True:
            try:
                entry = self._queue.get_nowait()
            except queue.Empty:
                return left
            if entry is not None:
                left.append(entry)

    def _run(self) -> None:
        try:
            while (entry := self._queue.get()) is not None:
                if not self._batch(entry):
                    break
                del entry  # an idle writer keeps nobody's results alive
        finally:
            self._stopped = closed = StorageError("the database is closed")
            self._settle([(left, None, again(closed)) for left in self._take_all()])
            self._close_connection()

    def _waiting(self) -> list[Waiting[C]]:
        """Up to a batch of what waits now; puts the end mark back if it is among it."""
        taken: list[Waiting[C]] = []
        while len(taken) < MAX_BATCH - 1:
            try:
                entry = self._queue.get_nowait()
            except queue.Empty:
                break
            if entry is None:
                self._queue.put(None)
                break
            taken.append(entry)
        return taken

    def _settle(self, settled: list[Settled[C]]) -> None:
        by_bell: dict[Doorbell, list[Answer]] = {}
        for entry, result, error in settled:
            if isinstance(entry, Await):
                by_bell.setdefault(entry.bell, []).append((entry.future, result, error))
                continue
            try:
                entry.resolve(result, error)
            except Exception:
                log.exception("the receiver of a write's result failed")
        for bell, answers in by_bell.items():
            bell.ring(answers)


def settleable(error: BaseException) -> BaseException:
    """The error itself, unless a future would refuse it, and with it the rest of a batch's answers."""
    if not isinstance(error, StopIteration):
        return error
    instead = RuntimeError("a write job raised StopIteration")
    instead.__cause__ = error
    return instead


def again(error: StorageError) -> StorageError:
    """A copy for one receiver: exceptions collect tracebacks, so they are not shared."""
    copy = StorageError.__new__(type(error))
    copy.__dict__.update(error.__dict__)
    copy.args = error.args
    copy.__cause__ = error.__cause__
    return copy
