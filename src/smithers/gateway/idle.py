"""Idle: tells the host once nobody and nothing has needed the gateway for a while, so that it may stop it."""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections.abc import Awaitable, Callable

log = logging.getLogger(__name__)


class IdleMonitor:
    """Looks now and then whether the gateway is in use, and calls back once it has not been for long enough.

    Args:
        timeout_s: how long nothing may be in use.
        is_busy: whether anything is in use now: sockets, active runs, enabled schedules, pending timers.
        on_idle: called once; again only after something was in use in between.
    """

    def __init__(self, timeout_s: float, is_busy: Callable[[], Awaitable[bool]], on_idle: Callable[[], object]) -> None:
        self._timeout_s = timeout_s
        self._is_busy = is_busy
        self._on_idle = on_idle
        self._period_s = min(max(timeout_s, 1.0), 30.0)
        self._used = time.monotonic()
        self._has_told = False

    def used(self) -> None:
        """Something was asked of the gateway."""
        self._used = time.monotonic()
        self._has_told = False

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await asyncio.sleep(self._period_s)
            try:
                if await self._is_busy():
                    self.used()
                elif not self._has_told and time.monotonic() - self._used >= self._timeout_s:
                    self._has_told = True
                    answer = self._on_idle()
                    if inspect.isawaitable(answer):
                        await answer
            except Exception:
                log.warning("the look for idleness failed", exc_info=True)
