"""The PostgreSQL database: opening, sharing within the process, one connection that writes, a bounded pool that reads.

One `Database` a process and address, however often it is opened. Writes go to the thread in `writer.py`; each read has a
snapshot of its own; `notify.py` tells of commits. Nothing here knows a table.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.resources.abc import Traversable
from typing import Literal, TypeVar

import psycopg

from smithers.errors import StorageError, StorageRefused, StorageSaturated, StorageUnreachable
from smithers.store.notifying import Notifier
from smithers.store.postgres.address import Address
from smithers.store.postgres.errors import STALE_PLANS, may_be_refused, state_of, storage_error
from smithers.store.postgres.link import Link
from smithers.store.postgres.migrate import migrate
from smithers.store.postgres.notify import ListenThread
from smithers.store.postgres.session import PostgresSession
from smithers.store.postgres.writer import FIRST_PAUSE_S, RECONNECT_S, Writer
from smithers.store.sharing import Registry, SharedDatabase
from smithers.store.sql.session import Row, Session

T = TypeVar("T")

READ_THREADS = 4

READ_TRIES = 4
"""How often a query is run before the loss of its connection is its error."""

OLDEST_SERVER = 160_000

HELD_MS = 5_000
"""A process that stands still inside a transaction for so long loses it, and with it the rows that it has locked: others
wait for those."""

SNAPSHOT_HELD_MS = 300_000
"""The same for one that only reads: it holds nobody up, but the server keeps for it what others have deleted since."""


class Database(SharedDatabase[Session]):
    """One PostgreSQL database, open in this process. Made by `Database.open`; every method may be called from any thread."""

    dialect: Literal["postgres"] = "postgres"

    def __init__(
        self,
        address: Address,
        *,
        durability: Literal["full", "normal"],
        busy_timeout_s: float,
        pool: int,
        migrations: Traversable | None,
    ) -> None:
        super().__init__()
        self.address = address
        self._busy_timeout_s = busy_timeout_s
        self._is_synced = durability == "full"
        self._migrate(migrations)
        self._writer = Writer(self._connect_writer, address.name)
        self._idle: deque[Link] = deque()
        self._pool = pool
        self._turns: queue.SimpleQueue[None] = queue.SimpleQueue()
        """One entry for each reader that may begin now."""
        for _ in range(pool):
            self._turns.put(None)
        self._readers = ThreadPoolExecutor(READ_THREADS, thread_name_prefix=f"smithers-reader {address.name}")
        self._notifier = Notifier(lambda changed: ListenThread(address.name, self._connect, changed))

    @staticmethod
    def open(
        url: str,
        *,
        durability: Literal["full", "normal"] = "full",
        busy_timeout_s: float = 30.0,
        pool: int,
        migrations: Traversable | None = None,
    ) -> Database:
        """The database at `url`, its schema up to date. Close it once for each call.

        An address that this process has open already gives the same object, with the pool that it has; of two wishes for
        `durability` the stronger holds. `"full"` commits survive a loss of power of the server, `"normal"` ones a crash
        of this process. `migrations` is another folder of numbered `.sql` files than the built-in one.

        Raises:
            StorageUnreachable: the server does not answer.
            StorageError: the database cannot be opened; the narrower classes say why.
            MigrationRequired: a newer version of this project wrote the database.
        """
        address = Address.parse(url)
        with _registry.lock:
            if (database := _registry.open.get(address)) is None:
                database = Database(
                    address, durability=durability, busy_timeout_s=busy_timeout_s, pool=pool, migrations=migrations
                )
                _registry.open[address] = database
                return database
            database.references += 1
            if durability == "full" and not database._is_synced:
                database._is_synced = True
                database._writer.write(lambda session: session.execute("SET synchronous_commit = on").fetchall())
            return database

    def read(self, query: Callable[[Session], T], *, is_single: bool = False) -> T:
        """Run `query` in one snapshot of the database, on this thread. It must return values, never rows to be read later,
        and may be run again if its connection turns out to have gone.

        With `is_single` it is one statement that is read to its end, which has a snapshot of its own: one message less.
        """
        self._check_open()
        try:
            self._turns.get(timeout=self._busy_timeout_s)
        except queue.Empty:
            raise StorageSaturated(
                f"all {self._pool} connections for reading have been in use for {self._busy_timeout_s:g} s; "
                "SMITHERS_DB_POOL allows more",
                {"pool": self._pool, "setting": "SMITHERS_DB_POOL"},
            ) from None
        try:
            return self._read(query, is_single=is_single)
        finally:
            self._turns.put(None)

    async def aread(self, query: Callable[[Session], T]) -> T:
        """As `read`, on one of a few threads of the database's own; waits for a server that restarts, as writes do."""
        give_up_at, pause = time.monotonic() + RECONNECT_S, FIRST_PAUSE_S
        while True:
            self._check_open()  # here already: a forked child has none of these threads
            try:
                reading = asyncio.get_running_loop().run_in_executor(self._readers, self.read, query)
            except RuntimeError as exc:  # the threads are gone
                raise StorageError(self._refusal or "the database is closed") from exc
            try:
                return await reading
            except StorageUnreachable:
                if time.monotonic() + pause >= give_up_at or self._refusal is not None:
                    raise
            await asyncio.sleep(pause)
            pause = min(pause * 2, 1.0)

    def _is_last_out(self) -> bool:
        return _registry.is_last_out(self.address, self)

    def _read(self, query: Callable[[Session], T], *, is_single: bool) -> T:
        for attempt in range(1, READ_TRIES + 1):
            self._check_open()
            try:
                link, is_used = self._idle.pop(), True
            except IndexError:
                link, is_used = self._connect_reader(), False
            try:
                session = PostgresSession(link)
                if not is_single:
                    session.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
                result = query(session)
                if link.failure is not None:
                    raise link.failure
                return result
            except StorageError as exc:
                # A connection that lay idle may have been cut long ago, and its plans may be older than the tables.
                if attempt == READ_TRIES or not (link.is_lost or (is_used and state_of(exc) in STALE_PLANS)):
                    raise
                if link.is_lost:
                    self._close_idle()
            except BaseException as exc:
                if not isinstance(exc, Exception):  # it may have come in the middle of an answer
                    link.give_up()
                raise
            finally:
                self._give_back(link, is_single=is_single)
        raise AssertionError("unreachable")

    def _give_back(self, link: Link, *, is_single: bool) -> None:
        try:
            if link.failure is not None:  # rare enough to begin afresh
                link.close()
                return
            if not is_single:
                PostgresSession(link).execute("ROLLBACK")
            link.sync()
            link.flush()  # the next reader reads how that went
        except StorageError:
            link.close()
            return
        self._idle.append(link)
        if self._refusal is not None:  # closed meanwhile: `shut_down` may have looked before this one came back
            self._close_idle()

    def _close_idle(self) -> None:
        with contextlib.suppress(IndexError):
            while True:
                self._idle.pop().close()

    def _migrate(self, migrations: Traversable | None) -> None:
        with self._first_connection() as connection:
            if connection.info.server_version < OLDEST_SERVER:
                raise StorageError(
                    f"{self.address.display} is PostgreSQL {connection.info.server_version // 10_000}; 16 or newer is needed"
                )
            try:
                migrate(connection, migrations)
            except psycopg.Error as exc:
                raise storage_error(exc) from exc

    def _first_connection(self) -> psycopg.Connection[Row]:
        """A connection, or the reason why there is none. Raises `StorageRefused` if it is no use to try again."""
        try:
            return self._connect()
        except StorageUnreachable as error:
            if not may_be_refused(error, self.address.conninfo):
                raise
        try:  # it may have been starting, and be there now
            return self._connect()
        except StorageUnreachable as error:
            if not may_be_refused(error, self.address.conninfo):
                raise
            raise StorageRefused(error.summary) from error

    def _connect(self) -> psycopg.Connection[Row]:
        self._check_open()
        try:
            return psycopg.connect(self.address.conninfo, autocommit=True)
        except psycopg.Error as exc:
            error = storage_error(exc)
            raise type(error)(f"{self.address.display}: {error.summary}", error.details) from exc

    def _connect_writer(self) -> Link:
        return self._link(
            f"SET synchronous_commit = {'on' if self._is_synced else 'off'}",
            f"SET lock_timeout = {max(1, int(self._busy_timeout_s * 1000))}",
            f"SET idle_in_transaction_session_timeout = {HELD_MS}",
        )

    def _connect_reader(self) -> Link:
        return self._link(f"SET idle_in_transaction_session_timeout = {SNAPSHOT_HELD_MS}")

    def _link(self, *settings: str) -> Link:
        connection = self._connect()
        try:
            connection.execute("; ".join(settings).encode())
            return Link(connection)
        except BaseException as exc:
            connection.close()
            if isinstance(exc, psycopg.Error):
                raise storage_error(exc) from exc
            raise

    def shut_down(self) -> None:
        """See `SharedDatabase.shut_down`."""
        self._notifier.close()
        self._writer.close()  # may still have to connect
        self._refusal = "the database is closed"
        self._readers.shutdown(wait=True)
        self._close_idle()

    def abandon(self) -> None:
        """See `SharedDatabase.abandon`."""
        self._refusal = "the parent of this process opened this database before it forked; open it again in the child"
        self._writer.abandon(StorageUnreachable(self._refusal))


_registry = Registry[Address, Database]()
