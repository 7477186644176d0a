"""Pulse: whether a database can be reached, for whoever asks how a process is. However many ask, it is looked at once at a
time, and not again for a moment.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from smithers.errors import StorageError, StorageRefused, StorageSaturated, StorageUnreachable

if TYPE_CHECKING:
    from smithers.store.sql.session import Session
    from smithers.store.sql.store import SqlStore

FRESH_S: Final = 1.0
"""How long an answer holds."""
PATIENCE_S: Final = 1.0
"""How long the database may take to answer."""
_SAYS: Final[tuple[tuple[type[StorageError], str], ...]] = (
    (StorageRefused, "the database server lets nobody in with this address"),
    (StorageUnreachable, "the database cannot be reached"),
    (StorageSaturated, "all connections to the database are in use"),
    (StorageError, "the database refuses to be read"),
)
"""What is told of an error: anybody may ask, so it is not where the database is. The log has that."""


class Pulse:
    """Looks at one database."""

    def __init__(self, store: SqlStore) -> None:
        self._store = store
        self._looking: asyncio.Task[str | None] | None = None
        self._found: str | None = None
        self._found_at = -FRESH_S

    async def problem(self) -> str | None:
        """Why the database cannot be reached, in a sentence; None if it can. Takes `PATIENCE_S` at most."""
        if self._looking is None:
            if time.monotonic() - self._found_at < FRESH_S:
                return self._found
            self._looking = asyncio.create_task(self._look())
        looking = self._looking
        await asyncio.wait([looking], timeout=PATIENCE_S)
        return looking.result() if looking.done() else f"the database has not answered for {PATIENCE_S:g} s"

    async def _look(self) -> str | None:
        try:
            # not `aread`, which waits for a server that is away
            await asyncio.to_thread(self._store.read, _anything)
            self._found = None
        except StorageError as error:
            self._found = next(text for kind, text in _SAYS if isinstance(error, kind))
        finally:
            self._found_at = time.monotonic()
            self._looking = None
        return self._found


async def problem_of(pulses: Iterable[Pulse]) -> str | None:
    """What is wrong with the first of these databases that cannot be reached; None if all can."""
    found = await asyncio.gather(*[pulse.problem() for pulse in pulses])
    return next((problem for problem in found if problem is not None), None)


def _anything(session: Session) -> None:
    session.execute("SELECT 1").fetchall()
