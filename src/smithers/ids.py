"""Random ids, as version 4 UUIDs (RFC 9562), without a call into the kernel for each: that gives the interpreter lock up."""

from __future__ import annotations

import os
import threading

_AT_ONCE = 256
_SIZE = 16
_VARIANTS = "89ab"


class _Source:
    """Random bytes, fetched for many ids at a time."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.left: list[bytes] = []

    def take(self) -> bytes:
        """The bytes of one id."""
        with self.lock:
            if not self.left:
                data = os.urandom(_AT_ONCE * _SIZE)
                self.left = [data[at : at + _SIZE] for at in range(0, len(data), _SIZE)]
            return self.left.pop()


_source = _Source()


def _start_over() -> None:
    global _source
    _source = _Source()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_over)  # or both processes would give the same ids


def new_id() -> str:
    """A new random id."""
    text = _source.take().hex()
    variant = _VARIANTS[int(text[16], 16) & 3]
    return f"{text[:8]}-{text[8:12]}-4{text[13:16]}-{variant}{text[17:20]}-{text[20:]}"
