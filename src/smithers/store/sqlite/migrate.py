"""Brings a database's schema up to date: numbered `.sql` files, each applied once, in order, in its own transaction.

A file is named `NNNN_what.sql`. A first line `-- destructive` records that it drops or rewrites data, and has foreign
keys checked before it commits. The files themselves are in `migrations/`.
"""

from __future__ import annotations

import hashlib
import re
import time
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable

import apsw

from smithers.errors import MigrationRequired, StorageError
from smithers.records import dataclass

_TABLE = """
CREATE TABLE IF NOT EXISTS _smithers_schema_migrations (
    id TEXT NOT NULL PRIMARY KEY,
    name TEXT NOT NULL,
    applied_at_ms INTEGER NOT NULL,
    checksum TEXT,
    destructive INTEGER NOT NULL,
    details_json TEXT
) STRICT, WITHOUT ROWID
"""

_FILE_NAME = re.compile(r"(\d{4})_(\w+)\.sql")


@dataclass(frozen=True)
class Migration:
    """One step of the schema."""

    id: str
    name: str
    sql: str
    checksum: str
    is_destructive: bool


def migrate(connection: apsw.Connection, folder: Traversable | None = None) -> None:
    """Apply what is missing. Safe when several processes do it at once; one query when nothing is missing.

    Leaves foreign keys off: rebuilding a table needs it so, and it can only be changed outside a transaction.

    Raises:
        MigrationRequired: the database has steps that this version does not know.
        StorageError: a step was changed after it had been applied here, or fails.
    """
    steps = _built_in() if folder is None else load(folder)
    if not (missing := _missing(connection, steps)):
        return
    connection.execute("PRAGMA foreign_keys=OFF")
    for step in missing:
        connection.execute("BEGIN IMMEDIATE")
        try:
            if step in _missing(connection, steps):  # another process may have been faster
                _apply(connection, step)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise


def load(folder: Traversable) -> tuple[Migration, ...]:
    """The steps in a folder, in order. Raises StorageError if two have one number, or one is misnamed."""
    steps: dict[str, Migration] = {}
    for file in folder.iterdir():
        if not file.name.endswith(".sql"):
            continue
        match = _FILE_NAME.fullmatch(file.name)
        if match is None or match[1] in steps:
            raise StorageError(f"migration {file.name!r} is not named NNNN_what.sql with a number of its own")
        sql = file.read_text(encoding="utf-8").replace("\r\n", "\n")
        steps[match[1]] = Migration(
            id=match[1],
            name=match[2],
            sql=sql,
            checksum=hashlib.sha256(sql.encode()).hexdigest(),
            is_destructive=sql.startswith("-- destructive"),
        )
    return tuple(steps[id] for id in sorted(steps))


@cache
def _built_in() -> tuple[Migration, ...]:
    return load(files("smithers.store.sqlite") / "migrations")


def _missing(connection: apsw.Connection, steps: tuple[Migration, ...]) -> list[Migration]:
    applied = _applied(connection)
    known = {step.id for step in steps}
    if unknown := sorted(applied.keys() - known):
        raise MigrationRequired(
            f"this database was written by a newer version of smithers (schema step {unknown[-1]}); "
            "upgrade smithers to open it",
            {"unknown": unknown},
        )
    for step in steps:
        if step.id in applied and applied[step.id] != step.checksum:
            raise StorageError(
                f"migration {step.id}_{step.name} is not the one that was applied to this database",
                {"migration": step.id, "applied": applied[step.id], "here": step.checksum},
            )
    return [step for step in steps if step.id not in applied]


def _applied(connection: apsw.Connection) -> dict[str, str]:
    try:
        return {
            str(id): str(sum) for id, sum in connection.execute("SELECT id, checksum FROM _smithers_schema_migrations")
        }
    except apsw.SQLError:
        if connection.table_exists("main", "_smithers_schema_migrations"):
            raise
        return {}


def _apply(connection: apsw.Connection, step: Migration) -> None:
    connection.execute(_TABLE)
    try:
        connection.execute(step.sql)
    except (apsw.SQLError, apsw.ConstraintError) as exc:
        raise StorageError(f"migration {step.id}_{step.name} failed: {exc}", {"migration": step.id}) from exc
    if not connection.in_transaction:
        raise StorageError(
            f"migration {step.id}_{step.name} ends the transaction that it runs in", {"migration": step.id}
        )
    if step.is_destructive:
        _check_foreign_keys(connection, step)
    connection.execute(
        "INSERT INTO _smithers_schema_migrations (id, name, applied_at_ms, checksum, destructive) "
        "VALUES (?, ?, ?, ?, ?)",
        (step.id, step.name, time.time_ns() // 1_000_000, step.checksum, int(step.is_destructive)),
    )


def _check_foreign_keys(connection: apsw.Connection, step: Migration) -> None:
    broken = sorted({str(row[0]) for row in connection.execute("PRAGMA foreign_key_check")})
    if broken:
        summary = f"migration {step.id}_{step.name} breaks foreign keys of {', '.join(broken)}"
        raise StorageError(summary, {"migration": step.id, "tables": broken})
