"""Dispatch: from a request to its response, the same for every transport. Authentication and reading come before it."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from pydantic_core import to_json

from smithers.gateway.auth.identity import Identity
from smithers.gateway.auth.scopes import require
from smithers.gateway.frames import Request, error_text, ok_frame
from smithers.gateway.metering import UNKNOWN, Meter
from smithers.gateway.problems import RpcError, rpc_error_of
from smithers.gateway.rpc.call import RpcCall, Socket, WhenGone, never
from smithers.gateway.rpc.registry import Encoded, Methods, validated

if TYPE_CHECKING:
    from smithers.gateway.extensions import Extensions
    from smithers.gateway.services import Services

log = logging.getLogger(__name__)


class Dispatcher:
    """Calls methods.

    Args:
        extensions: answers methods that begin with `ext.`.
        meter: told of every call.
    """

    def __init__(self, methods: Methods, services: Services, extensions: Extensions, meter: Meter) -> None:
        self._meter = meter
        self.methods = methods
        self._services = services
        self._extensions = extensions

    async def call(
        self, request: Request, identity: Identity, socket: Socket | None = None, *, when_gone: WhenGone = never
    ) -> object:
        """What a method answers. The order is: name, scope, parameters, handler.

        Args:
            when_gone: for callers without a socket, which tells by itself.

        Raises:
            RpcError: whatever went wrong, in the wire's terms.
        """
        began = time.perf_counter()
        problem: RpcError | None = None
        answer: object = None
        try:
            answer = await self._call(request, identity, socket, when_gone)
        except Exception as error:
            problem = rpc_error_of(error)
            raise problem from error
        finally:
            found = self.methods.find(request.method)
            name = UNKNOWN if found is None else found[0].name
            transport = "http" if socket is None else "websocket"
            self._meter.called(name, transport, time.perf_counter() - began, answer, problem)
        return answer

    async def _call(self, request: Request, identity: Identity, socket: Socket | None, when_gone: WhenGone) -> object:
        name = request.method
        told = when_gone if socket is None else socket.when_gone
        call = RpcCall(self._services, identity, name, request.id, socket, told)
        if name.startswith("ext."):
            return await self._extensions.call(call, request.params)
        found = self.methods.find(name)
        if found is None:
            require(identity, name, "run:admin" if name.startswith("config.") else "run:read")
            raise RpcError("METHOD_NOT_FOUND", f"Unknown method: {name}", method=name)
        method, scope = found
        require(identity, name, scope)
        if method.is_socket_only and socket is None:
            raise RpcError("INVALID_REQUEST", f"{name} is available over WebSocket only")
        params = validated(method, request.params)
        try:
            answer = await method.handle(call, params)
        except Exception as error:
            raise rpc_error_of(error, method.codes) from error
        if method.touches:
            self._services.changes.note(*method.touches)
        return answer

    async def respond(
        self, request: Request, identity: Identity, socket: Socket | None = None, *, when_gone: WhenGone = never
    ) -> tuple[str, RpcError | None]:
        """The response frame to a request, and the error that it tells of. Never raises."""
        try:
            payload = encoded(await self.call(request, identity, socket, when_gone=when_gone))
        except Exception as error:
            problem = rpc_error_of(error)
            return error_text(request.id, problem), problem
        return ok_frame(request.id, payload), None


def encoded(payload: object) -> str:
    """A payload as JSON text."""
    return payload if isinstance(payload, Encoded) else to_json(payload, inf_nan_mode="null", by_alias=True).decode()
