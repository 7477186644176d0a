"""Extension streams: what a host's own code pushes to one connection, bounded, and cleaned up after however it ends."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Final, cast
from uuid import uuid4

from pydantic_core import to_json

from smithers.gateway.extensions import Extension, ExtensionContext, bounded, context_of, extension_error
from smithers.gateway.problems import API_VERSION, RpcError
from smithers.gateway.streams.run_streams import DRAIN_RETRY_S, HIGH_WATER, StreamSocket

if TYPE_CHECKING:
    from smithers.gateway.rpc.call import RpcCall

log = logging.getLogger(__name__)
MAX_WAITING: Final = 1_000
"""How many frames may wait for a connection that does not read."""

_cleanups: set[asyncio.Future[object]] = set()
"""What is being cleaned up; kept so that it is not collected meanwhile."""


async def open_extension_stream(call: RpcCall, extension: Extension, params: object) -> dict[str, object]:
    """Subscribe a call's connection to a stream, and give the response; frames follow it.

    Raises:
        RpcError: the handler failed, or what it begins with is too large.
    """
    socket = call.socket
    if not isinstance(socket, StreamSocket):
        raise RpcError("INVALID_REQUEST", f"{call.method} is available over WebSocket only")
    stream = ExtensionStream(socket, extension, context_of(extension, call))
    forget = call.when_gone(stream.context.signal.set)
    try:
        answer = extension.handler(params, stream.context)
        if inspect.isawaitable(answer):
            answer = await answer
        initial = stream.begin(answer)
        if not socket.is_open:
            raise RpcError("ConnectionClosed", "the connection was closed")
    except BaseException as error:
        stream.end()
        if isinstance(error, Exception):
            raise extension_error(error) from error
        raise
    finally:
        forget()
    socket.add_stream(stream.stream_id, stream.end, scope=extension.scope)
    socket.after_response(call.request_id, stream.start)
    return {**stream.names, **initial}


class ExtensionStream:
    """One subscription."""

    def __init__(self, socket: StreamSocket, extension: Extension, context: ExtensionContext) -> None:
        self.stream_id = str(uuid4())
        self.names: dict[str, object] = {
            "streamId": self.stream_id,
            "namespace": extension.namespace,
            "key": extension.key,
        }
        self.context = context
        self._socket = socket
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[str] = deque()
        self._has_started = False
        self._is_over = False
        self._cleanup: Callable[[], object] | None = None
        self._draining: asyncio.TimerHandle | None = None
        context.stream_id = self.stream_id
        context.send = self.send

    def begin(self, answer: object) -> dict[str, object]:
        """Take what the handler has given; gives what the response says beside the stream's names. Raises `RpcError`."""
        if callable(answer):
            self._cleanup = cast("Callable[[], object]", answer)
        elif isinstance(answer, Mapping):
            found = cast("Mapping[str, object]", answer)
            cleanup = found.get("cleanup")
            if callable(cleanup):
                self._cleanup = cast("Callable[[], object]", cleanup)
            if "initial" in found:
                bounded(found["initial"])
                return {"initial": found["initial"]}
        return {}

    def start(self) -> None:
        """The response is written: frames may follow."""
        self._has_started = True
        self._drain()

    def send(self, payload: object) -> None:
        """Push a payload; from any thread. Does nothing once the stream is over."""
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            self._loop.call_soon_threadsafe(self.send, payload)
            return
        if self._is_over:
            return
        try:
            text = bounded(payload)
        except RpcError as error:  # this frame is dropped, the stream goes on
            self._tell_error(error)
            return
        self._waiting.append(text)
        if len(self._waiting) > MAX_WAITING:
            self._waiting.clear()
            message = f"the connection did not read while {MAX_WAITING} frames waited"
            self._tell_error(RpcError("BackpressureDisconnect", message))
            if not self._socket.end_stream(self.stream_id):
                self.end()
        elif self._has_started and self._draining is None:
            self._drain()

    def end(self) -> None:
        """Push nothing more, and have the handler clean up. May be called twice."""
        if self._is_over:
            return
        self._is_over = True
        self._waiting.clear()
        if self._draining is not None:
            self._draining.cancel()
        self.context.signal.set()
        if self._cleanup is None:
            return
        try:
            answer = self._cleanup()
        except Exception:
            log.exception("a stream's cleanup failed")
            return
        if inspect.isawaitable(answer):
            task = asyncio.ensure_future(cast("Awaitable[object]", answer))
            _cleanups.add(task)
            task.add_done_callback(_cleaned_up)

    def _drain(self) -> None:
        self._draining = None
        head = to_json(self.names).decode()[:-1]
        while self._waiting and self._socket.pending_bytes <= HIGH_WATER:
            self._socket.send_event("ext.stream.event", f'{head},"payload":{self._waiting.popleft()}}}')
        if self._waiting and not self._is_over:
            self._draining = self._loop.call_later(DRAIN_RETRY_S, self._drain)

    def _tell_error(self, error: RpcError) -> None:
        found = {"version": API_VERSION, "code": error.error_code, "message": error.summary}
        self._socket.send_event("ext.stream.error", to_json({**self.names, "error": found}).decode())


def _cleaned_up(task: asyncio.Future[object]) -> None:
    _cleanups.discard(task)
    if not task.cancelled() and task.exception() is not None:
        log.error("a stream's cleanup failed", exc_info=task.exception())
