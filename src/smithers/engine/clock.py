"""Time, as the engine gets it: a clock that tests can replace (`smithers.testing.VirtualClock`)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from smithers.store.sql.moments import ServerTime


class Clock(Protocol):
    """What time it is, and a call at a later moment."""

    def now_ms(self) -> int:
        """Milliseconds since the epoch."""
        ...

    def call_at(self, moment_ms: int, callback: Callable[[], None]) -> Callable[[], None]:
        """Call back in the running event loop at a moment or soon after. Returns how to cancel that."""
        ...


MAX_SLEEP_S = 3600.0
"""Longest single sleep: wall clocks are set, so long waits look again."""


class SystemClock:
    """The machine's clock."""

    def now_ms(self) -> int:
        """Milliseconds since the epoch."""
        return time.time_ns() // 1_000_000

    def call_at(self, moment_ms: int, callback: Callable[[], None]) -> Callable[[], None]:
        """Call back at a moment or soon after; far moments may call early, to look at the clock again."""
        delay = min(max(0.0, (moment_ms - time.time() * 1000) / 1000), MAX_SLEEP_S)
        return asyncio.get_running_loop().call_later(delay, callback).cancel


class SharedClock:
    """The clock of a database's server, which all processes of the database go by, whatever time their machines have or are
    set to. Between two looks at it the monotonic clock counts on."""

    def __init__(self) -> None:
        self._ahead_s = time.time() - time.monotonic()
        """By how much it is ahead of the monotonic clock. At first as this machine has it."""

    def set(self, found: ServerTime) -> None:
        """Go by what the server's clock has shown. Within what the answer may have taken, what was known before stays."""
        least, most = found.now_ms / 1000 - found.answered_at, found.now_ms / 1000 - found.asked_at
        self._ahead_s = min(max(self._ahead_s, least), most)

    def now_ms(self) -> int:
        """Milliseconds since the epoch."""
        return int((time.monotonic() + self._ahead_s) * 1000)

    def call_at(self, moment_ms: int, callback: Callable[[], None]) -> Callable[[], None]:
        """Call back at a moment or soon after; far moments may call early, to look at the clock again."""
        delay = min(max(0.0, moment_ms / 1000 - time.monotonic() - self._ahead_s), MAX_SLEEP_S)
        return asyncio.get_running_loop().call_later(delay, callback).cancel
