"""Metering: what is counted of a gateway's work, beside what the events of its runs tell."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from smithers.jsons import object_of

if TYPE_CHECKING:
    from smithers.gateway.problems import RpcError
    from smithers.observability.metrics import Metrics

UNKNOWN: Final = "unknown"
"""The label of methods that are not there, which would be without number."""
_LAUNCHES: Final = frozenset({"launchRun", "cronRun", "runs.rerun"})


class Meter:
    """Counts calls, deliveries and schedules."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

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
