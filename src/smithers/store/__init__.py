"""The store: schema, the commit path, reads and the event log. `interface` is what others use; shared SQL lives in `sql/`,
what is a database's own in `sqlite/`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from smithers.errors import StorageError

if TYPE_CHECKING:
    from smithers.store.sql.store import SqlStore


def open_store(
    db: str | Path,
    *,
    create: bool = True,
    durability: Literal["full", "normal"] = "full",
    busy_timeout_s: float = 30.0,
) -> SqlStore:
    """Open the database that `db` names: the path of a SQLite file, or `sqlite:///path`.

    Args:
        create: make the file if it is not there; otherwise `StoreNotFound` is raised.
        durability: `full` survives a power cut at any moment; `normal` may lose the last commits then, never consistency.
        busy_timeout_s: how long to wait for another process's write, in seconds.
    """
    from smithers.store.sql.store import SqlStore
    from smithers.store.sqlite.database import Database

    text = str(db)
    if text.startswith("sqlite:///"):
        text = text.removeprefix("sqlite:///")
    elif "://" in text:
        raise StorageError(f"{text.split('://')[0]!r} databases are not supported; use the path of a SQLite file")
    return SqlStore(Database.open(text, create=create, durability=durability, busy_timeout_s=busy_timeout_s), text)
