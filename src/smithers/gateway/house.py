"""House: everything behind a listening gateway, made in its event loop and taken down in order."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Collection, Coroutine
from functools import partial
from typing import TYPE_CHECKING

from pydantic_core import to_json
from starlette.types import ASGIApp, Receive, Scope, Send

from smithers.asgi.guards import Guard
from smithers.asgi.openapi import document
from smithers.asgi.routing import Call, Doc, HttpApp, Route
from smithers.components.workflow import SmithersWorkflow
from smithers.control import crons, run_lists
from smithers.control.accounts import UsageDesk
from smithers.control.crons import CronFire
from smithers.control.hosting import Hosting, Place
from smithers.control.narrating import Storyteller
from smithers.control.workflows import WorkflowFiles
from smithers.engine.clock import Clock
from smithers.errors import RunNotFound, SmithersError
from smithers.events import EventRow
from smithers.gateway.auth.doorkeeper import Doorkeeper
from smithers.gateway.auth.identity import Identity
from smithers.gateway.auth.watch import GrantWatch
from smithers.gateway.changes import ChangeFeed, collections_of
from smithers.gateway.config import GatewayOptions, RoutesHook
from smithers.gateway.cron import CronPlace, CronScheduler
from smithers.gateway.devtools.stream import DevToolsStreams
from smithers.gateway.dispatch import Dispatcher
from smithers.gateway.entries import Entries, Entry
from smithers.gateway.extensions import Extensions
from smithers.gateway.http import HttpRoutes, frame_problem, json_answer
from smithers.gateway.idle import IdleMonitor
from smithers.gateway.launching import LaunchDesk, LaunchOptions, Trigger
from smithers.gateway.metering import Meter
from smithers.gateway.problems import RpcError
from smithers.gateway.rest.routes import RestRoutes
from smithers.gateway.rpc.areas import AREAS
from smithers.gateway.rpc.registry import Methods
from smithers.gateway.services import Services
from smithers.gateway.streams.feed import Feed
from smithers.gateway.streams.run_streams import RunStreams
from smithers.gateway.tickets_folder import watch_tickets
from smithers.gateway.ui.mounts import UiMounts
from smithers.gateway.webhooks import WebhookRoutes
from smithers.gateway.ws.extension_streams import open_extension_stream
from smithers.gateway.ws.hub import SocketHub
from smithers.gateway.ws.serving import serve_socket
from smithers.observability.feed import EventFeed
from smithers.observability.lifecycle import log_event
from smithers.observability.metrics import Metrics
from smithers.settings import Settings
from smithers.store import database_name
from smithers.store.interface import RunRow
from smithers.store.sql import wakeups
from smithers.store.sql.crons import TARGET
from smithers.vcs import git

if TYPE_CHECKING:
    from smithers.observability.telemetry import Telemetry

log = logging.getLogger(__name__)


class House:
    """The rooms of a listening gateway.

    Args:
        options: as the gateway was made with.
        entries: the registered workflows.
        extensions: the host's own methods.
    """

    def __init__(
        self, options: GatewayOptions, entries: Entries, extensions: Extensions, settings: Settings, clock: Clock
    ) -> None:
        self._options = options
        self._entries = entries
        self._settings = settings
        self._metrics = Metrics(is_gateway=True)
        git.time_commands(self._metrics.timed)
        self._meter = Meter(self._metrics)
        self._idle: IdleMonitor | None = None
        self._telemetry: Telemetry | None = None
        self._tasks: set[asyncio.Task[object]] = set()
        self._feeds: dict[str, Feed] = {}
        self._doorkeeper = Doorkeeper(
            options.auth,
            insecure=options.insecure,
            trusts_any_host=options.trusts_any_host,
            allowed_origins=options.allowed_origins,
            clock_ms=clock.now_ms,
            refused=self._meter.refused,
        )
        self._hosting = Hosting(
            WorkflowFiles(None),
            settings,
            clock=clock,
            on_open=self._opened,
            workflow_of=self._workflow_of,
            room=lambda: self._desk.room,
            homes=lambda: self._desk.places(),
            drives=options.max_active_runs > 0,
        )
        self._desk = LaunchDesk(
            entries, self._hosting, clock, options.max_active_runs, options.max_queued_runs, options.sandbox
        )
        self._changes = ChangeFeed()
        self._mounts = UiMounts(options, entries)
        self._streams = RunStreams(
            self._hosting.find,
            self._snapshot_of,
            window=options.event_window_size,
            state_version=lambda: self._sockets.state_version,
            follow=self._follow,
        )
        self._devtools = DevToolsStreams(self._hosting.find, self._follow)
        self.services = self._make_services(clock)
        dispatcher = Dispatcher(Methods(AREAS), self.services, extensions, self._meter)
        self._sockets = SocketHub(
            options,
            self._doorkeeper,
            snapshot=self._hello_snapshot,
            gateway_identity=lambda: self.services.identity,
            on_event=lambda name: self._changes.note(*collections_of(name)),
        )
        self._meter.watch(self._sockets)
        self._sockets.dispatcher = dispatcher
        self._sockets.streams = self._streams
        self._sockets.devtools = self._devtools
        extensions.open_stream = open_extension_stream
        self._scheduler = CronScheduler(clock, self._cron_places, self._fire, self._triggered, options.sweep_s)
        self._http = HttpRoutes(
            self.services, dispatcher, self._doorkeeper, self._render, self._mounts.path_of, self._mounts.paths
        )
        self._rest = RestRoutes(self.services, dispatcher, self._http.identify)
        self.app = self._make_app()
        self._grants = GrantWatch(self._doorkeeper, clock, self._recheck)

    def _make_services(self, clock: Clock) -> Services:
        """What the methods work with; what is made later than this is asked for when it is needed."""
        return Services(
            options=self._options,
            entries=self._entries,
            hosting=self._hosting,
            launching=self._desk,
            changes=self._changes,
            streams=self._streams,
            devtools=self._devtools,
            clock=clock,
            broadcast=self._broadcast,
            state_version=lambda: self._sockets.state_version,
            usage=UsageDesk(self._settings.accounts_file, clock),
            accounts_file=self._settings.accounts_file,
            started_at_ms=clock.now_ms(),
            pid=os.getpid(),
            ui_path_of=self._mounts.path_of,
            wake_crons=lambda: self._scheduler.changed(),
            still_valid=self._is_valid,
            stories=Storyteller(self._options.what_happened),
        )

    def _make_app(self) -> HttpApp:
        routes = [*self._http.table(), *self._rest.table(), *WebhookRoutes(self.services, self._meter).table()]
        spec = to_json(document("Smithers gateway", routes))

        async def openapi(call: Call) -> ASGIApp:
            return json_answer(spec)

        routes.append(Route("GET", "/v1/openapi.json", openapi, Doc("This document", "gateway"), access="open"))
        app = HttpApp(
            routes,
            Guard(),
            max_body_bytes=self._options.max_body_bytes,
            observe=self._observe,
            fallback=self._fallback,
            problem=frame_problem,
            websocket=partial(serve_socket, hub=self._sockets),
        )
        self.services.drain = app.drain
        return app

    def _observe(self, method: str, route: str, status: int, taken_ms: float) -> None:
        self._metrics.track_request(method, route, status, taken_ms)
        if self._idle is not None and route not in ("/health", "/metrics"):
            self._idle.used()

    async def _fallback(self, call: Call) -> ASGIApp:
        """What no route answers: pages, the host's own routes, the root page."""
        path: str = call.scope["path"]
        if path == "/v1/api" or path.startswith("/v1/api/"):
            return await self._rest.refuse(call)
        page = await self._mounts.answer(call, self._http.identify)
        if page is not None:
            return page
        if self._options.routes is not None:
            return HostRoutes(self._options.routes)
        if path == "/" and call.scope["method"] in ("GET", "HEAD"):
            return self._http.root(self._mounts.console_path)
        return not_found()

    # ── life ───────────────────────────────────────────────────────────────────────────────────────────────────────

    async def start(self) -> None:
        """Open the databases of the registered workflows, store their schedules, go on with what was under way.

        Raises `StorageError`, `InvalidInput`.
        """
        if self._settings.otel_enabled:
            from smithers.observability.telemetry import open_telemetry

            self._telemetry = open_telemetry(self._settings)
            if self._telemetry is not None:
                self._telemetry.add(self._metrics, self._hosting.gauges)
        for entry in self._entries.now():
            await self._welcome(entry)
        self._scheduler.start()
        folder = self._settings.tickets_dir
        if folder is not None and self._hosting.places:
            control = self._hosting.places[0].control
            self._spawn(watch_tickets(control, folder, lambda: self._changes.note("tickets", "docs")))
        if self._options.idle_timeout_ms and self._options.on_idle is not None:
            monitor = IdleMonitor(self._options.idle_timeout_ms / 1000, self._is_busy, self._options.on_idle)
            self._idle = monitor
            self._spawn(monitor.run())

    async def _is_busy(self) -> bool:
        """Whether there are sockets, streams, runs at work, schedules or pending timers."""
        if self._sockets.active_count or self.services.stream_caps.total:
            return True
        for place in self._hosting.places:
            if place.engine.drivers or await place.store.aread(wakeups.next_due) is not None:
                return True
        return await self._scheduler.next_due() is not None

    def registered(self, entry: Entry) -> None:
        """A workflow was registered while the gateway listens."""
        self._changes.note("workflows")
        self._spawn(self._welcome_late(entry))

    async def _welcome(self, entry: Entry) -> None:
        place = await self._desk.place_of(entry)
        await place.engine.store.ensure_tables(place.engine.tables(entry.workflow))
        if entry.schedule is not None:
            await crons.declare_cron(place.control, workflow=entry.key, pattern=entry.schedule)
        self._scheduler.changed()

    async def _welcome_late(self, entry: Entry) -> None:
        try:
            await self._welcome(entry)
        except SmithersError as error:
            log.warning("a workflow cannot be served", extra={"workflow": entry.key, "code": error.error_code})

    async def quiesce(self) -> None:
        """Take no more work: no launches, no schedules, no sockets."""
        self._desk.is_closing = True
        self._grants.close()
        await self._scheduler.close()
        self.app.drain.start()
        await self._sockets.close()

    async def close(self) -> None:
        """Give all runs up cleanly and close the databases."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._changes.close()
        for feed in self._feeds.values():
            await feed.close()
        await self._hosting.close()
        if self._telemetry is not None:
            self._metrics.close()
            await asyncio.to_thread(self._telemetry.close)

    def _spawn(self, job: Coroutine[object, object, object]) -> None:
        task = asyncio.get_running_loop().create_task(job)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # ── what the rooms ask of each other ───────────────────────────────────────────────────────────────────────────

    def _opened(self, place: Place) -> None:
        """A database was opened: tell of its events."""
        EventFeed(place.store, place.hub, self._metrics.track_event, log_event)
        place.store.time(self._metrics.timed)
        self._feeds[place.path] = Feed(
            place,
            self._happened,
            follows_others=self._options.bridge,
            poll_s=self._options.bridge_poll_ms / 1000,
            is_wanted=lambda: self._sockets.has_listeners or self.services.stream_caps.total > 0,
        )

    def _happened(self, run_id: str, row: EventRow) -> None:
        self._meter.happened(row)
        self._sockets.publish(run_id, row)

    def _follow(self, place: Place, run_id: str, begins: bool) -> None:
        feed = self._feeds.get(place.path)
        if feed is not None:
            (feed.follow if begins else feed.unfollow)(run_id)

    def _broadcast(self, name: str, payload: dict[str, object], run_id: str | None, scope: str) -> None:
        self._sockets.broadcast(name, payload, run_id, scope)

    def _is_valid(self, identity: Identity) -> bool:
        try:
            self._doorkeeper.recheck(identity)
        except RpcError:
            return False
        return True

    def _recheck(self) -> None:
        """Grants have changed: whoever may no longer stay is shown out."""
        self._sockets.recheck()
        self._changes.nudge()

    async def _workflow_of(self, place: Place, row: RunRow) -> SmithersWorkflow | None:
        return await self._desk.workflow_of(place, row)

    async def _snapshot_of(self, place: Place, run_id: str) -> object:
        try:
            found = await run_lists.run_record(place.control, run_id, registered=self._entries.names())
        except RunNotFound:
            return None
        return {key: value for key, value in found.items() if key not in ("system", "startedBy")}

    async def _hello_snapshot(self, run_ids: Collection[str] | None) -> dict[str, object]:
        """The runs and approvals that a new connection begins with; only those of a list, if it gave one."""
        names, controls = self._entries.names(), [place.control for place in await self._desk.places()]
        runs = await run_lists.live_runs(controls, registered=names, run_ids=run_ids)
        approvals: list[dict[str, object]] = []
        for control in controls:
            if run_ids is None:
                approvals += await run_lists.pending_approvals(control, registered=names)
            else:
                for run in runs:
                    approvals += await run_lists.pending_approvals(control, run_id=str(run["runId"]), registered=names)
        return {"runs": runs, "approvals": approvals}

    async def _render(self) -> bytes:
        return self._metrics.render(await asyncio.to_thread(self._hosting.gauges)).encode()

    # ── schedules ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _cron_places(self) -> list[CronPlace]:
        keys: dict[str, list[str]] = {}
        for entry in self._entries.now():
            keys.setdefault(database_name(entry.workflow.db), []).append(entry.key)
        return [CronPlace(p.control, keys[p.path]) for p in self._hosting.places if p.path in keys]

    async def _fire(self, fire: CronFire) -> str:
        key = fire.cron.workflow_path.removeprefix(TARGET)
        options = LaunchOptions(idempotency_key=fire.idempotency_key)
        found = await self._desk.launch(key, {}, Trigger.system("cron:gateway"), options)
        return str(found["runId"])

    def _triggered(self, cron_id: str, workflow: str, run_id: str) -> None:
        payload: dict[str, object] = {"cronId": cron_id, "workflow": workflow, "runId": run_id}
        self._meter.cron_triggered()
        self._broadcast("cron.triggered", payload, run_id, "cron:read")


class HostRoutes:
    """The host's own routes, and what is answered when they decline."""

    def __init__(self, routes: RoutesHook) -> None:
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, as ASGI has it."""
        if not await self._routes(scope, receive, send):
            await not_found()(scope, receive, send)


def not_found() -> ASGIApp:
    """The answer for a path that nobody answers."""
    return json_answer(b'{"error":{"code":"NOT_FOUND","message":"Route not found"}}', 404)
