"""Export: spans, metrics and log records in the form in which OpenTelemetry's OTLP exporters take them. Imported only when
they are on.

Needs the extra `otel`. When things are sent, and what happens if they cannot be, is `telemetry.py`'s.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from typing import Protocol, cast

from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk._logs.export import LogRecordExportResult
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricExportResult,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, TraceFlags, set_span_in_context
from opentelemetry.trace.status import Status, StatusCode
from prometheus_client.metrics_core import Metric as Family
from pydantic_core import to_json

from smithers.jsons import text_of
from smithers.observability.context import TraceParent, parse_traceparent, span_id_of, trace_id_of
from smithers.observability.metrics import Metrics, split_gauge
from smithers.observability.redaction import scrub
from smithers.observability.shipping import Line
from smithers.observability.spans import Span
from smithers.settings import Settings

TIMEOUT_S = 10.0
_STATUS = {"unset": StatusCode.UNSET, "ok": StatusCode.OK, "error": StatusCode.ERROR}
_SDK_LOG = "opentelemetry.exporter.otlp.proto.http"


class Exporter(Protocol):
    """Sends to a collector, from one thread. Each method says whether it was taken; none raises."""

    def send_spans(self, spans: Sequence[Span]) -> bool:
        """Send spans that have ended."""
        ...

    def send_lines(self, lines: Sequence[Line]) -> bool:
        """Send log records."""
        ...

    def send_metrics(self, metrics: Metrics, gauges: Mapping[str, float]) -> bool:
        """Send what metrics show now."""
        ...

    def abort(self) -> None:
        """Give up what is being sent, from another thread."""
        ...


class _SpansOut(Protocol):
    """The part of the library's exporter that is used; it does not say all its types itself."""

    def export(self, spans: Sequence[ReadableSpan], /) -> SpanExportResult: ...

    def shutdown(self) -> None: ...


class _MetricsOut(Protocol):
    def export(self, data: MetricsData, /) -> MetricExportResult: ...

    def shutdown(self) -> None: ...


class _LinesOut(Protocol):
    def export(self, batch: Sequence[ReadableLogRecord], /) -> LogRecordExportResult: ...

    def shutdown(self) -> None: ...


class OtlpExporter:
    """Sends protobuf over HTTP to the collector that the settings name."""

    def __init__(self, settings: Settings) -> None:
        sdk_log = logging.getLogger(_SDK_LOG)
        if sdk_log.level == logging.NOTSET:  # telemetry.py tells once what this would tell at each try
            sdk_log.setLevel(logging.CRITICAL + 1)
        base, headers = settings.otel_endpoint.rstrip("/"), dict(settings.otel_headers)
        self._spans = cast(
            "_SpansOut", OTLPSpanExporter(endpoint=f"{base}/v1/traces", headers=headers, timeout=TIMEOUT_S)
        )
        self._metrics = cast(
            "_MetricsOut", OTLPMetricExporter(endpoint=f"{base}/v1/metrics", headers=headers, timeout=TIMEOUT_S)
        )
        self._lines = cast("_LinesOut", OTLPLogExporter(endpoint=f"{base}/v1/logs", headers=headers, timeout=TIMEOUT_S))
        self._resource = Resource.create({"service.name": settings.otel_service_name})
        self._scope = InstrumentationScope("smithers", version("smithers"))
        self._began_ns = time.time_ns()

    def send_spans(self, spans: Sequence[Span]) -> bool:
        """See `Exporter`."""
        found = [made for span in spans if (made := self._span(span)) is not None]
        return not found or self._spans.export(found) is SpanExportResult.SUCCESS

    def send_lines(self, lines: Sequence[Line]) -> bool:
        """See `Exporter`."""
        found = [ReadableLogRecord(_log_record(line), self._resource, self._scope) for line in lines]
        return not found or self._lines.export(found) is LogRecordExportResult.SUCCESS

    def send_metrics(self, metrics: Metrics, gauges: Mapping[str, float]) -> bool:
        """See `Exporter`."""
        now = time.time_ns()
        found = [self._metric(family, now) for family in metrics.collect()]
        points: dict[str, list[NumberDataPoint]] = {}
        for gauge, value in gauges.items():
            name, labels = split_gauge(gauge)
            points.setdefault(name, []).append(NumberDataPoint(labels, self._began_ns, now, value))
        found += [Metric(f"smithers.{name}", "", _unit(name), Gauge(each)) for name, each in points.items()]
        told = [metric for metric in found if metric is not None]
        data = MetricsData([ResourceMetrics(self._resource, [ScopeMetrics(self._scope, told, "")], "")])
        return self._metrics.export(data) is MetricExportResult.SUCCESS

    def abort(self) -> None:
        """See `Exporter`."""
        self._spans.shutdown()
        self._metrics.shutdown()
        self._lines.shutdown()

    # ── spans ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def _span(self, span: Span) -> ReadableSpan | None:
        launcher = parse_traceparent(span.run.traceparent)
        if launcher is not None and not launcher.is_sampled:
            return None
        run_id = span.run.run_id
        trace_id = trace_id_of(run_id) if launcher is None else launcher.trace_id
        return ReadableSpan(
            name=f"smithers.{span.kind}",
            context=_context(trace_id, span_id_of(run_id, *span.key), is_remote=False),
            parent=_parent(span, trace_id, launcher),
            resource=self._resource,
            attributes=_attributes(span),
            events=_exceptions(span),
            kind=SpanKind.INTERNAL,
            status=Status(_STATUS[span.status], _message(span) if span.status == "error" else None),
            start_time=span.start_ms * 1_000_000,
            end_time=max(span.start_ms, span.end_ms) * 1_000_000,
            instrumentation_scope=self._scope,
        )

    # ── metrics ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _metric(self, family: Family, now: int) -> Metric | None:
        """A metric that something was counted for; None for one that never was."""
        name = f"smithers.{family.documentation}"
        samples = [sample for sample in family.samples if not sample.name.endswith("_created")]
        if family.type == "counter":
            points = [
                NumberDataPoint(dict(sample.labels), self._began_ns, now, sample.value)
                for sample in samples
                if sample.value
            ]
            return Metric(name, "", "1", Sum(points, AggregationTemporality.CUMULATIVE, True)) if points else None
        grouped: dict[tuple[tuple[str, str], ...], list[tuple[str, str, float]]] = {}
        for sample in samples:
            labels = tuple((key, value) for key, value in sample.labels.items() if key != "le")
            suffix = sample.name.rpartition("_")[2]
            grouped.setdefault(labels, []).append((suffix, sample.labels.get("le", ""), sample.value))
        histograms = [self._point(dict(labels), each, now) for labels, each in grouped.items()]
        counted = [point for point in histograms if point.count]
        if not counted:
            return None
        return Metric(name, "", _unit(name), Histogram(counted, AggregationTemporality.CUMULATIVE))

    def _point(self, labels: dict[str, str], samples: Iterable[tuple[str, str, float]], now: int) -> HistogramDataPoint:
        bounds: list[float] = []
        counts: list[int] = []
        total, so_far = 0.0, 0
        for suffix, limit, value in samples:
            if suffix == "bucket":
                counts.append(int(value) - so_far)
                so_far = int(value)
                if limit != "+Inf":
                    bounds.append(float(limit))
            elif suffix == "sum":
                total = value
        unknown = cast("float", None)  # least and most are optional on the wire, whatever this class says
        return HistogramDataPoint(labels, self._began_ns, now, so_far, total, counts, bounds, unknown, unknown, [])


def _context(trace_id: str, span_id: str, *, is_remote: bool) -> SpanContext:
    return SpanContext(int(trace_id, 16), int(span_id, 16), is_remote, TraceFlags(TraceFlags.SAMPLED))


def _parent(span: Span, trace_id: str, launcher: TraceParent | None) -> SpanContext | None:
    if span.parent is not None:
        return _context(trace_id, span_id_of(span.run.run_id, *span.parent), is_remote=False)
    return None if launcher is None else _context(trace_id, launcher.span_id, is_remote=True)


def _attributes(span: Span) -> dict[str, str | int | float | bool]:
    found: dict[str, str | int | float | bool] = {
        "smithers.run_id": scrub(span.run.run_id),
        "smithers.workflow_name": scrub(span.run.workflow_name),
    }
    for name, value in span.attributes.items():
        if isinstance(value, str):
            found[f"smithers.{name}"] = scrub(value)
        elif isinstance(value, (bool, int, float)):
            found[f"smithers.{name}"] = value
    return found


def _message(span: Span) -> str:
    error = span.error or {}
    return scrub(text_of(error.get("summary")) or text_of(error.get("message")) or "failed")


def _exceptions(span: Span) -> list[Event]:
    if span.error is None:
        return []
    attributes = {
        "exception.type": text_of(span.error.get("code")) or text_of(span.error.get("name")) or "Error",
        "exception.message": _message(span),
    }
    if stack := text_of(span.error.get("stack")):
        attributes["exception.stacktrace"] = scrub(stack)
    return [Event("exception", attributes, span.end_ms * 1_000_000)]


def _log_record(line: Line) -> LogRecord:
    fields = dict(line.fields)
    body, level = str(fields.pop("message", "")), str(fields.pop("level", ""))
    fields.pop("timestamp", None)
    attributes: dict[str, str | int | float | bool] = {}
    exception = fields.pop("exception", None)
    if isinstance(exception, dict):
        told = cast("dict[str, object]", exception)
        for name, key in (("type", "type"), ("message", "message"), ("stacktrace", "stack")):
            attributes[f"exception.{name}"] = text_of(told.get(key)) or ""
    for name, value in fields.items():
        key = f"smithers.{name}" if name in _CORRELATED else name
        attributes[key] = value if isinstance(value, (str, int, float)) else to_json(value, fallback=str).decode()
    return LogRecord(
        timestamp=line.time_ns,
        observed_timestamp=line.time_ns,
        context=_trace_of(line),
        severity_text=level,
        severity_number=_severity(line.level),
        body=body,
        attributes=attributes,
    )


def _trace_of(line: Line) -> Context | None:
    """What a log record belongs to, as the library takes it: a trace, and perhaps a span of it."""
    if line.trace_id is None:
        return None
    return set_span_in_context(
        NonRecordingSpan(_context(line.trace_id, line.span_id or "0", is_remote=False)), Context()
    )


_CORRELATED = frozenset({"run_id", "parent_run_id", "workflow_name", "node_id", "iteration", "attempt"})


def _severity(level: int) -> SeverityNumber:
    found = SeverityNumber.TRACE
    for least, number in (
        (logging.DEBUG, SeverityNumber.DEBUG),
        (logging.INFO, SeverityNumber.INFO),
        (logging.WARNING, SeverityNumber.WARN),
        (logging.ERROR, SeverityNumber.ERROR),
        (logging.CRITICAL, SeverityNumber.FATAL),
    ):
        if level >= least:
            found = number
    return found


def _unit(name: str) -> str:
    return (
        "ms" if name.endswith("_ms") else "By" if name.endswith("_bytes") else "s" if name.endswith("_seconds") else "1"
    )
