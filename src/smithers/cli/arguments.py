"""Arguments: what stands on the command line, as values. JSON from a word, a file or stdin; durations; who is asking."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import cast

from smithers.errors import InvalidInput

MAX_JSON_BYTES = 1_048_576
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)?")
_UNITS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


def read_json(text: str, flag: str, read_stdin: Callable[[], str] | None = None) -> object:
    """The JSON value of an argument: written out, `@file` for a file's contents, `-` for stdin.

    Raises `InvalidInput`, naming the flag.
    """
    source = ""
    if text == "-":
        text, source = (read_stdin or sys.stdin.read)(), " from stdin"
    elif text.startswith("@"):
        source = f" in {text[1:]}"
        try:
            text = Path(text[1:]).read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
            raise InvalidInput(f"{flag}: cannot read {text[1:]}: {reason}") from error
    if len(text.encode("utf-8", "surrogatepass")) > MAX_JSON_BYTES:
        raise InvalidInput(f"{flag}: more than {MAX_JSON_BYTES} bytes{source}")
    try:
        return cast(object, json.loads(text, parse_constant=_no_constant))
    except (ValueError, RecursionError) as error:
        reason = str(error) if isinstance(error, ValueError) else "nested too deeply"
        hint = "" if source else "; a text needs double quotes within the shell's single ones"
        raise InvalidInput(f"{flag}: not JSON{source}: {reason}{hint}") from error


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


def read_object(text: str, flag: str) -> dict[str, object]:
    """As `read_json`, for an object. Raises `InvalidInput`."""
    value = read_json(text, flag)
    if not isinstance(value, dict):
        raise InvalidInput(f"{flag}: must be a JSON object, not {_kind(value)}")
    return cast("dict[str, object]", value)


def _kind(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case str():
            return "a string"
        case list():
            return "a list"
        case _:
            return "a number"


def read_duration(text: str, flag: str, unit: str = "s") -> int:
    """A duration such as `500ms`, `10s`, `5m`, `2h` or `1d`, in milliseconds; a bare number is in `unit`.

    Raises `InvalidInput`, naming the flag.
    """
    found = _DURATION.fullmatch(text.strip())
    if found is None:
        raise InvalidInput(f"{flag}: {text!r} is not a duration; write 500ms, 10s, 5m or 2h")
    return round(float(found[1]) * _UNITS[found[2] or unit])


def as_object(value: object) -> Mapping[str, object]:
    """`value` if it is a JSON object, else an empty one."""
    return cast("Mapping[str, object]", value) if isinstance(value, Mapping) else {}


def as_list(value: object) -> list[object]:
    """`value` if it is a JSON list, else an empty one."""
    return cast("list[object]", value) if isinstance(value, list) else []


def positive(value: int | None, flag: str) -> int | None:
    """`value`, if it is at least 1 or not given. Raises `InvalidInput`."""
    if value is not None and value < 1:
        raise InvalidInput(f"{flag}: must be at least 1, not {value}")
    return value


def login_name() -> str | None:
    """The name of the user who runs this process, if it has one."""
    import getpass

    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return None
