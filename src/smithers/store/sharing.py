"""A database that is open in this process, whichever it is: opened once however often it is asked for, closed with the last,
left alone by a forked child. Writes go to its writer; who watches it is told of commits.

How it is opened and read is the database's own: `sqlite/database.py`, `postgres/database.py`.
"""

from __future__ import annotations

import atexit
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Generic, TypeVar

from smithers.errors import StorageError
from smithers.store.notifying import Notifier
from smithers.store.writing import GroupWriter

C = TypeVar("C")
T = TypeVar("T")
K = TypeVar("K", bound=Hashable)
D = TypeVar("D", bound="SharedDatabase[Any]")


class SharedDatabase(ABC, Generic[C]):
    """What databases have in common. `C` is what write jobs get. Every method may be called from any thread."""

    _writer: GroupWriter[C]
    _notifier: Notifier

    def __init__(self) -> None:
        self.references = 1
        """How often it is open. Changed under the registry's lock."""
        self._refusal: str | None = None
        """Why nothing works any more."""

    def close(self) -> None:
        """Give one `open` back. The last one commits what was handed in before, then closes the database.

        Must not be the last one while a query of the calling thread runs.
        """
        if self._is_last_out():
            self.shut_down()

    def submit(self, job: Callable[[C], T], resolve: Callable[[T | None, BaseException | None], None]) -> None:
        """Hand a write job in. `resolve` is called once, after the commit, on the writer's thread.

        A job runs inside a transaction that it neither ends nor begins, returns values and never rows to be read later,
        and always runs once it was handed in; perhaps more than once, of which one is kept. If it raises, what it wrote is
        undone and its own caller gets the error.
        """
        self._writer.submit(job, resolve)

    def write(self, job: Callable[[C], T]) -> T:
        """Run a write job; durable on return. Blocks; from an event loop use `awrite`."""
        return self._writer.write(job)

    def awrite(self, job: Callable[[C], T]) -> Coroutine[object, object, T]:
        """Run a write job; durable when awaited. Cancelling the wait does not cancel the job."""
        return self._writer.awrite(job)

    def watch(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback`, on a thread of ours, soon after any process has committed; returns how to end it.

        Commits close together share a call. Commits of this process count too.
        """
        self._check_open()
        return self._notifier.watch(callback)

    @abstractmethod
    def shut_down(self) -> None:
        """Close everything, whoever else has it open: for the last `close`, and the end of the process."""

    @abstractmethod
    def abandon(self) -> None:
        """Refuse everything: this is a forked child's copy, whose threads and connections are the parent's."""

    @abstractmethod
    def _is_last_out(self) -> bool:
        """Give one reference back in the registry. Whether it was the last."""

    def _check_open(self) -> None:
        if self._refusal is not None:
            raise StorageError(self._refusal)


class Registry(Generic[K, D]):
    """The databases of one kind that this process has open. Hold `lock` to open one."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.open: dict[K, D] = {}
        self.before_fork: list[tuple[K, D]] = []
        """What a parent had open. Kept, so that the child does not close the parent's connections, which it must not."""
        atexit.register(self._close_all)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._after_fork)

    def is_last_out(self, key: K, database: D) -> bool:
        """Give one reference to a database back. Whether it was the last, and nobody finds the database here any more."""
        with self.lock:
            if database.references == 0:
                return False
            database.references -= 1
            if database.references > 0:
                return False
            self.open.pop(key, None)
        return True

    def _after_fork(self) -> None:
        """In the child: nothing is open, and nothing of the parent's is touched."""
        self.lock = threading.RLock()
        self.before_fork += self.open.items()
        self.open = {}
        for _, database in self.before_fork:
            database.abandon()

    def _close_all(self) -> None:
        """At the end of the process, whoever forgot to close."""
        with self.lock:
            databases = list(self.open.values())
            self.open = {}
        for database in databases:
            database.shut_down()
