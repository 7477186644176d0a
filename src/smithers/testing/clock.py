"""A clock that stands still until a test moves it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count

START_MS = 1_767_225_600_000
"""Where a virtual clock starts: 2026-01-01T00:00:00Z."""


class VirtualClock:
    """A `smithers.engine.clock.Clock` for tests; see `Engine(clock=…)`.

    Args:
        now_ms: where it starts, in milliseconds since the epoch.
    """

    def __init__(self, now_ms: int = START_MS) -> None:
        self._now = now_ms
        self._numbers = count()
        self._waiting: list[tuple[int, int, Callable[[], None]]] = []
        self._cancelled: set[int] = set()

    def now_ms(self) -> int:
        """Milliseconds since the epoch."""
        return self._now

    def call_at(self, moment_ms: int, callback: Callable[[], None]) -> Callable[[], None]:
        """Call back when the clock is moved to a moment; soon, if that is past already. Returns how to cancel that."""
        if moment_ms <= self._now:
            return asyncio.get_running_loop().call_soon(callback).cancel
        number = next(self._numbers)
        heappush(self._waiting, (moment_ms, number, callback))
        return lambda: self._cancelled.add(number)

    @property
    def next_due(self) -> int | None:
        """The earliest moment that somebody waits for."""
        heap = self._waiting
        while heap and heap[0][1] in self._cancelled:
            self._cancelled.discard(heappop(heap)[1])
        return heap[0][0] if heap else None

    def advance(self, ms: int) -> None:
        """Move on by so many milliseconds; what falls due on the way is called in order, each at its moment."""
        self.advance_to(self._now + ms)

    def advance_to(self, moment_ms: int) -> None:
        """Move on to a moment; a past one changes nothing."""
        while (due := self.next_due) is not None and due <= moment_ms:
            self._now = max(self._now, due)
            heappop(self._waiting)[2]()
        self._now = max(self._now, moment_ms)
