"""SmithersDb: a handle on a database of runs, for programs that embed a server or an app. Opened at first use, shared."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from smithers.settings import Settings
from smithers.store import open_store

if TYPE_CHECKING:
    from smithers.store.sql.store import SqlStore


class SmithersDb:
    """A database of runs.

    Args:
        db: the path of a SQLite file, or a database URL; `workflow.db` for a workflow's own.
        settings: how to open it; from the environment by default.
    """

    def __init__(self, db: str | Path, settings: Settings | None = None) -> None:
        self.db = str(db)
        self._settings = settings
        self._store: SqlStore | None = None

    def __repr__(self) -> str:
        return f"SmithersDb({self.db!r})"

    @property
    def store(self) -> SqlStore:
        """The open store; opened by the first call. Raises `StorageError`."""
        if self._store is None:
            settings = self._settings or Settings.from_environment()
            self._store = open_store(
                self.db, durability=settings.durability, busy_timeout_s=settings.busy_timeout_s, pool=settings.db_pool
            )
        return self._store

    def close(self) -> None:
        """Give the database up."""
        if self._store is not None:
            self._store.close()
            self._store = None
