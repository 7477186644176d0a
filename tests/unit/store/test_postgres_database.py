"""Opening, sharing and closing a PostgreSQL database; snapshots, the bounded pool, forks, and secrets that stay secret."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.postgres_support import PASSWORD, PostgresServer

from smithers.errors import StorageError, StorageRefused, StorageSaturated, StorageUnreachable
from smithers.settings import Settings
from smithers.store import open_store
from smithers.store.postgres.address import Address
from smithers.store.postgres.database import Database
from smithers.store.sql.session import Session


@pytest.fixture
def database(empty_postgres_url: str) -> Iterator[Database]:
    opened = Database.open(empty_postgres_url, durability="normal", busy_timeout_s=5, pool=2)
    opened.write(lambda s: s.execute("CREATE TABLE t (n INTEGER PRIMARY KEY) STRICT"))
    yield opened
    opened.close()


def count(session: Session) -> int:
    row = session.execute("SELECT count(*) FROM t").fetchone()
    assert row is not None
    return int(row[0])


def connections(server: PostgresServer, database: Database) -> int:
    rows = server.execute(f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{database.address.name}'")
    return int(rows[0][0])


def test_an_address_is_opened_once_however_it_is_written_and_closed_with_the_last(
    database: Database, empty_postgres_url: str, postgres_server: PostgresServer
) -> None:
    again = Database.open(
        empty_postgres_url.replace("postgresql://", "postgres://"), durability="normal", busy_timeout_s=5, pool=2
    )
    assert again is database
    again.close()
    database.write(lambda s: s.execute("INSERT INTO t (n) VALUES (1)"))
    database.close()
    database.close()
    with pytest.raises(StorageError, match="closed"):
        database.read(count)
    while connections(postgres_server, database):  # the server notices by itself
        pass


def test_the_stronger_wish_for_durability_holds(empty_postgres_url: str) -> None:
    def synced(database: Database) -> str:
        rows = database.write(lambda s: s.execute("SELECT current_setting('synchronous_commit')").fetchall())
        return str(rows[0][0])

    weak = Database.open(empty_postgres_url, durability="normal", busy_timeout_s=5, pool=2)
    assert synced(weak) == "off"
    strong = Database.open(empty_postgres_url, durability="full", busy_timeout_s=5, pool=2)
    assert strong is weak
    assert synced(weak) == "on"
    strong.close()
    assert synced(weak) == "on"
    weak.close()


def test_a_read_sees_one_moment_however_many_statements_it_has(database: Database) -> None:
    def query(session: Session) -> tuple[int, int]:
        before = count(session)
        database.write(lambda s: s.execute("INSERT INTO t (n) VALUES (1)"))
        return before, count(session)

    assert database.read(query) == (0, 0)
    assert database.read(count, is_single=True) == 1


def test_a_read_cannot_write(database: Database) -> None:
    with pytest.raises(StorageError, match="read-only"):
        database.read(lambda s: s.execute("INSERT INTO t (n) VALUES (1)").fetchall())
    assert database.read(count) == 0


def test_a_query_that_raises_leaves_its_connection_usable(database: Database) -> None:
    def failing(session: Session) -> None:
        count(session)
        raise KeyError("mine")

    for _ in range(5):
        with pytest.raises(KeyError):
            database.read(failing)
        with pytest.raises(StorageError, match="does not exist"):
            database.read(lambda s: s.execute("SELECT * FROM nowhere").fetchall())
        assert database.read(count) == 0


def test_a_read_that_is_interrupted_leaves_nothing_to_the_next_one(database: Database) -> None:
    def interrupted(session: Session) -> None:
        session.execute("SELECT 'stale'")
        raise KeyboardInterrupt

    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            database.read(interrupted)
        assert database.read(count) == 0


def test_more_readers_than_connections_take_turns_and_one_that_waits_too_long_is_told_the_knob(
    empty_postgres_url: str, postgres_server: PostgresServer
) -> None:
    database = Database.open(empty_postgres_url, durability="normal", busy_timeout_s=0.05, pool=2)
    inside, may_end = threading.Barrier(3), threading.Event()

    def slow(session: Session) -> None:
        session.execute("SELECT 1").fetchall()
        inside.wait(60)
        assert may_end.wait(60)

    readers = [threading.Thread(target=database.read, args=(slow,)) for _ in range(2)]
    for reader in readers:
        reader.start()
    inside.wait(60)
    with pytest.raises(StorageSaturated, match="SMITHERS_DB_POOL") as found:
        database.read(lambda s: s.execute("SELECT 1").fetchall())
    assert found.value.details["pool"] == 2
    may_end.set()
    for reader in readers:
        reader.join()
    assert database.read(lambda s: s.execute("SELECT 1").fetchall()) == [(1,)]
    assert connections(postgres_server, database) <= 3
    database.close()


def test_the_pool_is_set_by_the_environment() -> None:
    assert Settings.from_environment({"SMITHERS_DB_POOL": "3"}).db_pool == 3


def test_reads_are_awaited_from_many_tasks(database: Database) -> None:
    async def main() -> None:
        assert await asyncio.gather(*(database.aread(count) for _ in range(100))) == [0] * 100

    asyncio.run(main())


def test_every_reader_that_was_cut_off_is_replaced_unseen(database: Database, postgres_server: PostgresServer) -> None:
    for _ in range(3):
        assert database.read(count) == 0
        postgres_server.cut(database.address.name)
    assert database.read(count) == 0


def test_a_reader_cut_off_in_the_middle_gets_a_typed_error_or_its_answer(
    database: Database, postgres_server: PostgresServer
) -> None:
    def query(session: Session) -> int:
        count(session)
        postgres_server.cut(database.address.name)
        return count(session)

    with pytest.raises(StorageUnreachable):
        database.read(query)
    assert database.read(count) == 0


# ── processes ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_forked_child_may_not_use_its_parents_database_but_can_open_its_own(
    database: Database, empty_postgres_url: str
) -> None:
    database.write(lambda s: s.execute("INSERT INTO t (n) VALUES (1)"))
    assert database.read(count) == 1
    child = os.fork()
    if child == 0:  # pragma: no cover - in the child
        code = 1
        try:
            refused = 0
            for call in (database.read, database.write):
                try:
                    call(count)
                except StorageError as error:
                    refused += "forked" in str(error)
            own = Database.open(empty_postgres_url, durability="normal", busy_timeout_s=5, pool=2)
            own.write(lambda s: s.execute("INSERT INTO t (n) VALUES (2)"))
            seen = own.read(count)
            own.close()
            database.close()
            code = 0 if (refused, seen) == (2, 2) else 2
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    database.write(lambda s: s.execute("INSERT INTO t (n) VALUES (3)"))
    assert database.read(count) == 3


def test_a_process_that_forgets_to_close_ends_and_keeps_what_it_wrote(
    database: Database, empty_postgres_url: str
) -> None:
    program = (
        "import sys; from smithers.store import open_store\n"
        "store = open_store(sys.argv[1]); store.watch(lambda: None); store.read(lambda s: s.execute('SELECT 1').fetchall())\n"
        "[store._database.submit(lambda s, n=n: s.execute('INSERT INTO t (n) VALUES (?)', (n,)), lambda *a: None)"
        " for n in range(100)]"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, empty_postgres_url], timeout=120, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert database.read(count) == 100


# ── addresses ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("url", "display"),
    [
        ("postgresql://me:hunter2@db.example:6432/prod", "postgresql://me@db.example:6432/prod"),
        (
            "postgres://me@db.example/prod?password=hunter2&sslmode=require",
            "postgresql://me@db.example/prod?sslmode=require",
        ),
        ("postgresql://me:hunter2@/prod?host=/run/pg", "postgresql://me@/prod?host=/run/pg"),
        ("postgresql:///prod", "postgresql://localhost/prod"),
    ],
)
def test_an_address_is_shown_without_its_password(url: str, display: str) -> None:
    address = Address.parse(url)
    assert address.display == display
    assert "hunter2" not in repr(address)
    assert "password=hunter2" in address.conninfo or "hunter2" not in url


@pytest.mark.parametrize(
    "url", ["postgresql://me:p/hunter2@host/db", "postgresql://me:p@hunter2@host/db", "postgresql://me:hunter2@[/db"]
)
def test_a_malformed_address_is_refused_without_being_repeated(url: str) -> None:
    with pytest.raises(StorageError, match="malformed") as found:
        Address.parse(url)
    assert "hunter2" not in "".join(traceback.format_exception(found.value))


def test_no_password_in_errors_logs_or_the_stores_path(
    postgres_server: PostgresServer, empty_postgres_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with pytest.raises(StorageError) as found:
        open_store(postgres_server.url("nowhere"), busy_timeout_s=0.1)
    text = "".join(traceback.format_exception(found.value))
    assert "nowhere" in text
    assert PASSWORD not in text
    store = open_store(empty_postgres_url)
    assert store.path.startswith("postgresql://")
    assert PASSWORD not in store.path
    store.close()
    assert PASSWORD not in caplog.text


def test_a_server_that_is_not_there_is_unreachable() -> None:
    with pytest.raises(StorageUnreachable, match="cannot be reached"):
        open_store("postgresql://me@127.0.0.1:1/db")


def test_without_the_extra_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(StorageError, match=r"pip install smithers\[postgres\]"):
        open_store("postgresql://me@host/db")


def test_another_kind_of_database_is_refused_by_name() -> None:
    with pytest.raises(StorageError, match="'mysql' databases are not supported"):
        open_store("mysql://me:hunter2@host/db")


def test_sqlite_does_without_the_driver(tmp_path: Path) -> None:
    program = "import sys, smithers.store as s; s.open_store(sys.argv[1]).close(); print('psycopg' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "a.db"], timeout=120, capture_output=True, text=True
    )
    assert done.stdout == "False\n"


@pytest.mark.parametrize("wrong", ["database", "role"])
def test_a_server_that_lets_nobody_in_is_told_apart_from_one_that_is_away(
    postgres_server: PostgresServer, tmp_path: Path, wrong: str
) -> None:
    url = postgres_server.url("postgres")
    url = url.replace("/postgres?", "/nowhere?") if wrong == "database" else url.replace("smithers:", "nobody-else:")
    with pytest.raises(StorageRefused, match="does not exist"):
        Database.open(url, busy_timeout_s=5, pool=2)
    away = postgres_server.url("postgres").replace(str(postgres_server.folder), str(tmp_path))
    with pytest.raises(StorageUnreachable) as found:
        Database.open(away, busy_timeout_s=5, pool=2)
    assert not isinstance(found.value, StorageRefused)
