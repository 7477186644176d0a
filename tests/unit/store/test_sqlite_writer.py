"""Group commit: one transaction for all who wait, each job undone alone, typed errors."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import apsw
import pytest

from smithers.errors import (
    RunNotFound,
    StorageBusy,
    StorageCorrupt,
    StorageError,
    StorageFull,
    StorageReadOnly,
)
from smithers.store.sqlite.database import Database
from smithers.store.sqlite.writer import storage_error


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    (tmp_path / "migrations").mkdir()
    opened = Database.open(tmp_path / "store.db", migrations=tmp_path / "migrations", busy_timeout_s=0.05)
    opened.write(lambda c: c.execute("CREATE TABLE t (n INTEGER PRIMARY KEY, v TEXT) STRICT") and None)
    yield opened
    opened.close()


def put(connection: apsw.Connection, n: int) -> int:
    connection.execute("INSERT INTO t(n) VALUES (?)", (n,))
    return n


def putting(n: int) -> Callable[[apsw.Connection], int]:
    return lambda connection: put(connection, n)


def stored(database: Database) -> list[int]:
    return database.read(lambda c: [int(str(n)) for (n,) in c.execute("SELECT n FROM t ORDER BY rowid")])


class Held:
    """Keeps the writer busy, so that what is handed in meanwhile becomes one batch."""

    def __init__(self, database: Database) -> None:
        self._started = threading.Event()
        self._go = threading.Event()
        self._answers: list[tuple[object, BaseException | None]] = []
        database.submit(self._wait, lambda result, error: self._answers.append((result, error)))
        assert self._started.wait(60)

    def _wait(self, connection: apsw.Connection) -> None:
        self._started.set()
        assert self._go.wait(60)
        raise RunNotFound("held")  # undone, so that the batch behind begins afresh

    def release(self) -> None:
        self._go.set()


def test_jobs_that_wait_together_share_one_commit(database: Database) -> None:
    commits = 0

    def on_commit() -> bool:
        nonlocal commits
        commits += 1
        return False

    database.write(lambda c: c.set_commit_hook(on_commit))
    commits = 0

    async def main() -> None:
        held = Held(database)
        waiting = [asyncio.ensure_future(database.awrite(putting(n))) for n in range(50)]
        await asyncio.sleep(0)  # lets each task hand its job in
        held.release()
        assert await asyncio.gather(*waiting) == list(range(50))

    asyncio.run(main())
    assert commits == 1
    database.write(lambda c: c.set_commit_hook(None))


def test_jobs_run_in_the_order_in_which_they_were_handed_in(database: Database) -> None:
    order: list[int] = []

    def note(n: int) -> Callable[[apsw.Connection], None]:
        return lambda connection: order.append(n)

    async def main() -> None:
        await asyncio.gather(*(database.awrite(note(n)) for n in range(600)))

    asyncio.run(main())
    assert order == list(range(600))


@pytest.mark.parametrize("bad", [0, 3, 9])
def test_a_job_that_raises_is_undone_alone(database: Database, bad: int) -> None:
    def job(n: int) -> Callable[[apsw.Connection], int]:
        def run(connection: apsw.Connection) -> int:
            put(connection, n)
            if n == bad:
                raise RunNotFound("r")
            return n

        return run

    async def main() -> list[int | BaseException]:
        held = Held(database)
        waiting = [asyncio.ensure_future(database.awrite(job(n))) for n in range(10)]
        await asyncio.sleep(0)
        held.release()
        return await asyncio.gather(*waiting, return_exceptions=True)

    answers = asyncio.run(main())
    assert isinstance(answers[bad], RunNotFound)
    assert [a for a in answers if isinstance(a, int)] == [n for n in range(10) if n != bad]
    assert stored(database) == [n for n in range(10) if n != bad]


def test_a_refused_statement_becomes_a_storage_error_of_its_caller_only(database: Database) -> None:
    database.write(lambda c: put(c, 1))
    with pytest.raises(StorageError) as refused:
        database.write(lambda c: put(c, 1))
    assert isinstance(refused.value.__cause__, apsw.ConstraintError)
    assert database.write(lambda c: put(c, 2)) == 2


def test_a_commit_that_fails_fails_every_job_of_its_batch_and_writes_nothing(database: Database) -> None:
    async def main() -> list[int | BaseException]:
        held = Held(database)
        waiting = [asyncio.ensure_future(database.awrite(putting(n))) for n in range(5)]
        await asyncio.sleep(0)
        held.release()
        return await asyncio.gather(*waiting, return_exceptions=True)

    is_refused = False
    database.write(lambda c: c.set_commit_hook(lambda: is_refused))
    is_refused = True
    answers = asyncio.run(main())
    is_refused = False
    assert all(type(a) is StorageError for a in answers)
    assert len({id(a) for a in answers}) == 5
    assert stored(database) == []
    assert database.write(lambda c: put(c, 7)) == 7


def test_a_transaction_that_a_job_destroys_fails_the_jobs_before_it(database: Database) -> None:
    def destroy(connection: apsw.Connection) -> int:
        connection.execute("ROLLBACK")
        raise ValueError("destroyed")

    async def main() -> list[int | BaseException]:
        held = Held(database)
        waiting = [
            asyncio.ensure_future(database.awrite(lambda c: put(c, 1))),
            asyncio.ensure_future(database.awrite(destroy)),
            asyncio.ensure_future(database.awrite(lambda c: put(c, 2))),
        ]
        await asyncio.sleep(0)
        held.release()
        return await asyncio.gather(*waiting, return_exceptions=True)

    first, second, third = asyncio.run(main())
    assert isinstance(first, StorageError)
    assert isinstance(second, ValueError)
    assert third == 2
    assert stored(database) == [2]


def test_cancelling_the_caller_does_not_cancel_the_job(database: Database) -> None:
    async def main() -> None:
        held = Held(database)
        waiting = asyncio.ensure_future(database.awrite(lambda c: put(c, 1)))
        await asyncio.sleep(0)
        waiting.cancel()
        held.release()
        await database.awrite(lambda c: put(c, 2))
        assert waiting.cancelled()

    asyncio.run(main())
    assert stored(database) == [1, 2]


def test_a_loop_that_was_closed_does_not_harm_the_writer(database: Database) -> None:
    loop = asyncio.new_event_loop()
    held = Held(database)
    task = loop.create_task(database.awrite(lambda c: put(c, 1)))
    loop.run_until_complete(asyncio.sleep(0))
    task.cancel()
    loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
    loop.close()
    held.release()
    assert database.write(lambda c: put(c, 2)) == 2
    assert stored(database) == [1, 2]


def test_a_job_that_raises_stop_iteration_answers_its_caller(database: Database) -> None:
    async def main() -> None:
        with pytest.raises(RuntimeError, match="StopIteration"):
            await asyncio.wait_for(database.awrite(lambda c: next(iter(()))), 60)

    asyncio.run(main())


def test_a_failed_job_leaves_no_cursor_that_holds_an_old_snapshot(database: Database) -> None:
    database.write(lambda c: [put(c, n) for n in range(3)])

    def half_read(connection: apsw.Connection) -> None:
        cursor = connection.execute("SELECT n FROM t")
        next(cursor)
        raise ValueError("left open")

    with pytest.raises(ValueError, match="left open") as kept:
        database.write(half_read)
    other = apsw.Connection(str(database.path))
    put(other, 3)
    other.close()
    assert database.write(putting(4)) == 4  # from an old snapshot, SQLite would refuse to write
    del kept


def test_a_job_that_waits_for_another_job_is_refused_instead_of_hanging(database: Database) -> None:
    with pytest.raises(StorageError, match="wait for itself"):
        database.write(lambda c: database.write(lambda inner: put(inner, 1)))


def test_closing_commits_what_was_handed_in_and_refuses_what_comes_after(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    database = Database.open(tmp_path / "s.db", migrations=tmp_path / "m")
    database.write(lambda c: c.execute("CREATE TABLE t (n INTEGER)") and None)
    held = Held(database)
    answers: list[object] = []
    database.submit(lambda c: put(c, 1), lambda result, error: answers.append(error or result))
    with ThreadPoolExecutor() as pool:
        closing = pool.submit(database.close)
        held.release()
        closing.result(10)
    assert answers == [1]
    with pytest.raises(StorageError, match="closed"):
        database.write(lambda c: put(c, 2))
    with pytest.raises(StorageError, match="closed"):
        database.read(lambda c: 1)
    with pytest.raises(StorageError, match="closed"):
        asyncio.run(database.aread(lambda c: 1))


@pytest.mark.parametrize(
    ("raised", "errno", "expected"),
    [
        (apsw.BusyError(), 0, StorageBusy),
        (apsw.LockedError(), 0, StorageBusy),
        (apsw.FullError(), 0, StorageFull),
        (apsw.IOError(), 28, StorageFull),
        (apsw.IOError(), 5, StorageError),
        (apsw.ReadOnlyError(), 0, StorageReadOnly),
        (apsw.CantOpenError(), 0, StorageReadOnly),
        (apsw.CorruptError(), 0, StorageCorrupt),
        (apsw.NotADBError(), 0, StorageCorrupt),
        (apsw.SQLError("no such table"), 0, StorageError),
    ],
)
def test_each_sqlite_error_has_its_own_class(raised: apsw.Error, errno: int, expected: type[StorageError]) -> None:
    error = storage_error(raised, errno)
    assert type(error) is expected
    assert error.__cause__ is raised


def test_a_disk_that_is_full_fails_the_job_and_leaves_the_store_usable(database: Database) -> None:
    pages = database.write(lambda c: c.execute("PRAGMA page_count").get)
    assert isinstance(pages, int)
    database.write(lambda c: c.execute(f"PRAGMA max_page_count={pages + 2}").get)
    with pytest.raises(StorageFull):
        database.write(lambda c: c.execute("INSERT INTO t VALUES (1, ?)", ("x" * 1_000_000,)) and None)
    assert database.write(lambda c: put(c, 2)) == 2
