"""Metering: what is counted of a gateway's work, beside what the events of its runs tell."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, Protocol

from smithers.gateway.streams.mapping import STATUS_OF
from smithers.jsons import object_of

if TYPE_CHECKING:
    from smithers.events import EventRow
    from smithers.gateway.problems import RpcError
    from smithers.observability.metrics import Metrics

UNKNOWN: Final = "unknown"
"""The label of methods that are not there, which would be without number."""
SOCKET: Final = "websocket"
_LAUNCHES: Final = frozenset({"launchRun", "cronRun", "runs.rerun"})


class Sockets(Protocol):
    """What is counted of the connections, each number since the beginning."""

    opened: int
    received: int
    ticks: int

    @property
    def closed(self) -> Mapping[tuple[str, str], int]:
        """How many have ended, by close code and reason; few of each."""
        ...

    @property
    def sent(self) -> int:
        """How many frames were sent to clients."""
        ...


class Meter:
    """Counts calls, deliveries, schedules, refusals and connections."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def watch(self, sockets: Sockets) -> None:
        """Count what these connections do, which is too much for a look at each time: when somebody asks for it."""
        before: Counter[tuple[str, ...]] = Counter()

        def tell() -> None:
            now: dict[tuple[str, ...], int] = {
                ("gateway.connections_total", SOCKET): sockets.opened,
                ("gateway.messages_received_total", "frame", SOCKET): sockets.received,
                ("gateway.messages_sent_total", "frame", SOCKET): sockets.sent,
                ("gateway.heartbeat_ticks_total",): sockets.ticks,
            }
            for (code, reason), count in list(sockets.closed.items()):
                now["gateway.connections_closed_total", code, reason, SOCKET] = count
            for key, count in now.items():
                if count > before[key]:
                    self._metrics.count(*key, by=count - before[key])
                    before[key] = count

        self._metrics.before_collect.append(tell)

    def refused(self, transport: str) -> None:
        """Somebody was not let in."""
        self._metrics.count("gateway.auth_events_total", "unauthorized", transport)

    def happened(self, row: EventRow) -> None:
        """The next event of a run."""
        if row.type in STATUS_OF:
            self._metrics.count("gateway.runs_completed_total", STATUS_OF[row.type], "gateway")

    def called(self, method: str, transport: str, seconds: float, answer: object, problem: RpcError | None) -> None:
        """A method was called."""
        metrics = self._metrics
        metrics.count("gateway.rpc_calls_total", method, transport)
        metrics.observe("gateway.rpc_duration_ms", seconds * 1000, method, transport)
        if problem is not None:
            metrics.count("gateway.errors_total", problem.error_code, "rpc", transport)
            if problem.error_code in ("UNAUTHORIZED", "FORBIDDEN"):
                metrics.count("gateway.auth_events_total", problem.error_code.lower(), transport)
        elif method in _LAUNCHES:
            metrics.count("gateway.runs_started_total", transport)
        elif method == "submitApproval":
            is_approved = object_of(answer).get("approved") is True
            metrics.count("gateway.approval_decisions_total", "approved" if is_approved else "denied", transport)
        elif method == "submitSignal":
            metrics.count("gateway.signals_total", "accepted", transport)

    def cron_triggered(self) -> None:
        """A schedule has started a run."""
        self._metrics.count("gateway.cron_triggers_total", "schedule")

    def webhook(self, workflow: str, problem: RpcError | None) -> None:
        """A webhook was called."""
        self._metrics.count("gateway.webhooks_received_total", workflow)
        if problem is None:
            self._metrics.count("gateway.webhooks_verified_total", workflow)
        else:
            self._metrics.count("gateway.webhooks_rejected_total", workflow, problem.error_code)
