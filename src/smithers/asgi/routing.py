"""Routing: one table of routes, and the ASGI app that answers by it. Nothing is answered that is not in the table.

The order is fixed: find the route, let it through (signed routes check themselves, open ones are for everybody), call it,
turn what it raises into an answer, count. Paths match exactly; every segment is percent-decoded by itself, so that an id
may hold a slash.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, NamedTuple
from urllib.parse import parse_qsl, unquote

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from smithers.asgi.bodies import read_body, read_object
from smithers.asgi.drain import Drain
from smithers.asgi.guards import Guard
from smithers.asgi.problems import problem_response
from smithers.errors import InvalidRequest, NotFound

MAX_QUERY_FIELDS = 100
UNMATCHED = "unmatched"
"""The route label of requests for paths that are not there, which would be without number."""

Observe = Callable[[str, str, int, float], None]
"""Told of each answer: method, route, status, milliseconds."""


@dataclass(frozen=True, slots=True)
class Doc:
    """What the OpenAPI document says about a route."""

    summary: str
    tag: str = "runs"
    query: Mapping[str, Mapping[str, object]] = field(default_factory=dict[str, Mapping[str, object]])
    body: Mapping[str, object] | None = None
    answer: Mapping[str, object] = field(default_factory=dict[str, object])
    media_type: str = "application/json"
    status: int = 200
    errors: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Route:
    """A row of the table. `path` names its parameters with a colon: `/v1/runs/:runId`; a last one with a star takes all
    segments that are left: `/v1/tickets/*path`."""

    method: str
    path: str
    handle: Callable[[Call], Awaitable[ASGIApp]]
    doc: Doc
    access: Literal["token", "open", "signed"] = "token"

    @property
    def parts(self) -> tuple[str, ...]:
        """The path's segments."""
        return tuple(self.path.split("/")[1:])


class _Pattern(NamedTuple):
    """A route with the segments of its path that are given, and those that are parameters, by their places."""

    route: Route
    fixed: tuple[tuple[int, str], ...]
    names: tuple[tuple[int, str], ...]

    @classmethod
    def of(cls, route: Route) -> _Pattern:
        places = tuple(enumerate(route.parts))
        return cls(
            route,
            tuple((index, part) for index, part in places if not part.startswith(":")),
            tuple((index, part[1:]) for index, part in places if part.startswith(":")),
        )


class Call:
    """A request, as handlers see it."""

    def __init__(self, scope: Scope, receive: Receive, params: Mapping[str, str], app: HttpApp) -> None:
        self._scope = scope
        self._receive = receive
        self._app = app
        self.params = params

    @property
    def drain(self) -> Drain:
        """Set when the server wants long answers to end."""
        return self._app.drain

    @property
    def scope(self) -> Scope:
        """The request as ASGI has it."""
        return self._scope

    @property
    def receive(self) -> Receive:
        """Where the request's body comes from."""
        return self._receive

    @cached_property
    def query(self) -> dict[str, str]:
        """The query; of repeated keys the first. Raises `InvalidRequest`."""
        found: dict[str, str] = {}
        for name, value in self._pairs:
            found.setdefault(name, value)
        return found

    @cached_property
    def _pairs(self) -> list[tuple[str, str]]:
        text = bytes(self._scope.get("query_string", b"")).decode("latin-1")
        if not text:
            return []
        try:
            return parse_qsl(text, keep_blank_values=True, max_num_fields=MAX_QUERY_FIELDS)
        except ValueError as error:
            raise InvalidRequest(f"query: at most {MAX_QUERY_FIELDS} fields are allowed") from error

    def query_all(self, name: str) -> list[str]:
        """All values of a repeated key of the query. Raises `InvalidRequest`."""
        return [value for key, value in self._pairs if key == name]

    def header(self, name: str) -> str | None:
        """A header's first value."""
        wanted = name.lower().encode("latin-1")
        return next((v.decode("latin-1") for k, v in self._scope["headers"] if k == wanted), None)

    async def body(self) -> bytes:
        """The raw body. Raises `PayloadTooLarge`."""
        return await read_body(self._scope, self._receive, self._app.max_body_bytes)

    async def object(self) -> dict[str, object]:
        """The body as a JSON object; an empty one for no body. Raises `PayloadTooLarge`, `InvalidJson`, `InvalidRequest`."""
        return read_object(await self.body())


class HttpApp:
    """An ASGI app over a table of routes; runs under any server, and below a prefix of another app.

    Args:
        routes: the table.
        guard: lets requests through.
        max_body_bytes: the largest body that is read.
        observe: told of every answer.
        on_open: called once, at the lifespan's start or before the first request, in the event loop that serves.
        on_close: called at the lifespan's end, when the app is served by itself.
        fallback: answers requests that no route matches, by itself; a `NotFound` by default.
        problem: makes the answer for an error.
        websocket: answers WebSockets; they are refused by default.
    """

    def __init__(
        self,
        routes: Sequence[Route],
        guard: Guard,
        *,
        max_body_bytes: int,
        observe: Observe | None = None,
        on_open: Callable[[], None] | None = None,
        on_close: Callable[[], Awaitable[None]] | None = None,
        fallback: Callable[[Call], Awaitable[ASGIApp]] | None = None,
        problem: Callable[[Exception], ASGIApp] = problem_response,
        websocket: ASGIApp | None = None,
    ) -> None:
        self.routes = tuple(routes)
        self.max_body_bytes = max_body_bytes
        self.drain = Drain()
        self._guard = guard
        self._observe = observe
        self._on_open = on_open
        self._on_close = on_close
        self._fallback = fallback
        self._problem = problem
        self._websocket = websocket
        self._open_ended = [route for route in self.routes if route.parts[-1].startswith("*")]
        self._by_shape: dict[tuple[str, int], list[_Pattern]] = {}
        for route in self.routes:
            pattern = _Pattern.of(route)
            self._by_shape.setdefault((route.method, len(route.parts)), []).append(pattern)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, as ASGI has it."""
        match scope["type"]:
            case "http":
                await self._answer(scope, receive, send)
            case "lifespan":
                await self._live(receive, send)
            case "websocket" if self._websocket is not None:
                await self._websocket(scope, receive, send)
            case "websocket":
                await receive()
                await send({"type": "websocket.close", "code": 1000})
            case other:
                raise ValueError(f"unknown ASGI scope {other!r}")

    async def _live(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                self._open()
                await send({"type": "lifespan.startup.complete"})
            elif message["type"] == "lifespan.shutdown":
                self.drain.start()
                if self._on_close is not None:
                    await self._on_close()
                await send({"type": "lifespan.shutdown.complete"})
                return

    def _open(self) -> None:
        opening, self._on_open = self._on_open, None
        if opening is not None:
            opening()

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = time.perf_counter()
        self._open()
        route, params = self._find(scope)
        status = 500
        has_begun = False

        async def sent(message: Message) -> None:
            nonlocal status, has_begun
            if message["type"] == "http.response.start":
                status, has_begun = message["status"], True
            await send(message)

        try:
            try:
                response = await self._respond(route, params, scope, receive)
            except ClientDisconnect:
                return
            except Exception as error:
                response = self._problem(error)
            await response(scope, receive, sent)
        finally:
            if self._observe is not None and has_begun:
                taken = (time.perf_counter() - began) * 1000
                self._observe(scope["method"], UNMATCHED if route is None else route.path, status, taken)

    async def _respond(self, route: Route | None, params: dict[str, str], scope: Scope, receive: Receive) -> ASGIApp:
        if route is None and self._fallback is not None:
            return await self._fallback(Call(scope, receive, {}, self))
        if route is None or route.access == "token":
            self._guard.check(scope["headers"])
        if route is None:
            raise NotFound("Route not found")
        return await route.handle(Call(scope, receive, params, self))

    def _find(self, scope: Scope) -> tuple[Route | None, dict[str, str]]:
        segments = _segments(scope)
        for pattern in self._by_shape.get((scope["method"], len(segments)), ()):
            for index, part in pattern.fixed:
                if segments[index] != part:
                    break
            else:
                params = {name: segments[index] for index, name in pattern.names}
                if all(params.values()):
                    return pattern.route, params
        for route in self._open_ended:
            head, found = route.parts[:-1], segments[: len(route.parts) - 1]
            if route.method == scope["method"] and len(segments) > len(head) and found == list(head) and segments[-1]:
                return route, {route.parts[-1][1:]: "/".join(segments[len(head) :])}
        return None, {}


def _segments(scope: Scope) -> list[str]:
    """The path below the prefix that this app is mounted at, in decoded segments."""
    root: str = scope.get("root_path", "")
    raw: bytes | None = scope.get("raw_path")
    path: str = scope["path"]
    if raw is None:
        below = path[len(root) :] if path.startswith(root) else path
        return below.split("/")[1:]
    segments = raw.decode("latin-1").partition("?")[0].split("/")[1:]
    is_below = bool(root) and path.startswith(root)
    if is_below:
        segments = segments[root.rstrip("/").count("/") :]
    return [unquote(s, errors="replace") for s in segments] if b"%" in raw else segments
