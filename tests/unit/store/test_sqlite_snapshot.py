"""A new file gets the schema at once, and it is the one that the steps come to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.resources import files

import apsw
import pytest

from smithers.errors import StorageError
from smithers.store.sql.migrations import built_in
from smithers.store.sqlite import migrate as migrating
from smithers.store.sqlite import snapshot
from smithers.store.sqlite.migrate import migrate

STEPS = files("smithers.store.sqlite") / "migrations"


@pytest.fixture
def made() -> Iterator[Callable[[], apsw.Connection]]:
    """Makes empty databases."""
    opened: list[apsw.Connection] = []

    def make() -> apsw.Connection:
        opened.append(apsw.Connection(":memory:"))
        return opened[-1]

    yield make
    for connection in opened:
        connection.close()


def told(connection: apsw.Connection) -> tuple[object, ...]:
    """All that a database says of its schema, and what is in it, without moments."""
    objects = connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY type, name").fetchall()
    tables = [str(name) for kind, name, _, _ in objects if kind == "table"]
    columns = {name: connection.execute(f"PRAGMA table_xinfo('{name}')").fetchall() for name in tables}
    counts = {name: connection.execute(f'SELECT count(*) FROM "{name}"').fetchall() for name in tables}
    receipts = connection.execute("SELECT id, name, checksum, destructive FROM _smithers_schema_migrations ORDER BY id")
    return objects, columns, counts, receipts.fetchall()


def test_the_snapshot_is_that_of_the_steps() -> None:
    assert snapshot.main(["--check"]) == 0, "run scripts/schema"
    assert snapshot.stored() is not None


def test_a_new_database_is_what_the_steps_make_of_it(
    made: Callable[[], apsw.Connection], monkeypatch: pytest.MonkeyPatch
) -> None:
    by_steps, at_once = made(), made()
    migrate(by_steps, STEPS)
    with monkeypatch.context() as patch:
        patch.delattr(migrating, "_apply")
        migrate(at_once)
        migrate(at_once)
    assert told(at_once) == told(by_steps)


def test_an_older_database_is_taken_step_by_step(made: Callable[[], apsw.Connection]) -> None:
    connection, other = made(), made()
    migrate(other)
    migrate(connection, STEPS)
    last = built_in()[-1].id
    connection.execute("DELETE FROM _smithers_schema_migrations WHERE id = ?", (last,))
    with pytest.raises(StorageError, match=last):  # which is tried, and finds that it has been taken
        migrate(connection)


def test_a_snapshot_of_other_steps_is_not_used(
    made: Callable[[], apsw.Connection], monkeypatch: pytest.MonkeyPatch
) -> None:
    by_steps, other = made(), made()
    migrate(by_steps, STEPS)
    monkeypatch.setattr(snapshot, "_HEAD", "-- {digest} of something else\n")
    snapshot.stored.cache_clear()
    try:
        assert snapshot.stored() is None
        migrate(other)
    finally:
        snapshot.stored.cache_clear()
    assert told(other) == told(by_steps)


def test_what_is_in_the_way_is_named_with_its_step_and_nothing_is_changed(made: Callable[[], apsw.Connection]) -> None:
    connection = made()
    connection.execute("CREATE TABLE _smithers_runs (mine TEXT)")
    with pytest.raises(StorageError, match="0001_"):
        migrate(connection)
    assert not connection.in_transaction
    tables = connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name").fetchall()
    assert tables == [("_smithers_runs",)]
