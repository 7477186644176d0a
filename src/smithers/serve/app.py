"""The serve app: one run over HTTP, as a plain ASGI app. No request names a workflow or a run.

It drives nothing: a decision or signal is durable when answered, and whoever hosts the run goes on with it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Protocol

from starlette.responses import Response
from starlette.types import ASGIApp

from smithers.asgi.answers import answer_decision, answer_signal, cursor_of
from smithers.asgi.bodies import lenient_int
from smithers.asgi.guards import Guard
from smithers.asgi.openapi import DECISION_BODY, SIGNAL_BODY, document, ref
from smithers.asgi.problems import JSON_HEADERS, json_response
from smithers.asgi.routing import Call, Doc, HttpApp, Route
from smithers.asgi.sse import EventStream
from smithers.components.workflow import SmithersWorkflow
from smithers.control import listing
from smithers.control.adapter import SmithersDb
from smithers.control.control import Control
from smithers.control.requests import cancel_run
from smithers.control.streams import RunStream, StreamHub
from smithers.control.travel.audit import tend
from smithers.errors import RunNotActive, RunNotFound, SmithersError
from smithers.observability.feed import LogCounter
from smithers.observability.metrics import CONTENT_TYPE, Metrics
from smithers.settings import Settings

log = logging.getLogger(__name__)

MAX_BODY_BYTES = 1_048_576
BIRTH_PATIENCE_S = 5.0
"""How long a stream waits for its run to be stored: the app may be there before the run is."""


class Abort(Protocol):
    """What stops a run in this process: an `asyncio.Event`, or anything else that can be set."""

    def set(self) -> object:
        """Stop it."""
        ...


def create_serve_app(
    *,
    workflow: SmithersWorkflow,
    adapter: SmithersDb,
    run_id: str | Callable[[], str],
    abort: Abort | Callable[[], object] | None = None,
    auth_token: str | None = None,
    metrics: bool = True,
    insecure: bool = False,
    settings: Settings | None = None,
) -> HttpApp:
    """An ASGI app for one run: serve it, mount it below a prefix of a larger app, or call it in a test.

    Args:
        workflow: the loaded workflow.
        adapter: the database that the run lives in; `SmithersDb(workflow.db)`.
        run_id: the run, which may be started later than the app; or what tells which it is at the moment, as for a run that
            is continued as another.
        abort: set (or called) when a `POST /cancel` has cancelled the run.
        auth_token: what requests must carry; `SMITHERS_API_KEY` by default, an empty one asks for nothing.
        metrics: whether there is a `GET /metrics`.
        insecure: without a token, whether requests for and from other hosts are answered.
        settings: where the token and the trusted hosts come from by default; the environment's if not given.
    """
    settings = settings or Settings.from_environment()
    token = settings.api_key if auth_token is None else auth_token or None
    served = _Served(workflow, adapter, run_id, abort, Metrics())
    return HttpApp(
        served.routes(with_metrics=metrics),
        Guard(token, insecure or settings.serve_trusts_any_host),
        max_body_bytes=MAX_BODY_BYTES,
        observe=served.metrics.track_request,
        on_open=served.open,
        on_close=served.close,
    )


class _Served:
    """The handlers of one run."""

    def __init__(
        self,
        workflow: SmithersWorkflow,
        adapter: SmithersDb,
        run_id: str | Callable[[], str],
        abort: Abort | Callable[[], object] | None,
        metrics: Metrics,
    ) -> None:
        self.metrics = metrics
        self._logs: dict[str, LogCounter] = {}
        """What counts the events of each run that this was."""
        self._workflow = workflow
        self._adapter = adapter
        self._which = run_id
        self._abort = abort
        self._hub: tuple[asyncio.AbstractEventLoop, StreamHub] | None = None
        self._tending: asyncio.Task[None] | None = None

    @property
    def _run_id(self) -> str:
        return self._which if isinstance(self._which, str) else self._which()

    def routes(self, *, with_metrics: bool) -> list[Route]:
        """The route table."""
        decision = Doc("Decide a waiting node", body=DECISION_BODY, answer=ref("Started"), errors=(409,))
        after: dict[str, Mapping[str, object]] = {"afterSeq": {"type": "integer", "default": -1}}
        frames: dict[str, Mapping[str, object]] = {
            "limit": {"type": "integer", "default": 50},
            "afterFrameNo": {"type": "integer"},
        }
        table = [
            Route(
                "GET", "/health", self.health, Doc("Whether the app lives", answer={"type": "object"}), access="open"
            ),
            Route("GET", "/", self.look, Doc("The run's status", answer=ref("RunStatus"), errors=(404,))),
            Route(
                "GET",
                "/events",
                self.events,
                Doc(
                    "Follow the run's events",
                    query=after,
                    answer=ref("StreamEvent"),
                    media_type="text/event-stream",
                    errors=(404,),
                ),
            ),
            Route(
                "GET",
                "/frames",
                self.frames,
                Doc("The run's frames", query=frames, answer={"type": "array", "items": ref("Frame")}),
            ),
            Route("POST", "/approve/:nodeId", self.approve, decision),
            Route("POST", "/deny/:nodeId", self.deny, decision),
            Route("POST", "/cancel", self.cancel, Doc("Cancel the run", answer=ref("Cancellation"), errors=(404, 409))),
            Route(
                "POST",
                "/signals/:signalName",
                self.signal,
                Doc("Send a signal", body=SIGNAL_BODY, answer=ref("Signal"), errors=(404, 409)),
            ),
        ]
        if with_metrics:
            table.append(
                Route("GET", "/metrics", self.show_metrics, Doc("Metrics as Prometheus text", media_type="text/plain"))
            )
        described = Doc("This document", answer={"type": "object"})
        table.append(Route("GET", "/openapi.json", self.openapi, described))
        self._document = document("Smithers run", table)
        return table

    @property
    def _control(self) -> Control:
        return Control(self._adapter.store)

    def _stream_hub(self) -> StreamHub:
        """The hub of the event loop that serves; one loop serves at a time."""
        loop = asyncio.get_running_loop()
        if self._hub is None or self._hub[0] is not loop:
            hub = StreamHub(self._adapter.store)
            hub.watch_store()
            if self._hub is not None:
                self._hub[1].close()
            self._hub = (loop, hub)
        return self._hub[1]

    def open(self) -> None:
        """Look after rewinds that were cut off, in the background: nobody else may, where a run is all that there is."""
        self._tending = asyncio.create_task(self._tend())

    async def _tend(self) -> None:
        try:
            await tend(self._control)
        except SmithersError as error:
            log.warning("cannot look after rewinds that were cut off", extra={"code": error.error_code})

    async def close(self) -> None:
        """Listen to the database no more."""
        if self._tending is not None:
            self._tending.cancel()
            await asyncio.wait((self._tending,))
            self._tending = None
        if self._hub is not None:
            self._hub[1].close()
            self._hub = None

    # ── handlers ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def health(self, call: Call) -> ASGIApp:
        """`GET /health`."""
        return json_response({"ok": True})

    async def look(self, call: Call) -> ASGIApp:
        """`GET /`."""
        return json_response(listing.run_status(self._control, self._run_id).wire())

    async def events(self, call: Call) -> ASGIApp:
        """`GET /events`."""
        after = cursor_of(call, lenient_int(call.query.get("afterSeq")))
        hub = self._stream_hub()
        stream = RunStream(hub, self._adapter.store, self._run_id, after)
        try:
            await self._await_birth(stream)
        except BaseException:
            stream.close()
            raise
        return EventStream(stream, call.drain, goes_on=callable(self._which))

    async def _await_birth(self, stream: RunStream) -> None:
        """Wait for the run's row. Raises `RunNotFound` when it does not come."""
        deadline = asyncio.get_running_loop().time() + BIRTH_PATIENCE_S
        while True:
            try:
                await self._control.run(self._run_id)
                return
            except RunNotFound:
                left = deadline - asyncio.get_running_loop().time()
                if left <= 0:
                    raise
                await stream.wait(left, again=True)

    async def frames(self, call: Call) -> ASGIApp:
        """`GET /frames`."""
        limit = lenient_int(call.query.get("limit")) or 50
        after = lenient_int(call.query.get("afterFrameNo"))
        return json_response(
            await listing.frame_list(
                self._control,
                self._run_id,
                after=after if after is not None and after >= 0 else None,
                limit=max(1, min(limit, 10_000)),
            )
        )

    async def approve(self, call: Call) -> ASGIApp:
        """`POST /approve/:nodeId`."""
        return await answer_decision(call, self._control, self._run_id, approved=True)

    async def deny(self, call: Call) -> ASGIApp:
        """`POST /deny/:nodeId`."""
        return await answer_decision(call, self._control, self._run_id, approved=False)

    async def signal(self, call: Call) -> ASGIApp:
        """`POST /signals/:signalName`."""
        return await answer_signal(call, self._control, self._run_id)

    async def cancel(self, call: Call) -> ASGIApp:
        """`POST /cancel`."""
        control = self._control
        row = await control.run(self._run_id)
        if row.status in ("finished", "failed", "cancelled", "continued"):
            raise RunNotActive(self._run_id, row.status)
        outcome = await cancel_run(control, self._run_id, source="http")
        if outcome.won and self._abort is not None:
            if callable(self._abort):
                self._abort()
            else:
                self._abort.set()
        return json_response(outcome.wire())

    async def show_metrics(self, call: Call) -> ASGIApp:
        """`GET /metrics`."""
        run_id = self._run_id
        if run_id not in self._logs:
            self._logs[run_id] = LogCounter(lambda: self._adapter.store, run_id, self.metrics)
        for log in self._logs.values():
            await log.count()
        found = dict[str, float](await listing.gauges(self._control))
        return Response(self.metrics.render(found), 200, JSON_HEADERS, CONTENT_TYPE)

    async def openapi(self, call: Call) -> ASGIApp:
        """`GET /openapi.json`."""
        return json_response(self._document)
