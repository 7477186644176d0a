"""JSON values of unknown shape, looked at safely: what is not there, or of another kind, is empty."""

from __future__ import annotations

from typing import cast


def object_of(value: object) -> dict[str, object]:
    """The value if it is a JSON object, else an empty one."""
    return cast("dict[str, object]", value) if isinstance(value, dict) else {}


def list_of(value: object) -> list[object]:
    """The value if it is a JSON array, else an empty one."""
    return cast("list[object]", value) if isinstance(value, list) else []


def int_of(value: object) -> int | None:
    """The value if it is a whole number."""
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def text_of(value: object) -> str | None:
    """The value if it is a string."""
    return value if isinstance(value, str) else None
