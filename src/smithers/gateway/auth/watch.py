"""Watch: calls as soon as somebody who came in may no longer stay: a grant was changed or revoked, or its time is over."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from smithers.engine.clock import Clock


class Grants(Protocol):
    """What is watched: `Doorkeeper`, or what it authenticates with."""

    def on_change(self, changed: Callable[[], None]) -> Callable[[], None]:
        """Call back, in whichever thread, after grants have changed. Returns how to end that."""
        ...

    def next_end_ms(self, now_ms: int) -> int | None:
        """The next moment at which a grant ends by itself, in epoch milliseconds."""
        ...


class GrantWatch:
    """Looks after every change of grants, and when the next of them ends. Belongs to one event loop; `close` at the end.

    Args:
        ended: called then, in the event loop; looks who may stay.
    """

    def __init__(self, grants: Grants, clock: Clock, ended: Callable[[], None]) -> None:
        self._grants = grants
        self._clock = clock
        self._ended = ended
        self._loop = asyncio.get_running_loop()
        self._cancel: Callable[[], None] | None = None
        self._is_closed = False
        self._forget = grants.on_change(self._changed)
        self._arm()

    def _changed(self) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._look)

    def _look(self) -> None:
        if not self._is_closed:
            self._ended()
            self._arm()

    def _arm(self) -> None:
        if self._cancel is not None:
            self._cancel()
        moment = self._grants.next_end_ms(self._clock.now_ms())
        self._cancel = None if moment is None else self._clock.call_at(moment, self._look)

    def close(self) -> None:
        """Look no more."""
        self._is_closed = True
        self._forget()
        if self._cancel is not None:
            self._cancel()
