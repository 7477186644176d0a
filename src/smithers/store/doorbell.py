"""Brings answers from the writer's thread to the futures of an event loop.

Where the system has it (Linux), the loop listens to an eventfd: one write and one read a batch of answers, half of what
`call_soon_threadsafe` costs with its socket pair. Elsewhere, or in a loop that cannot listen, that is what is used.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import weakref
from collections import deque
from typing import TypeAlias

log = logging.getLogger(__name__)

Answer: TypeAlias = tuple["asyncio.Future[object]", object, BaseException | None]


class Doorbell:
    """The way into one event loop. Make it with `doorbell_of`; `ring` may be called from any thread."""

    __slots__ = ("__weakref__", "_descriptor", "_waiting")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        # Holds no reference to the loop: the loop holds this, and both go together.
        self._waiting: deque[list[Answer]] = deque()
        self._descriptor = _listen(loop, self)

    def ring(self, answers: list[Answer]) -> None:
        """Have these futures of the loop resolved; none of them if the loop is closed, where nobody waits any more."""
        if self._descriptor is not None:
            self._waiting.append(answers)
            os.eventfd_write(self._descriptor, 1)
            return
        try:
            answers[0][0].get_loop().call_soon_threadsafe(_resolve, answers)
        except RuntimeError:
            log.debug("results for a closed event loop were dropped", extra={"count": len(answers)})

    def hear(self) -> None:
        """Resolve what has been brought; called in the loop."""
        assert self._descriptor is not None
        os.eventfd_read(self._descriptor)  # before looking: what comes later rings again
        while self._waiting:
            _resolve(self._waiting.popleft())


def _listen(loop: asyncio.AbstractEventLoop, bell: Doorbell) -> int | None:
    if sys.platform != "linux":
        return None
    descriptor = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    try:
        loop.add_reader(descriptor, bell.hear)
    except NotImplementedError:
        os.close(descriptor)
        return None
    weakref.finalize(bell, os.close, descriptor).atexit = False  # the writer may still ring while the process ends
    return descriptor


def _resolve(answers: list[Answer]) -> None:
    for future, result, error in answers:
        if future.done():  # the caller was cancelled
            continue
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)


_bells: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Doorbell] = weakref.WeakKeyDictionary()


def doorbell_of(loop: asyncio.AbstractEventLoop) -> Doorbell:
    """The doorbell of the running loop, the same for all databases."""
    bell = _bells.get(loop)
    if bell is None:
        bell = _bells[loop] = Doorbell(loop)
    return bell
