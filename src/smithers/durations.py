"""Durations: a length of time as people read it."""

from __future__ import annotations


def duration(milliseconds: int | float) -> str:
    """A length of time for a person: `12ms`, `3.4s`, `2m05s`, `1h02m`, `3d04h`."""
    if milliseconds < 0:
        milliseconds = 0
    if milliseconds < 1000:
        return f"{int(milliseconds)}ms"
    seconds = milliseconds / 1000
    if seconds < 60:
        return f"{int(seconds * 10) / 10:.1f}s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes}m{rest:02d}s"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours}h{minutes:02d}m"
    days, hours = divmod(hours, 24)
    return f"{days}d{hours:02d}h"
