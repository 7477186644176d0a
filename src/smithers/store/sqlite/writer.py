"""The one thread that writes: takes everything waiting, commits it together, answers everybody.

A job is a function of the read-write connection. All jobs of a batch share one transaction and one fsync; a job that
raises is undone alone. What SQLite says is turned into this project's errors here (`storage_error`). Who opens the
connection, and what readers do, is `database.py`.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import queue
import threading
import time
import traceback
from collections.abc import Callable
from typing import TypeAlias, TypeVar, cast

import apsw

from smithers.errors import StorageBusy, StorageCorrupt, StorageError, StorageFull, StorageReadOnly
from smithers.store.doorbell import Answer, Doorbell, doorbell_of

log = logging.getLogger(__name__)

T = TypeVar("T")

MAX_BATCH = 256
TIME_BOX_S = 0.02
"""How long a batch goes on taking jobs that arrive while it runs; what follows waits for the next one."""

Resolve: TypeAlias = Callable[[object, BaseException | None], None]
"""Told a job's result and None, or None and its error; called once, after the commit."""

_Job: TypeAlias = Callable[[apsw.Connection], object]


class _Call:
    """A job whose answer goes to a callback."""

    __slots__ = ("job", "resolve")

    def __init__(self, job: _Job, resolve: Resolve) -> None:
        self.job = job
        self.resolve = resolve


class _Await:
    """A job whose answer goes to a future of an event loop."""

    __slots__ = ("bell", "future", "job")

    def __init__(self, job: _Job, future: asyncio.Future[object], bell: Doorbell) -> None:
        self.job = job
        self.future = future
        self.bell = bell


_Waiting: TypeAlias = _Call | _Await
_Settled: TypeAlias = tuple[_Waiting, object, BaseException | None]


def storage_error(exc: BaseException, system_errno: int = 0) -> StorageError:
    """What SQLite's exception means in this project's terms; `system_errno` is the connection's last OS error.

    The caller keeps the cause with `raise … from`. A `StorageError` is returned as it is.
    """
    match exc:
        case StorageError():
            return exc
        case apsw.BusyError() | apsw.LockedError():
            return _caused(
                StorageBusy("the database is locked: another process has been writing to it for too long"), exc
            )
        case apsw.FullError():
            return _caused(StorageFull("the disk that holds the database is full"), exc)
        case apsw.IOError() if system_errno in (errno.ENOSPC, errno.EDQUOT):
            return _caused(StorageFull("the disk that holds the database is full"), exc)
        case apsw.ReadOnlyError() | apsw.CantOpenError() | apsw.PermissionsError():
            return _caused(StorageReadOnly(f"the database file or its folder cannot be opened for writing: {exc}"), exc)
        case apsw.CorruptError() | apsw.NotADBError():
            return _caused(StorageCorrupt(f"the file is not a database, or is damaged: {exc}"), exc)
        case _:
            return _caused(StorageError(f"the database refused: {type(exc).__name__}: {exc}"), exc)


def _caused(error: StorageError, cause: BaseException) -> StorageError:
    error.__cause__ = cause
    return error


class Writer:
    """Runs jobs on one connection, in the order in which they were handed in.

    Args:
        connection: read-write, outside a transaction; the writer owns it from now on and closes it.
        name: appears in the thread's name.
        is_synced: whether the connection's commits survive a loss of power already (`synchronous=FULL`).
    """

    def __init__(self, connection: apsw.Connection, name: str, *, is_synced: bool) -> None:
        self._connection = connection
        self._cursor = connection.cursor()
        self._queue: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._stopped: StorageError | None = None
        self._is_synced = is_synced
        self._wants_sync = is_synced
        self._thread = threading.Thread(target=self._run, name=f"smithers-writer {name}", daemon=True)
        self._thread.start()

    def submit(
        self, job: Callable[[apsw.Connection], T], resolve: Callable[[T | None, BaseException | None], None]
    ) -> None:
        """Hand a job in, from any thread. `resolve` is called once, on the writer's thread, after the commit."""
        self._put(_Call(job, cast("Resolve", resolve)))

    async def awrite(self, job: Callable[[apsw.Connection], T]) -> T:
        """Hand a job in and wait for its commit. Cancelling the wait does not cancel the job."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._put(_Await(job, cast("asyncio.Future[object]", future), doorbell_of(loop)))
        return await future

    def write(self, job: Callable[[apsw.Connection], T]) -> T:
        """Hand a job in and block until its commit."""
        if threading.current_thread() is self._thread:
            raise StorageError("a write job must not wait for another write job; it would wait for itself")
        reply: queue.SimpleQueue[tuple[T | None, BaseException | None]] = queue.SimpleQueue()
        self.submit(job, lambda result, error: reply.put((result, error)))
        result, error = reply.get()
        if error is not None:
            raise error
        return cast("T", result)

    def require_sync(self) -> None:
        """From the next commit on, commits survive a loss of power."""
        self._wants_sync = True

    def close(self) -> None:
        """Commit what was handed in before, refuse what comes after, close the connection. May be called twice."""
        self._queue.put(None)
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def abandon(self, reason: StorageError) -> None:
        """Refuse all jobs without touching the connection: for a forked child, where the thread does not exist."""
        self._stopped = reason

    def _put(self, entry: _Waiting) -> None:
        self._queue.put(entry)
        # The thread sets `_stopped` before it empties the queue for the last time, so an entry that it did not see is
        # seen here.
        if self._stopped is not None:
            self._settle([(left, None, _again(self._stopped)) for left in self._take_all()])

    def _take_all(self) -> list[_Waiting]:
        left: list[_Waiting] = []
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
            self._settle([(left, None, _again(closed)) for left in self._take_all()])
            self._cursor.close()
            self._connection.close(True)

    def _batch(self, entry: _Waiting) -> bool:
        """One transaction. False if the end of the queue was reached."""
        try:
            self._begin()
        except Exception as exc:
            self._settle([(each, None, self._translated(exc)) for each in [entry, *self._waiting()]])
            return True
        settled: list[_Settled] = []
        goes_on, stop_at = True, time.monotonic() + TIME_BOX_S
        while True:
            outcome = self._execute(entry, is_first=not settled)
            settled.append(outcome)
            if outcome[2] is not None and not self._connection.in_transaction:
                # The first job failed and was undone with the whole transaction, or SQLite undid everything by itself.
                settled = [_undone(each, self._translated(outcome[2])) for each in settled]
                break
            if len(settled) >= MAX_BATCH or time.monotonic() >= stop_at:
                settled = self._commit(settled)
                break
            try:
                following = self._queue.get_nowait()
            except queue.Empty:
                settled = self._commit(settled)
                break
            if following is None:
                settled, goes_on = self._commit(settled), False
                break
            entry = following
        self._settle(settled)
        return goes_on

    def _begin(self) -> None:
        if self._wants_sync and not self._is_synced:
            self._cursor.execute("PRAGMA synchronous=FULL")
            self._is_synced = True
        self._cursor.execute("BEGIN IMMEDIATE")

    def _execute(self, entry: _Waiting, *, is_first: bool) -> _Settled:
        # The first job has nothing before it in the transaction, so undoing it needs no savepoint.
        try:
            if is_first:
                return entry, entry.job(self._connection), None
            self._cursor.execute("SAVEPOINT job")
            result = entry.job(self._connection)
            self._cursor.execute("RELEASE job")
            return entry, result, None
        except BaseException as exc:
            # The frames may hold cursors; an open cursor would keep the transaction's snapshot.
            traceback.clear_frames(exc.__traceback__)
            error = self._translated(exc) if isinstance(exc, apsw.Error) else exc
            if isinstance(error, StopIteration):  # a future refuses it, and with it the rest of the batch
                error = RuntimeError("a write job raised StopIteration")
                error.__cause__ = exc
            self._undo(only_this=not is_first)
            return entry, None, error

    def _undo(self, *, only_this: bool) -> None:
        if not self._connection.in_transaction:
            return
        try:
            if only_this:
                self._cursor.execute("ROLLBACK TO job")
                self._cursor.execute("RELEASE job")
            else:
                self._cursor.execute("ROLLBACK")
        except apsw.Error:
            log.exception("a failed write could not be undone alone; the whole batch is undone")
            if self._connection.in_transaction:
                self._cursor.execute("ROLLBACK")

    def _commit(self, settled: list[_Settled]) -> list[_Settled]:
        try:
            self._cursor.execute("COMMIT")
        except Exception as exc:
            self._undo(only_this=False)
            return [_undone(each, self._translated(exc)) for each in settled]
        return settled

    def _waiting(self) -> list[_Waiting]:
        """Up to a batch of what waits now; puts the end mark back if it is among it."""
        taken: list[_Waiting] = []
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

    def _translated(self, exc: BaseException) -> BaseException:
        return storage_error(exc, self._connection.system_errno) if isinstance(exc, apsw.Error) else exc

    def _settle(self, settled: list[_Settled]) -> None:
        by_bell: dict[Doorbell, list[Answer]] = {}
        for entry, result, error in settled:
            if isinstance(entry, _Await):
                by_bell.setdefault(entry.bell, []).append((entry.future, result, error))
                continue
            try:
                entry.resolve(result, error)
            except Exception:
                log.exception("the receiver of a write's result failed")
        for bell, answers in by_bell.items():
            bell.ring(answers)


def _undone(settled: _Settled, cause: BaseException) -> _Settled:
    """The same job, now failed: its own error if it had one, else the storage error that undid it."""
    entry, _, error = settled
    if error is not None:
        return settled
    return entry, None, _again(storage_error(cause))


def _again(error: StorageError) -> StorageError:
    """A copy for one receiver: exceptions collect tracebacks, so they are not shared."""
    copy = type(error)(error.summary, error.details, code=error.error_code)
    copy.__cause__ = error.__cause__
    return copy
