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

_TOKENS: Final = ("agent", "model")
_MODEL: Final = ("engine", "model")

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
    "tool.output_truncated_total": (),
    "cache.hits": (),
    "cache.misses": (),
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
    "scorers.started": (),
    "scorers.finished": (),
    "scorers.failed": (),
    "tokens.input_total": _TOKENS,
    "tokens.output_total": _TOKENS,
    "tokens.cache_read_total": _TOKENS,
    "tokens.cache_write_total": _TOKENS,
    "tokens.reasoning_total": _TOKENS,
    "tokens.context_window_bucket_total": ("agent", "bucket", "model"),
    "agent_events_total": ("engine", "event_type", "source"),
    "agent_invocations_total": _MODEL,
    "agent_tokens_total": (*_MODEL, "kind", "source"),
    "agent_errors_total": (*_MODEL, "reason", "source"),
    "agent_retries_total": (*_MODEL, "reason", "source"),
    "agent_sessions_total": ("engine", "model", "resume", "source", "status"),
    "agent_actions_total": ("action_kind", "engine", "entry_type", "level", "ok", "phase", "source"),
    "http.requests": ("method", "route", "status_code", "status_class"),
    "hot.reloads": (),
    "hot.reload_failures": (),
    "memory.fact_writes": (),
    "memory.recall_queries": (),
    "memory.message_saves": (),
    "openapi.tool_calls": (),
    "openapi.tool_call_errors": (),
    "snapshots.captured": (),
    "forks.created": (),
    "replays.started": (),
}
"""Counters without their prefix `smithers.`, each with its labels; those that no event feeds are fed by `HttpApp`."""

GAUGES: Final = (
    "runs.active",
    "nodes.active",
    "approval.pending",
    "timers.pending",
    "scheduler.queue_depth",
    "scheduler.concurrency_utilization",
    "external_wait.async_pending|kind=approval",
    "external_wait.async_pending|kind=event",
    "process.uptime_seconds",
    "process.memory_rss_bytes",
)
"""Gauges without their prefix; computed when they are asked for. One with a label has it behind a bar."""

CORRECTION: Final = "schema-"
"""How the ids of actions begin that ask an agent again because its answer did not fit."""

CONTEXT: Final = (50_000.0, 100_000.0, 200_000.0, 500_000.0, 1_000_000.0)

HISTOGRAMS: Final[dict[str, tuple[tuple[str, ...], tuple[float, ...]]]] = {
    "run.duration_ms": ((), DURATION),
    "scheduler.wait_duration_ms": ((), DURATION),
    "db.query_ms": ((), FAST),
    "db.transaction_ms": ((), FAST),
    "vcs.duration_ms": ((), FAST),
    "prompt.size_bytes": ((), SIZE),
    "response.size_bytes": ((), SIZE),
    "node.duration_ms": ((), DURATION),
    "attempt.duration_ms": ((), DURATION),
    "agent_duration_ms": (_MODEL, DURATION),
    "tool.duration_ms": ((), TOOL),
    "approval.wait_duration_ms": ((), DURATION),
    "timers.delay_ms": ((), DURATION),
    "supervisor.poll_duration_ms": ((), FAST),
    "supervisor.resume_lag_ms": ((), DURATION),
    "sandbox.duration_ms": ((), DURATION),
    "sandbox.bundle_size_bytes": ((), SIZE),
    "sandbox.patch_count": ((), TOKEN),
    "http.request_duration_ms": (("method", "route", "status_code", "status_class"), FAST),
    "heartbeats.interval_ms": ((), FAST),
    "heartbeats.data_size_bytes": ((), SIZE),
    "tokens.input_per_call": (_TOKENS, TOKEN),
    "tokens.output_per_call": (_TOKENS, TOKEN),
    "tokens.context_window_per_call": (_TOKENS, CONTEXT),
    "runs.ancestry_depth": ((), _doubling(1, 12)),
    "runs.carried_state_bytes": ((), _doubling(256, 17)),
    "openapi.tool_duration_ms": ((), TOOL),
}
"""Histograms without their prefix: labels and buckets."""

GATEWAY_COUNTERS: Final[dict[str, tuple[str, ...]]] = {
    "gateway.connections_total": ("transport",),
    "gateway.connections_closed_total": ("code", "reason", "transport"),
    "gateway.messages_received_total": ("kind", "transport"),
    "gateway.messages_sent_total": ("kind", "transport"),
    "gateway.rpc_calls_total": ("method", "transport"),
    "gateway.errors_total": ("code", "stage", "transport"),
    "gateway.runs_started_total": ("transport",),
    "gateway.runs_completed_total": ("status", "transport"),
    "gateway.approval_decisions_total": ("decision", "transport"),
    "gateway.signals_total": ("outcome", "transport"),
    "gateway.auth_events_total": ("outcome", "transport"),
    "gateway.heartbeat_ticks_total": (),
    "gateway.cron_triggers_total": ("source",),
    "gateway.webhooks_received_total": ("provider",),
    "gateway.webhooks_verified_total": ("provider",),
    "gateway.webhooks_rejected_total": ("provider", "reason"),
}
"""What only a gateway counts, by `Metrics.count`."""

GATEWAY_HISTOGRAMS: Final[dict[str, tuple[tuple[str, ...], tuple[float, ...]]]] = {
    "gateway.rpc_duration_ms": (("method", "transport"), DURATION),
}
"""What only a gateway measures, by `Metrics.observe`."""

BY_EVENT: Final[dict[str, tuple[str, ...]]] = {
    "RunStarted": ("runs.total",),
    "RunFinished": ("runs.finished_total",),
    "RunFailed": ("runs.failed_total", "errors.total"),
    "RunCancelled": ("runs.cancelled_total",),
    "RunContinuedAsNew": ("runs.continued_total",),
    "RunAutoResumed": ("supervisor.resumed_total",),
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
    "ScorerStarted": ("scorer_events.started", "scorers.started"),
    "ScorerFinished": ("scorer_events.finished", "scorers.finished"),
    "ScorerFailed": ("scorer_events.failed", "scorers.failed", "errors.total"),
    "WorkflowReloaded": ("hot.reloads",),
    "WorkflowReloadFailed": ("hot.reload_failures",),
    "SnapshotCaptured": ("snapshots.captured",),
    "RunForked": ("forks.created",),
    "ReplayStarted": ("replays.started",),
    "SandboxFailed": ("errors.total",),
    "SandboxDiffRejected": ("errors.total",),
    "MemoryFactSet": ("memory.fact_writes",),
    "MemoryRecalled": ("memory.recall_queries",),
    "MemoryMessageSaved": ("memory.message_saves",),
    "OpenApiToolCalled": ("openapi.tool_calls",),
}
"""What an event counts, whatever it holds."""

MEASURED: Final[dict[str, tuple[tuple[str, str], ...]]] = {
    "RunStarted": (("queuedMs", "scheduler.wait_duration_ms"),),
    "NodeFinished": (("promptSizeBytes", "prompt.size_bytes"), ("responseSizeBytes", "response.size_bytes")),
    "TimerFired": (("delayMs", "timers.delay_ms"),),
    "TaskHeartbeat": (("dataSizeBytes", "heartbeats.data_size_bytes"), ("intervalMs", "heartbeats.interval_ms")),
    "RunAutoResumed": (("staleDurationMs", "supervisor.resume_lag_ms"),),
    "SupervisorPollCompleted": (("durationMs", "supervisor.poll_duration_ms"),),
    "RunContinuedAsNew": (
        ("carriedStateSize", "runs.carried_state_bytes"),
        ("ancestryDepth", "runs.ancestry_depth"),
    ),
    "SandboxShipped": (("bundleSizeBytes", "sandbox.bundle_size_bytes"),),
    "SandboxBundleReceived": (("bundleSizeBytes", "sandbox.bundle_size_bytes"), ("patchCount", "sandbox.patch_count")),
    "SandboxCompleted": (("durationMs", "sandbox.duration_ms"),),
    "OpenApiToolCalled": (("durationMs", "openapi.tool_duration_ms"),),
}
"""Fields of events that are numbers to be measured, each with its histogram."""
