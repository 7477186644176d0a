"""Brings a PostgreSQL database's schema up to date, with the same numbered files as SQLite (`../sql/migrations.py`).

Whoever finds steps missing takes an advisory lock, so that processes that start together follow one another; each step is
a transaction of its own.
"""

from __future__ import annotations

import time
from importlib.resources.abc import Traversable

import psycopg
from psycopg import pq

from smithers.errors import StorageError
from smithers.store.postgres import receipts
from smithers.store.postgres.dialect import definition, translate
from smithers.store.sql.migrations import APPLIED, RECORD, TABLE, Migration, built_in, load, missing
from smithers.store.sql.session import Row

_LOCK = 0x5317_4E25_0001
"""The advisory lock of migrations, an arbitrary number."""


def migrate(connection: psycopg.Connection[Row], folder: Traversable | None = None) -> None:
    """Apply what is missing. Safe when several processes do it at once; one query when nothing is missing.

    The connection is in autocommit. Raises psycopg's errors beside these:

    Raises:
        MigrationRequired: the database has steps that this version does not know.
        StorageError: a step was changed after it had been applied here, or fails.
    """
    steps = built_in() if folder is None else load(folder)
    if not missing(steps, _applied(connection)):
        return
    connection.execute("SELECT pg_advisory_lock(%s)", (_LOCK,))
    try:
        for step in missing(steps, _applied(connection)):
            with connection.transaction():
                _apply(connection, step)
    finally:
        if not connection.closed:
            connection.execute("SELECT pg_advisory_unlock(%s)", (_LOCK,))


def _applied(connection: psycopg.Connection[Row]) -> dict[str, str]:
    row = connection.execute("SELECT to_regclass('_smithers_schema_migrations') IS NOT NULL").fetchone()
    if row is None or not row[0]:
        return {}
    return {str(id): str(checksum) for id, checksum in connection.execute(APPLIED)}


def _apply(connection: psycopg.Connection[Row], step: Migration) -> None:
    connection.execute(definition(TABLE).encode())
    connection.execute(receipts.TABLE.encode())
    try:
        for sql in (definition(step.sql), step.postgres):
            if sql.strip():
                connection.execute(sql.encode())
    except psycopg.ProgrammingError as exc:
        raise StorageError(f"migration {step.id}_{step.name} failed: {exc}", {"migration": step.id}) from exc
    if connection.pgconn.transaction_status != pq.TransactionStatus.INTRANS:
        raise StorageError(
            f"migration {step.id}_{step.name} ends the transaction that it runs in", {"migration": step.id}
        )
    values = (step.id, step.name, time.time_ns() // 1_000_000, step.checksum, int(step.is_destructive))
    connection.pgconn.exec_params(translate(RECORD).sql, [str(value).encode() for value in values])
