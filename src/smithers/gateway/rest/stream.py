"""The stream of changes: `GET /v1/api/stream`, server-sent events that say which collections to read again."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from starlette.types import ASGIApp, Receive, Scope, Send

from smithers.asgi.drain import Drain
from smithers.asgi.routing import Call
from smithers.gateway.auth.identity import Identity
from smithers.gateway.changes import ChangeFeed
from smithers.gateway.problems import RpcError

if TYPE_CHECKING:
    from smithers.gateway.services import Services

HEARTBEAT_S: Final = 15.0

_HEADERS: Final = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"connection", b"keep-alive"),
    (b"x-accel-buffering", b"no"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-smithers-api-version", b"v1"),
]


class ChangeStream:
    """An answer that tells of changes until its client leaves, its grant ends, or the gateway stops."""

    def __init__(
        self, services: Services, feed: ChangeFeed, after: int | None, identity: Identity, key: str | None
    ) -> None:
        self._services = services
        self._feed = feed
        self._after = after
        self._identity = identity
        self._key = key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, as ASGI has it."""
        caps, user = self._services.stream_caps, self._identity.stream_owner
        caps.enter(user, self._key)
        reader, end = self._feed.subscribe(self._after)
        leaving = asyncio.create_task(_left(receive, reader.more))
        drain: Drain = self._services.drain
        undrain = drain.listen(reader.more.set)
        try:
            await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
            text = self._heartbeat()
            while not leaving.done() and not drain.is_started and self._services.still_valid(self._identity):
                text += reader.take(self._feed.seq)
                await send({"type": "http.response.body", "body": text or self._heartbeat(), "more_body": True})
                text = b""
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._patience_s()):
                        await reader.more.wait()
            if not leaving.done():
                await send({"type": "http.response.body", "body": b""})
        finally:
            undrain()
            end()
            leaving.cancel()
            caps.leave(user, self._key)

    def _patience_s(self) -> float:
        """How long nothing may be sent; the end of the grant comes first."""
        ends_ms = self._identity.expires_at_ms
        if ends_ms is None:
            return HEARTBEAT_S
        return min(HEARTBEAT_S, max(ends_ms - self._services.clock.now_ms(), 0) / 1000 + 0.001)

    def _heartbeat(self) -> bytes:
        return b': heartbeat\nevent: heartbeat\ndata: {"seq":%d}\n\n' % self._feed.seq


async def _left(receive: Receive, wake: asyncio.Event) -> None:
    """Until the client has hung up."""
    while (await receive())["type"] != "http.disconnect":
        pass
    wake.set()


def answer_stream(services: Services, call: Call, identity: Identity) -> ASGIApp:
    """The stream for a request. Raises `RpcError` for a cursor that is none, or too many streams."""
    text = call.header("last-event-id") or call.query.get("lastEventId") or ""
    if text and not (text.isascii() and text.isdigit() and len(text) < 16):
        raise RpcError("INVALID_INPUT", "Last-Event-ID must be a whole number, 0 or more", field="lastEventId")
    key = call.header("x-request-id") or None
    services.stream_caps.check(identity.stream_owner, key)
    return ChangeStream(services, services.changes, int(text) if text else None, identity, key)
