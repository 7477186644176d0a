"""Output tables are made once, grow with their models, and refuse to change the meaning of a column."""

from __future__ import annotations

import math
from collections.abc import Iterator

import apsw
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, create_model

from smithers.errors import IncompatibleSchema
from smithers.store.columns import TableDef, table_def
from smithers.store.sql.tables import ensure_table, insert_sql, select_sql

KINDS = """
CREATE TABLE _smithers_output_schema_columns (
    table_name TEXT NOT NULL, column_name TEXT NOT NULL, kind TEXT NOT NULL, PRIMARY KEY (table_name, column_name)
) STRICT, WITHOUT ROWID
"""


class Plain(BaseModel):
    ok: bool | None = None
    size: int = 0
    score: float = 0.0
    text: str = ""
    tags: set[str] = set()


def new_database() -> apsw.Connection:
    connection = apsw.Connection(":memory:")
    connection.execute(KINDS)
    return connection


@pytest.fixture
def connection() -> Iterator[apsw.Connection]:
    opened = new_database()
    yield opened
    opened.close()


def put(connection: apsw.Connection, table: TableDef, instance: BaseModel, node: str = "n") -> None:
    connection.execute(insert_sql(table), ("r", node, 0, *table.encode(instance)))


def rows(connection: apsw.Connection, table: TableDef) -> list[BaseModel]:
    return [table.decode(row[3:]) for row in connection.execute(select_sql(table) + " ORDER BY node_id")]


@given(
    st.builds(
        Plain,
        ok=st.none() | st.booleans(),
        size=st.integers() | st.integers(2**62, 2**66) | st.just(-(2**63)),
        score=st.floats(allow_nan=False),
        text=st.text(),
        tags=st.sets(st.text()),
    )
)
def test_a_row_comes_back_from_the_database_as_it_was_stored(instance: Plain) -> None:
    connection, table = new_database(), table_def("plain", Plain)
    ensure_table(connection, table)
    put(connection, table, instance)
    assert rows(connection, table) == [instance]
    connection.close()


def test_not_a_number_survives_the_database(connection: apsw.Connection) -> None:
    table = table_def("plain", Plain)
    ensure_table(connection, table)
    put(connection, table, Plain(score=math.nan))
    (back,) = rows(connection, table)
    assert isinstance(back, Plain)
    assert math.isnan(back.score)


def test_the_last_write_of_a_key_wins(connection: apsw.Connection) -> None:
    table = table_def("plain", Plain)
    ensure_table(connection, table)
    put(connection, table, Plain(size=1))
    put(connection, table, Plain(size=2))
    assert rows(connection, table) == [Plain(size=2)]


def test_a_model_without_fields_has_a_table_too(connection: apsw.Connection) -> None:
    table = table_def("done", create_model("Done"))
    ensure_table(connection, table)
    put(connection, table, table.model())
    put(connection, table, table.model())
    assert rows(connection, table) == [table.model()]


def test_a_table_that_is_complete_is_not_touched(connection: apsw.Connection) -> None:
    table = table_def("plain", Plain)
    ensure_table(connection, table)
    before = connection.total_changes(), connection.execute("PRAGMA schema_version").get
    ensure_table(connection, table)
    assert (connection.total_changes(), connection.execute("PRAGMA schema_version").get) == before


def test_a_new_field_becomes_a_column_and_old_rows_take_its_default(connection: apsw.Connection) -> None:
    old = table_def("grow", create_model("Grow", a=int))
    ensure_table(connection, old)
    put(connection, old, old.model(a=1))
    new = table_def("grow", create_model("Grow", a=int, b=(str, "unset"), c=(list[int], [7]), d=(float | None, None)))
    ensure_table(connection, new)
    put(connection, new, new.model(a=2, b="set", c=[], d=0.5), node="o")
    assert [row.model_dump() for row in rows(connection, new)] == [
        {"a": 1, "b": "unset", "c": [7], "d": None},
        {"a": 2, "b": "set", "c": [], "d": 0.5},
    ]
    assert set(connection.execute("SELECT column_name, kind FROM _smithers_output_schema_columns")) == {
        ("a", "number-int"),
        ("b", "text"),
        ("c", "json"),
        ("d", "number-real"),
    }


def test_a_field_that_was_removed_keeps_its_column_for_others(connection: apsw.Connection) -> None:
    old = table_def("shrink", create_model("Shrink", a=int, b=(int, 1)))
    ensure_table(connection, old)
    put(connection, old, old.model(a=1, b=2))
    new = table_def("shrink", create_model("Shrink", a=int))
    ensure_table(connection, new)
    assert [row.model_dump() for row in rows(connection, new)] == [{"a": 1}]
    assert [row.model_dump() for row in rows(connection, old)] == [{"a": 1, "b": 2}]


@pytest.mark.parametrize(("before", "after"), [(int, bool), (str, list[str]), (int, float), (str, int)])
def test_a_column_does_not_change_its_kind(connection: apsw.Connection, before: type, after: type) -> None:
    ensure_table(connection, table_def("kind", create_model("Kind", the_field=(before, ...))))
    with pytest.raises(IncompatibleSchema) as refused:
        ensure_table(connection, table_def("kind", create_model("Kind", the_field=(after, ...))))
    for named in ("'kind'", "'the_field'", "rename", "another database"):
        assert named in refused.value.summary


def test_a_foreign_table_of_that_name_is_left_alone(connection: apsw.Connection) -> None:
    connection.execute("CREATE TABLE plain (id INTEGER PRIMARY KEY)")
    with pytest.raises(IncompatibleSchema, match="run_id"):
        ensure_table(connection, table_def("plain", Plain))


def test_a_column_made_by_hand_with_another_type_is_refused(connection: apsw.Connection) -> None:
    connection.execute("CREATE TABLE plain (run_id TEXT, node_id TEXT, iteration INTEGER, size TEXT)")
    with pytest.raises(IncompatibleSchema, match="size"):
        ensure_table(connection, table_def("plain", Plain))
