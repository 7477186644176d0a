"""Services: what handlers of every transport share: workflows, runs, options, the feeds. Made once by the gateway."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from smithers.asgi.drain import Drain
from smithers.control.accounts import UsageDesk
from smithers.control.narrating import Storyteller
from smithers.engine.clock import Clock
from smithers.gateway.auth.identity import Identity
from smithers.gateway.caps import StreamCaps
from smithers.gateway.changes import ChangeFeed
from smithers.gateway.config import GatewayOptions
from smithers.gateway.entries import Entries

if TYPE_CHECKING:
    from smithers.control.hosting import Hosting
    from smithers.gateway.devtools.stream import DevToolsStreams
    from smithers.gateway.launching import LaunchDesk
    from smithers.gateway.streams.run_streams import RunStreams


@dataclass(slots=True)
class Services:
    """Everything that a method may need.

    Attributes:
        broadcast: push an event of the gateway's own to all sockets: name, payload, run id, scope that it needs.
        state_version: how many events were pushed.
    """

    options: GatewayOptions
    entries: Entries
    hosting: Hosting
    launching: LaunchDesk
    changes: ChangeFeed
    streams: RunStreams
    devtools: DevToolsStreams
    clock: Clock
    broadcast: Callable[[str, dict[str, object], str | None, str], None]
    state_version: Callable[[], int]
    usage: UsageDesk
    accounts_file: Path
    started_at_ms: int
    pid: int
    ui_path_of: Callable[[str], str | None] = lambda _key: None
    wake_crons: Callable[[], None] = lambda: None
    stories: Storyteller = field(default_factory=Storyteller)
    still_valid: Callable[[Identity], bool] = lambda _identity: True
    drain: Drain = field(default_factory=Drain)
    stream_caps: StreamCaps = field(default_factory=StreamCaps)
    started: float = field(default_factory=time.monotonic)

    @property
    def uptime_ms(self) -> int:
        """How long the gateway has been up."""
        return int((time.monotonic() - self.started) * 1000)

    @property
    def identity(self) -> dict[str, object]:
        """Which gateway this is."""
        options = self.options
        return {
            "workspaceRoot": None if options.workspace_root is None else str(options.workspace_root),
            "backend": options.identity.get("backend"),
            "version": options.identity.get("version"),
            "pid": self.pid,
            "startedAtMs": self.started_at_ms,
        }
