"""Checks: values of a configuration, read one by one. Each raises `InvalidInput` with the field's name, never its value."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Final, cast

from pydantic.alias_generators import to_camel

from smithers.errors import InvalidInput

MAX_MOMENT_MS: Final = 10**15
"""Some 30,000 years: no timer takes numbers of any size."""


def fields_of(
    where: str, value: Mapping[str, object], known: Collection[str], required: Collection[str]
) -> dict[str, object]:
    """A mapping's values by snake_case name; keys may be camelCase. A None counts as absent."""
    found: dict[str, object] = {}
    for key, item in value.items():
        if not isinstance(key, str):
            raise InvalidInput(f"{where}: keys must be strings")
        name = re.sub(r"(?<=[a-z0-9])[A-Z]", lambda match: "_" + match[0].lower(), key)
        if name not in known:
            raise InvalidInput(f"{where}: unknown field {key!r}")
        if name in found:
            raise InvalidInput(f"{where}.{to_camel(name)}: is given twice")
        if item is not None:
            found[name] = item
    for name in required:
        if name not in found:
            raise InvalidInput(f"{where}.{to_camel(name)}: is required")
    return found


def text(where: str, value: object) -> str:
    """A string that is not blank."""
    if not isinstance(value, str) or not value.strip():
        raise InvalidInput(f"{where}: must be a string that is not empty")
    return value


def optional_text(where: str, value: object) -> str | None:
    """A string that is not blank, or None."""
    return None if value is None else text(where, value)


def texts(where: str, value: object) -> tuple[str, ...]:
    """Strings, trimmed; blank ones are left out."""
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise InvalidInput(f"{where}: must be a list of strings")
    items = cast("Sequence[object]", value)
    if not all(isinstance(item, str) for item in items):
        raise InvalidInput(f"{where}: must be a list of strings")
    trimmed = (str(item).strip() for item in items)
    return tuple(item for item in trimmed if item)


def milliseconds(where: str, value: object) -> int | None:
    """A moment in epoch milliseconds, or None."""
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and abs(value) <= MAX_MOMENT_MS):
        return value
    raise InvalidInput(f"{where}: must be a whole number of milliseconds")


def seconds(where: str, value: object) -> float:
    """A duration in seconds; a negative one is none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InvalidInput(f"{where}: must be a number of seconds")
    return max(0.0, float(value))
