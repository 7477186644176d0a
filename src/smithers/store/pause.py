"""Pause: no garbage collection while many rows are made.

Rows hold no cycles, but the collector is woken by their number, and looks through all that are there each time: a third of
the time that ten thousand of them take.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Generator
from contextlib import contextmanager

_lock = threading.Lock()
_pauses = 0
_was_enabled = False


@contextmanager
def collection_paused() -> Generator[None]:
    """Have cyclic garbage collected only afterwards, for the whole process; for milliseconds. Threads may overlap."""
    global _pauses, _was_enabled
    with _lock:
        if _pauses == 0:
            _was_enabled = gc.isenabled()
            gc.disable()
        _pauses += 1
    try:
        yield
    finally:
        with _lock:
            _pauses -= 1
            if _pauses == 0 and _was_enabled:
                gc.enable()
