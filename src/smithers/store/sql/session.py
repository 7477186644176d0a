"""What the shared SQL is written against: a connection inside a transaction, and what a database offers a store.

A session of SQLite is the driver's own connection, because its methods have these shapes already; PostgreSQL's translates.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from typing import Any, Final, Literal, Protocol, TypeVar

from smithers.store.interface import SqlValue

T = TypeVar("T")

Dialect = Literal["sqlite", "postgres"]

Row = tuple[Any, ...]
"""A row as the database gives it; whoever asks for columns knows their types."""

SILENT: Final = "/* silent */"
"""Stands in a statement whose changes nobody waits for, such as signs of life: PostgreSQL's wakes no other process."""


class Rows(Protocol):
    """What a statement gives."""

    def __iter__(self) -> Iterator[Row]:
        """The rows that are left."""
        ...

    def fetchone(self) -> Row | None:
        """The next row."""
        ...

    def fetchall(self) -> list[Row]:
        """All rows that are left."""
        ...


class Executor(Protocol):
    """What runs statements."""

    def execute(self, statement: str, parameters: Sequence[SqlValue] = ..., /) -> Rows:
        """Run one statement; its rows must be read before the transaction ends."""
        ...

    def executemany(self, statement: str, parameters: Iterable[Sequence[SqlValue]], /) -> object:
        """Run one statement for each of these parameters."""
        ...


class Session(Executor, Protocol):
    """A connection inside a transaction, which it neither begins nor ends."""

    def cursor(self) -> Executor:
        """What runs several statements one after the other, each of whose rows are read before the next is run."""
        ...


def dialect_of(session: Session) -> Dialect:
    """The database that a session belongs to. SQLite's is the driver's own connection, which does not say."""
    found: Dialect = getattr(session, "dialect", "sqlite")
    return found


class Database(Protocol):
    """An open database, as a store uses it. Every method may be called from any thread."""

    @property
    def dialect(self) -> Dialect:
        """Which database this is."""
        ...

    def submit(self, job: Callable[[Session], T], resolve: Callable[[T | None, BaseException | None], None]) -> None:
        """Hand a write job in; `resolve` is called once, after the commit, on the writer's thread."""
        ...

    def write(self, job: Callable[[Session], T]) -> T:
        """Run a write job; durable on return. Blocks."""
        ...

    def awrite(self, job: Callable[[Session], T]) -> Coroutine[object, object, T]:
        """Run a write job; durable when awaited. Cancelling the wait does not cancel the job."""
        ...

    def read(self, query: Callable[[Session], T], *, is_single: bool = False) -> T:
        """Run a query in one snapshot, on this thread. With `is_single` it is one statement."""
        ...

    async def aread(self, query: Callable[[Session], T]) -> T:
        """Run a query in one snapshot, on a thread of the database's own."""
        ...

    def watch(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Have `callback` called, on another thread, soon after anybody's commit. Returns how to end it."""
        ...

    def close(self) -> None:
        """Give the database up."""
        ...
