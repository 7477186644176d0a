"""The schema comes up to date once, whoever starts at the same time; a newer one is refused."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

from smithers.errors import MigrationRequired, StorageError
from smithers.store.postgres.database import Database
from smithers.store.postgres.migrate import migrate
from smithers.store.sql.migrations import built_in
from smithers.store.sql.session import Row


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "steps"
    made.mkdir()
    return made


def step(folder: Path, name: str, sql: str) -> None:
    (folder / name).write_text(sql, encoding="utf-8")


def run(url: str, folder: Path) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        migrate(connection, folder)


def rows(url: str, sql: str) -> list[Row]:
    with psycopg.connect(url, autocommit=True) as connection:
        return connection.execute(sql.encode()).fetchall()


def applied(url: str) -> list[str]:
    return [str(id) for (id,) in rows(url, "SELECT id FROM _smithers_schema_migrations ORDER BY id")]


def test_steps_are_applied_in_order_once_with_what_postgresql_needs_beside(
    empty_postgres_url: str, folder: Path
) -> None:
    step(folder, "0002_more.sql", "INSERT INTO t (n, v) VALUES (1, 'STRICT');")
    step(folder, "0001_first.sql", "CREATE TABLE t (n INTEGER PRIMARY KEY, v TEXT) STRICT, WITHOUT ROWID;")
    step(folder, "0001_first.postgres.sql", "ALTER TABLE t ADD COLUMN only_here BIGINT DEFAULT 7;")
    run(empty_postgres_url, folder)
    run(empty_postgres_url, folder)
    assert applied(empty_postgres_url) == ["0001", "0002"]
    assert rows(empty_postgres_url, "SELECT * FROM t") == [(1, "STRICT", 7)]


def test_a_step_that_fails_leaves_nothing_and_the_ones_before_it_stay(empty_postgres_url: str, folder: Path) -> None:
    step(folder, "0001_first.sql", "CREATE TABLE t (n INTEGER) STRICT;")
    step(folder, "0002_bad.sql", "CREATE TABLE u (n INTEGER) STRICT; INSERT INTO nowhere VALUES (1);")
    with pytest.raises(StorageError, match="0002_bad failed"):
        run(empty_postgres_url, folder)
    assert applied(empty_postgres_url) == ["0001"]
    assert rows(empty_postgres_url, "SELECT to_regclass('u') IS NULL") == [(True,)]
    step(folder, "0002_bad.sql", "CREATE TABLE u (n INTEGER) STRICT;")
    run(empty_postgres_url, folder)
    assert applied(empty_postgres_url) == ["0001", "0002"]


def test_a_step_may_not_end_its_transaction(empty_postgres_url: str, folder: Path) -> None:
    step(folder, "0001_first.sql", "CREATE TABLE t (n INTEGER) STRICT; COMMIT; CREATE TABLE u (n INTEGER) STRICT;")
    with pytest.raises(StorageError, match="0001_first"):
        run(empty_postgres_url, folder)


def test_a_newer_database_is_refused(empty_postgres_url: str, folder: Path) -> None:
    step(folder, "0001_first.sql", "CREATE TABLE t (n INTEGER) STRICT;")
    step(folder, "0002_next.sql", "CREATE TABLE u (n INTEGER) STRICT;")
    run(empty_postgres_url, folder)
    (folder / "0002_next.sql").unlink()
    with pytest.raises(MigrationRequired, match="0002"):
        run(empty_postgres_url, folder)


def test_a_step_that_was_changed_afterwards_is_refused(empty_postgres_url: str, folder: Path) -> None:
    step(folder, "0001_first.sql", "CREATE TABLE t (n INTEGER) STRICT;")
    run(empty_postgres_url, folder)
    step(folder, "0001_first.sql", "CREATE TABLE t (n INTEGER, m INTEGER) STRICT;")
    with pytest.raises(StorageError, match="not the one that was applied"):
        run(empty_postgres_url, folder)


def test_many_that_start_at_once_apply_each_step_once(empty_postgres_url: str, folder: Path) -> None:
    step(folder, "0001_first.sql", "CREATE TABLE t (n INTEGER) STRICT;")
    step(folder, "0002_row.sql", "INSERT INTO t (n) VALUES (1);")
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(run, [empty_postgres_url] * 6, [folder] * 6))
    assert rows(empty_postgres_url, "SELECT count(*) FROM t") == [(1,)]


def test_processes_that_open_a_new_database_at_once_all_get_it(empty_postgres_url: str) -> None:
    program = "import sys; from smithers.store import open_store; open_store(sys.argv[1]).close()"
    processes = [
        subprocess.Popen([sys.executable, "-c", program, empty_postgres_url], stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    assert [(process.communicate(timeout=120)[1], process.returncode) for process in processes] == [("", 0)] * 3
    assert applied(empty_postgres_url) == [each.id for each in built_in()]


def test_every_table_and_index_of_sqlite_is_there(postgres_url: str, tmp_path: Path) -> None:
    from smithers.store.sqlite.database import Database as SqliteDatabase

    sqlite = SqliteDatabase.open(tmp_path / "a.db")
    names = sqlite.read(
        lambda s: [
            str(n) for (n,) in s.execute("SELECT name FROM sqlite_schema WHERE name LIKE '!_smithers%' ESCAPE '!'")
        ]
    )
    columns = {
        name: sqlite.read(lambda s, name=name: [str(row[1]) for row in s.execute(f"PRAGMA table_info({name})")])  # type: ignore[misc]
        for name in names
    }
    sqlite.close()
    for name in names:
        assert rows(postgres_url, f"SELECT to_regclass('{name}') IS NOT NULL") == [(True,)], name
        found = rows(
            postgres_url, f"SELECT attname FROM pg_attribute WHERE attrelid = '{name}'::regclass AND attnum > 0"
        )
        if columns[name]:
            assert sorted(str(n) for (n,) in found) == sorted(columns[name]), name


def test_a_migrated_database_is_opened_without_waiting_for_whoever_migrates(postgres_url: str) -> None:
    with psycopg.connect(postgres_url, autocommit=True) as other:
        other.execute("SELECT pg_advisory_lock(objid::bigint) FROM pg_locks WHERE locktype = 'advisory'")
        Database.open(postgres_url, durability="normal", busy_timeout_s=5, pool=1).close()
