"""Time, as the engine gets it: a clock that tests can replace (`smithers.testing.VirtualClock`)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol


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
