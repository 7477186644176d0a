"""Drain: tells answers that go on for long that the server is about to stop."""

from __future__ import annotations

from collections.abc import Callable


class Drain:
    """A flag with listeners; used in one event loop."""

    def __init__(self) -> None:
        self.is_started = False
        self._listeners: set[Callable[[], None]] = set()

    def start(self) -> None:
        """Ask everybody to come to an end."""
        self.is_started = True
        for listener in list(self._listeners):
            listener()

    def listen(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Be told when it starts. Returns how to leave."""
        self._listeners.add(listener)
        return lambda: self._listeners.discard(listener)
