"""The SQLite file: opening, sharing within the process, writing through one thread, reading on several connections.

One `Database` a process and file, however often it is opened. Writes go to the thread in `writer.py`; reads run on
read-only connections, each in one snapshot; `notify.py` tells of commits. Nothing here knows a table.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Literal, TypeVar

import apsw

from smithers.errors import StorageBusy, StorageError, StoreNotFound
from smithers.store.notifying import Notifier
from smithers.store.sharing import Registry, SharedDatabase
from smithers.store.sqlite.migrate import migrate
from smithers.store.sqlite.notify import WatchThread
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


class Database(SharedDatabase[apsw.Connection]):
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
        super().__init__()
        self.path = path
        self._file = (stat.st_dev, stat.st_ino)
        self._busy_timeout_s = busy_timeout_s
        self._writer = writer = Writer(connection, path.name, is_synced=durability == "full")
        self._require_sync = writer.require_sync
        self._idle: deque[apsw.Connection] = deque()
        self._turns: queue.SimpleQueue[None] = queue.SimpleQueue()
        """One entry for each reader that may begin now; a semaphore would do, but is several times as slow."""
        for _ in range(MAX_READERS):
            self._turns.put(None)
        self._readers = ThreadPoolExecutor(READ_THREADS, thread_name_prefix=f"smithers-reader {path.name}")
        self._notifier = Notifier(lambda changed: WatchThread(path, self._connect_reader(), changed))

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
            if any(path == real for path, _ in _registry.before_fork):
                raise StorageError(
                    f"the parent of this process opened {real} before it forked; {_FORK_ADVICE}", {"path": str(real)}
                )
            if (database := _registry.open.get(real)) is None:
                database = Database(real, durability=durability, busy_timeout_s=busy_timeout_s, migrations=migrations)
                _registry.open[real] = database
                return database
            database._check_same_file()
            database.references += 1
            if durability == "full":
                database._require_sync()
            return database

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
        self._check_open()  # here already: a forked child has none of these threads
        try:
            reading = asyncio.get_running_loop().run_in_executor(self._readers, self.read, query)
        except RuntimeError as exc:  # the threads are gone
            raise StorageError(self._refusal or "the database is closed") from exc
        return await reading

    def _is_last_out(self) -> bool:
        return _registry.is_last_out(self.path, self)

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
        """See `SharedDatabase.shut_down`."""
        self._refusal = "the database is closed"
        self._notifier.close()
        self._readers.shutdown(wait=True)
        self._close_idle()
        self._writer.close()  # last, so that SQLite can tidy the WAL away, which a reader cannot

    def abandon(self) -> None:
        """See `SharedDatabase.abandon`."""
        self._refusal = f"the parent of this process opened {self.path} before it forked; {_FORK_ADVICE}"
        self._writer.abandon(StorageError(self._refusal))


_registry = Registry[Path, Database]()


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
