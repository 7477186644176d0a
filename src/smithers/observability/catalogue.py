"""The catalogue of metrics: names, labels and buckets. What feeds them is in `metrics.py`."""

from __future__ import annotations

from typing import Final


def _doubling(first: float, count: int) -> tuple[float, ...]:
    return tuple(first * 2**n for n in range(count))


DURATION: Final = _doubling(100, 12)
FAST: Final = _doubling(1, 12)
TOOL: Final = _doubling(10, 14)
TOKEN: Final = _doubling(10, 18)
SIZE: Final = _doubling(100, 16)

COUNTERS: Final[dict[str, tuple[str, ...]]] = {
    "runs.total": (),
    "runs.finished_total": (),
    "runs.failed_total": (),
    "runs.cancelled_total": (),
    "runs.continued_total": (),
    "runs.resumed_total": (),
    "nodes.started": (),
    "nodes.finished": (),
    "nodes.failed": (),
    "node.retries_total": (),
    "tool_calls.total": (),
    "tool_calls.errors_total": (),
    "errors.total": (),
    "events.emitted_total": (),
    "heartbeats.total": (),
    "heartbeats.timeout_total": (),
    "approvals.requested": (),
    "approvals.granted": (),
    "approvals.denied": (),
    "timers.created": (),
    "timers.fired": (),
    "timers.cancelled": (),
    "supervisor.polls_total": (),
    "supervisor.stale_detected": (),
    "supervisor.resumed_total": (),
    "supervisor.skipped_total": ("reason",),
    "sandbox.created_total": ("runtime",),
    "sandbox.completed_total": ("runtime", "status"),
    "scorer_events.started": (),
    "scorer_events.finished": (),
    "scorer_events.failed": (),
    "tokens.input_total": ("agent", "model"),
    "tokens.output_total": ("agent", "model"),
    "tokens.cache_read_total": ("agent", "model"),
    "tokens.cache_write_total": ("agent", "model"),
    "tokens.reasoning_total": ("agent", "model"),
    "agent_events_total": ("engine", "event_type", "source"),
    "http.requests": ("method", "route", "status_code", "status_class"),
    "hot.reloads": (),
    "hot.reload_failures": (),
    "snapshots.captured": (),
    "forks.created": (),
    "replays.started": (),
}
"""Counters without their prefix `smithers.`, each with its labels."""

GAUGES: Final = (
    "runs.active",
    "nodes.active",
    "approval.pending",
    "timers.pending",
    "process.uptime_seconds",
    "process.memory_rss_bytes",
)
"""Gauges without their prefix; computed when they are asked for."""

HISTOGRAMS: Final[dict[str, tuple[tuple[str, ...], tuple[float, ...]]]] = {
    "run.duration_ms": ((), DURATION),
    "node.duration_ms": ((), DURATION),
    "approval.wait_duration_ms": ((), DURATION),
    "timers.delay_ms": ((), DURATION),
    "http.request_duration_ms": (("method", "route", "status_code", "status_class"), FAST),
    "tokens.input_per_call": (("agent", "model"), TOKEN),
    "tokens.output_per_call": (("agent", "model"), TOKEN),
    "heartbeats.data_size_bytes": ((), SIZE),
    "supervisor.poll_duration_ms": ((), FAST),
}
"""Histograms without their prefix: labels and buckets."""

BY_EVENT: Final[dict[str, tuple[str, ...]]] = {
    "RunStarted": ("runs.total",),
    "RunFinished": ("runs.finished_total",),
    "RunFailed": ("runs.failed_total", "errors.total"),
    "RunCancelled": ("runs.cancelled_total",),
    "RunContinuedAsNew": ("runs.continued_total",),
    "RunAutoResumed": ("runs.resumed_total",),
    "NodeStarted": ("nodes.started",),
    "NodeFinished": ("nodes.finished",),
    "NodeFailed": ("nodes.failed", "errors.total"),
    "NodeRetrying": ("node.retries_total",),
    "ToolCallStarted": ("tool_calls.total",),
    "TaskHeartbeat": ("heartbeats.total",),
    "TaskHeartbeatTimeout": ("heartbeats.timeout_total",),
    "ApprovalRequested": ("approvals.requested",),
    "ApprovalGranted": ("approvals.granted",),
    "ApprovalAutoApproved": ("approvals.granted",),
    "ApprovalDenied": ("approvals.denied",),
    "TimerCreated": ("timers.created",),
    "TimerFired": ("timers.fired",),
    "TimerCancelled": ("timers.cancelled",),
    "SupervisorPollCompleted": ("supervisor.polls_total",),
    "ScorerStarted": ("scorer_events.started",),
    "ScorerFinished": ("scorer_events.finished",),
    "ScorerFailed": ("scorer_events.failed", "errors.total"),
    "WorkflowReloaded": ("hot.reloads",),
    "WorkflowReloadFailed": ("hot.reload_failures",),
    "SnapshotCaptured": ("snapshots.captured",),
    "RunForked": ("forks.created",),
    "ReplayStarted": ("replays.started",),
    "SandboxFailed": ("errors.total",),
    "SandboxDiffRejected": ("errors.total",),
}
"""What an event counts, whatever it holds."""
