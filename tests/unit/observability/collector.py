"""A collector on this machine: takes OTLP over HTTP, and decodes what arrives."""

from __future__ import annotations

import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric
from opentelemetry.proto.trace.v1.trace_pb2 import Span


class Collector:
    """What has arrived so far."""

    def __init__(self) -> None:
        self.url = ""
        self.spans: list[Span] = []
        self.metrics: dict[str, Metric] = {}
        self.logs: list[LogRecord] = []
        self.headers: list[dict[str, str]] = []
        self.services: set[str] = set()
        self.raw = b""
        self.hold: threading.Event | None = None
        """While this is there and not set, nothing is answered."""
        self.status = 200

    def named(self, name: str) -> list[Span]:
        """Spans of this name, by their begin."""
        return sorted((span for span in self.spans if span.name == name), key=lambda span: span.start_time_unix_nano)

    def take(self, path: str, headers: dict[str, str], body: bytes) -> None:
        """Decode a request."""
        self.headers.append(headers)
        self.raw += body
        if path == "/v1/traces":
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                self.services.add(attributes(resource.resource.attributes)["service.name"])
                for scope in resource.scope_spans:
                    self.spans += scope.spans
        elif path == "/v1/logs":
            for sent in ExportLogsServiceRequest.FromString(body).resource_logs:
                for lines in sent.scope_logs:
                    self.logs += lines.log_records
        elif path == "/v1/metrics":
            for found in ExportMetricsServiceRequest.FromString(body).resource_metrics:
                for each in found.scope_metrics:
                    self.metrics |= {metric.name: metric for metric in each.metrics}


def attributes(pairs: Sequence[KeyValue]) -> dict[str, str]:
    """Attributes as texts."""
    found: dict[str, str] = {}
    for pair in pairs:
        kind = pair.value.WhichOneof("value")
        found[pair.key] = str(getattr(pair.value, kind)) if kind else ""
    return found


@contextmanager
def collector() -> Generator[Collector]:
    """A running collector."""
    found = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if found.hold is not None:
                found.hold.wait(30)
            if found.status == 200:
                found.take(self.path, {k.lower(): v for k, v in self.headers.items()}, body)
            self.send_response(found.status)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            del format, args

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.block_on_close = False
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    found.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield found
    finally:
        if found.hold is not None:
            found.hold.set()
        server.shutdown()
        server.server_close()
        thread.join()
