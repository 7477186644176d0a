"""HTTP: the gateway's plain routes: RPC over POST, health, metrics, the workflow list, the session hand-off, the root page."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from html import escape
from typing import TYPE_CHECKING, Final, cast
from urllib.parse import quote
from uuid import uuid4

from pydantic_core import to_json
from starlette.requests import ClientDisconnect
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive

from smithers.asgi.routing import Call, Doc, Route
from smithers.control.pulse import problem_of
from smithers.errors import PayloadTooLarge
from smithers.gateway.auth.identity import Identity
from smithers.gateway.auth.scopes import require
from smithers.gateway.frames import Request, check_bounds, check_id, check_method, error_text, parse_json
from smithers.gateway.problems import API_VERSION, RpcError, rpc_error_of
from smithers.observability.context import launched_by

if TYPE_CHECKING:
    from smithers.gateway.auth.doorkeeper import Doorkeeper
    from smithers.gateway.dispatch import Dispatcher
    from smithers.gateway.services import Services

HEADERS: Final = {
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
    "x-smithers-api-version": API_VERSION,
}
"""What every JSON and text answer carries."""
_OBJECT: Final[dict[str, object]] = {"type": "object"}


def json_answer(body: bytes | str, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """An answer in JSON that is encoded already."""
    all_headers = HEADERS if headers is None else {**HEADERS, **headers}
    if status == 413:
        all_headers = {**all_headers, "connection": "close"}  # the rest of the body is not going to be read
    return Response(body, status, all_headers, "application/json")


def frame_problem(error: Exception, request_id: str = "") -> Response:
    """An error as an RPC frame."""
    problem = rpc_error_of(error)
    headers = {"www-authenticate": "Bearer"} if problem.http_status == 401 else None
    return json_answer(error_text(request_id or str(uuid4()), problem), problem.http_status, headers)


def when_left(receive: Receive, call: Callable[[], None]) -> Callable[[], None]:
    """`WhenGone` of a client whose whole request is there."""

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        call()

    watching = asyncio.create_task(watch())

    def forget() -> None:
        watching.cancel()

    return forget


class HttpRoutes:
    """The plain routes.

    Args:
        metrics: renders the metrics' text.
        mounts: paths of the pages that are served, for the root page.
    """

    def __init__(
        self,
        services: Services,
        dispatcher: Dispatcher,
        doorkeeper: Doorkeeper,
        metrics: Callable[[], Awaitable[bytes]],
        ui_path_of: Callable[[str], str | None],
        mounts: Callable[[], list[str]],
    ) -> None:
        self._services = services
        self._dispatcher = dispatcher
        self._doorkeeper = doorkeeper
        self._metrics = metrics
        self._ui_path_of = ui_path_of
        self._mounts = mounts

    def table(self) -> list[Route]:
        """The rows of the route table. Each authenticates by itself, because each fails in its own envelope."""
        rpc = Doc("Call a method", tag="rpc", body=_OBJECT, answer=_OBJECT, errors=(400, 401, 403, 404, 409, 413))
        server = Doc("Whether the gateway lives", tag="gateway", answer=_OBJECT)
        return [
            Route("GET", "/health", self.health, server, access="open"),
            Route("GET", "/metrics", self.metrics, Doc("Metrics", "gateway", media_type="text/plain"), access="open"),
            Route("GET", "/workflows", self.workflows, Doc("Workflows", "gateway", answer=_OBJECT), access="open"),
            Route(
                "GET", "/v1/auth/session", self.session, Doc("Session", "auth", media_type="text/html"), access="open"
            ),
            Route("POST", "/v1/rpc/:method", self.rpc, rpc, access="open"),
            Route("POST", "/rpc", self.rpc, rpc, access="open"),
            Route("POST", "/v1/electric/write", self.write, rpc, access="open"),
        ]

    def identify(self, call: Call) -> Identity:
        """Who asks. Raises `RpcError`."""
        scope = call.scope
        client = cast("tuple[str, int] | None", scope.get("client"))
        return self._doorkeeper.request(
            scope["headers"], is_tls=scope.get("scheme") == "https", peer=None if client is None else client[0]
        )

    # ── RPC ────────────────────────────────────────────────────────────────────────────────────────────────────────

    async def rpc(self, call: Call) -> ASGIApp:
        """`POST /v1/rpc/:method` with the parameters or an envelope, `POST /rpc` with an envelope."""
        request_id = call.header("x-request-id") or ""
        request_id = request_id if 0 < len(request_id) <= 128 and request_id.isprintable() else str(uuid4())
        try:
            identity = self.identify(call)
            body = await self._body(call)
            if "id" in body and ("method" in body or "method" not in call.params):
                request_id = check_id(body["id"])
            request = self._read(call.params.get("method"), body, request_id)
        except ClientDisconnect:
            raise
        except Exception as error:
            return frame_problem(error, request_id)
        with launched_by(call.header("traceparent")):
            gone = partial(when_left, call.receive)
            text, problem = await self._dispatcher.respond(request, identity, when_gone=gone)
        return json_answer(text, 200 if problem is None else problem.http_status)

    def _read(self, method: str | None, body: dict[str, object], request_id: str) -> Request:
        params: object = body
        if method is None:
            if "method" not in body:
                raise RpcError("INVALID_REQUEST", "the body must name a method", field="method")
            method, params = check_method(body["method"]), body.get("params")
        elif "method" in body:
            params = body.get("params")
        return Request(request_id, check_method(method), check_bounds(method, params))

    async def _body(self, call: Call) -> dict[str, object]:
        length = call.header("content-length")
        if length is not None and not (length.isascii() and length.isdigit()):
            raise RpcError("INVALID_INPUT", "Content-Length must be a number")
        try:
            data = await call.body()
        except PayloadTooLarge as error:
            raise RpcError("PayloadTooLarge", error.summary, error.details) from error
        value: object = parse_json(data) if data.strip() else dict[str, object]()
        if not isinstance(value, dict):
            raise RpcError("INVALID_REQUEST", "the body must be a JSON object")
        return cast("dict[str, object]", value)

    async def write(self, call: Call) -> ASGIApp:
        """`POST /v1/electric/write`: a method's call in the envelope of synchronised stores."""
        try:
            identity = self.identify(call)
            body = await self._body(call)
            method = check_method(body.get("method"))
            try:
                params = check_bounds(method, body["params"] if "params" in body else body.get("vars"))
            except RpcError as error:
                raise RpcError("PAYLOAD_TOO_LARGE", error.summary) from error
            request = Request(str(uuid4()), method, params)
            payload = await self._dispatcher.call(request, identity, when_gone=partial(when_left, call.receive))
        except ClientDisconnect:
            raise
        except Exception as error:
            problem = rpc_error_of(error)
            answer = {"ok": False, "code": problem.error_code, "message": problem.summary, **problem.extras}
            return json_answer(to_json(answer, fallback=str), problem.http_status)
        from smithers.gateway.dispatch import encoded

        return json_answer(f'{{"ok":true,"payload":{encoded(payload)},"txid":null}}')

    # ── about the gateway ──────────────────────────────────────────────────────────────────────────────────────────

    async def health(self, call: Call) -> ASGIApp:
        """`GET /health`: answers as soon as the gateway listens, also while its database is away."""
        reason = await problem_of(place.pulse for place in self._services.hosting.places)
        degraded: dict[str, object] = {"degraded": reason is not None, "reason": reason}
        return json_answer(to_json({"ok": True, **health_of(self._services), **degraded}))

    async def metrics(self, call: Call) -> ASGIApp:
        """`GET /metrics`: Prometheus text."""
        if self._services.options.metrics_need_token:
            try:
                require(self.identify(call), "metrics", "run:read")
            except RpcError as error:
                return frame_problem(error)
        return Response(await self._metrics(), 200, HEADERS, "text/plain; version=0.0.4; charset=utf-8")

    async def workflows(self, call: Call) -> ASGIApp:
        """`GET /workflows`: what is served; needs `run:read` where the gateway authenticates."""
        try:
            require(self.identify(call), "workflows", "run:read")
        except RpcError as error:
            return frame_problem(error)
        entries = await self._services.entries.all()
        found = [e.view(self._ui_path_of(e.key)) for e in entries if not e.is_system]
        return json_answer(to_json({"workflows": found}))

    async def session(self, call: Call) -> ASGIApp:
        """`GET /v1/auth/session`: turns a token into a cookie and goes on to a page."""
        scope = call.scope
        client = cast("tuple[str, int] | None", scope.get("client"))
        try:
            found = self._doorkeeper.hand_off(
                scope["headers"],
                call.query,
                is_tls=scope.get("scheme") == "https",
                peer=None if client is None else client[0],
            )
        except Exception as error:
            return frame_problem(error)
        response = HTMLResponse(found.html, headers={"cache-control": "no-store"})
        for name, value in found.headers:
            response.headers.append(name, value)
        return response

    def root(self, console: str | None) -> ASGIApp:
        """`GET /`: the console, or a page with links."""
        if console is not None:
            return RedirectResponse(console, 302, {"x-smithers-api-version": API_VERSION})
        links = ["/health", "/metrics", "/workflows", *self._mounts()]
        items = "".join(f'<li><a href="{escape(quote(p, safe="/:"))}">{escape(p)}</a></li>' for p in links)
        page = f"<!doctype html><meta charset=utf-8><title>Smithers gateway</title><h1>Smithers gateway</h1><ul>{items}</ul>"
        return HTMLResponse(page, headers=HEADERS)


def health_of(services: Services) -> dict[str, object]:
    """What health answers tell, over HTTP and RPC."""
    options = services.options
    status = options.status() if options.status is not None else dict[str, int]()
    total = max(0, int(status.get("workflowsTotal", len(services.entries))))
    return {
        "protocol": options.protocol,
        "features": list(options.features),
        "stateVersion": services.state_version(),
        "identity": services.identity,
        "workflowsLoaded": min(max(0, int(status.get("workflowsLoaded", len(services.entries)))), total),
        "workflowsTotal": total,
    }
