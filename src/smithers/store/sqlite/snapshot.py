"""Snapshot: what all steps of the schema come to, in one text, so that a new file gets it at once instead of step by step.

`schema.sql` is made from the steps (`scripts/schema`). One that was made from other steps than there are is not used.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Final

import apsw

from smithers.store.sql.migrations import Migration, built_in

FILE: Final = "schema.sql"
_HEAD: Final = "-- Made by scripts/schema from the steps in migrations/, which are {digest}\n"
_MADE: Final = (
    "SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite@_%' ESCAPE '@' ORDER BY rowid"
)


def text_of(connection: apsw.Connection, steps: Iterable[Migration]) -> str:
    """The schema of a file in which these steps, and nothing else, have been taken."""
    made = [f"{sql};\n" for (sql,) in connection.execute(_MADE)]
    return "".join([_HEAD.format(digest=_digest(steps)), *made])


@cache
def stored() -> str | None:
    """The text in the package; None if it is not that of its steps."""
    text = (files(__package__) / FILE).read_text(encoding="utf-8").replace("\r\n", "\n")
    return text if text.startswith(_HEAD.format(digest=_digest(built_in()))) else None


def _digest(steps: Iterable[Migration]) -> str:
    return hashlib.sha256("\n".join(f"{step.id} {step.checksum}" for step in steps).encode()).hexdigest()


def main(arguments: list[str]) -> int:
    """Write the file, or with `--check` only compare. The exit code."""
    from smithers.store.sqlite.migrate import migrate

    place = Path(__file__).parent / FILE
    connection = apsw.Connection(":memory:")
    migrate(connection, files(__package__) / "migrations")
    text = text_of(connection, built_in())
    if place.exists() and place.read_text(encoding="utf-8") == text:
        return 0
    if "--check" in arguments:
        sys.stderr.write(f"{FILE} is out of date: run scripts/schema\n")
        return 1
    place.write_text(text, encoding="utf-8")
    sys.stderr.write(f"written: {FILE}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
