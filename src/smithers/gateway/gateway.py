"""Gateway: the control plane. This module wires the rooms together and keeps their life; it decides nothing itself."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType

from smithers.ambient import SandboxMode
from smithers.asgi.embed import bind, bind_unix, is_loopback_bind, serve, tune_process, url_of
from smithers.components.workflow import SmithersWorkflow
from smithers.control.crons import checked_pattern
from smithers.engine.clock import Clock, SystemClock
from smithers.errors import InvalidInput, ServerInsecureBind
from smithers.gateway.auth.config import AuthConfig, parse_auth
from smithers.gateway.config import (
    DEFAULT_PORT,
    FEATURES,
    GatewayOptions,
    MonitorControl,
    RoutesHook,
    UiConfig,
    WebhookConfig,
    parse_defaults,
    parse_monitor,
    parse_ui,
    parse_webhook,
    refuse_unbuilt,
    text_tuple,
)
from smithers.gateway.entries import Entries, Entry
from smithers.gateway.extensions import Extensions
from smithers.gateway.house import House
from smithers.gateway.ui.mounts import check_mounts
from smithers.gateway.webhooks import check_webhook
from smithers.settings import Settings

log = logging.getLogger(__name__)


class GatewayServer:
    """A gateway that listens."""

    def __init__(self, gateway: Gateway, url: str, port: int | None, path: str | None) -> None:
        self._gateway = gateway
        self.url = url
        self.port = port
        self.path = path

    def __repr__(self) -> str:
        return f"<smithers gateway at {self.url}>"

    async def close(self) -> None:
        """Close the gateway."""
        await self._gateway.close()

    async def wait(self) -> None:
        """Until the gateway has been closed."""
        await self._gateway.closed()

    async def __aenter__(self) -> GatewayServer:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


class Gateway:
    """Serves many workflows to bots, dashboards and people: authenticate once, RPC, WebSocket, streams that resume.

    Args:
        auth: `TokenAuth`, `JwtAuth`, `TrustedProxyAuth`, or a mapping with `mode`. Without it every request from this
            machine is an operator's, and none from elsewhere is answered.
        protocol: the number of the protocol, as told in handshakes and health.
        features: what is told of beside it.
        heartbeat_ms: period of the `tick` that connections get, in milliseconds.
        allowed_origins: with `auth`, the only browser origins that are answered; empty for any.
        insecure: without `auth`, trust any Host and Origin.
        workspace_root: the folder of prompts; shown in health.
        identity: `{backend, version}` as shown in health.
        workflow_registry_refresh: called with a workflow key that is not registered; may register it.
        workflow_registry_refreshes_known: call it for keys that are registered too; it may register what has changed.
        workflow_registry_status: gives `{workflowsLoaded, workflowsTotal}` for health.
        workflow_registry_ready: waited for before workflows are listed.
        ui: a page for the whole gateway; True for the console.
        operator_ui: the built-in console's path, title and props; False for none.
        routes: an ASGI callable that is asked last; returns True if it has answered.
        out_of_process_event_bridge: stream events of runs that other processes drive.
        out_of_process_event_bridge_poll_ms: how long such events may be gathered, in milliseconds.
        max_body_bytes: the largest HTTP body.
        max_payload: the largest WebSocket message, in bytes.
        max_connections: WebSockets that have authenticated.
        max_pre_auth_connections: WebSockets that have not yet.
        auth_deadline_ms: time to authenticate after the upgrade, in milliseconds.
        event_window_size: how many events of a run a stream may replay.
        headers_timeout: time for a request's head, in milliseconds.
        request_timeout: time for a whole request, in milliseconds.
        idle_timeout_ms: after so long without sockets, runs, schedules and timers `on_idle` is called; 0 for never.
        on_idle: called once it is idle, and again after new activity; may be async.
        max_active_runs: runs that are started here at once; a launch beyond is stored and waits for its turn. With 0 all runs
            are left to workers, also those that are woken; only what somebody resumes here is driven here.
        max_queued_runs: so many may wait in a database; a launch beyond is refused.
        sandbox: `"off"` runs the commands of the tools of runs that are launched here without isolation; no caller can.
        max_frames_per_second: requests that one connection may make.
        metrics_need_token: whether `/metrics` needs `run:read`.
        defaults: `{cliAgentTools, outOfProcessEventBridge, outOfProcessEventBridgePollMs}`; of the first only `"all"`.
        oneshot_monitor: functions by `attach`, `steer` and `restart`, behind the routes of these names; may be async.
        hijack_pty: terminals of agents are not offered: only None.
        browser: browser sessions are not offered: only None.
        what_happened: tells, for the method of that name, what has happened, from `{runId, nodeId, iteration, scope, status,
            summary}`; gives a text, or `{summary, agentId}`. If it fails, `summary` is told, which is made from the log.
        settings: how engines work; from the environment by default.
        clock: the time; the machine's by default.

    Raises:
        InvalidInput: an option does not fit; names it.
    """

    def __init__(
        self,
        *,
        auth: AuthConfig | Mapping[str, object] | None = None,
        heartbeat_ms: int = 15_000,
        protocol: int = 1,
        features: Sequence[str] = FEATURES,
        allowed_origins: Sequence[str] = (),
        insecure: bool = False,
        workspace_root: str | Path | None = None,
        identity: Mapping[str, object] | None = None,
        workflow_registry_refresh: Callable[[str], Awaitable[object]] | None = None,
        workflow_registry_refreshes_known: bool = False,
        workflow_registry_status: Callable[[], Mapping[str, int]] | None = None,
        workflow_registry_ready: Callable[[], Awaitable[object]] | None = None,
        ui: UiConfig | Mapping[str, object] | bool | None = None,
        operator_ui: UiConfig | Mapping[str, object] | bool | None = True,
        routes: RoutesHook | None = None,
        out_of_process_event_bridge: bool | None = None,
        out_of_process_event_bridge_poll_ms: int | None = None,
        max_body_bytes: int = 1_048_576,
        max_payload: int = 1_048_576,
        max_connections: int = 1_000,
        max_pre_auth_connections: int = 64,
        auth_deadline_ms: int = 10_000,
        event_window_size: int = 10_000,
        headers_timeout: int = 30_000,
        request_timeout: int = 60_000,
        idle_timeout_ms: int = 0,
        on_idle: Callable[[], object] | None = None,
        max_active_runs: int = 2_000,
        max_queued_runs: int = 10_000,
        sandbox: SandboxMode = "required",
        max_frames_per_second: int = 5_000,
        metrics_need_token: bool = False,
        what_happened: Callable[[Mapping[str, object]], Awaitable[str | Mapping[str, object]]] | None = None,
        defaults: Mapping[str, object] | None = None,
        oneshot_monitor: Mapping[str, MonitorControl] | None = None,
        hijack_pty: None = None,
        browser: None = None,
        settings: Settings | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._settings = settings or Settings.from_environment()
        self._clock: Clock = clock or SystemClock()
        refuse_unbuilt(hijack_pty=hijack_pty, browser=browser)
        usual = parse_defaults(defaults)
        self.options = GatewayOptions(
            protocol=protocol,
            features=text_tuple(features, "features"),
            heartbeat_ms=heartbeat_ms,
            auth=parse_auth(auth),
            allowed_origins=text_tuple(allowed_origins, "allowed_origins"),
            insecure=insecure,
            trusts_any_host=self._settings.gateway_trusts_any_host,
            workspace_root=None if workspace_root is None else Path(workspace_root).resolve(),
            identity=dict(identity or {}),
            refresh=workflow_registry_refresh,
            status=workflow_registry_status,
            ready=workflow_registry_ready,
            ui=parse_ui(ui, "ui"),
            operator_ui=parse_ui(operator_ui, "operator_ui"),
            routes=routes,
            bridge=usual.bridge if out_of_process_event_bridge is None else out_of_process_event_bridge,
            bridge_poll_ms=(
                usual.bridge_poll_ms
                if out_of_process_event_bridge_poll_ms is None
                else out_of_process_event_bridge_poll_ms
            ),
            max_body_bytes=max_body_bytes,
            max_payload=max_payload,
            max_connections=max_connections,
            max_pre_auth_connections=max_pre_auth_connections,
            auth_deadline_ms=auth_deadline_ms,
            event_window_size=event_window_size,
            headers_timeout=headers_timeout,
            request_timeout=request_timeout,
            idle_timeout_ms=idle_timeout_ms,
            on_idle=on_idle,
            max_active_runs=max_active_runs,
            max_queued_runs=max_queued_runs,
            sandbox=sandbox,
            max_frames_per_second=max_frames_per_second,
            metrics_need_token=metrics_need_token,
            what_happened=what_happened,
            oneshot_monitor=parse_monitor(oneshot_monitor),
        )
        check_mounts(self.options)
        self._entries = Entries(
            workflow_registry_refresh, workflow_registry_ready, refreshes_known=workflow_registry_refreshes_known
        )
        self._extensions = Extensions()
        self._house: House | None = None
        self._serving: asyncio.Task[None] | None = None
        self._stop: asyncio.Event | None = None
        self._server: GatewayServer | None = None
        self._has_closed = asyncio.Event()
        self._path: Path | None = None

    # ── what is served ─────────────────────────────────────────────────────────────────────────────────────────────

    def register(
        self,
        key: str,
        workflow: SmithersWorkflow,
        *,
        schedule: str | None = None,
        webhook: WebhookConfig | Mapping[str, object] | None = None,
        ui: UiConfig | Mapping[str, object] | bool | None = None,
        system: bool = False,
        entry_file: str | Path | None = None,
    ) -> Gateway:
        """Serve a workflow under a key; a second one of the same key replaces the first. Works while listening too.

        Args:
            schedule: a cron pattern of five fields, or six with seconds first; runs start with an empty input.
            webhook: deliveries at `/webhooks/<key>` that signal or start runs.
            ui: a page at `/workflows/<key>`; True for the console.
            system: left out of lists unless they are asked for it.
            entry_file: the source file, so that a resume can tell whether it has changed.

        Raises:
            InvalidInput: an option does not fit; names it.
        """
        if schedule is not None:
            checked_pattern(schedule)
        hook = parse_webhook(webhook)
        if hook is not None:
            check_webhook(hook)
        file = None if entry_file is None else Path(entry_file)
        if file is not None and not file.is_absolute():
            raise InvalidInput("entry_file must be an absolute path", {"field": "entry_file"})
        if isinstance(workflow, SmithersWorkflow):  # anything else is refused by its key
            workflow = workflow.or_in(self._settings.db)
        entry = Entry(key, workflow, schedule, hook, parse_ui(ui, "ui"), system, file)
        check_mounts(self.options, [*(other for other in self._entries.now() if other.key != key), entry])
        self._entries.add(entry)
        if self._house is not None:
            self._house.registered(entry)
        return self

    def extend(self, namespace: str, definition: Mapping[str, object]) -> Gateway:
        """Add methods and streams of your own: `{resources, actions, streams}`, called as `ext.<namespace>.<key>`.

        Raises:
            InvalidInput: a name, scope or handler does not fit.
        """
        self._extensions.extend(namespace, definition)
        return self

    # ── life ───────────────────────────────────────────────────────────────────────────────────────────────────────

    async def listen(
        self, port: int = DEFAULT_PORT, host: str | None = None, path: str | Path | None = None
    ) -> GatewayServer:
        """Bind, then serve in this event loop. A second call gives the running server.

        Args:
            port: 0 for any free one.
            host: the address; this machine only where there is no `auth`, else all addresses.
            path: a Unix socket instead.

        Raises:
            OSError: the address cannot be bound.
            ServerInsecureBind: no `auth`, not `insecure`, and an address beyond this machine.
            StorageError: the database of a registered workflow cannot be opened.
        """
        if self._server is not None:
            return self._server
        options = self.options
        is_open = options.auth is None and not options.insecure
        if path is not None:
            listener = bind_unix(Path(path))
            self._path = Path(path)
        else:
            host = host if host is not None else ("127.0.0.1" if is_open else "0.0.0.0")
            if is_open and not is_loopback_bind(host):
                raise ServerInsecureBind(
                    f"a gateway without auth does not listen on {host}: configure auth, or insecure=True"
                )
            listener = bind(host, port)
        tune_process()
        house = House(options, self._entries, self._extensions, self._settings, self._clock)
        self._house = house
        self._has_closed = asyncio.Event()
        self._stop = asyncio.Event()
        number: int | None = None if path is not None else listener.getsockname()[1]
        url = f"unix:{path}" if path is not None else url_of(listener)
        self._server = GatewayServer(self, url, number, None if path is None else str(path))
        self._serving = asyncio.create_task(
            serve(
                house.app,
                listener,
                self._stop,
                headers_timeout_s=options.headers_timeout / 1000,
                request_timeout_s=options.request_timeout / 1000,
                max_message_bytes=options.max_payload,
            )
        )
        try:
            await house.start()
        except BaseException:
            await self.close()
            raise
        log.info("the gateway listens", extra={"url": url, "pid": os.getpid()})
        return self._server

    async def close(self) -> None:
        """Stop: accept nothing more, close connections, let work come to an end, give runs up so that others go on."""
        server, self._server = self._server, None
        if server is None:
            return
        house, serving, stop = self._house, self._serving, self._stop
        assert house is not None
        assert serving is not None
        assert stop is not None
        try:
            await house.quiesce()
            stop.set()
            await asyncio.gather(serving, return_exceptions=True)
            await house.close()
        finally:
            self._house = None
            if self._path is not None:
                self._path.unlink(missing_ok=True)
                self._path = None
            self._has_closed.set()

    async def closed(self) -> None:
        """Until the gateway has been closed."""
        if self._server is not None:
            await self._has_closed.wait()

    async def __aenter__(self) -> Gateway:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


__all__ = ["Gateway", "GatewayServer"]
