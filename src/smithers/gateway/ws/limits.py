"""Limits: how many frames a connection may send. Pure, but for the time that it is given."""

from __future__ import annotations

from typing import Final, Literal

ABUSE: Final = 10
"""A connection that goes on sending this many times too much is closed."""

Verdict = Literal["ok", "late", "abuse"]


class FrameRate:
    """A bucket that fills with `per_second` frames each second and holds as many."""

    def __init__(self, per_second: int, now_s: float) -> None:
        self._rate = per_second
        self._level = float(per_second)
        self._at = now_s
        self._refused = 0

    def take(self, now_s: float) -> Verdict:
        """Whether a frame may be handled now (seconds of a monotonic clock)."""
        self._level = min(self._level + (now_s - self._at) * self._rate, float(self._rate))
        self._at = now_s
        if self._level >= 1.0:
            self._level -= 1.0
            if self._level >= self._rate / 2:
                self._refused = 0
            return "ok"
        self._refused += 1
        return "abuse" if self._refused > ABUSE * self._rate else "late"
