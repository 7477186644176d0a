"""Brings a SQLite file's schema up to date: what `../sql/migrations.py` reads, each step in its own transaction; a new file
gets all of them in one (`snapshot.py`).

A destructive step has foreign keys checked before it commits. The files themselves are in `migrations/`.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from importlib.resources.abc import Traversable

import apsw

from smithers.errors import StorageError
from smithers.store.sql.migrations import APPLIED, RECORD, TABLE, Migration, built_in, load, missing
from smithers.store.sqlite import snapshot


def migrate(connection: apsw.Connection, folder: Traversable | None = None) -> None:
    """Apply what is missing. Safe when several processes do it at once; one query when nothing is missing.

    Leaves foreign keys off: rebuilding a table needs it so, and it can only be changed outside a transaction.

    Raises:
        MigrationRequired: the database has steps that this version does not know.
        StorageError: a step was changed after it had been applied here, or fails.
    """
    steps = built_in() if folder is None else load(folder)
    applied = _applied(connection)
    if not (found := missing(steps, applied)):
        return
    connection.execute("PRAGMA foreign_keys=OFF")
    if folder is None and not applied and _begin(connection, steps):
        return
    for step in found:
        connection.execute("BEGIN IMMEDIATE")
        try:
            if step in missing(steps, _applied(connection)):  # another process may have been faster
                _apply(connection, step)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise


def _begin(connection: apsw.Connection, steps: Iterable[Migration]) -> bool:
    """Give a new file the whole schema at once. Whether that was possible; if not, nothing is changed."""
    text = snapshot.stored()
    if text is None:
        return False
    connection.execute("BEGIN IMMEDIATE")
    try:
        is_new = not _applied(connection)  # else another process was faster
        if is_new:
            connection.execute(text)
            for step in steps:
                _record(connection, step)
        connection.execute("COMMIT")
    except BaseException as error:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        if isinstance(
            error, apsw.SQLError
        ):  # something has a name of ours: the steps say which of them it is in the way of
            return False
        raise
    return is_new


def _applied(connection: apsw.Connection) -> dict[str, str]:
    try:
        return {str(id): str(checksum) for id, checksum in connection.execute(APPLIED)}
    except apsw.SQLError:
        if connection.table_exists("main", "_smithers_schema_migrations"):
            raise
        return {}


def _apply(connection: apsw.Connection, step: Migration) -> None:
    connection.execute(TABLE)
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
    _record(connection, step)


def _record(connection: apsw.Connection, step: Migration) -> None:
    now_ms = time.time_ns() // 1_000_000
    connection.execute(RECORD, (step.id, step.name, now_ms, step.checksum, int(step.is_destructive)))


def _check_foreign_keys(connection: apsw.Connection, step: Migration) -> None:
    broken = sorted({str(row[0]) for row in connection.execute("PRAGMA foreign_key_check")})
    if broken:
        summary = f"migration {step.id}_{step.name} breaks foreign keys of {', '.join(broken)}"
        raise StorageError(summary, {"migration": step.id, "tables": broken})
