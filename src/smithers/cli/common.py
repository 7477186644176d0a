"""Common: the options of every command, the database that is meant, and `Control` over it."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from smithers.cli.arguments import login_name
from smithers.cli.options import Option
from smithers.cli.output import Format, Output
from smithers.errors import StoreNotFound
from smithers.records import dataclass
from smithers.settings import Settings

if TYPE_CHECKING:
    from smithers.control.caller import Caller
    from smithers.control.control import Control

DB_NAME = "smithers.db"


@dataclass(frozen=True)
class Common:
    """Options that every command has."""

    db: Annotated[str | None, Option(help="The database; else $SMITHERS_DB, else the nearest smithers.db.")] = None
    format: Annotated[Format, Option(help="text, json (one document), or jsonl (one object a line).")] = "text"
    debug: Annotated[bool, Option(help="Show the traceback of an unexpected error.", is_switch=True)] = False

    @property
    def settings(self) -> Settings:
        """The settings of this process; `--db` counts more than the environment."""
        found = Settings.from_environment()
        return replace(found, db=self.db) if self.db is not None else found

    @property
    def output(self) -> Output:
        """Where to write."""
        return Output(self.format, has_color=self.settings.has_color)


def nearest_database(start: Path) -> str | None:
    """The `smithers.db` of a folder or the nearest one above it."""
    for folder in (start, *start.parents):
        if (folder / DB_NAME).is_file():
            return str(folder / DB_NAME)
    return None


def find_database(settings: Settings) -> str:
    """The database to work on: the given one, or the nearest. Raises `StoreNotFound`."""
    if settings.db is not None:
        return settings.db
    found = nearest_database(Path.cwd())
    if found is None:
        raise StoreNotFound(
            f"there is no {DB_NAME} in {Path.cwd()} or above it; "
            "name one with --db or SMITHERS_DB, or start a run with: smithers up WORKFLOW",
        )
    return found


@contextmanager
def open_control(common: Common) -> Generator[Control]:
    """Control over the runs of the database that is meant. Raises `StoreNotFound` or another `StorageError`."""
    db = find_database(common.settings)
    from smithers.control.control import Control
    from smithers.store import open_store

    settings = common.settings
    store = open_store(db, create=False, busy_timeout_s=settings.busy_timeout_s, pool=settings.db_pool)
    try:
        yield Control(store)
    finally:
        store.close()


def caller(by: str | None) -> Caller:
    """Who asks: whoever may use the machine may use its database, so nothing is refused for scopes."""
    from smithers.control.caller import Caller

    return Caller(by or login_name(), scopes=("*",))
