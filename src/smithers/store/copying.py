"""Copies a workspace from one database into another, an empty one, of whichever dialect; and tells whether two hold the same.

Everything is read in one snapshot of the source, a page of rows at a time, and written a page at a time: what a copy that
was broken off has left is dropped by making the target anew. Comparing reads both again, and depends on no order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from smithers.errors import StorageError
from smithers.records import dataclass
from smithers.store.columns import Kind
from smithers.store.interface import SqlValue
from smithers.store.sql.locks import lock_name
from smithers.store.sql.session import Dialect, Session, dialect_of
from smithers.store.sql.store import SqlStore
from smithers.store.sql.tables import as_encoded, columns_of, create_sql, marks_of, quoted

PAGE: Final = 500
MIGRATIONS: Final = "_smithers_schema_migrations"
WAKEUPS: Final = "_smithers_wakeups"
COLUMNS: Final = "_smithers_output_schema_columns"

OnTable = Callable[[str, int], None]
"""Told of a table and how many of its rows were dealt with, several times a table."""

_TABLES: Final = {
    "sqlite": r"SELECT name FROM sqlite_schema WHERE type = 'table' AND name LIKE '\_smithers\_%' ESCAPE '\' ORDER BY name",
    "postgres": r"SELECT tablename FROM pg_tables WHERE schemaname = current_schema() "
    r"AND tablename LIKE '\_smithers\_%' ORDER BY tablename",
}
_KEYS: Final = {
    "sqlite": "SELECT name FROM pragma_table_info(?) WHERE pk > 0 ORDER BY pk",
    "postgres": "SELECT a.attname FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid "
    "AND a.attnum = ANY (i.indkey) WHERE i.indrelid = to_regclass(?) AND i.indisprimary "
    "ORDER BY array_position(i.indkey::smallint[], a.attnum)",
}
_PARENTS_FIRST: Final = ("_smithers_runs", "_smithers_cron")
"""Tables that others refer to."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table that both databases have: its columns, those of its key, and the kinds of an output table's own columns."""

    name: str
    columns: tuple[str, ...]
    key: tuple[str, ...]
    kinds: tuple[tuple[str, Kind], ...] = ()


@dataclass(frozen=True, slots=True)
class Digest:
    """What a table holds, whatever the order of its rows."""

    rows: int
    sum: int


def copy_store(source: SqlStore, target: SqlStore, on_table: OnTable = lambda _name, _rows: None) -> dict[str, int]:
    """Copy everything. Returns how many rows each table has.

    Raises:
        StorageError: the target is not empty, or a database refuses.
    """
    target.read(_require_empty)

    def everything(session: Session) -> dict[str, int]:
        counts: dict[str, int] = {}
        for table in tables_of(session):
            counts[table.name] = _copy_table(session, table, target, on_table)
        return counts

    counts = source.read(everything)
    target.write(_end_identity)
    return counts


def compare(source: SqlStore, target: SqlStore, on_table: OnTable = lambda _name, _rows: None) -> list[str]:
    """How two databases differ, a line for each table that does; nothing if they hold the same."""
    found: list[dict[str, Digest]] = [
        store.read(lambda session: {table.name: _digest(session, table, on_table) for table in tables_of(session)})
        for store in (source, target)
    ]
    differing: list[str] = []
    for name in sorted(found[0].keys() | found[1].keys()):
        one, other = (tables.get(name, Digest(0, 0)) for tables in found)
        if one != other:
            what = "" if one.rows != other.rows else ", some of which differ"
            differing.append(f"{name}: {one.rows} rows in the source, {other.rows} in the copy{what}")
    return differing


def tables_of(session: Session) -> list[Table]:
    """Every table that a workspace consists of: the project's own, then those of outputs."""
    dialect = dialect_of(session)
    names = [str(row[0]) for row in session.execute(_TABLES[dialect])]
    names.sort(key=lambda name: (name not in _PARENTS_FIRST, name))
    tables = [_described(session, name) for name in names if name != MIGRATIONS]
    kinds: dict[str, list[tuple[str, Kind]]] = {}
    for table, column, kind in session.execute(
        f"SELECT table_name, column_name, kind FROM {COLUMNS} ORDER BY table_name, column_name"
    ):
        kinds.setdefault(str(table), []).append((str(column), kind))
    for name in sorted(kinds):
        tables.append(_described(session, name, tuple(kinds[name])))
    return [table for table in tables if table.columns]


def _described(session: Session, name: str, kinds: tuple[tuple[str, Kind], ...] = ()) -> Table:
    dialect = dialect_of(session)
    # columns sorted, because a database that was migrated step by step may have them in another order
    columns = tuple(sorted(columns_of(session, name)))
    if name == WAKEUPS:
        columns = tuple(column for column in columns if column != "tx")  # it means something in its own server only
    key = session.execute(_KEYS[dialect], (name if dialect == "sqlite" else quoted(name),))
    return Table(name, columns, tuple(str(row[0]) for row in key), kinds)


def _pages(session: Session, table: Table) -> Iterator[list[tuple[SqlValue, ...]]]:
    """The rows of a table, a page at a time, in the order of its key."""
    names = ", ".join(quoted(name) for name in table.columns)
    keys = ", ".join(quoted(name) for name in table.key)
    at = [table.columns.index(name) for name in table.key]
    order = f"ORDER BY {keys} LIMIT {PAGE}"
    after: tuple[SqlValue, ...] = ()
    while True:
        where = f"WHERE ({keys}) > ({', '.join('?' for _ in after)})" if after else ""
        rows = session.execute(f"SELECT {names} FROM {quoted(table.name)} {where} {order}", after).fetchall()
        if rows:
            yield [tuple(map(as_encoded, row)) for row in rows]
        if len(rows) < PAGE:
            return
        after = tuple(rows[-1][index] for index in at)


def _copy_table(session: Session, table: Table, target: SqlStore, on_table: OnTable) -> int:
    insert = _insert_sql(table, target.dialect)
    count = 0
    for rows in _pages(session, table):

        def job(into: Session, rows: Sequence[tuple[SqlValue, ...]] = rows, is_first: bool = count == 0) -> None:
            if is_first and table.kinds:
                lock_name(into, "output tables")
                into.execute(create_sql(table.name, table.kinds, dialect_of(into)))
            into.executemany(insert, rows)

        target.write(job)
        count += len(rows)
        on_table(table.name, count)
    if count == 0 and table.kinds:
        target.write(lambda into: into.execute(create_sql(table.name, table.kinds, dialect_of(into))).fetchall())
    return count


def _insert_sql(table: Table, dialect: Dialect) -> str:
    kinds = dict(table.kinds)
    marks = marks_of([kinds.get(column) for column in table.columns], dialect)
    names = ", ".join(quoted(name) for name in table.columns)
    return f"INSERT INTO {quoted(table.name)} ({names}) VALUES ({', '.join(marks)})"


def _digest(session: Session, table: Table, on_table: OnTable) -> Digest:
    rows = total = 0
    for page in _pages(session, table):
        for row in page:
            text = repr([bytes(value) if isinstance(value, memoryview) else value for value in row])
            total = (total + int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest())) % 2**256
        rows += len(page)
        on_table(table.name, rows)
    return Digest(rows, total)


def _require_empty(session: Session) -> None:
    for table in tables_of(session):
        if session.execute(f"SELECT 1 FROM {quoted(table.name)} LIMIT 1").fetchone() is not None:
            raise StorageError(
                f"the database to copy into is not empty (table {table.name}): use a new one", {"table": table.name}
            )


def _end_identity(session: Session) -> None:
    """Have the next wake-up's number come after those that were copied; SQLite sees to that by itself."""
    if dialect_of(session) == "postgres":
        session.execute(
            f"SELECT setval(pg_get_serial_sequence('{WAKEUPS}', 'id'), greatest((SELECT max(id) FROM {WAKEUPS}), "
            "(SELECT max(seen_wakeup) FROM _smithers_runs), 1))"
        ).fetchall()
    else:
        row = session.execute("SELECT max(seen_wakeup) FROM _smithers_runs").fetchone()
        if row is not None and row[0]:
            # a wake-up that is newer than any that a run has seen must have a higher number than those
            session.execute(f"INSERT INTO {WAKEUPS} (id, run_id) VALUES (?, '')", (int(row[0]) + 1,)).fetchall()
            session.execute(f"DELETE FROM {WAKEUPS} WHERE id = ?", (int(row[0]) + 1,)).fetchall()
