"""The SQLite file: opening, sharing within the process, writing through one thread, reading on several connections.

One `Database` a process and file, however often it is opened. Writes go to the thread in `writer.py`; reads run on
read-only connections, each in one snapshot; `notify.py` tells of commits. Nothing here knows a table.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Literal, TypeVar

import apsw

from smithers.errors import StorageBusy, StorageError, StoreNotFound
from smithers.store.sqlite.migrate import migrate
from smithers.store.sqlite.notify import Notifier
from smithers.store.sqlite.writer import Writer, storage_error

T = TypeVar("T")

MAX_READERS = 8
"""Read-only connections of one database; a further reader waits for one to come back."""

READ_THREADS = 4
STATEMENT_CACHE = 200
WAL_PAGES = 2_000
"""Pages in the WAL after which a commit copies them to the database file (8 MB)."""

_JOURNAL_LIMIT = 64 * 1024 * 1024
_FORK_ADVICE = "SQLite's locks do not survive that: start the process with 'spawn', or close the database first"


class Database:
    """One SQLite file, open in this process. Made by `Database.open`; every method may be called from any thread."""

    dialect: Literal["sqlite"] = "sqlite"

    def __init__(
        self,
        path: Path,
        *,
        durability: Literal["full", "normal"],
        busy_timeout_s: float,
        migrations: Traversable | None,
    ) -> None:
        connection = _connect_writer(path, durability, busy_timeout_s)
        try:
            migrate(connection, migrations)
            connection.execute("PRAGMA foreign_keys=ON")
            stat = path.stat()
        except BaseException as exc:
            errno = connection.system_errno
            connection.close(True)
            if isinstance(exc, apsw.Error):
                raise _named(path, exc, errno) from exc
            raise
        self.path = path
        self._file = (stat.st_dev, stat.st_ino)
        self._busy_timeout_s = busy_timeout_s
        self._references = 1
        self._refusal: str | None = None
        """Why nothing works any more."""
        self._writer = Writer(connection, path.name, is_synced=durability == "full")
        self._idle: deque[apsw.Connection] = deque()
        self._turns: queue.SimpleQueue[None] = queue.SimpleQueue()
        """One entry for each reader that may begin now; a semaphore would do, but is several times as slow."""
        for _ in range(MAX_READERS):
            self._turns.put(None)
        self._readers = ThreadPoolExecutor(READ_THREADS, thread_name_prefix=f"smithers-reader {path.name}")
        self._notifier = Notifier(path, self._connect_reader)

    @staticmethod
    def open(
        path: str | os.PathLike[str],
        *,
        create: bool = True,
        durability: Literal["full", "normal"] = "full",
        busy_timeout_s: float = 30.0,
        migrations: Traversable | None = None,
    ) -> Database:
        """The database at `path`, its schema up to date. Close it once for each call.

        A file that this process has open already gives the same object; of two wishes for `durability` the stronger
        holds. `"full"` commits survive a loss of power, `"normal"` ones a crash of the process. `migrations` is another
        folder of numbered `.sql` files than the built-in one.

        Raises:
            StoreNotFound: there is no file and `create` is false.
            StorageError: the file cannot be opened; the narrower classes say why.
            MigrationRequired: a newer version of this project wrote the file.
        """
        real = Path(os.path.realpath(path))
        with _registry.lock:
            if not create and not real.exists():
                raise StoreNotFound(f"there is no database at {real}", {"path": str(real)})
            if real in _registry.before_fork:
                raise StorageError(
                    f"the parent of this process opened {real} before it forked; {_FORK_ADVICE}", {"path": str(real)}
                )
            if (database := _registry.open.get(real)) is None:
                database = Database(real, durability=durability, busy_timeout_s=busy_timeout_s, migrations=migrations)
                _registry.open[real] = database
                return database
            database._check_same_file()
            database._references += 1
            if durability == "full":
                database._writer.require_sync()
            return database

    def close(self) -> None:
        """Give one `open` back. The last one commits what was handed in before, then closes the file.

        Must not be the last one while a query of the calling thread runs.
        """
        with _registry.lock:
            if self._references == 0:
                return
            self._references -= 1
            if self._references > 0:
                return
            _registry.open.pop(self.path, None)
        self.shut_down()

    def submit(
        self, job: Callable[[apsw.Connection], T], resolve: Callable[[T | None, BaseException | None], None]
    ) -> None:
        """Hand a write job in. `resolve` is called once, after the commit, on the writer's thread.

        A job runs inside a transaction that it neither ends nor begins, returns values and never a cursor, and always
        runs once it was handed in. If it raises, what it wrote is undone and its own caller gets the error.
        """
        self._writer.submit(job, resolve)

    def write(self, job: Callable[[apsw.Connection], T]) -> T:
        """Run a write job; durable on return. Blocks; from an event loop use `awrite`."""
        return self._writer.write(job)

    def awrite(self, job: Callable[[apsw.Connection], T]) -> Coroutine[object, object, T]:
        """Run a write job; durable when awaited. Cancelling the wait does not cancel the job."""
        return self._writer.awrite(job)

    def watch(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback`, on a thread of ours, soon after any process has committed; returns how to end it.

        Commits close together share a call. Commits of this process count too.
        """
        return self._notifier.watch(callback)

    def read(self, query: Callable[[apsw.Connection], T], *, is_single: bool = False) -> T:
        """Run `query` in one snapshot of the database, on this thread. It must return values, never a cursor.

        With `is_single` it is one statement that is read to its end, which has a snapshot of its own: half the time.
        """
        self._check_open()
        self._turns.get()
        try:
            connection = self._borrow()
            try:
                if not is_single:
                    connection.execute("BEGIN")
                return query(connection)
            except apsw.Error as exc:
                raise storage_error(exc, connection.system_errno) from exc
            finally:
                self._give_back(connection)
        finally:
            self._turns.put(None)

    async def aread(self, query: Callable[[apsw.Connection], T]) -> T:
        """As `read`, on one of a few threads of the database's own."""
        try:
            reading = asyncio.get_running_loop().run_in_executor(self._readers, self.read, query)
        except RuntimeError as exc:  # the threads are gone
            raise StorageError(self._refusal or "the database is closed") from exc
        return await reading

    def _check_open(self) -> None:
        if self._refusal is not None:
            raise StorageError(self._refusal)

    def _borrow(self) -> apsw.Connection:
        self._check_open()
        try:
            return self._idle.pop()
        except IndexError:
            return self._connect_reader()

    def _give_back(self, connection: apsw.Connection) -> None:
        if connection.in_transaction:
            connection.execute("ROLLBACK")  # nothing was written, and unlike COMMIT it cannot fail
        if connection.txn_state() == apsw.SQLITE_TXN_NONE:
            self._idle.append(connection)
        else:  # a cursor escaped, which would hold this snapshot for the next reader
            connection.close(True)
        if self._refusal is not None:  # closed meanwhile: `shut_down` may have looked before this one came back
            self._close_idle()

    def _close_idle(self) -> None:
        with contextlib.suppress(IndexError):
            while True:
                self._idle.pop().close(True)

    def _connect_reader(self) -> apsw.Connection:
        try:
            connection = apsw.Connection(
                str(self.path), flags=apsw.SQLITE_OPEN_READONLY, statementcachesize=STATEMENT_CACHE
            )
            _prepare(connection, self._busy_timeout_s, cache_kib=4_096)
        except apsw.Error as exc:
            raise _named(self.path, exc) from exc
        return connection

    def _check_same_file(self) -> None:
        try:
            stat = self.path.stat()
        except FileNotFoundError:
            stat = None
        if stat is None or (stat.st_dev, stat.st_ino) != self._file:
            raise StorageError(
                f"{self.path} was removed or replaced while this process had it open; close it everywhere first",
                {"path": str(self.path)},
            )

    def shut_down(self) -> None:
        """Close everything, whoever else has it open: for the last `close`, and the end of the process."""
        self._refusal = "the database is closed"
        self._notifier.close()
        self._readers.shutdown(wait=True)
        self._close_idle()
        self._writer.close()  # last, so that SQLite can tidy the WAL away, which a reader cannot

    def abandon(self) -> None:
        """Refuse everything: this is a forked child's copy, whose threads and locks are the parent's."""
        self._refusal = f"the parent of this process opened {self.path} before it forked; {_FORK_ADVICE}"
        self._writer.abandon(StorageError(self._refusal))


class _Registry:
    """The databases that this process has open."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.open: dict[Path, Database] = {}
        self.before_fork: dict[Path, Database] = {}
        """What a parent had open. Kept, because SQLite must not be told to close a connection in a forked child."""

    def after_fork(self) -> None:
        """In the child: nothing is open, and nothing of the parent's is touched."""
        self.lock = threading.RLock()
        self.before_fork |= self.open
        self.open = {}
        for database in self.before_fork.values():
            database.abandon()

    def close_all(self) -> None:
        """At the end of the process, whoever forgot to close."""
        with self.lock:
            databases = list(self.open.values())
            self.open = {}
        for database in databases:
            database.shut_down()


_registry = _Registry()
atexit.register(_registry.close_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_registry.after_fork)


def _connect_writer(path: Path, durability: Literal["full", "normal"], busy_timeout_s: float) -> apsw.Connection:
    try:
        connection = apsw.Connection(
            str(path), flags=apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE, statementcachesize=STATEMENT_CACHE
        )
    except apsw.Error as exc:
        raise _named(path, exc) from exc
    try:
        _prepare(connection, busy_timeout_s, cache_kib=16_384)
        _use_wal(connection, busy_timeout_s)
        connection.execute(f"PRAGMA synchronous={durability}")
        connection.execute(f"PRAGMA wal_autocheckpoint={WAL_PAGES}")
        connection.execute(f"PRAGMA journal_size_limit={_JOURNAL_LIMIT}")
    except BaseException as exc:
        errno = connection.system_errno
        connection.close(True)
        if isinstance(exc, apsw.Error):
            raise _named(path, exc, errno) from exc
        raise
    return connection


def _named(path: Path, exc: apsw.Error, system_errno: int = 0) -> StorageError:
    """What SQLite's exception means, with the file that it is about."""
    error = storage_error(exc, system_errno)
    return type(error)(f"{path}: {error.summary}", {"path": str(path)})


def _prepare(connection: apsw.Connection, busy_timeout_s: float, *, cache_kib: int) -> None:
    connection.set_busy_timeout(int(busy_timeout_s * 1000))
    connection.config(apsw.SQLITE_DBCONFIG_DQS_DML, 0)  # a misspelt column is an error, not a string
    connection.config(apsw.SQLITE_DBCONFIG_DQS_DDL, 0)
    connection.execute("PRAGMA temp_store=MEMORY")
    connection.execute(f"PRAGMA cache_size=-{cache_kib}")


def _use_wal(connection: apsw.Connection, busy_timeout_s: float) -> None:
    # SQLite does not wait when two connections switch a new file to WAL at once, so we do.
    give_up_at = time.monotonic() + busy_timeout_s
    while True:
        try:
            mode = connection.execute("PRAGMA journal_mode=WAL").get
            break
        except apsw.BusyError as exc:
            if time.monotonic() >= give_up_at:
                raise StorageBusy(
                    "the database is locked: another process has been writing to it for too long"
                ) from exc
            time.sleep(0.01)
    if mode != "wal":
        raise StorageError(
            f"this file system does not support SQLite's WAL mode (it stayed {mode!r})", {"mode": str(mode)}
        )
