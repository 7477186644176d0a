"""Values go in and come out as with SQLite; statements that nobody reads are not waited for, but never lost."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from smithers.errors import StorageError
from smithers.store import open_store
from smithers.store.interface import SqlValue
from smithers.store.postgres.link import MAX_PENDING, MAX_PLANS
from smithers.store.postgres.session import PostgresSession
from smithers.store.sql.store import SqlStore


@pytest.fixture
def store(empty_postgres_url: str) -> Iterator[SqlStore]:
    opened = open_store(empty_postgres_url, durability="normal", busy_timeout_s=5)
    opened.write(lambda s: s.execute("CREATE TABLE t (n INTEGER PRIMARY KEY, v TEXT, f REAL, b BLOB) STRICT"))
    yield opened
    opened.close()


def round_trip(store: SqlStore, column: str, value: SqlValue) -> SqlValue:
    store.write(lambda s: s.execute("DELETE FROM t"))
    store.write(lambda s: s.execute(f"INSERT INTO t (n, {column}) VALUES (1, ?)", (value,)))
    row = store.read(lambda s: s.execute(f"SELECT {column} FROM t WHERE {column} = ?", (value,)).fetchone())
    assert row is not None
    found: SqlValue = row[0]
    return found


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.one_of(
        st.text(st.characters(codec="utf-8")).map(lambda v: ("v", v)),
        st.floats(allow_nan=False).map(lambda v: ("f", v)),
        st.binary().map(lambda v: ("b", v)),
    )
)
def test_text_numbers_and_bytes_come_back_as_they_were(store: SqlStore, given: tuple[str, SqlValue]) -> None:
    column, value = given
    found = round_trip(store, column, value)
    assert found == value
    assert type(found) is type(value)


def test_text_with_nul_characters_is_kept_and_found(store: SqlStore) -> None:
    assert round_trip(store, "v", "a\x00b\U0010fffe") == "a\x00b\U0010fffe"


def test_large_values_pass(store: SqlStore) -> None:
    text, data = "ä" * 20_000_000, bytes(range(256)) * 100_000
    assert round_trip(store, "v", text[:300] + text[:100]) == text[:400]
    store.write(lambda s: s.execute("INSERT INTO t (n, v, b) VALUES (2, ?, ?)", (text, data)))
    assert store.read(lambda s: s.execute("SELECT v, b FROM t WHERE n = 2").fetchone()) == (text, data)


def test_sums_counts_and_comparisons_are_whole_numbers(store: SqlStore) -> None:
    store.write(lambda s: s.executemany("INSERT INTO t (n, f) VALUES (?, ?)", [(1, 0.5), (2, None)]))
    row = store.read(lambda s: s.execute("SELECT sum(n), count(*), max(n) = 2, avg(n), sum(f) FROM t").fetchone())
    assert row == (3, 2, 1, 1.5, 0.5)
    assert [type(value) for value in row or ()] == [int, int, int, float, float]


def test_true_and_false_are_stored_as_numbers(store: SqlStore) -> None:
    store.write(lambda s: s.execute("INSERT INTO t (n) VALUES (?)", (True,)))
    assert store.read(lambda s: s.execute("SELECT n FROM t").fetchall()) == [(1,)]


def test_a_number_for_a_text_column_is_stored_as_text(store: SqlStore) -> None:
    store.write(lambda s: s.execute("INSERT INTO t (n, v) VALUES (1, ?)", (5,)))
    assert store.read(lambda s: s.execute("SELECT v FROM t").fetchall()) == [("5",)]


def test_text_is_ordered_by_its_bytes(store: SqlStore) -> None:
    words = ["b", "A", "a", "Z", "é", "a-b", "a_b", "ab"]
    store.write(lambda s: s.executemany("INSERT INTO t (n, v) VALUES (?, ?)", [*enumerate(words)]))
    found = store.read(lambda s: [v for (v,) in s.execute("SELECT v FROM t ORDER BY v")])
    assert found == sorted(words, key=str.encode)


def test_more_statements_than_may_be_open_at_once_are_all_run(store: SqlStore) -> None:
    rows = [(n, "x" * 1000) for n in range(MAX_PENDING * 3)]
    store.write(lambda s: s.executemany("INSERT INTO t (n, v) VALUES (?, ?)", rows))
    assert store.read(lambda s: s.execute("SELECT count(*) FROM t").fetchone()) == (len(rows),)


def test_more_statements_than_are_kept_prepared_still_work(store: SqlStore) -> None:
    texts = [f"SELECT {n}" for n in range(MAX_PLANS + 20)]
    assert store.read(lambda s: [s.execute(text).fetchall()[0][0] for text in texts]) == [*range(len(texts))]
    assert store.read(lambda s: s.execute(texts[0]).fetchall()) == [(0,)]


def test_rows_are_given_once_each_however_they_are_asked_for(store: SqlStore) -> None:
    def query(s: object) -> list[object]:
        rows = store_session(s).execute("SELECT * FROM (VALUES (1), (2), (3)) AS v")
        first = rows.fetchone()
        return [first, next(iter(rows)), rows.fetchall(), rows.fetchone()]

    assert store.read(query) == [(1,), (2,), [(3,)], None]


def store_session(session: object) -> PostgresSession:
    assert isinstance(session, PostgresSession)
    return session


def test_the_wrong_number_of_parameters_is_refused_before_anything_is_sent(store: SqlStore) -> None:
    with pytest.raises(StorageError, match="has 2 parameters and was given 1"):
        store.write(lambda s: s.execute("INSERT INTO t (n, v) VALUES (?, ?)", (1,)))


def test_several_statements_in_one_text_are_refused(store: SqlStore) -> None:
    with pytest.raises(StorageError, match="multiple commands"):
        store.write(lambda s: s.execute("INSERT INTO t (n) VALUES (1); DELETE FROM t"))
    assert store.read(lambda s: s.execute("SELECT count(*) FROM t").fetchone()) == (0,)


def test_a_table_that_has_grown_is_read_by_statements_prepared_before(store: SqlStore) -> None:
    store.write(lambda s: s.execute("INSERT INTO t (n) VALUES (1)"))
    assert store.read(lambda s: s.execute("SELECT * FROM t").fetchall()) == [(1, None, None, None)]
    store.write(lambda s: s.execute("SELECT * FROM t").fetchall())
    store.write(lambda s: s.execute("ALTER TABLE t ADD COLUMN more TEXT"))
    assert store.read(lambda s: s.execute("SELECT * FROM t").fetchall()) == [(1, None, None, None, None)]
    assert store.write(lambda s: s.execute("SELECT * FROM t").fetchall()) == [(1, None, None, None, None)]
