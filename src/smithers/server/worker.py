"""The worker's app: how a worker is, and its metrics. It launches and decides nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from starlette.responses import Response
from starlette.types import ASGIApp

from smithers.asgi.guards import Guard
from smithers.asgi.problems import JSON_HEADERS, json_response
from smithers.asgi.routing import Call, Doc, HttpApp, Route
from smithers.errors import StorageError
from smithers.observability.metrics import CONTENT_TYPE, Metrics

if TYPE_CHECKING:
    from smithers.control.pulse import Pulse

MAX_BODY_BYTES: Final = 1_024
"""Nothing here has a body."""
_AWAY: Final = "the database has not been reached yet"


@dataclass(slots=True)
class WorkerStatus:
    """How a worker is. Whoever runs it keeps this up to date.

    Attributes:
        is_ready: it takes runs.
        is_draining: it has been told to end, and waits for what is under way.
        pulse: looks at its database, once that is open.
        under_way: how many runs it drives.
        gauges: what is going on in the database, by the metrics' names; from any thread. Raises `StorageError`.
    """

    is_ready: bool = False
    is_draining: bool = False
    pulse: Pulse | None = None
    under_way: Callable[[], int] = lambda: 0
    gauges: Callable[[], Mapping[str, float]] = dict[str, float]


def worker_app(status: WorkerStatus, metrics: Metrics, guard: Guard) -> HttpApp:
    """The app. `guard` lets those through who ask for metrics; how the worker is may be asked by everybody."""
    door = _Door(status, metrics)
    answer: dict[str, object] = {"type": "object"}
    routes = [
        Route("GET", "/health", door.health, Doc("How the worker is", "worker", answer=answer), access="open"),
        Route(
            "GET", "/ready", door.ready, Doc("Whether the worker takes runs", "worker", answer=answer), access="open"
        ),
        Route("GET", "/metrics", door.metrics, Doc("Metrics as Prometheus text", "worker", media_type="text/plain")),
    ]
    return HttpApp(routes, guard, max_body_bytes=MAX_BODY_BYTES, observe=metrics.track_request)


class _Door:
    """The routes."""

    def __init__(self, status: WorkerStatus, metrics: Metrics) -> None:
        self._status = status
        self._metrics = metrics
        self._last: Mapping[str, float] = {}
        """The gauges as they were when the database told them last."""

    async def health(self, call: Call) -> ASGIApp:
        """`GET /health`: 200 as long as the process answers, whatever it waits for."""
        return json_response(await self._document())

    async def ready(self, call: Call) -> ASGIApp:
        """`GET /ready`: the same, with 503 while the worker takes no runs."""
        document = await self._document()
        return json_response(document, 200 if document["ready"] else 503)

    async def metrics(self, call: Call) -> ASGIApp:
        """`GET /metrics`. While the database is away, what is going on there is told as it was."""
        with suppress(StorageError):
            self._last = await asyncio.to_thread(self._status.gauges)
        return Response(self._metrics.render(self._last), 200, JSON_HEADERS, CONTENT_TYPE)

    async def _document(self) -> dict[str, object]:
        status = self._status
        reason = _AWAY if status.pulse is None else await status.pulse.problem()
        return {
            "ok": True,
            "live": True,
            "ready": status.is_ready and not status.is_draining,
            "degraded": reason is not None,
            "reason": reason,
            "runs": status.under_way(),
            "draining": status.is_draining,
        }
