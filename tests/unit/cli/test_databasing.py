"""`smithers db`: schema, soundness, copies; on SQLite here, both kinds in tests/unit/store/test_copying.py."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from tests.unit.cli.support import Cli

from smithers.store import open_store
from smithers.store.interface import NewRun
from smithers.store.sql import control


@pytest.fixture
def filled(cli: Cli) -> Path:
    """A database with two runs."""
    path = cli.folder / "smithers.db"
    store = open_store(path)
    for name in ("a", "b"):
        store.write(partial(control.launch, run=NewRun(name, "w", None, None, "{}", "{}", None, 1)))
    store.close()
    return path


def spoil(path: Path, sql: str) -> None:
    store = open_store(path)
    store.write(lambda c: c.execute(sql).fetchall())
    store.close()


def test_migrate_makes_a_database_where_there_is_none(cli: Cli) -> None:
    found = cli("db", "migrate")
    assert (found.code, "schema" in found.out) == (0, True)
    assert (cli.folder / "smithers.db").exists()
    assert cli("db", "check").out.endswith("is sound\n")


@pytest.mark.parametrize(
    ("sql", "says"),
    [
        ("UPDATE _smithers_runs SET next_seq = 5 WHERE run_id = 'a'", "run a: its log should have 5 events"),
        ("DELETE FROM _smithers_run_specs WHERE run_id = 'b'", "run b: what it was launched with is missing"),
        (
            "UPDATE _smithers_runs SET status = 'finished', runtime_owner_id = 'x' WHERE run_id = 'a'",
            "run a is finished, and still has an owner",
        ),
        (
            "INSERT INTO _smithers_output_schema_columns (table_name, column_name, kind) VALUES ('t', 'c', 'text')",
            "the output table t is missing",
        ),
    ],
)
def test_check_names_what_is_wrong(cli: Cli, filled: Path, sql: str, says: str) -> None:
    assert cli("db", "check").code == 0
    spoil(filled, sql)
    found = cli("db", "check")
    assert (found.code, says in found.out) == (1, True), found.out
    assert cli("db", "check", "--format", "json").json["isSound"] is False


def test_a_copy_is_compared_with_its_source(cli: Cli, filled: Path) -> None:
    found = cli("db", "copy", str(filled), "copy.db")
    assert (found.code, "both hold the same" in found.out) == (0, True), found.err
    again = cli("db", "copy", str(filled), "copy.db")
    assert (again.code != 0, "not empty" in again.err) == (True, True)


def test_a_source_whose_runs_are_being_driven_is_not_copied_unawares(cli: Cli, filled: Path) -> None:
    now = "strftime('%s', 'now') * 1000"
    sql = f"UPDATE _smithers_runs SET runtime_owner_id = 'elsewhere', heartbeat_at_ms = {now} WHERE run_id = 'a'"
    spoil(filled, sql)
    refused = cli("db", "copy", str(filled), "copy.db")
    assert (refused.code != 0, "--live" in refused.err) == (True, True)
    assert not (cli.folder / "copy.db").exists()
    assert cli("db", "copy", str(filled), "copy.db", "--live").code == 0


def test_a_database_is_not_copied_onto_itself_nor_one_that_is_not_there(cli: Cli, filled: Path) -> None:
    assert cli("db", "copy", str(filled), str(filled)).code == 4
    missing = cli("db", "copy", "nowhere.db", "copy.db")
    assert (missing.code != 0, "nowhere.db" in missing.err) == (True, True)
    assert not (cli.folder / "nowhere.db").exists()
