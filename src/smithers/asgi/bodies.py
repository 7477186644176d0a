"""Bodies: read up to a cap, parsed as JSON up to a depth, and their fields taken with an error that names them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import cast

from pydantic_core import from_json
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope

from smithers.errors import InvalidJson, InvalidRequest, PayloadTooLarge

MAX_DEPTH = 32
LINGER_BYTES = 4 * 1_048_576
"""How much of a body that is too large is read all the same, so that its sender gets to see the answer."""
MAX_SAFE_INTEGER = 2**53 - 1


async def read_body(scope: Scope, receive: Receive, max_bytes: int) -> bytes:
    """The whole body. Raises `PayloadTooLarge` by what is declared, or as soon as more has arrived."""
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit() and (size := int(value[:20])) > max_bytes:
            if size <= max_bytes + LINGER_BYTES:
                await _discard(receive, size)
            raise _too_large(max_bytes)
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        part: bytes = message.get("body", b"")
        size += len(part)
        if size > max_bytes:
            if message.get("more_body", False):
                await _discard(receive, LINGER_BYTES)
            raise _too_large(max_bytes)
        parts.append(part)
        if not message.get("more_body", False):
            return b"".join(parts)


async def _discard(receive: Receive, most: int) -> None:
    """Read on without keeping anything: a client that is still sending when the connection closes never sees the answer."""
    size = 0
    while size <= most:
        message = await receive()
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            return
        size += len(message.get("body", b""))


def _too_large(max_bytes: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"the body is larger than {max_bytes} bytes", {"maxBytes": max_bytes})


def parse_json(body: bytes) -> object:
    """A body's JSON value; an empty object for an empty body. Raises `InvalidJson` or, beyond 32 levels or for a number that
    nobody could write again, `InvalidRequest`."""
    if not body.strip():
        return {}
    try:
        value: object = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        if "recursion limit" in str(error):  # the parser's own bound, far beyond ours
            raise _too_deep() from error
        raise InvalidJson(f"the body is not JSON: {error}") from error
    if _depth(value, 1) > MAX_DEPTH:
        raise _too_deep()
    return value


def _too_deep() -> InvalidRequest:
    return InvalidRequest(f"the body is nested deeper than {MAX_DEPTH} levels", {"maxDepth": MAX_DEPTH})


def _depth(value: object, level: int) -> int:
    if level > MAX_DEPTH:
        return level
    if isinstance(value, dict):
        items: list[object] = list(cast("dict[str, object]", value).values())
    elif isinstance(value, list):
        items = cast("list[object]", value)
    else:
        if isinstance(value, float) and not math.isfinite(value):  # such as 1e999
            raise InvalidRequest("the body holds a number that is too large")
        return level
    return max((_depth(item, level + 1) for item in items), default=level)


def read_object(body: bytes) -> dict[str, object]:
    """A body's JSON object. Raises `InvalidJson`, or `InvalidRequest` for another value or too deep a one."""
    value = parse_json(body)
    if not isinstance(value, dict):
        raise InvalidRequest("the body must be a JSON object")
    return cast("dict[str, object]", value)


# ── fields ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def text_field(body: Mapping[str, object], name: str, *, max_length: int = 10_000) -> str | None:
    """An optional string. Raises `InvalidRequest`."""
    value = body.get(name)
    if value is None:
        return None
    if not isinstance(value, str):
        raise InvalidRequest(f"{name} must be a string", {"field": name})
    if len(value) > max_length:
        raise InvalidRequest(f"{name} must have at most {max_length} characters", {"field": name})
    return value


def int_field(body: Mapping[str, object], name: str, default: int) -> int:
    """An optional whole number that is not negative. Raises `InvalidRequest`."""
    value = body.get(name)
    if value is None:
        return default
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MAX_SAFE_INTEGER:
        raise InvalidRequest(f"{name} must be a whole number, 0 or more", {"field": name})
    return value


def number_param(query: Mapping[str, str], name: str) -> float | None:
    """An optional number of the query; None for none or an empty one. Raises `InvalidRequest`."""
    text = query.get(name, "").strip()
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or "_" in text:
        raise InvalidRequest(f"{name} must be a number", {"field": name})
    return value


def limit_param(query: Mapping[str, str], default: int = 50, most: int = 10_000) -> int:
    """The query's `limit`, at least 1 and rounded down; what is above `most` is `most`. Raises `InvalidRequest`."""
    value = number_param(query, "limit")
    if value is None:
        return default
    if value <= 0:
        raise InvalidRequest("limit must be above 0", {"field": "limit"})
    return max(1, int(min(value, most)))


def lenient_int(text: str | None) -> int | None:
    """The whole number that a text begins with, if any: `12abc` is 12."""
    if text is None:
        return None
    stripped = text.strip()
    digits = stripped[1:] if stripped[:1] in ("+", "-") else stripped
    length = next((i for i, c in enumerate(digits) if c not in "0123456789"), len(digits))
    if length == 0:
        return None
    value = min(int(digits[: min(length, 18)]), MAX_SAFE_INTEGER)
    return -value if stripped.startswith("-") else value
