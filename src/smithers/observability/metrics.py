"""Metrics: one registry a host, fed by the event log, shown as Prometheus text.

Labels are bounded: values come from fixed sets or are cut and, past a number of different ones, called `other`; no run or
node id is ever a label. Nothing here raises into the code that it watches.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.metrics_core import Metric
from pydantic_core import from_json

from smithers.events import EventDraft
from smithers.jsons import object_of
from smithers.observability.catalogue import BY_EVENT, COUNTERS, GAUGES, HISTOGRAMS

log = logging.getLogger(__name__)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
MAX_VALUES = 64
MAX_LABEL = 80

_METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"})


class Metrics:
    """The metrics of one host. Thread-safe."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._counters = {
            name: Counter(_clean(f"smithers.{name}"), name, labels, registry=self.registry)
            for name, labels in COUNTERS.items()
        }
        self._histograms = {
            name: Histogram(_clean(f"smithers.{name}"), name, labels, buckets=buckets, registry=self.registry)
            for name, (labels, buckets) in HISTOGRAMS.items()
        }
        self._values: dict[str, set[str]] = {}
        self._began = time.monotonic()

    # ── feeding ────────────────────────────────────────────────────────────────────────────────────────────────────

    def track_event(self, event: EventDraft) -> None:
        """Count an event. Replaying a log gives the same numbers."""
        try:
            self._counters["events.emitted_total"].inc()
            for name in BY_EVENT.get(event.type, ()):
                self._counters[name].inc()
            if event.payload is not None and event.type in _DETAILED:
                payload: dict[str, object] = from_json(event.payload)
                self._track_detail(event.type, payload)
        except Exception:
            log.exception("an event was not counted")

    def _track_detail(self, type: str, payload: Mapping[str, object]) -> None:
        match type:
            case "TokenUsageReported":
                labels = (self._label("agent", payload.get("agent")), self._label("model", payload.get("model")))
                for field, name in _TOKENS.items():
                    count = payload.get(field)
                    if isinstance(count, (int, float)) and count > 0:
                        self._counters[name].labels(*labels).inc(count)
                for field, name in (("inputTokens", "input"), ("outputTokens", "output")):
                    count = payload.get(field)
                    if isinstance(count, (int, float)):
                        self._histograms[f"tokens.{name}_per_call"].labels(*labels).observe(count)
            case "ToolCallFinished":
                if payload.get("status") == "error":
                    self._counters["tool_calls.errors_total"].inc()
            case "AgentEvent":
                kind = object_of(payload.get("event")).get("type")
                engine = self._label("engine", payload.get("engine"))
                self._counters["agent_events_total"].labels(engine, self._label("event_type", kind), "event").inc()
            case "RunAutoResumeSkipped":
                self._counters["supervisor.skipped_total"].labels(self._label("reason", payload.get("reason"))).inc()
            case "TimerFired":
                self._observe("timers.delay_ms", payload.get("delayMs"))
            case "TaskHeartbeat":
                self._observe("heartbeats.data_size_bytes", payload.get("dataSizeBytes"))
            case _:
                pass

    def _observe(self, name: str, value: object) -> None:
        if isinstance(value, (int, float)):
            self._histograms[name].observe(value)

    def track_request(self, method: str, route: str, status: int, milliseconds: float) -> None:
        """Count an answer to an HTTP request. `route` is a template, never a path as it was sent."""
        try:
            labels = (
                method.upper() if method.upper() in _METHODS else "OTHER",
                route,
                str(status),
                f"{status // 100}xx",
            )
            self._counters["http.requests"].labels(*labels).inc()
            self._histograms["http.request_duration_ms"].labels(*labels).observe(milliseconds)
        except Exception:
            log.exception("a request was not counted")

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
        for family in self.registry.collect():
            lines += _family_lines(family)
        now = {
            "smithers.process.uptime_seconds": time.monotonic() - self._began,
            "smithers.process.memory_rss_bytes": float(_rss_bytes()),
            **(gauges or {}),
        }
        for name in GAUGES:
            clean = _clean(f"smithers.{name}")
            lines += [f"# TYPE {clean} gauge", f"{clean} {_number(now.get(f'smithers.{name}', 0.0))}"]
        return "\n".join(lines) + "\n"


_TOKENS = {
    "inputTokens": "tokens.input_total",
    "outputTokens": "tokens.output_total",
    "cacheReadTokens": "tokens.cache_read_total",
    "cacheWriteTokens": "tokens.cache_write_total",
    "reasoningTokens": "tokens.reasoning_total",
}
_DETAILED = frozenset(
    {"TokenUsageReported", "ToolCallFinished", "AgentEvent", "RunAutoResumeSkipped", "TimerFired", "TaskHeartbeat"}
)


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
