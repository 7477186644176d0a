"""Redial: when a stream that has lost its connection tries again, and when it gives up."""

from __future__ import annotations

import asyncio
import time

from smithers.client.errors import GatewayConnectionLost, GatewayError
from smithers.client.frames import STEADY_S, Backoff


class Redial:
    """The attempts of one stream.

    Args:
        patience_s: how long the gateway may be out of reach, in seconds; None for as long as it takes.
    """

    def __init__(self, patience_s: float | None) -> None:
        self._patience_s = patience_s
        self._backoff = Backoff()
        self._lost_at: float | None = None
        self._began = time.monotonic()

    def heard(self) -> None:
        """The gateway is within reach."""
        self._lost_at = None

    def reset(self) -> None:
        """The stream goes on: the next wait is a short one."""
        self._backoff.reset()

    async def wait(self, error: GatewayConnectionLost | GatewayError) -> None:
        """Wait before the next attempt. Raises the error, if trying again is no use or patience has run out."""
        if isinstance(error, GatewayError) and not error.is_passing:
            raise error
        now = time.monotonic()
        self._lost_at = now if self._lost_at is None else self._lost_at
        if self._patience_s is not None and now - self._lost_at >= self._patience_s:
            raise error
        if now - self._began > STEADY_S:
            self._backoff.reset()
        await asyncio.sleep(self._backoff.take())
        self._began = time.monotonic()
