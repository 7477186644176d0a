"""RPC: streams over a WebSocket: opening a run's, ending any."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, TypedDict, cast

from pydantic import Field

from smithers.errors import RunNotFound
from smithers.gateway.problems import RpcError
from smithers.gateway.rpc.call import RpcCall
from smithers.gateway.rpc.registry import Area, Params
from smithers.gateway.streams.run_streams import StreamSocket

area = Area()


class StreamRunEvents(Params):
    """Which run, and the number of the last event that the caller has; without one only what happens from now on."""

    field_codes: ClassVar[Mapping[str, str]] = {"runId": "InvalidRunId", "afterSeq": "SeqOutOfRange"}

    run_id: Annotated[str, Field(min_length=1)]
    after_seq: Annotated[int, Field(ge=0)] | None = None


class Unsubscribe(Params):
    """Which stream, as the answer that opened it has named it."""

    stream_id: Annotated[str, Field(min_length=1)]


class RunStreamOpened(TypedDict):
    """What the frames of a stream are told apart by, and the newest event's number."""

    streamId: str
    runId: str
    afterSeq: int | None
    currentSeq: int


class StreamEnded(TypedDict):
    """Whether there was such a stream."""

    streamId: str
    closed: bool


@area.method(
    "streamRunEvents",
    scope="run:read",
    params=StreamRunEvents,
    codes={RunNotFound: "RunNotFound"},
    errors=("InvalidRunId", "RunNotFound", "SeqOutOfRange", "RateLimited", "ConnectionClosed", "INVALID_REQUEST"),
    is_socket_only=True,
)
async def stream_run_events(call: RpcCall, params: StreamRunEvents) -> RunStreamOpened:
    """Push a run's events to this connection: those after a number first, then each as it happens."""
    streams = call.services.streams
    found = await streams.subscribe(_socket(call), call.identity, params.run_id, params.after_seq, call.request_id)
    return cast("RunStreamOpened", found)


@area.method("unsubscribe", scope="run:read", params=Unsubscribe, errors=("INVALID_REQUEST",), is_socket_only=True)
async def unsubscribe(call: RpcCall, params: Unsubscribe) -> StreamEnded:
    """End a stream of this connection, of whichever kind; the connection stays."""
    return {"streamId": params.stream_id, "closed": _socket(call).end_stream(params.stream_id)}


def _socket(call: RpcCall) -> StreamSocket:
    socket = call.socket
    if not isinstance(socket, StreamSocket):
        raise RpcError("INVALID_REQUEST", f"{call.method} is available over WebSocket only")
    return socket
