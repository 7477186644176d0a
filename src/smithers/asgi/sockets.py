"""Sockets: uvicorn's WebSocket connection, with a direct way to its wire that ASGI does not have.

An app that finds a `Wire` in `scope["extensions"]["smithers.wire"]` may write many messages with one call into the kernel,
sees how much the peer has not read, and can hang up without ceremony. This reaches into uvicorn's internals (`conn`,
`queue`, `frames`, `writable`, `read_paused`, `close_sent`, `close_timer`), so pyproject.toml holds uvicorn to one minor version.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Final, Protocol, cast, runtime_checkable

from uvicorn._types import ASGISendEvent
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.exceptions import InvalidState
from websockets.frames import Frame
from websockets.http11 import Request

from smithers.asgi.discretion import Discreet

EXTENSION: Final = "smithers.wire"
COMPRESS_FROM: Final = 4_096
"""Shorter messages are not worth compressing: it costs more than sending them, for each connection anew."""
CLOSE_S: Final = 2.0
"""How long a peer has for its part of closing."""
NO_STATUS: Final = 1005
NO_TEXT: Final = 1007
_NO_HEAD: Final = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"content-length: 0\r\ncache-control: no-store\r\nconnection: close\r\n\r\n"
)


@runtime_checkable
class Wire(Protocol):
    """The sending side of a WebSocket. Used in the server's event loop."""

    on_writable: Callable[[], None] | None
    """Called when `is_writable` has become true."""

    @property
    def is_writable(self) -> bool:
        """Whether the peer keeps up: nothing much waits to be sent."""
        ...

    @property
    def buffered_bytes(self) -> int:
        """How much was written and waits to be sent."""
        ...

    def write(self, messages: Iterable[bytes]) -> None:
        """Send text messages in order; nothing once the connection is closed."""
        ...

    def close(self, code: int | None = None, reason: str = "") -> None:
        """Close with a code, or without one; a peer that does not answer is hung up on soon."""
        ...

    def abort(self) -> None:
        """Hang up at once."""
        ...


class SocketProtocol(WebSocketsSansIOProtocol):
    """A connection that is its own `Wire`."""

    on_writable: Callable[[], None] | None = None

    @property
    def is_writable(self) -> bool:
        """See `Wire`."""
        return self.writable.is_set()

    @property
    def buffered_bytes(self) -> int:
        """See `Wire`."""
        return self.transport.get_write_buffer_size()

    def handle_connect(self, event: Request) -> None:
        """A client asks for the upgrade."""
        super().handle_connect(event)
        if not self.close_sent:  # the app begins with the loop's next turn
            cast("dict[str, dict[str, object]]", self.scope)["extensions"][EXTENSION] = self

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A connection that is going to be upgraded."""
        self.conn.debug = False  # else the request's head is logged, its token with it
        self.logger = cast("logging.Logger", Discreet(self.logger))
        super().connection_made(cast("asyncio.Transport", transport))

    def data_received(self, data: bytes) -> None:
        """Bytes have arrived. A head that HTTP allows may still be more than the WebSocket library takes, as with hundreds of
        headers; uvicorn would leave such a client without an answer, and without an end."""
        super().data_received(data)
        if self.conn.handshake_exc is not None and not self.handshake_initiated and not self.close_sent:
            self.close_sent = self.handshake_complete = True
            self.transport.write(_NO_HEAD)
            self.transport.close()

    async def send(self, message: ASGISendEvent) -> None:
        """An answer in place of the upgrade is one, too: uvicorn would log an error for each."""
        await super().send(message)
        if message["type"] == "websocket.http.response.body" and self.close_sent:
            self.handshake_complete = True

    def resume_writing(self) -> None:
        """The peer has read what was waiting."""
        super().resume_writing()
        if (
            self.read_paused and self.queue.empty()
        ):  # for its pings; else the app goes on when it has taken what there is
            self.read_paused = False
            self.transport.resume_reading()
        if self.on_writable is not None:
            self.on_writable()

    def handle_cont(self, event: Frame) -> None:
        """A message goes on. Parts of nothing are not kept: there may be any number of them in a message of any size."""
        if event.data or event.fin:
            super().handle_cont(event)

    def send_receive_event_to_app(self) -> None:
        """A message is complete. Text that is none is its sender's mistake, of which uvicorn would log a traceback."""
        if self.curr_msg_data_type != "text" or self.close_sent:
            super().send_receive_event_to_app()
            return
        data, self.frames = b"".join(self.frames), []
        try:
            text = data.decode()
        except UnicodeDecodeError:
            self.close(NO_TEXT, "text must be UTF-8")
            return
        self.queue.put_nowait({"type": "websocket.receive", "text": text})
        if not self.read_paused:
            self.read_paused = True
            self.transport.pause_reading()

    def handle_ping(self) -> None:
        """The peer asks for a pong. One that does not read them is not read from: they would pile up without a bound."""
        super().handle_ping()
        if not self.writable.is_set() and not self.read_paused:
            self.read_paused = True
            self.transport.pause_reading()

    def write(self, messages: Iterable[bytes]) -> None:
        """See `Wire`."""
        if self.close_sent or self.disconnected or self.transport.is_closing():
            return
        parts: list[bytes] = []
        is_compressing = bool(self.conn.extensions)
        for data in messages:
            size = len(data)
            if is_compressing and size >= COMPRESS_FROM:
                self.conn.send_text(data)
                parts += self.conn.data_to_send()
                continue
            if size < 126:
                parts.append(b"\x81" + size.to_bytes(1, "big"))
            elif size < 65_536:
                parts.append(b"\x81\x7e" + size.to_bytes(2, "big"))
            else:
                parts.append(b"\x81\x7f" + size.to_bytes(8, "big"))
            parts.append(data)
        self.transport.write(b"".join(parts))

    def close(self, code: int | None = None, reason: str = "") -> None:
        """See `Wire`."""
        if self.close_sent or self.disconnected or self.transport.is_closing():
            self._hang_up_soon()
            return
        self.stop_keepalive()
        self.queue.put_nowait({"type": "websocket.disconnect", "code": code or NO_STATUS, "reason": reason})
        try:
            self.conn.send_close(code, reason)
        except InvalidState:  # the peer was faster
            self.transport.close()
            return
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        if self.read_paused:  # the peer's answer is to be read
            self.read_paused = False
            self.transport.resume_reading()
        self.close_timer = self.loop.call_later(CLOSE_S, self.transport.abort)

    def abort(self) -> None:
        """See `Wire`."""
        self.stop_keepalive()
        self.transport.abort()

    def handle_close(self, event: Frame) -> None:
        """The peer closes, or answers our closing."""
        super().handle_close(event)
        self._hang_up_soon()

    def handle_parser_exception(self) -> None:
        """What arrived is no WebSocket's, or too large."""
        super().handle_parser_exception()
        self._hang_up_soon()

    def keepalive_timeout(self) -> None:
        """The peer does not answer a ping."""
        super().keepalive_timeout()
        self._hang_up_soon()

    def _hang_up_soon(self) -> None:
        """Closing waits until everything is sent, which for a peer that does not read is never."""
        if not self.disconnected:
            self.loop.call_later(CLOSE_S, self.transport.abort)

    def shutdown(self) -> None:
        """The server stops: close without a code; whoever does not read is hung up on."""
        if self.handshake_complete and not self.close_sent:
            self.close()
        elif not self.close_sent:
            super().shutdown()
