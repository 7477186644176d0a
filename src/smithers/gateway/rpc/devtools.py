"""RPC: a run's tree: at a frame, or as it changes."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Annotated, ClassVar, Final, TypedDict, cast

from pydantic import Field

from smithers.errors import RunNotFound
from smithers.gateway.devtools import reading
from smithers.gateway.problems import RpcError
from smithers.gateway.rpc.call import RpcCall
from smithers.gateway.rpc.nodes import RunId
from smithers.gateway.rpc.registry import Area, Codes, Encoded, Params
from smithers.gateway.rpc.runs import MAX_INT, MAX_SAFE
from smithers.gateway.streams.run_streams import StreamSocket

area = Area()

_NO_RUN: Final[Codes] = {RunNotFound: "RunNotFound"}
Seq = Annotated[int, Field(ge=0, le=MAX_SAFE)]


class Snapshot(Params):
    """Of which run, and of which of its frames; the newest by default."""

    field_codes: ClassVar[Mapping[str, str]] = {"runId": "InvalidRunId", "frameNo": "FrameOutOfRange"}

    run_id: RunId
    frame_no: Annotated[int, Field(ge=0, le=MAX_INT)] | None = None


class StreamDevTools(Params):
    """Which run, and after which frame to begin; two names for one number. Without it, with what there is now."""

    field_codes: ClassVar[Mapping[str, str]] = {
        "runId": "InvalidRunId",
        "afterSeq": "SeqOutOfRange",
        "fromSeq": "SeqOutOfRange",
    }

    run_id: RunId
    after_seq: Seq | None = None
    from_seq: Seq | None = None


class DevToolsStreamOpened(TypedDict):
    """What the events of a stream are told apart by; twice the number that was asked for."""

    streamId: str
    runId: str
    fromSeq: int | None
    afterSeq: int | None


@area.method(
    "getDevToolsSnapshot",
    scope="observability:read",
    params=Snapshot,
    codes=_NO_RUN,
    errors=("InvalidRunId", "FrameOutOfRange", "Unauthorized", "RunNotFound"),
)
async def get_dev_tools_snapshot(call: RpcCall, params: Snapshot) -> dict[str, object]:
    """A run's tree at a frame, with the states of its tasks as they are now."""
    _check_visible(call, params.run_id)
    place = await call.place(params.run_id)
    now = call.services.clock.now_ms()
    query = partial(reading.snapshot, run_id=params.run_id, frame_no=params.frame_no, now_ms=now)
    return cast("dict[str, object]", Encoded(await place.store.aread(query)))


@area.method(
    "streamDevTools",
    scope="observability:read",
    params=StreamDevTools,
    codes=_NO_RUN,
    errors=("InvalidRunId", "SeqOutOfRange", "Unauthorized", "RunNotFound", "ConnectionClosed", "INVALID_REQUEST"),
    is_socket_only=True,
)
async def stream_dev_tools(call: RpcCall, params: StreamDevTools) -> DevToolsStreamOpened:
    """Push a run's tree to this connection, then what changes in it."""
    socket = call.socket
    if not isinstance(socket, StreamSocket):
        raise RpcError("INVALID_REQUEST", f"{call.method} is available over WebSocket only")
    after, other = params.after_seq, params.from_seq
    if after is not None and other is not None and after != other:
        raise RpcError("SeqOutOfRange", f"afterSeq {after} and fromSeq {other} are two names for one number")
    _check_visible(call, params.run_id)
    found = await call.services.devtools.subscribe(
        socket, params.run_id, other if after is None else after, call.request_id
    )
    return cast("DevToolsStreamOpened", found)


def _check_visible(call: RpcCall, run_id: str) -> None:
    """Hold a connection to the list of runs that it gave. Raises `RpcError` (`Unauthorized`)."""
    if call.socket is not None and not call.socket.may_see(run_id):
        raise RpcError("Unauthorized", f"this connection has not subscribed to run {run_id!r}")
