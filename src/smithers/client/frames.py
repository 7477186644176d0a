"""Frames: what goes over the wire, read strictly. Pure; both clients share it."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, cast

from pydantic_core import PydanticSerializationError, from_json, to_json

from smithers.client.errors import GatewayConnectionLost, GatewayError
from smithers.errors import InvalidInput

PROTOCOL: Final = 1
FIRST_BACKOFF_S: Final = 0.25
MAX_BACKOFF_S: Final = 10.0
STEADY_S: Final = 1.0
"""A connection that has lasted so long was a good one: the next backoff begins anew."""
_METHOD: Final = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,255}")


@dataclass(frozen=True, slots=True)
class RunEvent:
    """Something that has happened in a run.

    Attributes:
        seq: where to go on from: give it as `after_seq`.
        event: the name, as `node.finished`; `run.gap_resync` tells that older events are not to be had any more, and its
            payload holds the run as it is now.
    """

    run_id: str
    seq: int
    event: str
    payload: dict[str, object] = field(default_factory=dict[str, object])

    @property
    def is_last(self) -> bool:
        """Whether the run has ended with it; one that was continued as another run has too."""
        if self.event == "run.completed":
            return True
        return self.event == "run.status_changed" and self.payload.get("status") == "continued"


@dataclass(frozen=True, slots=True)
class Opened:
    """A stream that a gateway has opened.

    Attributes:
        stream_id: what its frames are told apart by.
        current_seq: the newest event of its run.
        initial: what an extension's stream began with, if it told.
    """

    stream_id: str
    current_seq: int = 0
    initial: tuple[object, ...] = ()


def headers_of(token: str | None) -> dict[str, str]:
    """What every request carries beside its body. Raises `InvalidInput` for a token that no header can hold."""
    if token is None:
        return {}
    if not token or not all("!" <= character <= "~" for character in token):
        raise InvalidInput("token must have printable ASCII characters only, without spaces")
    return {"authorization": f"Bearer {token}"}


def given(params: Mapping[str, object]) -> dict[str, object]:
    """Parameters without those that were left out."""
    return {key: value for key, value in params.items() if value is not None}


def request_data(request_id: str, method: str, params: Mapping[str, object] | None, *, is_frame: bool = False) -> bytes:
    """A request: the body of an HTTP call, or a WebSocket's frame. Raises `InvalidInput`."""
    if not _METHOD.fullmatch(method):
        raise InvalidInput(f"{method!r:.80} cannot be the name of a method")
    head = {"type": "req"} if is_frame else {}
    try:
        return to_json({**head, "id": request_id, "method": method, "params": params or {}})
    except (PydanticSerializationError, ValueError) as error:
        raise InvalidInput(f"the parameters of {method} are not JSON: {error}") from error


def connect_params(client: Mapping[str, str], subscribe: list[str] | None) -> dict[str, object]:
    """Parameters of the first request on a socket. The token travels in the upgrade's header."""
    found: dict[str, object] = {"minProtocol": PROTOCOL, "maxProtocol": PROTOCOL, "client": dict(client)}
    if subscribe is not None:
        found["subscribe"] = subscribe
    return found


def read_object(data: str | bytes) -> dict[str, object]:
    """A frame. Raises `GatewayConnectionLost` for what is none: whoever answers there is no gateway."""
    try:
        value: object = from_json(data)
    except ValueError as error:
        raise GatewayConnectionLost("what answers there is no gateway") from error
    if not isinstance(value, dict):
        raise GatewayConnectionLost("what answers there is no gateway")
    return cast("dict[str, object]", value)


def answer_of(data: bytes, status: int) -> object:
    """The payload of an HTTP answer. Raises `GatewayError`, or `GatewayConnectionLost` for what no gateway says."""
    try:
        frame = read_object(data)
    except GatewayConnectionLost as error:
        if status < 400 or status >= 500:
            raise
        # somebody in between refuses, in a language of their own
        raise GatewayError({"message": f"the request was refused with HTTP status {status}"}, status) from error
    return payload_of(frame, status)


def payload_of(frame: Mapping[str, object], status: int | None = None) -> object:
    """The payload of a response. Raises `GatewayError`, or `GatewayConnectionLost` for what is no response."""
    if frame.get("ok") is True and "payload" in frame:
        return frame["payload"]
    error = frame.get("error")
    if not isinstance(error, dict):
        raise GatewayConnectionLost("what answers there is no gateway")
    raise GatewayError(cast("dict[str, object]", error), status)


def opened_of(payload: object) -> Opened:
    """The answer that opens a stream. Raises `GatewayConnectionLost` for another one."""
    if isinstance(payload, dict):
        found = cast("dict[str, object]", payload)
        stream_id, current = found.get("streamId"), found.get("currentSeq")
        if isinstance(stream_id, str):
            initial = (found["initial"],) if "initial" in found else ()
            return Opened(stream_id, current if isinstance(current, int) else 0, initial)
    raise GatewayConnectionLost("the gateway opened a stream without naming it")


def stream_body(frame: Mapping[str, object], stream_id: str) -> dict[str, object] | None:
    """The payload of a frame, if it is an event of this stream."""
    payload = frame.get("payload")
    if frame.get("type") != "event" or not isinstance(payload, dict):
        return None
    body = cast("dict[str, object]", payload)
    return body if body.get("streamId") == stream_id else None


def extension_payload(frame: Mapping[str, object], body: Mapping[str, object]) -> object:
    """What an extension's stream has sent with a frame of it. Raises `GatewayError` if it sent that it has failed."""
    if frame.get("event") != "ext.stream.error":
        return body.get("payload")
    error = body.get("error")
    raise GatewayError(cast("dict[str, object]", error) if isinstance(error, dict) else {})


def run_event_of(frame: Mapping[str, object], stream_id: str) -> RunEvent | None:
    """The event of a stream in a frame, if there is one. Raises `GatewayConnectionLost` when the stream was given up."""
    body = stream_body(frame, stream_id)
    if body is None:
        return None
    run_id = str(body.get("runId"))
    match frame.get("event"):
        case "run.event":
            inner, seq = body.get("payload"), body.get("seq")
            return RunEvent(
                run_id,
                seq if isinstance(seq, int) else 0,
                str(body.get("event")),
                cast("dict[str, object]", inner) if isinstance(inner, dict) else {},
            )
        case "run.gap_resync":
            until = body.get("toSeq")
            return RunEvent(run_id, until if isinstance(until, int) else 0, "run.gap_resync", body)
        case "run.error":
            raise GatewayConnectionLost(f"the gateway gave the stream up: {body.get('error')}")
        case _:
            return None


class Backoff:
    """How long to wait before connecting again: twice as long each time, by chance up to half more or less."""

    def __init__(self, chance: random.Random | None = None) -> None:
        self._chance = chance or random.Random()
        self._next = FIRST_BACKOFF_S

    def reset(self) -> None:
        """Begin anew."""
        self._next = FIRST_BACKOFF_S

    def take(self) -> float:
        """The next wait, in seconds."""
        wait = self._next
        self._next = min(self._next * 2, MAX_BACKOFF_S)
        return wait * self._chance.uniform(0.5, 1.5)
