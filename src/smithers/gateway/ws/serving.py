"""Serving: a WebSocket request, from its upgrade on."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from smithers.gateway.problems import API_VERSION, RpcError
from smithers.gateway.ws.connection import Connection
from smithers.gateway.ws.wire import AsgiWire, wire_of

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from smithers.gateway.ws.hub import SocketHub

REFUSED: Final = b"Origin or host is not allowed\n"
FULL: Final = b"Gateway connection limit reached\n"
_VERSION: Final = (b"x-smithers-api-version", API_VERSION.encode())
DENIAL: Final = "websocket.http.response"


async def serve_socket(scope: Scope, receive: Receive, send: Send, hub: SocketHub) -> None:
    """Serve one WebSocket until it ends; an upgrade that is not allowed is answered as plain HTTP."""
    await receive()
    try:
        hub.check_upgrade(scope)
    except RpcError:
        await _deny(scope, send, 403, REFUSED)
        return
    if not hub.has_room:
        await _deny(scope, send, 503, FULL)
        return
    task = asyncio.current_task()
    assert task is not None
    is_hung_up = False

    def hang_up() -> None:
        nonlocal is_hung_up
        is_hung_up = True
        task.cancel()

    wire = wire_of(scope, send, hang_up)
    connection = Connection(hub, scope, wire)
    hub.add(connection)
    try:
        await send({"type": "websocket.accept", "headers": [_VERSION]})
        await connection.serve(receive)
    except asyncio.CancelledError:
        if not is_hung_up:
            raise
    finally:
        connection.ended()
        if isinstance(wire, AsgiWire):
            wire.end()


async def _deny(scope: Scope, send: Send, status: int, body: bytes) -> None:
    if DENIAL not in (scope.get("extensions") or {}):
        await send({"type": "websocket.close", "code": 1008})
        return
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
        _VERSION,
    ]
    await send({"type": f"{DENIAL}.start", "status": status, "headers": headers})
    await send({"type": f"{DENIAL}.body", "body": body})
