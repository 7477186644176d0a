"""Makes the tables of outputs, lets them grow with their models, and writes the statements for their rows.

What columns a model has is decided in `store/columns.py`.
"""

from __future__ import annotations

from smithers.errors import IncompatibleSchema
from smithers.store.columns import KEY_COLUMNS, Kind, TableDef
from smithers.store.sql.session import Session

_SQL_TYPES: dict[Kind, str] = {
    "boolean": "INTEGER",
    "number-int": "INTEGER",
    "number-real": "REAL",
    "text": "TEXT",
    "json": "TEXT",
}


def ensure_table(connection: Session, table: TableDef) -> None:
    """Create the table, or add the columns that it lacks. Runs inside a write job; may be called each time.

    Columns that the model has no more are left alone.

    Raises:
        IncompatibleSchema: a column holds another kind of value than the model's field now, or the table is not ours.
    """
    recorded = _recorded_kinds(connection, table.name)
    for column in table.columns:
        if (stored := recorded.get(column.name, column.kind)) != column.kind:
            raise _incompatible(table, column.name, stored, column.kind)
    present = _present_types(connection, table.name)
    if not present:
        keys = "run_id TEXT NOT NULL, node_id TEXT NOT NULL, iteration INTEGER NOT NULL DEFAULT 0"
        columns = "".join(f", {_quoted(c.name)} {_SQL_TYPES[c.kind]}" for c in table.columns)
        connection.execute(
            f"CREATE TABLE IF NOT EXISTS {_quoted(table.name)} "
            f"({keys}{columns}, PRIMARY KEY (run_id, node_id, iteration)) WITHOUT ROWID"
        )
    else:
        _grow(connection, table, present)
    for column in table.columns:
        if column.name not in recorded:
            connection.execute(
                "INSERT INTO _smithers_output_schema_columns(table_name, column_name, kind) VALUES (?, ?, ?)",
                (table.name, column.name, column.kind),
            )


def insert_sql(table: TableDef) -> str:
    """Write a row: run id, node id, iteration, then what `TableDef.encode` gives. Replaces the row of that key."""
    names = [_quoted(name) for name in (*KEY_COLUMNS, *(c.name for c in table.columns))]
    values = ", ".join("?" for _ in names)
    own = names[len(KEY_COLUMNS) :]
    action = f"DO UPDATE SET {', '.join(f'{name} = excluded.{name}' for name in own)}" if own else "DO NOTHING"
    return (
        f"INSERT INTO {_quoted(table.name)} ({', '.join(names)}) VALUES ({values}) "
        f"ON CONFLICT (run_id, node_id, iteration) {action}"
    )


def select_sql(table: TableDef) -> str:
    """Read rows in the same column order, without a condition: the caller appends WHERE and ORDER BY."""
    names = ", ".join(_quoted(name) for name in (*KEY_COLUMNS, *(c.name for c in table.columns)))
    return f"SELECT {names} FROM {_quoted(table.name)}"


def _grow(connection: Session, table: TableDef, present: dict[str, str]) -> None:
    if absent := [key for key in KEY_COLUMNS if key not in present]:
        raise IncompatibleSchema(
            f"table {table.name!r} of this database is not an output table: it has no {', '.join(absent)}; "
            f"rename the output {table.key!r}, or use another database",
            {"table": table.name, "missing": absent},
        )
    for column in table.columns:
        wanted = _SQL_TYPES[column.kind]
        if (stored := present.get(column.name)) is None:
            connection.execute(f"ALTER TABLE {_quoted(table.name)} ADD COLUMN {_quoted(column.name)} {wanted}")
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


def _present_types(connection: Session, table: str) -> dict[str, str]:
    """The columns that the table has, with their declared types; empty if there is no such table."""
    return {
        str(name): str(type).upper()
        for name, type in connection.execute("SELECT name, type FROM pragma_table_info(?)", (table,))
    }


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
