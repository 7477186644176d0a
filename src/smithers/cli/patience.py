"""Patience: waiting for a database that is away when a process starts, as after a machine has been switched on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

from smithers.errors import StorageRefused, StorageUnreachable

T = TypeVar("T")

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0


async def patiently(
    attempt: Callable[[], Awaitable[T]], patience_s: float, stop: asyncio.Event, tell: Callable[[str], None]
) -> T | None:
    """What the attempt gives, made again and again while the database is away; None once `stop` is set.

    Args:
        patience_s: for how long, in seconds; 0 for a single attempt.
        tell: told that the database is waited for, and that it has come.

    Raises:
        StorageUnreachable: it was away for longer.
        StorageError: it is there and refuses, which is not waited for.
    """
    began, pause, is_waiting = time.monotonic(), FIRST_PAUSE_S, False
    while True:
        try:
            found = await attempt()
            if is_waiting:
                tell(f"the database is there, after {time.monotonic() - began:.0f} s")
            return found
        except StorageRefused:
            raise
        except StorageUnreachable as error:
            left = began + patience_s - time.monotonic()
            if left <= 0:
                raise
            if not is_waiting:
                is_waiting = True
                tell(f"{error.summary}; waiting for it, up to {patience_s:g} s")
        with suppress(TimeoutError):
            async with asyncio.timeout(min(pause, left)):
                await stop.wait()
        if stop.is_set():
            return None
        pause = min(pause * 2, LONGEST_PAUSE_S)
