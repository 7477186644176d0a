"""Shipping: log records on their way to a collector. Taken where they are made, without credentials, and sent by `telemetry`."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final, NamedTuple

from smithers.jsons import int_of, text_of
from smithers.observability.context import current_run, parse_traceparent, span_id_of, trace_id_of
from smithers.observability.logs import correlation, record_fields

OWN: Final = ("smithers.observability.telemetry", "opentelemetry", "urllib3", "requests")
"""Loggers of those who send: what they tell of a collector that does not answer would have to go to that collector."""


class Line(NamedTuple):
    """A log record, ready to be sent.

    Attributes:
        fields: as `record_fields` gives them.
        trace_id: of the run that the record was made for; None for none. In hexadecimal, as `span_id`.
    """

    level: int
    time_ns: int
    fields: dict[str, object]
    trace_id: str | None = None
    span_id: str | None = None


class Shipper(logging.Handler):
    """Hands every record that is logged on. Never raises.

    Args:
        put: takes a record; does not wait.
    """

    def __init__(self, put: Callable[[Line], None]) -> None:
        super().__init__()
        self._put = put

    def emit(self, record: logging.LogRecord) -> None:
        """Take a record."""
        if record.name.startswith(OWN):
            return
        try:
            if not hasattr(record, "smithers"):
                record.smithers = correlation()
            fields = record_fields(record)
            self._put(Line(record.levelno, int(record.created * 1e9), fields, *_place(fields)))
        except Exception:
            self.handleError(record)


def _place(fields: dict[str, object]) -> tuple[str | None, str | None]:
    """The trace and the span that a record belongs to: its task's, or its run's."""
    run, run_id = current_run.get(), text_of(fields.get("run_id"))
    if run_id is None:
        return None, None
    launcher = None if run is None or run.run_id != run_id else parse_traceparent(run.traceparent)
    trace_id = trace_id_of(run_id) if launcher is None else launcher.trace_id
    node_id = text_of(fields.get("node_id"))
    if node_id is None:
        return trace_id, None
    return trace_id, span_id_of(run_id, "task", node_id, int_of(fields.get("iteration")) or 0)
