"""Extensions: a host's own methods and streams, under `ext.<namespace>.<key>`, with the gateway's authentication."""

from __future__ import annotations

import asyncio
import inspect
import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, cast

from smithers.errors import InvalidInput, SmithersError
from smithers.gateway.auth.scopes import SCOPES, require
from smithers.gateway.dispatch import encoded
from smithers.gateway.problems import RpcError, rpc_error_of
from smithers.gateway.rpc.call import RpcCall
from smithers.gateway.rpc.registry import Encoded

log = logging.getLogger(__name__)
MAX_PAYLOAD_BYTES: Final = 4_194_304
_NAME: Final = re.compile(r"[a-z][a-zA-Z0-9_-]{0,63}")
Kind = Literal["resource", "action", "stream"]


@dataclass(slots=True)
class ExtensionContext:
    """Who calls an extension, and how.

    Attributes:
        signal: set when the call is over or its connection is gone.
        stream_id: names the stream; None for calls.
        send: pushes a payload to the stream's client; does nothing for calls.
    """

    namespace: str
    key: str
    kind: Kind
    scopes: tuple[str, ...]
    user_id: str | None
    token_id: str | None
    connection_id: str | None
    signal: asyncio.Event = field(default_factory=asyncio.Event)
    stream_id: str | None = None
    send: Callable[[object], None] = lambda _payload: None


ExtensionHandler = Callable[[object, ExtensionContext], object]
"""Answers a call: gets the parameters and the context, returns JSON or an awaitable of it."""


@dataclass(frozen=True, slots=True)
class Extension:
    """One declared method or stream."""

    namespace: str
    key: str
    kind: Kind
    handler: ExtensionHandler
    scope: str
    title: str | None = None

    @property
    def method(self) -> str:
        """The name that it is called by."""
        return f"ext.{'stream.' if self.kind == 'stream' else ''}{self.namespace}.{self.key}"


class Extensions:
    """All extensions by method name."""

    def __init__(self) -> None:
        self._by_method: dict[str, Extension] = {}
        self._namespaces: set[str] = set()
        self.open_stream: Callable[[RpcCall, Extension, object], Awaitable[object]] | None = None
        """Subscribes a socket to a stream; set by whoever serves sockets."""

    def extend(self, namespace: str, definition: Mapping[str, object]) -> None:
        """Declare a namespace. Raises `InvalidInput` naming what does not fit; nothing is declared then."""
        if not isinstance(namespace, str) or not _NAME.fullmatch(namespace) or namespace == "stream":
            raise InvalidInput(
                f"namespace {namespace!r:.80} must begin with a small letter, hold letters, digits, _ and - only, "
                "have at most 64 characters, and not be 'stream'"
            )
        if namespace in self._namespaces:
            raise InvalidInput(f"namespace {namespace!r} is declared twice")
        known = {"resources", "queries", "actions", "streams", "defaultScope", "default_scope", "title"}
        if unknown := set(definition) - known:
            raise InvalidInput(f"namespace {namespace!r} has no option {sorted(unknown)[0]!r}")
        default = definition.get("defaultScope", definition.get("default_scope"))
        found: dict[str, Extension] = {}
        groups: tuple[tuple[str, Kind, str], ...] = (
            ("resources", "resource", "run:read"),
            ("queries", "resource", "run:read"),
            ("actions", "action", "run:write"),
            ("streams", "stream", "run:read"),
        )
        for group, kind, usual in groups:
            for key, item in _mapping(definition.get(group), f"{namespace}.{group}").items():
                extension = _extension(namespace, key, kind, item, default if default is not None else usual)
                other = found.get(extension.method)
                if other is not None and other.kind != kind:
                    raise InvalidInput(f"{namespace}.{key} is a resource and an action at once")
                found[extension.method] = extension
        self._namespaces.add(namespace)
        self._by_method.update(found)

    def listed(self) -> list[Extension]:
        """All extensions, by name."""
        return [self._by_method[name] for name in sorted(self._by_method)]

    async def call(self, call: RpcCall, params: object) -> object:
        """Answer a call of an extension's method. Raises `RpcError`."""
        extension = self._by_method.get(call.method)
        if extension is None:
            require(call.identity, call.method, "run:read")
            raise RpcError("EXTENSION_METHOD_NOT_FOUND", f"Unknown method: {call.method}", method=call.method)
        require(call.identity, call.method, extension.scope, is_extension=True)
        if extension.kind == "stream":
            if call.socket is None or self.open_stream is None:
                raise RpcError("INVALID_REQUEST", f"{call.method} is available over WebSocket only")
            return await self.open_stream(call, extension, params)
        context = context_of(extension, call)
        forget = call.when_gone(context.signal.set)
        try:
            answer = extension.handler(params, context)
            if inspect.isawaitable(answer):
                answer = await answer
        except Exception as error:
            raise extension_error(error) from error
        finally:
            forget()
            context.signal.set()
        return bounded(answer)


def context_of(extension: Extension, call: RpcCall) -> ExtensionContext:
    """The context of a call."""
    return ExtensionContext(
        extension.namespace,
        extension.key,
        extension.kind,
        call.identity.scopes,
        call.identity.user_id,
        call.identity.token_id,
        None if call.socket is None else call.socket.connection_id,
    )


def bounded(payload: object) -> Encoded:
    """An extension's payload as JSON text. Raises `RpcError` for one that is too large or no JSON."""
    try:
        text = encoded(payload)
    except Exception as error:
        raise RpcError("EXTENSION_HANDLER_ERROR", f"the payload is not JSON: {error}", status=500) from error
    if len(text) * 4 > MAX_PAYLOAD_BYTES and len(text.encode()) > MAX_PAYLOAD_BYTES:
        raise RpcError(
            "PayloadTooLarge", f"the payload is larger than {MAX_PAYLOAD_BYTES} bytes", maxBytes=MAX_PAYLOAD_BYTES
        )
    return Encoded(text)


def extension_error(error: Exception) -> RpcError:
    """What a client gets to see of an extension's failure."""
    if isinstance(error, SmithersError):
        return rpc_error_of(error)
    log.warning("an extension failed", exc_info=error)
    return RpcError("EXTENSION_HANDLER_ERROR", str(error) or type(error).__name__, status=500)


def _mapping(value: object, where: str) -> Mapping[str, object]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise InvalidInput(f"{where} must be a mapping of keys to definitions")
    return cast("Mapping[str, object]", value)


def _extension(namespace: str, key: str, kind: Kind, item: object, default: object) -> Extension:
    where = f"{namespace}.{key}"
    if not isinstance(key, str) or not _NAME.fullmatch(key):
        raise InvalidInput(f"key {where!r:.120} must begin with a small letter and hold letters, digits, _ and - only")
    name = "subscribe" if kind == "stream" else "handler"
    fields: Mapping[str, object] = {name: item} if callable(item) else _mapping(item, where)
    handler, scope, title = fields.get(name), fields.get("scope", default), fields.get("title")
    if not callable(handler):
        raise InvalidInput(f"{where}.{name} must be callable")
    if scope not in SCOPES:
        raise InvalidInput(f"{where}.scope must be one of {', '.join(sorted(SCOPES))}, not {scope!r}")
    return Extension(
        namespace, key, kind, cast("ExtensionHandler", handler), str(scope), title if isinstance(title, str) else None
    )
