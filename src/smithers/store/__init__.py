"""The store: schema, the commit path, reads and the event log. `interface` is what others use; shared SQL lives in `sql/`,
what is a database's own in `sqlite/` and `postgres/`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from smithers.errors import StorageError

if TYPE_CHECKING:
    from smithers.store.postgres.database import Database as PostgresDatabase
    from smithers.store.sql.store import SqlStore

POOL = 8
"""Connections that a process reads PostgreSQL with, unless told otherwise."""


_SERVERS = ("postgresql://", "postgres://")


def is_server(db: str) -> bool:
    """Whether this names a database of a server, and not a file."""
    return db.startswith(_SERVERS)


def database_name(db: str | Path) -> str:
    """One name for a database, however it is spelled, which opens it: a SQLite file's real path, or a URL without the
    password. Raises `StorageError` for a URL that is none."""
    text = str(db)
    if is_server(text):
        _postgres()
        from smithers.store.postgres.address import Address

        return Address.parse(text).display
    text = text.removeprefix("sqlite:///")
    return text if "://" in text else os.path.realpath(text)


def open_store(
    db: str | Path,
    *,
    create: bool = True,
    durability: Literal["full", "normal"] = "full",
    busy_timeout_s: float = 30.0,
    pool: int = POOL,
) -> SqlStore:
    """Open the database that `db` names: the path of a SQLite file, `sqlite:///path`, or `postgresql://…`.

    Args:
        create: make the SQLite file if it is not there; otherwise `StoreNotFound` is raised. A PostgreSQL database is
            never made, only the tables in it.
        durability: `full` survives a power cut at any moment; `normal` may lose the last commits then, never consistency.
        busy_timeout_s: how long to wait for another process's write, or for a connection to read with, in seconds.
        pool: at most so many connections of this process read a PostgreSQL database; two more write and listen.

    Raises:
        StorageError: the database cannot be opened; the narrower classes say why.
    """
    from smithers.store.sql.store import SqlStore

    text = str(db)
    if is_server(text):
        shared = _postgres().open(text, durability=durability, busy_timeout_s=busy_timeout_s, pool=pool)
        return SqlStore(shared, shared.address.display)
    from smithers.store.sqlite.database import Database

    if text.startswith("sqlite:///"):
        text = text.removeprefix("sqlite:///")
    elif "://" in text:
        raise StorageError(
            f"{text.split('://')[0]!r} databases are not supported; use the path of a SQLite file or a postgresql:// URL"
        )
    return SqlStore(Database.open(text, create=create, durability=durability, busy_timeout_s=busy_timeout_s), text)


def _postgres() -> type[PostgresDatabase]:
    try:
        import psycopg
    except ImportError as exc:
        raise StorageError("PostgreSQL databases need an extra: pip install smithers[postgres]") from exc
    del psycopg
    from smithers.store.postgres.database import Database

    return Database
