"""Hub: all WebSocket connections: the pools, who is told of what, and how a stop ends them.

An event is encoded once; per connection only its number is put in.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import TYPE_CHECKING, Protocol, cast

from pydantic_core import to_json

from smithers.errors import json_safe
from smithers.events import EventRow
from smithers.gateway.auth.identity import Identity
from smithers.gateway.auth.scopes import holds
from smithers.gateway.streams.mapping import event_name, event_payload
from smithers.gateway.ws.connection import Connection, event_head, event_tail

if TYPE_CHECKING:
    from starlette.types import Scope

    from smithers.gateway.config import GatewayOptions
    from smithers.gateway.devtools.stream import DevToolsStreams
    from smithers.gateway.dispatch import Dispatcher
    from smithers.gateway.streams.run_streams import RunStreams

log = logging.getLogger(__name__)

RUN_READ = "run:read"

BuildSnapshot = Callable[[Collection[str] | None], Awaitable[Mapping[str, object]]]
"""Gives `{runs, approvals}` of a hello, of these runs only if any are given."""


class Doors(Protocol):
    """What connections ask of the doorkeeper. All raise `RpcError`."""

    def upgrade(self, headers: list[tuple[bytes, bytes]], *, is_tls: bool, peer: str | None) -> None:
        """Whether a socket may be opened."""
        ...

    def connect(
        self, headers: list[tuple[bytes, bytes]], *, is_tls: bool, peer: str | None, token: str | None
    ) -> Identity:
        """Who connects."""
        ...

    def recheck(self, identity: Identity) -> None:
        """Whether somebody who has connected may stay."""
        ...


class SocketHub:
    """The connections of a gateway. Belongs to one event loop.

    Args:
        snapshot: makes what a hello shows; asked only for callers with `run:read`.
        gateway_identity: which gateway this is, as health shows it.
        on_event: told of the name of each event that is pushed to all.
    """

    def __init__(
        self,
        options: GatewayOptions,
        doorkeeper: Doors,
        *,
        snapshot: BuildSnapshot,
        gateway_identity: Callable[[], Mapping[str, object]],
        on_event: Callable[[str], None] = lambda _name: None,
    ) -> None:
        self.options = options
        self.doorkeeper = doorkeeper
        self.snapshot = snapshot
        self.gateway_identity = gateway_identity
        self.dispatcher: Dispatcher
        """Answers requests; set before the first connection."""
        self.streams: RunStreams | None = None
        """Told of every event of a run, if it is set."""
        self.devtools: DevToolsStreams | None = None
        """Told of every event of a run, if it is set."""
        self._on_event = on_event
        self.state_version = 0
        """How many events were pushed to all."""
        self.received = 0
        """How many frames clients have sent."""
        self.opened = 0
        """How many connections there have been."""
        self.ticks = 0
        """How many ticks were sent."""
        self.closed: Counter[tuple[str, str]] = Counter()
        """How many connections have ended, by close code and reason."""
        self.sent_before = 0
        """How many frames were sent to connections that have ended."""
        self._entering: set[Connection] = set()
        """Connections that have not authenticated."""
        self._inside: set[Connection] = set()
        self._unfiltered: dict[Connection, None] = {}
        """Connections that are told of all runs."""
        self._by_run: dict[str, dict[Connection, None]] = {}
        """Connections that have named runs, by each of them."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_closed = False

    # ── pools ──────────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def active_count(self) -> int:
        """How many connections have authenticated."""
        return len(self._inside)

    @property
    def connections(self) -> list[Connection]:
        """Those that have authenticated."""
        return list(self._inside)

    @property
    def sent(self) -> int:
        """How many frames were sent to clients."""
        return self.sent_before + sum(c.sent for c in (*self._entering, *self._inside))

    @property
    def is_full(self) -> bool:
        """Whether nobody more may authenticate."""
        return len(self._inside) >= self.options.max_connections

    @property
    def has_room(self) -> bool:
        """Whether a socket more may be opened."""
        return not (self._is_closed or self.is_full or len(self._entering) >= self.options.max_pre_auth_connections)

    def check_upgrade(self, scope: Scope) -> None:
        """Whether this request may become a connection. Raises `RpcError`."""
        self.doorkeeper.upgrade(scope["headers"], is_tls=scope.get("scheme") == "wss", peer=_peer(scope))

    def identify(self, scope: Scope, token: str | None) -> Identity:
        """Who connects. Raises `RpcError`."""
        return self.doorkeeper.connect(
            scope["headers"], is_tls=scope.get("scheme") == "wss", peer=_peer(scope), token=token
        )

    def add(self, connection: Connection) -> None:
        """A socket was opened."""
        self.opened += 1
        self._entering.add(connection)

    def enter(self, connection: Connection) -> None:
        """A connection has authenticated; one that does so again has been forgotten before."""
        self._entering.discard(connection)
        self._inside.add(connection)
        identity = connection.identity
        if identity is None or not holds(identity.scopes, RUN_READ):
            return
        if connection.runs is None:
            self._unfiltered[connection] = None
        else:
            for run_id in connection.runs:
                self._by_run.setdefault(run_id, {})[connection] = None

    def listen(self, connection: Connection, run_id: str) -> None:
        """A connection that names runs has named one more."""
        identity = connection.identity
        if connection in self._inside and identity is not None and holds(identity.scopes, RUN_READ):
            self._by_run.setdefault(run_id, {})[connection] = None

    def forget(self, connection: Connection) -> None:
        """A connection is told of nothing more."""
        self._entering.discard(connection)
        self._inside.discard(connection)
        self._unfiltered.pop(connection, None)
        for run_id in connection.runs or ():
            group = self._by_run.get(run_id)
            if group is not None:
                group.pop(connection, None)
                if not group:
                    del self._by_run[run_id]

    def keep(self, task: asyncio.Task[None]) -> None:
        """Cancel this at the end, if it is not done by then."""
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def recheck(self) -> None:
        """Close the connections whose grant holds no more."""
        for connection in list(self._inside):
            connection.recheck()

    async def close(self, patience_s: float = 1.0) -> None:
        """Close all connections, open none more, and give requests under way so long to come to an end, in seconds."""
        self._is_closed = True
        for connection in [*self._entering, *self._inside]:
            connection.close()
        tasks = list(self._tasks)
        if tasks:
            await asyncio.wait(tasks, timeout=patience_s)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    # ── events ─────────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def has_listeners(self) -> bool:
        """Whether any connection is told of runs."""
        return bool(self._unfiltered or self._by_run)

    def publish(self, run_id: str, row: EventRow) -> None:
        """A run's next stored event: push what it means, to connections by itself or through their streams."""
        if self.devtools is not None:
            self.devtools.note(run_id, row)
        name = event_name(row)
        streams = self.streams
        is_streamed = streams is not None and streams.has_streams(run_id)
        if name is None:
            if is_streamed and streams is not None:
                streams.deliver(run_id, row, None, "")
            return
        self.state_version += 1
        self._on_event(name)
        named = self._by_run.get(run_id)
        if not (self._unfiltered or named or is_streamed):
            return
        payload = event_payload(run_id, row)
        head, tail = event_head(name, payload.encode()), event_tail(self.state_version)
        for group in (self._unfiltered, named):
            for connection in list(group or ()):
                if run_id not in connection.streamed:
                    connection.push(head, tail)
        if is_streamed and streams is not None:
            streams.deliver(run_id, row, name, payload)

    def broadcast(self, name: str, payload: Mapping[str, object] | str, run_id: str | None, scope: str) -> None:
        """Push an event of the gateway's own to connections that hold a scope and are told of the run, if it names one.

        Args:
            payload: a mapping, or JSON text.
        """
        self.state_version += 1
        self._on_event(name)
        text = payload if isinstance(payload, str) else to_json(json_safe(payload)).decode()
        head, tail = event_head(name, text.encode()), event_tail(self.state_version)
        for connection in list(self._inside):
            identity = connection.identity
            wants = run_id is None or connection.runs is None or run_id in connection.runs
            if wants and identity is not None and holds(identity.scopes, scope):
                connection.push(head, tail)


def _peer(scope: Scope) -> str | None:
    client = cast("tuple[str, int] | None", scope.get("client"))
    return None if client is None else client[0]
