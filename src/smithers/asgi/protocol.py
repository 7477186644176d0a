"""Protocol: uvicorn's HTTP connection with deadlines and a bound on headers, which uvicorn itself does not have.

A client has `headers_timeout` for a request's head and `request_timeout` for the whole of it, counted from its first byte
(or from the connection, for the first request), however slowly and steadily it sends. A late one is answered 408 and cut
off; an answer may take as long as it likes. Once the server stops, only those are waited for who still send or read. This
reaches into uvicorn's internals (`cycle`, `pipeline`, `handle_websocket_upgrade`), so pyproject.toml holds uvicorn to one
minor version.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import ClassVar, Literal, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from smithers.asgi.cork import CorkedTransport
from smithers.asgi.discretion import Discreet

MAX_HEAD_BYTES = 65_536
"""The largest request line and headers together. So much may also arrive of a body without bringing any of it."""
STALL_S = 1.0
"""How long a client has, once the server stops, to send the rest of a request, or to read on."""

_ANSWERS = {
    400: b"HTTP/1.1 400 Bad Request",
    408: b"HTTP/1.1 408 Request Timeout",
    431: b"HTTP/1.1 431 Request Header Fields Too Large",
    503: b"HTTP/1.1 503 Service Unavailable",
}


class GuardedProtocol(HttpToolsProtocol):
    """A connection that is cut off when its client is too slow or its headers are too large."""

    headers_timeout_s: ClassVar[float] = 30.0
    request_timeout_s: ClassVar[float] = 60.0

    _phase: Literal["idle", "head", "body"] = "head"
    _began: float = 0.0
    _head_bytes: int = 0
    """How much has arrived of the head, or, since the last of the body, of what is neither."""
    _has_body: bool = False
    """Whether the bytes that are being parsed have brought any of the body."""
    _stall: asyncio.TimerHandle | None = None
    _timer: asyncio.TimerHandle | None = None
    _armed: str = ""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has connected; the clock for its first request runs."""
        self.access_logger = cast("logging.Logger", Discreet(self.access_logger))
        super().connection_made(CorkedTransport(transport, self.loop))
        # asyncio does this for sockets that it made itself. Without it an answer of two parts waits 40 ms for the
        # acknowledgement of its first one.
        wire = transport.get_extra_info("socket")
        if wire is not None and wire.family in (socket.AF_INET, socket.AF_INET6):
            wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._began = self.loop.time()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has left."""
        self._disarm()
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes have arrived: parse them, then see what the connection waits for now."""
        if self._phase == "idle":
            self._began = self.loop.time()
        self._head_bytes += len(data)
        self._has_body = False
        super().data_received(data)
        if self._has_body:
            self._head_bytes = 0
        if self.transport.is_closing():
            self._disarm()
        elif self._phase != "idle" and self._head_bytes > MAX_HEAD_BYTES:
            self._refuse(431, "Request header fields are too large")
        else:
            self._watch()

    def on_message_begin(self) -> None:
        """A request's first byte."""
        super().on_message_begin()
        if self._phase == "idle":
            self._began = self.loop.time()
        self._phase = "head"

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header. Those that follow a body are none: who somebody is was decided before them, and proxies that strip
        headers may let them pass."""
        if self._phase == "head":
            super().on_header(name, value)

    def on_body(self, body: bytes) -> None:
        """A part of a request's body."""
        self._has_body = True
        super().on_body(body)

    def on_headers_complete(self) -> None:
        """A request's head is there."""
        super().on_headers_complete()
        self._phase, self._head_bytes = "body", 0

    def on_message_complete(self) -> None:
        """A request is there as a whole."""
        super().on_message_complete()
        self._phase, self._head_bytes = "idle", 0

    def on_response_complete(self) -> None:
        """A request is answered; the next one that has come already has its turn, and nothing more is read before the last
        of those: else each answer would let in far more requests than one."""
        super().on_response_complete()
        if self.pipeline:
            self.flow.pause_reading()

    def handle_websocket_upgrade(self) -> None:
        """The connection is a WebSocket's from now on, and may be silent for as long as it likes."""
        if self.pipeline or (self.cycle is not None and not self.cycle.response_complete):
            # the answer would go on into the WebSocket, and nobody would tell it that its client is gone
            self._refuse(400, "An earlier request is not answered yet")
            return
        self._disarm()
        if isinstance(self.transport, CorkedTransport):
            self.transport.flush()
            self.transport = self.transport.inner
        super().handle_websocket_upgrade()

    def send_400_response(self, msg: str) -> None:
        """What arrived is not HTTP."""
        self._refuse(400, msg)

    def shutdown(self) -> None:
        """The server stops: finish what is under way, with a client that does its part."""
        super().shutdown()
        self._stall = self.loop.call_later(STALL_S, self._look_for_progress, -1)

    def _look_for_progress(self, unread: int) -> None:
        """Give up a request that is not there by now, and an answer of which nothing was read since the last look."""
        if self._phase == "body":
            self._refuse(503, "The server stops")
        left = self.transport.get_write_buffer_size()
        if left and left == unread:
            self.transport.abort()
        self._stall = self.loop.call_later(STALL_S, self._look_for_progress, left)

    # ── the clock ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _watch(self) -> None:
        if self._armed == self._phase or (self._phase == "idle" and self._timer is None):
            return
        self._disarm()
        if self._phase != "idle":
            limit = self.headers_timeout_s if self._phase == "head" else self.request_timeout_s
            self._armed = self._phase
            self._timer = self.loop.call_at(self._began + limit, self._late)

    def _disarm(self) -> None:
        self._armed = ""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _late(self) -> None:
        self._timer = None
        self._refuse(408, "The request took too long to arrive")

    def _may_answer(self) -> bool:
        """Whether the connection's next bytes would be the answer to the request that is arriving."""
        cycle = self.cycle
        if self.pipeline:
            return False
        if self._phase == "body":
            return cycle is not None and not cycle.response_started
        return cycle is None or cycle.response_complete

    def _refuse(self, status: int, message: str) -> None:
        """Answer, unless an answer is on its way already, and hang up."""
        self._disarm()
        if self.transport.is_closing():
            return
        cycle = self.cycle
        if self._may_answer():
            body = b'{"error":{"code":"INVALID_REQUEST","message":"%b"}}' % message.encode("ascii")
            self.transport.write(
                b"%b\r\ncontent-type: application/json\r\ncache-control: no-store\r\nx-content-type-options: nosniff\r\n"
                b"content-length: %d\r\nconnection: close\r\n\r\n%b" % (_ANSWERS[status], len(body), body)
            )
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True
            cycle.message_event.set()
        self.transport.close()


def guarded_protocol(headers_timeout_s: float, request_timeout_s: float) -> type[GuardedProtocol]:
    """The protocol with these deadlines, in seconds; 0 is none."""
    limits = {
        "headers_timeout_s": headers_timeout_s or float("inf"),
        "request_timeout_s": request_timeout_s or float("inf"),
    }
    return type("GuardedProtocol", (GuardedProtocol,), limits)
