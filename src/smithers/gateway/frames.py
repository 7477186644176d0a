"""Frames: requests read with their bounds, responses and events written. Pure; transports only carry the text."""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import isfinite
from typing import Final, cast

from pydantic_core import from_json, to_json

from smithers.gateway.problems import RpcError

MAX_DEPTH: Final = 32
MAX_ARRAY: Final = 256
MAX_STRING: Final = 16_384
MAX_METHOD: Final = 64
MAX_ID: Final = 128
MAX_PROMPT: Final = 8_192

_METHOD: Final = re.compile(r"[a-z][a-zA-Z0-9]*(?:\.[a-z][a-zA-Z0-9]*)*")
_EXTENSION: Final = re.compile(r"ext(?:\.stream)?\.[a-z][a-zA-Z0-9_-]*\.[a-z][a-zA-Z0-9_-]*")

UNBOUNDED: Final = frozenset({"createTicket", "updateTicket"})
"""Methods whose `content` may be as long as a body may."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request, whichever way it came. `params` was held to the bounds, not to the method's model yet."""

    id: str
    method: str
    params: object


def parse_json(data: str | bytes) -> object:
    """A JSON value. Raises `RpcError` (`INVALID_INPUT`)."""
    try:
        value: object = from_json(data, allow_inf_nan=False)
    except ValueError as error:
        raise RpcError("INVALID_INPUT", f"not JSON: {str(error)[:200]}") from error
    return value


def check_method(method: object) -> str:
    """A method's name. Raises `RpcError` (`INVALID_INPUT`)."""
    if not isinstance(method, str) or not method:
        raise RpcError("INVALID_INPUT", "method must be a string")
    longest = 3 * MAX_METHOD if method.startswith("ext.") else MAX_METHOD
    if len(method) > longest or not (_METHOD.fullmatch(method) or _EXTENSION.fullmatch(method)):
        raise RpcError("INVALID_INPUT", f"{method[:80]!r} is no method name")
    return method


def check_id(value: object) -> str:
    """A frame's id. Raises `RpcError` (`INVALID_INPUT`)."""
    if not isinstance(value, str) or not value or len(value) > MAX_ID:
        raise RpcError("INVALID_INPUT", f"id must be a string of 1 to {MAX_ID} characters")
    return value


def check_bounds(method: str, params: object) -> object:
    """Parameters within the bounds on depth, arrays and strings, a launch's prompt clipped to its own.

    Raises `RpcError` (`INVALID_INPUT`) naming the path.
    """
    fields = _object(params)
    options = _object(fields.get("options"))
    started_by = _object(options.get("startedBy"))
    prompt = started_by.get("prompt")
    if isinstance(prompt, str) and len(prompt) > MAX_PROMPT:
        clipped = prompt[: MAX_PROMPT - 1] + "…"
        params = {**fields, "options": {**options, "startedBy": {**started_by, "prompt": clipped}}}
    if method in UNBOUNDED and isinstance(fields.get("content"), str):
        _check({k: v for k, v in fields.items() if k != "content"}, 2, "params")
    else:
        _check(params, 2, "params")
    return params


def check_depth(value: object, most: int) -> None:
    """Hold a value to a depth, and its numbers to what can be stored. Raises `RpcError` (`INVALID_INPUT`)."""
    level: list[object] = [value]
    for _ in range(most):
        below: list[object] = []
        for item in level:
            if isinstance(item, dict):
                below += cast("dict[str, object]", item).values()
            elif isinstance(item, list):
                below += cast("list[object]", item)
            else:
                _check_number(item, "the body")
        if not below:
            return
        level = below
    raise RpcError("INVALID_INPUT", f"the body is nested deeper than {most} levels", maxDepth=most)


def _check_number(value: object, path: str) -> None:
    """Refuse a number that JSON can write and nobody can read again, such as 1e999."""
    if isinstance(value, float) and not isfinite(value):
        raise RpcError("INVALID_INPUT", f"{path[:200]} holds a number that is too large")


def _object(value: object) -> dict[str, object]:
    return cast("dict[str, object]", value) if isinstance(value, dict) else {}


def _check(value: object, level: int, path: str) -> None:
    """Hold a value to the bounds; the frame itself is level 1."""
    if level > MAX_DEPTH:
        raise RpcError("INVALID_INPUT", f"{path[:200]} is nested deeper than {MAX_DEPTH} levels", maxDepth=MAX_DEPTH)
    if isinstance(value, str):
        if len(value) > MAX_STRING:
            raise RpcError("INVALID_INPUT", f"{path} has {len(value)} characters; at most {MAX_STRING} are allowed")
    elif isinstance(value, dict):
        for key, item in cast("dict[str, object]", value).items():
            if len(key) > MAX_STRING:
                raise RpcError("INVALID_INPUT", f"{path} has a key of more than {MAX_STRING} characters")
            _check(item, level + 1, f"{path}.{key[:64]}")
    elif isinstance(value, list):
        items = cast("list[object]", value)
        if len(items) > MAX_ARRAY:
            raise RpcError("INVALID_INPUT", f"{path} has {len(items)} items; at most {MAX_ARRAY} are allowed")
        for index, item in enumerate(items):
            _check(item, level + 1, f"{path}[{index}]")
    else:
        _check_number(value, path)


def read_request(value: object) -> Request:
    """A WebSocket's request frame. Raises `RpcError` (`INVALID_INPUT`); `frame_id` tells whom to answer."""
    if not isinstance(value, dict):
        raise RpcError("INVALID_INPUT", "a frame must be a JSON object")
    frame = cast("dict[str, object]", value)
    if frame.get("type") != "req":
        raise RpcError("INVALID_INPUT", "a frame's type must be 'req'")
    request_id = check_id(frame.get("id"))
    method = check_method(frame.get("method"))
    return Request(request_id, method, check_bounds(method, frame.get("params")))


def frame_id(value: object, default: str = "invalid") -> str:
    """The id to answer a frame under, as far as it can be read."""
    found = _object(value).get("id")
    return found if isinstance(found, str) and found and len(found) <= MAX_ID else default


# ── writing ────────────────────────────────────────────────────────────────────────────────────────────────────────


def ok_text(request_id: str, payload: object) -> str:
    """A response frame with a payload; `None` is sent as null."""
    return ok_frame(request_id, to_json(payload, inf_nan_mode="null").decode())


def ok_frame(request_id: str, payload: str) -> str:
    """A response frame with a payload that is encoded already."""
    return f'{{"type":"res","id":{quoted(request_id)},"ok":true,"apiVersion":"v1","payload":{payload}}}'


def error_text(request_id: str, error: RpcError) -> str:
    """A response frame with an error."""
    body = to_json(error.body(), inf_nan_mode="null", fallback=str).decode()
    return f'{{"type":"res","id":{quoted(request_id)},"ok":false,"apiVersion":"v1","error":{body}}}'


def event_text(name: str, payload: str, seq: int, state_version: int) -> str:
    """An event frame; `payload` is JSON text, encoded once for however many sockets."""
    return (
        f'{{"type":"event","event":"{name}","payload":{payload},"seq":{seq},'
        f'"stateVersion":{state_version},"apiVersion":"v1"}}'
    )


def quoted(text: str) -> str:
    """A string as JSON."""
    return to_json(text).decode()
