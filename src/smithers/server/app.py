"""The server's app: wires the route table to the hosted runs, and both to metrics."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from starlette.responses import Response
from starlette.types import ASGIApp

from smithers.asgi.guards import Guard
from smithers.asgi.openapi import document
from smithers.asgi.problems import JSON_HEADERS, json_response
from smithers.asgi.routing import Call, Doc, HttpApp, Route
from smithers.control.hosting import Hosting, Place
from smithers.control.webhooks import WebhookDesk
from smithers.control.workflows import WorkflowFiles
from smithers.observability.feed import EventFeed
from smithers.observability.lifecycle import log_event
from smithers.observability.metrics import CONTENT_TYPE, Metrics
from smithers.server.options import ServerOptions
from smithers.server.people import PeopleRoutes
from smithers.server.runs import RunRoutes
from smithers.server.webhooks import WebhookRoutes
from smithers.vcs import git


@asynccontextmanager
async def open_app(options: ServerOptions) -> AsyncGenerator[HttpApp]:
    """The app with everything behind it, in this event loop; closed at the end. Raises `StorageError`."""
    metrics = Metrics()
    git.time_commands(metrics.timed)

    def opened(place: Place) -> None:
        EventFeed(place.store, place.hub, metrics.track_event, log_event)
        place.store.time(metrics.timed)

    hosting = Hosting(
        WorkflowFiles(options.root_dir),
        options.settings,
        db=options.db,
        on_open=opened,
        tools=options.tools,
    )
    desk: WebhookDesk | None = None
    telemetry = None
    if options.settings.otel_enabled:
        from smithers.observability.telemetry import open_telemetry

        telemetry = open_telemetry(options.settings)
    if telemetry is not None:
        telemetry.add(metrics, hosting.gauges)
    try:
        await hosting.start()
        if options.webhooks:
            desk = WebhookDesk(hosting)
        guard = Guard(options.auth_token, options.trusts_any_host)
        routes = [
            *OpsRoutes(hosting, metrics).table(),
            *RunRoutes(hosting).table(),
            *PeopleRoutes(hosting).table(),
            *WebhookRoutes(options.webhooks, desk).table(),
        ]
        spec = document("Smithers server", [*routes, _spec_route({})])
        routes.append(_spec_route(spec))
        yield HttpApp(routes, guard, max_body_bytes=options.max_body_bytes, observe=metrics.track_request)
    finally:
        if desk is not None:
            await desk.close()
        await hosting.close()
        if telemetry is not None:
            metrics.close()
            await asyncio.to_thread(telemetry.close)


def _spec_route(spec: dict[str, object]) -> Route:
    async def openapi(call: Call) -> ASGIApp:
        return json_response(spec)

    return Route("GET", "/openapi.json", openapi, Doc("This document", tag="server", answer={"type": "object"}))


class OpsRoutes:
    """Routes for whoever keeps the server running."""

    def __init__(self, hosting: Hosting, metrics: Metrics) -> None:
        self._hosting = hosting
        self._metrics = metrics

    def table(self) -> list[Route]:
        """The rows of the route table."""
        health = Doc("Whether the server lives", tag="server", answer={"type": "object"})
        metrics = Doc("Metrics as Prometheus text", tag="server", media_type="text/plain")
        return [
            Route("GET", "/health", self.health, health, access="open"),
            Route("GET", "/metrics", self.metrics, metrics),
        ]

    async def health(self, call: Call) -> ASGIApp:
        """`GET /health`."""
        return json_response({"ok": True})

    async def metrics(self, call: Call) -> ASGIApp:
        """`GET /metrics`."""
        found = await asyncio.to_thread(self._hosting.gauges)
        return Response(self._metrics.render(found), 200, JSON_HEADERS, CONTENT_TYPE)
