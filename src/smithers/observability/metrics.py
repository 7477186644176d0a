"""Metrics: one registry a host, fed by the event log, shown as Prometheus text or sent by `export.py`.

Labels are bounded: values come from fixed sets or are cut and, past a number of different ones, called `other`; no run or
node id is ever a label. Nothing here raises into the code that it watches.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.metrics_core import Metric
from pydantic_core import from_json

from smithers.events import EventRow
from smithers.jsons import object_of
from smithers.observability.catalogue import (
    BY_EVENT,
    CONTEXT,
    CORRECTION,
    COUNTERS,
    GATEWAY_COUNTERS,
    GATEWAY_HISTOGRAMS,
    GAUGES,
    HISTOGRAMS,
    MEASURED,
)
from smithers.observability.context import RunInfo
from smithers.observability.spans import TOLD, Span, Spans

log = logging.getLogger(__name__)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
MAX_VALUES = 64
MAX_LABEL = 80
MAX_TIMED = 4_096
MAX_WAITS = 10_000
"""Open approvals whose wait is being measured."""

_METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"})
_BUCKETS = ("50k", "100k", "200k", "500k", "1m")

OnSpan = Callable[[Span], None]


class Metrics:
    """The metrics of one host. Thread-safe as far as showing goes; events come from one thread.

    Args:
        is_gateway: whether there are the metrics of a gateway too.
    """

    def __init__(self, *, is_gateway: bool = False) -> None:
        self.registry = CollectorRegistry()
        counters = COUNTERS | (GATEWAY_COUNTERS if is_gateway else {})
        histograms = HISTOGRAMS | (GATEWAY_HISTOGRAMS if is_gateway else {})
        self._counters = {
            name: Counter(_clean(f"smithers.{name}"), name, labels, registry=self.registry)
            for name, labels in counters.items()
        }
        self._histograms = {
            name: Histogram(_clean(f"smithers.{name}"), name, labels, buckets=buckets, registry=self.registry)
            for name, (labels, buckets) in histograms.items()
        }
        self._labels = counters | {name: labels for name, (labels, _) in histograms.items()}
        self._values: dict[str, set[str]] = {}
        self._seen: dict[str, int] = {}
        """Events by type. What they count is added up when it is looked at: a run must not wait for that."""
        self._settled: dict[str, int] = {}
        self._settling = threading.Lock()
        self._timed: dict[str, deque[float]] = {}
        """Durations that are not in their histograms yet."""
        self._requests: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        self._waits: dict[tuple[str, str, int], int] = {}
        self._spans = Spans()
        self.on_span: list[OnSpan] = []
        """Told of each span that has ended."""
        self.before_collect: list[Callable[[], None]] = []
        """Called before the metrics are looked at, from any thread: adds what is counted elsewhere meanwhile."""
        self._began = time.monotonic()

    # ── feeding ────────────────────────────────────────────────────────────────────────────────────────────────────

    def track_event(self, run: RunInfo, row: EventRow) -> None:
        """Count an event, and measure what it ends. Replaying a log gives the same numbers."""
        try:
            type = row.type
            self._seen[type] = self._seen.get(type, 0) + 1
            if type in TOLD:
                if type == "RunStarted" and row.seq > 1:  # a launch writes it first
                    self._counters["runs.resumed_total"].inc()
                for span in self._spans.take(run, row):
                    self._ended(span)
            if type in _DETAILED:
                # most tasks that finish tell of nothing but their attempt
                if row.payload is not None and (type != "NodeFinished" or "," in row.payload):
                    self._track_detail(type, object_of(from_json(row.payload)))
            elif row.node_id is not None and type.startswith("Approval"):
                self._track_wait((run.run_id, row.node_id, row.iteration or 0), row)
        except Exception:
            log.exception("an event was not counted")

    def _track_wait(self, key: tuple[str, str, int], row: EventRow) -> None:
        if row.type == "ApprovalRequested":
            self._waits[key] = row.timestamp_ms
            if len(self._waits) > MAX_WAITS:
                del self._waits[next(iter(self._waits))]
        elif (since := self._waits.pop(key, None)) is not None:
            self._histograms["approval.wait_duration_ms"].observe(max(0, row.timestamp_ms - since))

    def _track_detail(self, type: str, payload: Mapping[str, object]) -> None:
        for field, name in MEASURED.get(type, ()):
            value = payload.get(field)
            if isinstance(value, (int, float)):
                self._histograms[name].observe(value)
        match type:
            case "TokenUsageReported":
                self._track_tokens(payload)
            case "NodeFinished":
                if (cache := payload.get("cache")) in ("hit", "miss"):
                    self._counters["cache.hits" if cache == "hit" else "cache.misses"].inc()
            case "ToolCallFinished":
                if payload.get("status") == "error":
                    self._counters["tool_calls.errors_total"].inc()
                if payload.get("truncated") is True:
                    self._counters["tool.output_truncated_total"].inc()
            case "AgentEvent":
                self._track_agent(payload)
            case "RunAutoResumeSkipped":
                self.count("supervisor.skipped_total", payload.get("reason"))
            case "SupervisorPollCompleted":
                stale = payload.get("staleCount")
                self._counters["supervisor.stale_detected"].inc(stale if isinstance(stale, int) and stale > 0 else 0)
            case "SandboxCreated":
                self.count("sandbox.created_total", payload.get("runtime"))
            case "SandboxCompleted":
                self.count("sandbox.completed_total", payload.get("runtime"), payload.get("status"))
            case "OpenApiToolCalled":
                if payload.get("status") == "error":
                    self._counters["openapi.tool_call_errors"].inc()
            case _:
                pass

    def _track_tokens(self, payload: Mapping[str, object]) -> None:
        who = (payload.get("agent"), payload.get("model"))
        counts = {field: _positive(payload.get(field)) for field in _TOKENS}
        for field, name in _TOKENS.items():
            if counts[field]:
                self.count(name, *who, by=counts[field])
        self.observe("tokens.input_per_call", counts["inputTokens"], *who)
        self.observe("tokens.output_per_call", counts["outputTokens"], *who)
        context = counts["inputTokens"] + counts["cacheReadTokens"] + counts["cacheWriteTokens"]
        self.observe("tokens.context_window_per_call", context, *who)
        bucket = next((b for limit, b in zip(CONTEXT, _BUCKETS, strict=True) if context <= limit), "over")
        self.count("tokens.context_window_bucket_total", who[0], bucket, who[1])

    def _track_agent(self, payload: Mapping[str, object]) -> None:
        told = object_of(payload.get("event"))
        engine, kind = payload.get("engine"), told.get("type")
        self.count("agent_events_total", engine, kind, "event")
        if kind in ("started", "completed"):
            resume = str(told.get("resume") is not None).lower()
            self.count("agent_sessions_total", engine, None, resume, "event", kind)
        elif kind == "action":
            is_ok, action = told.get("ok"), object_of(told.get("action"))
            if action.get("kind") == "warning" and str(action.get("id")).startswith(CORRECTION):
                self.count("agent_retries_total", engine, None, "schema", "event")
            self.count(
                "agent_actions_total",
                action.get("kind"),
                engine,
                told.get("entryType"),
                told.get("level"),
                str(is_ok).lower() if isinstance(is_ok, bool) else None,
                told.get("phase"),
                "event",
            )

    def _ended(self, span: Span) -> None:
        status = span.attributes.get("status")
        match span.kind:
            case "run" if status in ("finished", "failed", "cancelled", "continued"):
                self._histograms["run.duration_ms"].observe(span.duration_ms)
            case "task":
                self._histograms["node.duration_ms"].observe(span.duration_ms)
            case "attempt":
                self._histograms["attempt.duration_ms"].observe(span.duration_ms)
            case "tool":
                self._histograms["tool.duration_ms"].observe(span.duration_ms)
            case "agent":
                who = (span.attributes.get("engine"), span.attributes.get("model"))
                self.count("agent_invocations_total", *who)
                self.observe("agent_duration_ms", span.duration_ms, *who)
                self._track_agent_tokens(span, who)
                if span.status == "error":
                    self.count("agent_errors_total", *who, "failed", "event")
            case _:
                pass
        for tell in self.on_span:
            tell(span)

    def _track_agent_tokens(self, span: Span, who: tuple[object, object]) -> None:
        """The tokens of one agent's turns; kinds add up to `total` only for input and output, of which the others are parts."""
        counts = {kind: _positive(span.attributes.get(f"{kind}_tokens")) for kind in _KINDS}
        for kind, count in (*counts.items(), ("total", counts["input"] + counts["output"])):
            if count:
                self.count("agent_tokens_total", *who, kind, "event", by=count)

    def close(self) -> None:
        """Tell of the spans that are still open: no more events come."""
        for span in self._spans.close():
            for tell in self.on_span:
                tell(span)

    def count(self, name: str, *labels: object, by: float = 1) -> None:
        """Add to a counter of the catalogue. Label values in the catalogue's order; too many different ones are `other`."""
        try:
            counter = self._counters[name]
            (counter.labels(*self._bounded(name, labels)) if labels else counter).inc(by)
        except Exception:
            log.exception("something was not counted")

    def observe(self, name: str, value: float, *labels: object) -> None:
        """Measure for a histogram of the catalogue, in the unit that its name says."""
        try:
            histogram = self._histograms[name]
            (histogram.labels(*self._bounded(name, labels)) if labels else histogram).observe(value)
        except Exception:
            log.exception("something was not measured")

    def timed(self, name: str, milliseconds: float) -> None:
        """Measure how long something took that happens all the time; from any thread. It is added up when it is looked at,
        or when there is much of it."""
        waiting = self._timed.setdefault(name, deque())
        waiting.append(milliseconds)
        if len(waiting) >= MAX_TIMED:
            self._settle_times()

    def _settle_times(self) -> None:
        for name, waiting in list(self._timed.items()):
            histogram = self._histograms[name]
            with suppress(IndexError):
                while True:
                    histogram.observe(waiting.popleft())

    def track_request(self, method: str, route: str, status: int, milliseconds: float) -> None:
        """Count an answer to an HTTP request. `route` is a template, never a path as it was sent."""
        try:
            found = self._requests.get((method, route, status))
            if found is None:
                known = method.upper() if method.upper() in _METHODS else "OTHER"
                labels = (known, route, str(status), f"{status // 100}xx")
                found = (
                    self._counters["http.requests"].labels(*labels),
                    self._histograms["http.request_duration_ms"].labels(*labels),
                )
                if known == method:
                    self._requests[method, route, status] = found
            found[0].inc()
            found[1].observe(milliseconds)
        except Exception:
            log.exception("a request was not counted")

    def _bounded(self, name: str, labels: tuple[object, ...]) -> list[str]:
        return [self._label(label, value) for label, value in zip(self._labels[name], labels, strict=True)]

    def _label(self, name: str, value: object) -> str:
        """A label's value: short, and one of a bounded number."""
        text = str(value)[:MAX_LABEL] if isinstance(value, str) and value else "unknown"
        known = self._values.setdefault(name, set())
        if text in known:
            return text
        if len(known) >= MAX_VALUES:
            return "other"
        known.add(text)
        return text

    # ── showing ────────────────────────────────────────────────────────────────────────────────────────────────────

    def render(self, gauges: Mapping[str, float] | None = None) -> str:
        """All metrics as Prometheus text. `gauges` are what is going on now, by catalogue name."""
        lines: list[str] = []
        for family in self.collect():
            lines += _family_lines(family)
        now = self.gauges(gauges)
        for name in GAUGES:
            bare, labels = split_gauge(name)
            clean = _clean(f"smithers.{bare}")
            if (head := f"# TYPE {clean} gauge") not in lines[-2:]:
                lines.append(head)
            text = ",".join(f'{key}="{_escaped(value)}"' for key, value in labels.items())
            lines.append(f"{clean}{{{text}}} {_number(now[name])}" if text else f"{clean} {_number(now[name])}")
        return "\n".join(lines) + "\n"

    def collect(self) -> list[Metric]:
        """All counters and histograms as they are now, without their prefix as `documentation`; from any thread."""
        self._settle_times()
        with self._settling:
            for tell in self.before_collect:
                tell()
            for type, count in list(self._seen.items()):
                more = count - self._settled.get(type, 0)
                self._settled[type] = count
                for name in ("events.emitted_total", *BY_EVENT.get(type, ())):
                    self._counters[name].inc(more)
            return list(self.registry.collect())

    def gauges(self, given: Mapping[str, float] | None = None) -> dict[str, float]:
        """The gauges' values by catalogue name: the process's own, and those given by their full names."""
        now = {
            "smithers.process.uptime_seconds": time.monotonic() - self._began,
            "smithers.process.memory_rss_bytes": float(_rss_bytes()),
            **(given or {}),
        }
        return {name: now.get(f"smithers.{name}", 0.0) for name in GAUGES}


_TOKENS = {
    "inputTokens": "tokens.input_total",
    "outputTokens": "tokens.output_total",
    "cacheReadTokens": "tokens.cache_read_total",
    "cacheWriteTokens": "tokens.cache_write_total",
    "reasoningTokens": "tokens.reasoning_total",
}
_KINDS = ("input", "output", "cache_read", "cache_write", "reasoning")
_DETAILED = MEASURED.keys() | {
    "AgentEvent",
    "RunAutoResumeSkipped",
    "SandboxCreated",
    "TokenUsageReported",
    "ToolCallFinished",
}


def split_gauge(name: str) -> tuple[str, dict[str, str]]:
    """A gauge's name as `GAUGES` has it, and its label."""
    bare, bar, label = name.partition("|")
    key, _, value = label.partition("=")
    return bare, {key: value} if bar else {}


def _positive(value: object) -> int:
    return value if isinstance(value, int) and value > 0 else 0


def _clean(name: str) -> str:
    return "".join(c if c.isascii() and (c.isalnum() or c in "_:") else "_" for c in name)


def _family_lines(family: Metric) -> Iterator[str]:
    """A family's lines. Counters keep the catalogue's names: the library would end each in `_total`."""
    is_counter = family.type == "counter"
    name = _clean(f"smithers.{family.documentation}")
    yield f"# HELP {name} {family.documentation}"
    yield f"# TYPE {name} {family.type}"
    is_empty = True
    for sample in family.samples:
        if sample.name.endswith("_created"):
            continue
        is_empty = False
        shown = name if is_counter else sample.name
        labels = ",".join(f'{key}="{_escaped(value)}"' for key, value in sample.labels.items())
        yield f"{shown}{{{labels}}} {_number(sample.value)}" if labels else f"{shown} {_number(sample.value)}"
    if is_empty:
        yield from (
            [f"{name} 0"] if is_counter else [f'{name}_bucket{{le="+Inf"}} 0', f"{name}_sum 0", f"{name}_count 0"]
        )


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _number(value: float) -> str:
    if value != value or value in (float("inf"), float("-inf")):
        return "NaN" if value != value else "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if float(value).is_integer() else repr(float(value))


def _rss_bytes() -> int:
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        return 0
