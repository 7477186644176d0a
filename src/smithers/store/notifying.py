"""Who is told of commits: the callbacks of a database, whichever it is, and the life of the thread that calls them.

How a commit is noticed is the database's own: `sqlite/notify.py`, `postgres/notify.py`.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Protocol

from smithers.errors import StorageError

log = logging.getLogger(__name__)


class Watcher(Protocol):
    """A thread that calls back when there was a commit."""

    def start(self) -> None:
        """Begin. No commit falls between its making and this."""
        ...

    def stop(self) -> None:
        """End. Waits for that, unless called by a callback."""
        ...


class Notifier:
    """The callbacks of one database, and the thread that calls them while there are any.

    Args:
        make: makes the thread, which is to call this function after commits. Raises `StorageError`.
    """

    def __init__(self, make: Callable[[Callable[[], None]], Watcher]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._callbacks: tuple[Callable[[], None], ...] = ()
        self._watcher: Watcher | None = None
        self._is_closed = False

    def watch(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback` on a thread of ours after each commit from now on; commits close together share one call.

        Commits of this process count too. Returns a function that ends it and may be called twice. An exception of the
        callback is logged. Raises `StorageError` if the database cannot be watched now.
        """

        def call() -> None:
            callback()

        with self._lock:
            if self._is_closed:
                raise StorageError("the database is closed")
            if self._watcher is None:
                self._watcher = self._make(self._call_all)
                self._watcher.start()
            self._callbacks = (*self._callbacks, call)
        return lambda: self._leave(call)

    def close(self) -> None:
        """Forget all callbacks and end the thread; nobody can watch any more."""
        self._is_closed = True
        self._leave(None)

    def _leave(self, call: Callable[[], None] | None) -> None:
        watcher = None
        with self._lock:
            self._callbacks = tuple(each for each in self._callbacks if call is not None and each is not call)
            if not self._callbacks:
                watcher, self._watcher = self._watcher, None
        if watcher is not None:  # outside the lock: a callback may be about to leave, too
            watcher.stop()

    def _call_all(self) -> None:
        for callback in self._callbacks:
            try:
                callback()
            except Exception:
                log.exception("a callback on a commit failed")
