"""Steps are applied once, in order, whole, by whichever process comes first."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from smithers.errors import MigrationRequired, StorageError
from smithers.store.sql.migrations import load
from smithers.store.sqlite.migrate import migrate

Row = tuple[object, ...]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "migrations"
    folder.mkdir()
    (folder / "0001_first.sql").write_text("CREATE TABLE a (n INTEGER) STRICT; INSERT INTO a VALUES (1);")
    return folder


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[apsw.Connection]:
    opened = apsw.Connection(str(tmp_path / "s.db"))
    yield opened
    opened.close()


def receipts(connection: apsw.Connection) -> list[Row]:
    return list(connection.execute("SELECT id, name, destructive FROM _smithers_schema_migrations ORDER BY id"))


def test_steps_are_applied_in_order_and_once(connection: apsw.Connection, folder: Path) -> None:
    (folder / "0002_more.sql").write_text("-- destructive: rewrites a\nUPDATE a SET n = n + 1;")
    (folder / "README.md").write_text("not a step")
    migrate(connection, folder)
    migrate(connection, folder)
    assert receipts(connection) == [("0001", "first", 0), ("0002", "more", 1)]
    assert connection.execute("SELECT n FROM a").fetchall() == [(2,)]


def test_later_steps_are_added_to_an_older_database(connection: apsw.Connection, folder: Path) -> None:
    migrate(connection, folder)
    (folder / "0002_more.sql").write_text("ALTER TABLE a ADD COLUMN m TEXT;")
    migrate(connection, folder)
    assert [row[0] for row in receipts(connection)] == ["0001", "0002"]


def test_nothing_to_do_costs_one_statement(connection: apsw.Connection, folder: Path) -> None:
    migrate(connection, folder)
    statements: list[str] = []

    def note(cursor: apsw.Cursor, sql: str, bindings: object) -> bool:
        statements.append(sql)
        return True

    connection.set_exec_trace(note)
    migrate(connection, folder)
    assert len(statements) == 1
    connection.set_exec_trace(None)


def test_a_step_that_was_changed_after_it_was_applied_is_named(connection: apsw.Connection, folder: Path) -> None:
    migrate(connection, folder)
    (folder / "0001_first.sql").write_text("CREATE TABLE a (n TEXT);")
    with pytest.raises(StorageError, match="0001_first"):
        migrate(connection, folder)


def test_line_ends_do_not_change_a_step(connection: apsw.Connection, folder: Path) -> None:
    (folder / "0001_first.sql").write_bytes(b"CREATE TABLE a (n);\n")
    migrate(connection, folder)
    (folder / "0001_first.sql").write_bytes(b"CREATE TABLE a (n);\r\n")
    migrate(connection, folder)


def test_a_database_newer_than_the_code_is_refused_and_left_alone(connection: apsw.Connection, folder: Path) -> None:
    (folder / "0002_more.sql").write_text("CREATE TABLE b (n);")
    migrate(connection, folder)
    (folder / "0002_more.sql").unlink()
    (folder / "0003_other.sql").write_text("CREATE TABLE c (n);")
    with pytest.raises(MigrationRequired, match="0002"):
        migrate(connection, folder)
    assert not connection.table_exists("main", "c")


@pytest.mark.parametrize(
    "broken",
    [
        "CREATE TABLE b (n); CREATE TABLE b (n);",
        "CREATE TABLE b (n); COMMIT;",
        "-- destructive\nCREATE TABLE b (n PRIMARY KEY); CREATE TABLE k (n REFERENCES b); INSERT INTO k VALUES (9);",
    ],
)
def test_a_step_that_fails_is_named_and_leaves_no_receipt(
    connection: apsw.Connection, folder: Path, broken: str
) -> None:
    (folder / "0002_broken.sql").write_text(broken)
    with pytest.raises(StorageError, match="0002_broken"):
        migrate(connection, folder)
    assert [row[0] for row in receipts(connection)] == ["0001"]
    assert not connection.in_transaction


@pytest.mark.parametrize("name", ["1_short.sql", "0001_second.sql", "first.sql"])
def test_a_misnamed_step_is_refused(folder: Path, name: str) -> None:
    (folder / name).write_text("SELECT 1;")
    with pytest.raises(StorageError, match=r"NNNN_what\.sql"):
        load(folder)


def test_processes_that_open_a_new_database_at_once_apply_each_step_once(tmp_path: Path, folder: Path) -> None:
    for n in range(2, 12):
        (folder / f"{n:04}_add.sql").write_text("UPDATE a SET n = n + 1;")
    script = """
import sys
from pathlib import Path
from smithers.store.sqlite.database import Database
print("ready", flush=True)
sys.stdin.readline()
Database.open(sys.argv[1], migrations=Path(sys.argv[2])).close()
"""
    command = [sys.executable, "-c", script, str(tmp_path / "s.db"), str(folder)]
    processes = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.communicate("\n", timeout=120)
    assert [process.returncode for process in processes] == [0, 0, 0]
    connection = apsw.Connection(str(tmp_path / "s.db"))
    assert connection.execute("SELECT n FROM a").fetchall() == [(11,)]
    connection.close()
