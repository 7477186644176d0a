"""Makes the tables of outputs, lets them grow with their models, and writes the statements for their rows.

What columns a model has is decided in `store/columns.py`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from smithers.errors import IncompatibleSchema
from smithers.store.columns import KEY_COLUMNS, Kind, TableDef
from smithers.store.interface import SqlValue
from smithers.store.sql.locks import lock_name
from smithers.store.sql.session import Dialect, Session, dialect_of

_SQL_TYPES: Final[dict[Dialect, dict[Kind, str]]] = {
    "sqlite": {"boolean": "INTEGER", "number-int": "INTEGER", "number-real": "REAL", "text": "TEXT", "json": "TEXT"},
    # in SQLite's words, which the session translates, but for integers beyond 64 bits, which are text in SQLite
    "postgres": {"boolean": "INTEGER", "number-int": "NUMERIC", "number-real": "REAL", "text": "TEXT", "json": "TEXT"},
}

_COLUMNS: Final[dict[Dialect, str]] = {
    "sqlite": "SELECT name, type FROM pragma_table_info(?)",
    "postgres": "SELECT attname, format_type(atttypid, NULL) FROM pg_attribute "
    "WHERE attrelid = to_regclass(?) AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
}
_POSTGRES_TYPES: Final = {"bigint": "INTEGER", "double precision": "REAL", "bytea": "BLOB"}


def ensure_table(connection: Session, table: TableDef) -> None:
    """Create the table, or add the columns that it lacks. Runs inside a write job; may be called each time.

    Columns that the model has no more are left alone.

    Raises:
        IncompatibleSchema: a column holds another kind of value than the model's field now, or the table is not ours.
    """
    lock_name(connection, "output tables")
    recorded = _recorded_kinds(connection, table.name)
    for column in table.columns:
        if (stored := recorded.get(column.name, column.kind)) != column.kind:
            raise _incompatible(table, column.name, stored, column.kind)
    present = columns_of(connection, table.name)
    if not present:
        columns: list[tuple[str, Kind]] = [(column.name, column.kind) for column in table.columns]
        connection.execute(create_sql(table.name, columns, dialect_of(connection)))
    else:
        _grow(connection, table, present)
    for column in table.columns:
        if column.name not in recorded:
            connection.execute(
                "INSERT INTO _smithers_output_schema_columns(table_name, column_name, kind) VALUES (?, ?, ?)",
                (table.name, column.name, column.kind),
            )


def create_sql(name: str, columns: Iterable[tuple[str, Kind]], dialect: Dialect) -> str:
    """Make an output table with these columns of its own, unless it is there."""
    keys = "run_id TEXT NOT NULL, node_id TEXT NOT NULL, iteration INTEGER NOT NULL DEFAULT 0"
    own = "".join(f", {quoted(column)} {_SQL_TYPES[dialect][kind]}" for column, kind in columns)
    return f"CREATE TABLE IF NOT EXISTS {quoted(name)} ({keys}{own}, PRIMARY KEY (run_id, node_id, iteration)) WITHOUT ROWID"


def marks_of(kinds: Iterable[Kind | None], dialect: Dialect) -> list[str]:
    """What stands for the values of columns of these kinds in a statement; None for any other column."""
    # an integer beyond 64 bits is encoded as text in quotes
    return ["btrim(?, '\"')::numeric" if dialect == "postgres" and kind == "number-int" else "?" for kind in kinds]


def insert_sql(table: TableDef, dialect: Dialect = "sqlite") -> str:
    """Write a row: run id, node id, iteration, then what `TableDef.encode` gives. Replaces the row of that key."""
    names = [quoted(name) for name in (*KEY_COLUMNS, *(c.name for c in table.columns))]
    marks = marks_of([*(None for _ in KEY_COLUMNS), *(column.kind for column in table.columns)], dialect)
    own = names[len(KEY_COLUMNS) :]
    action = f"DO UPDATE SET {', '.join(f'{name} = excluded.{name}' for name in own)}" if own else "DO NOTHING"
    return (
        f"INSERT INTO {quoted(table.name)} ({', '.join(names)}) VALUES ({', '.join(marks)}) "
        f"ON CONFLICT (run_id, node_id, iteration) {action}"
    )


def select_sql(table: TableDef) -> str:
    """Read rows in the same column order, without a condition: the caller appends WHERE and ORDER BY."""
    names = ", ".join(quoted(name) for name in (*KEY_COLUMNS, *(c.name for c in table.columns)))
    return f"SELECT {names} FROM {quoted(table.name)}"


def _grow(connection: Session, table: TableDef, present: dict[str, str]) -> None:
    if absent := [key for key in KEY_COLUMNS if key not in present]:
        raise IncompatibleSchema(
            f"table {table.name!r} of this database is not an output table: it has no {', '.join(absent)}; "
            f"rename the output {table.key!r}, or use another database",
            {"table": table.name, "missing": absent},
        )
    types = _SQL_TYPES[dialect_of(connection)]
    for column in table.columns:
        wanted = types[column.kind]
        if (stored := present.get(column.name)) is None:
            connection.execute(f"ALTER TABLE {quoted(table.name)} ADD COLUMN {quoted(column.name)} {wanted}")
        elif stored != wanted:
            raise _incompatible(table, column.name, stored, column.kind)


def _incompatible(table: TableDef, column: str, stored: str, wanted: str) -> IncompatibleSchema:
    return IncompatibleSchema(
        f"table {table.name!r} holds {stored} in column {column!r}, where {table.model.__name__} wants {wanted} now; "
        f"rename the field or the output {table.key!r}, or use another database",
        {"table": table.name, "column": column, "stored": stored, "wanted": wanted},
    )


def _recorded_kinds(connection: Session, table: str) -> dict[str, str]:
    sql = "SELECT column_name, kind FROM _smithers_output_schema_columns WHERE table_name = ?"
    return {str(name): str(kind) for name, kind in connection.execute(sql, (table,))}


def columns_of(connection: Session, table: str) -> dict[str, str]:
    """The columns of a table in their order, with their types in SQLite's words; empty if there is no such table."""
    if dialect_of(connection) == "sqlite":
        return {str(name): str(type).upper() for name, type in connection.execute(_COLUMNS["sqlite"], (table,))}
    rows = connection.execute(_COLUMNS["postgres"], (quoted(table),))
    return {str(name): _POSTGRES_TYPES.get(type, str(type).upper()) for name, type in rows}


def as_encoded(value: SqlValue) -> SqlValue:
    """A value of an output table, whatever the database gave, as `TableDef.encode` gives it and SQLite keeps it."""
    if isinstance(value, float) and value != value:
        return "NaN"
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return f'"{value}"'
    return value


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
