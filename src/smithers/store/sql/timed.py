"""Timed: a database whose work is measured, as its callers see it: with the wait for others, and for the commit."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from smithers.store.sql.session import Database, Session

T = TypeVar("T")
QUERY: Final = "db.query_ms"
TRANSACTION: Final = "db.transaction_ms"


class Timed:
    """The reads and writes of a database. `told` gets the name of what was done and its milliseconds, in any thread."""

    __slots__ = ("_database", "_told")

    def __init__(self, database: Database, told: Callable[[str, float], None]) -> None:
        self._database = database
        self._told = told

    def write(self, job: Callable[[Session], T]) -> T:
        """As the database's."""
        began = perf_counter()
        try:
            return self._database.write(job)
        finally:
            self._told(TRANSACTION, (perf_counter() - began) * 1000)

    async def awrite(self, job: Callable[[Session], T]) -> T:
        """As the database's."""
        began = perf_counter()
        try:
            return await self._database.awrite(job)
        finally:
            self._told(TRANSACTION, (perf_counter() - began) * 1000)

    def read(self, query: Callable[[Session], T], *, is_single: bool = False) -> T:
        """As the database's."""
        began = perf_counter()
        try:
            return self._database.read(query, is_single=is_single)
        finally:
            self._told(QUERY, (perf_counter() - began) * 1000)

    async def aread(self, query: Callable[[Session], T]) -> T:
        """As the database's."""
        began = perf_counter()
        try:
            return await self._database.aread(query)
        finally:
            self._told(QUERY, (perf_counter() - began) * 1000)
