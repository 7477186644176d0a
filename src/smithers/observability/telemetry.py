"""Telemetry: sends what is observed to a collector, from a thread of its own. Off unless the settings turn it on.

Whoever observes hands over ended spans and goes on: the queue is bounded, and what does not fit is dropped and counted.
A collector that is away, slow or wrong never reaches a run.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

from smithers.observability.feed import EventFeed, Listener
from smithers.observability.lifecycle import log_event
from smithers.observability.metrics import Metrics
from smithers.observability.redaction import scrub
from smithers.observability.shipping import Line, Shipper
from smithers.observability.spans import Span
from smithers.settings import Settings
from smithers.store.sql import pages
from smithers.vcs import git

if TYPE_CHECKING:
    from smithers.engine.hub import Hub
    from smithers.observability.export import Exporter
    from smithers.store.sql.store import SqlStore

log = logging.getLogger(__name__)

MAX_QUEUE = 16_384
BATCH = 512
SPAN_INTERVAL_S = 1.0
FLUSH_S = 3.0
"""How long the end of a process may take to send what is left."""
WAY_OUT = "pip install 'smithers[otel]', or unset SMITHERS_OTEL_ENABLED"

Gauges = Callable[[], Mapping[str, float]]


class Telemetry:
    """Sends spans and log records soon and metrics now and then.

    Args:
        metric_interval_s: how often metrics are sent.
    """

    def __init__(self, exporter: Exporter, *, metric_interval_s: float) -> None:
        self._exporter = exporter
        self._metric_interval_s = metric_interval_s
        self.queue: deque[Span] = deque()
        self.lines: deque[Line] = deque()
        self._shipper = Shipper(self.put_line)
        self._dropped = 0
        self._wake = threading.Event()
        self._is_closing = False
        self._is_failing = False
        self._sources: list[tuple[Metrics, Gauges]] = []
        self._thread = threading.Thread(target=self._run, name="smithers-telemetry", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def add(self, metrics: Metrics, gauges: Gauges) -> None:
        """Send these metrics, and the spans of the runs that they tell of. `gauges` is called in another thread."""
        self._sources.append((metrics, gauges))
        metrics.on_span.append(self.put)

    def put(self, span: Span) -> None:
        """Have a span sent. Never waits."""
        if len(self.queue) >= MAX_QUEUE:
            self._dropped += 1
            return
        self.queue.append(span)
        if len(self.queue) == BATCH:
            self._wake.set()

    def put_line(self, line: Line) -> None:
        """Have a log record sent. Never waits."""
        if len(self.lines) >= MAX_QUEUE:
            self._dropped += 1
            return
        self.lines.append(line)
        if len(self.lines) == BATCH:
            self._wake.set()

    def ship_logs(self) -> None:
        """Send what this process logs from now on, on all loggers; where somebody else here does so already, they do."""
        root = logging.getLogger()
        if not any(isinstance(handler, Shipper) for handler in root.handlers):
            root.addHandler(self._shipper)

    def close(self, deadline_s: float = FLUSH_S) -> None:
        """Send what is left, but no longer than this; then stop. May be called twice."""
        atexit.unregister(self.close)
        logging.getLogger().removeHandler(self._shipper)
        self._is_closing = True
        self._wake.set()
        self._thread.join(deadline_s)
        if self._thread.is_alive():
            self._exporter.abort()
            left = {"spans": len(self.queue), "records": len(self.lines)}
            log.warning("the collector did not take everything in time", extra=left)

    def _run(self) -> None:
        due = time.monotonic() + self._metric_interval_s
        while not self._is_closing:
            self._wake.wait(max(0.0, min(SPAN_INTERVAL_S, due - time.monotonic())))
            self._wake.clear()
            self._send_waiting()
            if time.monotonic() >= due and not self._is_closing:
                self._send_metrics()
                due = time.monotonic() + self._metric_interval_s
        self._send_waiting()
        self._send_metrics()

    def _send_waiting(self) -> None:
        """Send the spans and log records that are waiting."""
        while self.queue:
            batch = [self.queue.popleft() for _ in range(min(BATCH, len(self.queue)))]
            self._attempt(partial(self._exporter.send_spans, batch))
        while self.lines:
            lines = [self.lines.popleft() for _ in range(min(BATCH, len(self.lines)))]
            self._attempt(partial(self._exporter.send_lines, lines))
        if self._dropped:
            dropped, self._dropped = self._dropped, 0
            log.warning("spans were dropped: the collector is slower than the runs", extra={"spans": dropped})

    def _send_metrics(self) -> None:
        for metrics, gauges in list(self._sources):
            self._attempt(partial(self._exporter.send_metrics, metrics, metrics.gauges(_asked(gauges))))

    def _attempt(self, send: Callable[[], bool]) -> None:
        try:
            is_taken = send()
        except Exception as error:
            is_taken = False
            log.debug("telemetry was not sent", exc_info=error)
        if is_taken is self._is_failing and not self._is_closing:  # the end has its own words
            self._is_failing = not is_taken
            if self._is_failing:
                log.warning("telemetry cannot be sent to the collector; runs go on without it")
            else:
                log.info("telemetry is sent again")


def _asked(gauges: Gauges) -> Mapping[str, float]:
    try:
        return gauges()
    except Exception:  # the database may be closed already
        return {}


def open_telemetry(settings: Settings) -> Telemetry | None:
    """What the settings turn on; None if that is nothing, or cannot be had, which is logged with the way out."""
    if not settings.otel_enabled:
        return None
    try:
        from smithers.observability.export import OtlpExporter
    except ImportError as error:
        log.warning(
            f"SMITHERS_OTEL_ENABLED is set, but the exporters are not installed; {WAY_OUT}",
            extra={"missing": error.name},
        )
        return None
    try:
        exporter = OtlpExporter(settings)
    except Exception as error:
        log.warning("telemetry is off: the exporters refuse their settings", extra={"reason": scrub(str(error))})
        return None
    telemetry = Telemetry(exporter, metric_interval_s=settings.otel_metric_interval_ms / 1000)
    telemetry.ship_logs()
    return telemetry


class Observation:
    """One engine's runs, observed for the log, for a collector, and for metrics that somebody shows."""

    def __init__(self, telemetry: Telemetry | None, store: SqlStore, hub: Hub, shown: Metrics | None) -> None:
        self._telemetry = telemetry
        self._metrics = shown or Metrics()
        listeners: list[Listener] = [log_event]
        if telemetry is not None:
            telemetry.add(self._metrics, lambda: store.read(pages.gauges))
        if telemetry is not None or shown is not None:
            listeners.append(self._metrics.track_event)
            store.time(self._metrics.timed)
            git.time_commands(self._metrics.timed)
        self._feed = EventFeed(store, hub, *listeners)

    async def close(self) -> None:
        """After the engine and before the store: send what is left, within `FLUSH_S`."""
        await self._feed.close()
        self._metrics.close()
        if self._telemetry is not None:
            await asyncio.to_thread(self._telemetry.close)

    def leave(self) -> None:
        """The same once the event loop is closed; does not wait for what is sent."""
        self._metrics.close()
        if self._telemetry is not None:
            threading.Thread(target=self._telemetry.close, name="smithers-telemetry-end", daemon=True).start()


def observe(settings: Settings, store: SqlStore, hub: Hub, shown: Metrics | None = None) -> Observation:
    """Observe the runs of a hub, as the settings say. Hosts ask for it if `Settings.is_observed`, or for metrics of their
    own that they show."""
    return Observation(open_telemetry(settings), store, hub, shown)
