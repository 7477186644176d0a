"""The steps of the schema: numbered `.sql` files, each applied once, in order. The files are in `../sqlite/migrations/`.

A file is named `NNNN_what.sql`; what PostgreSQL needs beside it is in `NNNN_what.postgres.sql`. A first line
`-- destructive` records that a step drops or rewrites data. Who applies them is each database's own `migrate.py`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable

from smithers.errors import MigrationRequired, StorageError
from smithers.records import dataclass

TABLE = """
CREATE TABLE IF NOT EXISTS _smithers_schema_migrations (
    id TEXT NOT NULL PRIMARY KEY,
    name TEXT NOT NULL,
    applied_at_ms INTEGER NOT NULL,
    checksum TEXT,
    destructive INTEGER NOT NULL,
    details_json TEXT
) STRICT, WITHOUT ROWID
"""
"""Where it is noted what has been applied."""

APPLIED = "SELECT id, checksum FROM _smithers_schema_migrations"

RECORD = (
    "INSERT INTO _smithers_schema_migrations (id, name, applied_at_ms, checksum, destructive) VALUES (?, ?, ?, ?, ?)"
)

_FILE_NAME = re.compile(r"(\d{4})_(\w+)\.sql")
_BESIDE = re.compile(r"(\d{4}_\w+)\.postgres\.sql")


@dataclass(frozen=True)
class Migration:
    """One step of the schema. `postgres` is what that database does after the rest."""

    id: str
    name: str
    sql: str
    checksum: str
    is_destructive: bool
    postgres: str = ""


def load(folder: Traversable) -> tuple[Migration, ...]:
    """The steps in a folder, in order. Raises StorageError if two have one number, or one is misnamed."""
    steps: dict[str, Migration] = {}
    texts = {file.name: _text(file) for file in folder.iterdir() if file.name.endswith(".sql")}
    for name, sql in texts.items():
        if (beside := _BESIDE.fullmatch(name)) is not None and f"{beside[1]}.sql" in texts:
            continue
        match = _FILE_NAME.fullmatch(name)
        if match is None or match[1] in steps:
            raise StorageError(f"migration {name!r} is not named NNNN_what.sql with a number of its own")
        steps[match[1]] = Migration(
            id=match[1],
            name=match[2],
            sql=sql,
            checksum=hashlib.sha256(sql.encode()).hexdigest(),
            is_destructive=sql.startswith("-- destructive"),
            postgres=texts.get(f"{match[1]}_{match[2]}.postgres.sql", ""),
        )
    return tuple(steps[id] for id in sorted(steps))


def missing(steps: tuple[Migration, ...], applied: Mapping[str, str]) -> list[Migration]:
    """The steps that are still to be taken, given the checksums of those that have been.

    Raises:
        MigrationRequired: the database has steps that this version does not know.
        StorageError: a step was changed after it had been applied.
    """
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


@cache
def built_in() -> tuple[Migration, ...]:
    """The steps of this version."""
    return load(files("smithers.store.sqlite") / "migrations")


def _text(file: Traversable) -> str:
    return file.read_text(encoding="utf-8").replace("\r\n", "\n")
