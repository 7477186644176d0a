"""Group commit on PostgreSQL: one transaction for all who wait, each job undone alone, nothing kept of what failed."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator

import psycopg
import pytest
from tests.postgres_support import PostgresServer

from smithers.errors import OutcomeUnknown, RunNotFound, StorageBusy, StorageError, StorageReadOnly, StorageUnreachable
from smithers.store.postgres import database as database_module
from smithers.store.postgres import writer as writer_module
from smithers.store.postgres.database import Database
from smithers.store.postgres.link import Link
from smithers.store.postgres.receipts import Receipts
from smithers.store.postgres.session import PostgresSession
from smithers.store.sql.session import Session


@pytest.fixture
def database(empty_postgres_url: str) -> Iterator[Database]:
    opened = Database.open(empty_postgres_url, durability="normal", busy_timeout_s=5, pool=2)
    opened.write(lambda s: s.execute("CREATE TABLE t (n INTEGER PRIMARY KEY, v TEXT) STRICT"))
    yield opened
    opened.close()


def put(session: Session, n: int) -> int:
    session.execute("INSERT INTO t (n) VALUES (?)", (n,))
    return n


def putting(n: int) -> Callable[[Session], int]:
    return lambda session: put(session, n)


def stored(database: Database) -> list[int]:
    return database.read(lambda s: [n for (n,) in s.execute("SELECT n FROM t ORDER BY n")])


def transactions(database: Database) -> int:
    """How many transactions the rows come from."""
    return database.read(lambda s: len(s.execute("SELECT DISTINCT xmin::text FROM t").fetchall()))


class Held:
    """Keeps the writer busy, so that what is handed in meanwhile becomes one batch."""

    def __init__(self, database: Database) -> None:
        self._started, self._go = threading.Event(), threading.Event()
        database.submit(self._wait, lambda _result, _error: None)
        assert self._started.wait(60)

    def _wait(self, session: Session) -> None:
        self._started.set()
        assert self._go.wait(60)

    def release(self) -> None:
        self._go.set()


class Answers:
    """What jobs were answered, in order."""

    def __init__(self, expected: int) -> None:
        self.all: list[tuple[object, BaseException | None]] = []
        self._left = threading.Semaphore(0)
        self._expected = expected

    def take(self, result: object, error: BaseException | None) -> None:
        self.all.append((result, error))
        self._left.release()

    def wait(self) -> list[tuple[object, BaseException | None]]:
        for _ in range(self._expected):
            assert self._left.acquire(timeout=60)
        return self.all


def together(database: Database, jobs: list[Callable[[Session], object]]) -> list[tuple[object, BaseException | None]]:
    held, answers = Held(database), Answers(len(jobs))
    for job in jobs:
        database.submit(job, answers.take)
    held.release()
    return answers.wait()


def test_jobs_that_wait_share_a_transaction_and_are_answered_in_order(database: Database) -> None:
    answers = together(database, [putting(n) for n in range(20)])
    assert answers == [(n, None) for n in range(20)]
    assert stored(database) == [*range(20)]
    assert transactions(database) == 1


def test_a_job_that_raises_after_it_has_written_is_undone_alone(database: Database) -> None:
    def refused(session: Session) -> None:
        put(session, 100)
        raise RunNotFound("r1")

    answers = together(database, [putting(1), refused, putting(2)])
    assert [result for result, _ in answers] == [1, None, 2]
    assert isinstance(answers[1][1], RunNotFound)
    assert stored(database) == [1, 2]


def test_a_job_that_raises_before_it_has_written_costs_its_neighbours_nothing(database: Database) -> None:
    runs: list[int] = []

    def counting(session: Session) -> int:
        runs.append(1)
        return put(session, 1)

    def refused(session: Session) -> None:
        session.execute("UPDATE t SET v = 'x' WHERE n = 77")
        raise RunNotFound("r1")

    answers = together(database, [counting, refused, putting(2)])
    assert [type(error) for _, error in answers] == [type(None), RunNotFound, type(None)]
    assert len(runs) == 1
    assert transactions(database) == 1


def test_a_lone_job_that_raises_leaves_nothing_and_the_next_one_works(database: Database) -> None:
    def refused(session: Session) -> None:
        put(session, 1)
        raise RunNotFound("r1")

    with pytest.raises(RunNotFound):
        database.write(refused)
    assert database.write(putting(2)) == 2
    assert stored(database) == [2]


def test_an_error_that_shows_late_hits_only_the_job_that_made_it(database: Database) -> None:
    # nobody reads the second insert's outcome, so the error shows while the third job runs
    answers = together(database, [putting(1), putting(1), putting(2), lambda s: s.execute("SELECT 7").fetchall()])
    assert [result for result, _ in answers] == [1, None, 2, [(7,)]]
    assert isinstance(answers[1][1], StorageError)
    assert "duplicate key" in str(answers[1][1])
    assert stored(database) == [1, 2]


def test_a_job_cannot_hide_a_failed_statement(database: Database) -> None:
    def hiding(session: Session) -> str:
        put(session, 1)
        try:
            session.execute("SELECT 1 / 0").fetchall()
        except StorageError:
            return "all is well"
        return "never"

    with pytest.raises(StorageError, match="division by zero"):
        database.write(hiding)
    assert stored(database) == []


def test_a_violation_that_shows_at_the_commit_is_answered_with_an_error(database: Database) -> None:
    database.write(lambda s: s.execute("ALTER TABLE t ADD UNIQUE (v) DEFERRABLE INITIALLY DEFERRED"))
    database.write(lambda s: s.execute("INSERT INTO t (n, v) VALUES (1, 'a')"))
    job: Callable[[Session], object] = lambda s: s.execute("INSERT INTO t (n, v) VALUES (2, 'a')")  # noqa: E731
    answers = together(database, [putting(3), job, putting(4)])
    assert [error is None for _, error in answers] == [True, False, True]
    assert stored(database) == [1, 3, 4]


def test_a_write_job_may_not_wait_for_another_one(database: Database) -> None:
    with pytest.raises(StorageError, match="wait for itself"):
        database.write(lambda s: database.write(putting(1)))


def test_a_job_that_raises_stop_iteration_is_answered_all_the_same(database: Database) -> None:
    async def main() -> None:
        def job(_session: Session) -> None:
            raise StopIteration

        with pytest.raises(RuntimeError, match="StopIteration"):
            await asyncio.wait_for(database.awrite(job), 60)

    asyncio.run(main())


def test_awaited_jobs_are_durable_and_a_cancelled_wait_does_not_undo(database: Database) -> None:
    async def main() -> None:
        assert await asyncio.gather(*(database.awrite(putting(n)) for n in range(50))) == [*range(50)]
        held = Held(database)
        waiting = asyncio.ensure_future(database.awrite(putting(99)))
        await asyncio.sleep(0)
        waiting.cancel()
        held.release()
        await database.awrite(putting(100))

    asyncio.run(main())
    assert stored(database) == [*range(50), 99, 100]


# ── others at work ─────────────────────────────────────────────────────────────────────────────────────────────────


class Other:
    """Somebody else's transaction on the same database."""

    def __init__(self, url: str) -> None:
        self.connection = psycopg.connect(url)

    def lock(self, n: int) -> None:
        self.connection.execute("SELECT 1 FROM t WHERE n = %s FOR UPDATE", (n,))


def test_a_batch_whose_row_is_held_goes_on_with_everybody_else_first_come(
    database: Database, empty_postgres_url: str
) -> None:
    database.write(putting(1))
    other = Other(empty_postgres_url)
    other.lock(1)
    answers, held = Answers(2), Held(database)
    database.submit(putting(2), answers.take)
    database.submit(lambda s: s.execute("UPDATE t SET v = 'x' WHERE n = 1").fetchall(), answers.take)
    held.release()
    while stored(database) != [1, 2]:  # the batch gave up, and its first job was committed alone
        pass
    other.connection.rollback()
    assert [error for _, error in answers.wait()] == [None, None]
    other.connection.close()


def test_a_row_that_is_held_too_long_makes_the_job_fail_as_busy(empty_postgres_url: str) -> None:
    database = Database.open(empty_postgres_url, durability="normal", busy_timeout_s=0.05, pool=2)
    database.write(lambda s: s.execute("CREATE TABLE t (n INTEGER PRIMARY KEY, v TEXT) STRICT"))
    database.write(putting(1))
    other = Other(empty_postgres_url)
    other.lock(1)
    with pytest.raises(StorageBusy, match="another process"):
        database.write(lambda s: s.execute("UPDATE t SET v = 'x' WHERE n = 1"))
    other.connection.close()
    database.write(lambda s: s.execute("UPDATE t SET v = 'y' WHERE n = 1"))
    database.close()


def test_a_deadlock_is_resolved_by_doing_the_job_again(database: Database, empty_postgres_url: str) -> None:
    database.write(lambda s: s.executemany("INSERT INTO t (n) VALUES (?)", [(1,), (2,)]))
    other = Other(empty_postgres_url)
    other.lock(2)
    locked, may_go = threading.Event(), threading.Event()

    def crossing(session: Session) -> None:
        session.execute("UPDATE t SET v = 'mine' WHERE n = 1").fetchall()
        locked.set()
        assert may_go.wait(60)
        session.execute("UPDATE t SET v = 'mine' WHERE n = 2").fetchall()

    answers = Answers(1)
    database.submit(crossing, answers.take)
    assert locked.wait(60)
    may_go.set()
    try:
        other.connection.execute("UPDATE t SET v = 'other' WHERE n = 1")
        other.connection.commit()
    except psycopg.errors.DeadlockDetected:
        other.connection.rollback()
    assert answers.wait() == [(None, None)]
    assert database.read(lambda s: s.execute("SELECT v FROM t ORDER BY n").fetchall()) == [("mine",), ("mine",)]
    other.connection.close()


def test_a_process_that_stands_still_in_a_transaction_gives_up_what_it_holds_and_does_it_again(
    empty_postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_module, "HELD_MS", 50)
    database = Database.open(empty_postgres_url, durability="normal", busy_timeout_s=5, pool=2)
    database.write(lambda s: s.execute("CREATE TABLE t (n INTEGER PRIMARY KEY, v TEXT) STRICT"))
    database.write(putting(1))
    standing, go_on, answers, runs = threading.Event(), threading.Event(), Answers(1), list[str]()

    def job(session: Session) -> None:
        rows = session.execute("UPDATE t SET v = coalesce(v, '') || 'a' WHERE n = 1 RETURNING v").fetchall()
        runs.append(rows[0][0])
        standing.set()
        assert go_on.wait(60)
        session.execute("SELECT 1").fetchall()

    database.submit(job, answers.take)
    assert standing.wait(60)
    with psycopg.connect(empty_postgres_url, autocommit=True) as other:
        other.execute("UPDATE t SET v = 'other ' WHERE n = 1")
    go_on.set()
    assert answers.wait() == [(None, None)]
    assert runs == ["a", "other a"]
    database.close()


def test_a_database_that_may_not_be_written_says_so(database: Database) -> None:
    def job(session: Session) -> None:
        session.execute("SET TRANSACTION READ ONLY")
        put(session, 1)

    with pytest.raises(StorageReadOnly):
        database.write(job)


# ── a connection that goes ─────────────────────────────────────────────────────────────────────────────────────────


def test_a_connection_cut_while_idle_is_made_anew_unseen(database: Database, postgres_server: PostgresServer) -> None:
    assert postgres_server.cut(database.address.name) > 0
    assert database.write(putting(1)) == 1
    postgres_server.cut(database.address.name)
    assert stored(database) == [1]


def test_a_connection_cut_before_the_commit_loses_nothing_and_does_nothing_twice(
    database: Database, postgres_server: PostgresServer
) -> None:
    cuts = iter([True])

    def job(session: Session) -> int:
        put(session, 1)
        if next(cuts, False):
            postgres_server.cut(database.address.name)
        return len(session.execute("SELECT n FROM t").fetchall())

    assert database.write(job) == 1
    assert stored(database) == [1]


class Cut:
    """Cuts the writer's connection around its next commit."""

    def __init__(self, database: Database, server: PostgresServer, patch: pytest.MonkeyPatch) -> None:
        self.is_wanted = False
        finish = writer_module.Writer._finish  # pyright: ignore[reportPrivateUsage]

        def finish_cut(writer: writer_module.Writer, link: Link) -> None:
            if self.is_wanted:
                self.is_wanted = False
                server.cut(database.address.name)
            finish(writer, link)

        patch.setattr(writer_module.Writer, "_finish", finish_cut)


def test_a_connection_cut_during_the_commit_leaves_no_doubt_once_the_server_answers_again(
    database: Database, postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut = Cut(database, postgres_server, monkeypatch)
    for n in range(0, 60, 3):
        cut.is_wanted = True
        answers = together(database, [putting(n), putting(n + 1)])
        cut.is_wanted = True
        answers += together(database, [putting(n + 2)])
        assert answers == [(n, None), (n + 1, None), (n + 2, None)]
    assert stored(database) == [*range(60)]


def test_a_commit_whose_outcome_cannot_be_learned_is_said_to_be_unknown(
    database: Database, postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut = Cut(database, postgres_server, monkeypatch)
    database.write(lambda s: s.execute("DELETE FROM _smitherspg_receipts"))

    def nobody_knows(_receipts: Receipts, _link: Link) -> None:
        return None

    monkeypatch.setattr(Receipts, "was_committed", nobody_knows)
    cut.is_wanted = True
    with pytest.raises(OutcomeUnknown, match="wholly or not at all"):
        database.write(putting(1))
    monkeypatch.undo()
    assert database.write(putting(2)) == 2


def test_a_transaction_that_the_server_has_not_given_up_is_waited_for(
    database: Database, empty_postgres_url: str
) -> None:
    links = [link_to(empty_postgres_url) for _ in range(2)]
    old, new = (PostgresSession(link) for link in links)
    receipts = Receipts()
    receipts.enter(old.link)
    receipts.hold(old).fetchall()
    put(old, 1)
    receipts.note(old)
    old.link.read_all()
    learned: list[bool | None] = []
    asking = threading.Thread(target=lambda: learned.append(receipts.was_committed(new.link)))
    asking.start()
    while not database.read(lambda s: s.execute("SELECT 1 FROM pg_locks WHERE NOT granted").fetchall()):
        assert asking.is_alive()
    old.execute("COMMIT")
    old.link.sync()
    old.link.read_all()
    asking.join(10)
    assert learned == [True]
    receipts.hold(old).fetchall()
    receipts.note(old)
    old.execute("ROLLBACK")
    old.link.sync()
    old.link.read_all()
    assert receipts.was_committed(new.link) is False
    for link in links:
        link.close()


def link_to(url: str) -> Link:
    return Link(psycopg.connect(url, autocommit=True))


def test_a_writer_leaves_no_receipt_behind(database: Database, postgres_server: PostgresServer) -> None:
    database.write(putting(1))
    database.close()
    assert postgres_server.execute("SELECT count(*) FROM _smitherspg_receipts", database.address.name) == [(0,)]


def test_connections_that_are_cut_all_the_time_lose_nothing_and_do_nothing_twice(
    database: Database, postgres_server: PostgresServer
) -> None:
    ended, acknowledged = threading.Event(), set[int]()

    def cutting() -> None:
        while not ended.is_set():
            postgres_server.cut(database.address.name)
            ended.wait(0.01)

    async def one(start: int) -> None:
        for n in range(start, start + 40):

            def job(session: Session, n: int = n) -> int:
                if n % 3 == 0:
                    session.execute("SELECT 1").fetchall()
                return put(session, n)

            acknowledged.add(await database.awrite(job))

    async def main() -> None:
        await asyncio.gather(*(one(start * 1000) for start in range(8)))

    thread = threading.Thread(target=cutting)
    thread.start()
    try:
        try:
            asyncio.run(main())
        finally:
            ended.set()
            thread.join()
    except (OutcomeUnknown, StorageUnreachable):
        pass  # only if it was cut off again at each of several tries
    assert acknowledged <= set(stored(database))


def test_a_server_that_restarts_is_waited_for(database: Database, postgres_server: PostgresServer) -> None:
    assert database.write(putting(1)) == 1
    postgres_server.stop()
    answers = Answers(3)
    for n in (2, 3, 4):
        database.submit(putting(n), answers.take)
    postgres_server.start()
    assert answers.wait() == [(2, None), (3, None), (4, None)]
    assert stored(database) == [1, 2, 3, 4]


def test_a_server_that_stays_away_is_a_typed_error_and_its_return_ends_it(
    database: Database, postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "RECONNECT_S", 0.1)
    postgres_server.stop()
    try:
        with pytest.raises(StorageUnreachable):
            database.write(putting(1))
        with pytest.raises(StorageUnreachable):
            stored(database)
    finally:
        postgres_server.start()
    assert database.write(putting(2)) == 2
    assert stored(database) == [2]


def test_what_was_handed_in_before_the_end_is_committed_and_what_comes_after_is_refused(
    database: Database, empty_postgres_url: str
) -> None:
    held, answers = Held(database), Answers(10)
    for n in range(10):
        database.submit(putting(n), answers.take)
    threading.Timer(0.01, held.release).start()
    database.close()
    assert answers.wait() == [(n, None) for n in range(10)]
    with pytest.raises(StorageError, match="closed"):
        database.write(putting(11))
