"""The one thread that writes to a SQLite file: takes everything waiting, commits it together, answers everybody.

All jobs of a batch share one transaction and one fsync; a job that raises is undone alone. What SQLite says is turned into
this project's errors here (`storage_error`). The queue and the answers are in `../writing.py`; who opens the connection,
and what readers do, is `database.py`.
"""

from __future__ import annotations

import errno
import logging
import queue
import time
import traceback
from typing import TypeAlias

import apsw

from smithers.errors import StorageBusy, StorageCorrupt, StorageError, StorageFull, StorageReadOnly
from smithers.store.writing import MAX_BATCH, TIME_BOX_S, GroupWriter, Settled, Waiting, again, settleable

log = logging.getLogger(__name__)

_Settled: TypeAlias = Settled[apsw.Connection]


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


class Writer(GroupWriter[apsw.Connection]):
    """Runs jobs on one connection.

    Args:
        connection: read-write, outside a transaction; the writer owns it from now on and closes it.
        name: appears in the thread's name.
        is_synced: whether the connection's commits survive a loss of power already (`synchronous=FULL`).
    """

    def __init__(self, connection: apsw.Connection, name: str, *, is_synced: bool) -> None:
        super().__init__(name)
        self._connection = connection
        self._cursor = connection.cursor()
        self._is_synced = is_synced
        self._wants_sync = is_synced
        self._thread.start()

    def require_sync(self) -> None:
        """From the next commit on, commits survive a loss of power."""
        self._wants_sync = True

    def _close_connection(self) -> None:
        self._cursor.close()
        self._connection.close(True)

    def _batch(self, entry: Waiting[apsw.Connection]) -> bool:
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

    def _execute(self, entry: Waiting[apsw.Connection], *, is_first: bool) -> _Settled:
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
            self._undo(only_this=not is_first)
            return entry, None, settleable(error)

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

    def _translated(self, exc: BaseException) -> BaseException:
        return storage_error(exc, self._connection.system_errno) if isinstance(exc, apsw.Error) else exc


def _undone(settled: _Settled, cause: BaseException) -> _Settled:
    """The same job, now failed: its own error if it had one, else the storage error that undid it."""
    entry, _, error = settled
    if error is not None:
        return settled
    return entry, None, again(storage_error(cause))
