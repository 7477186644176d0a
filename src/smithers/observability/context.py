"""Ambient context of observability: the run that code works for, and the trace that a launch belongs to.

Nothing here costs anything to whoever does not import it: the engine sets and asks only if somebody has.
Traces follow W3C Trace Context. A run's trace id is its launcher's, or made from the run's id, so that every process that
drives the run makes the same one.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final, NamedTuple

from pydantic_core import from_json

from smithers import ambient
from smithers.jsons import object_of, text_of

if TYPE_CHECKING:
    from smithers.engine.runtime import TaskRuntime

_HEX: Final = frozenset("0123456789abcdef")


class RunInfo(NamedTuple):
    """What observers know of a run. `traceparent` is that of its launcher."""

    run_id: str
    workflow_name: str = "workflow"
    parent_run_id: str | None = None
    traceparent: str | None = None


class TraceParent(NamedTuple):
    """A span of somebody else's, in hexadecimal, and whether its trace is recorded."""

    trace_id: str
    span_id: str
    is_sampled: bool


current_run: ContextVar[RunInfo | None] = ContextVar("smithers_run", default=None)
"""The run that the calling code drives or works for."""
_launcher: ContextVar[str | None] = ContextVar("smithers_traceparent", default=None)


def parse_traceparent(text: str | None) -> TraceParent | None:
    """A `traceparent` header's value; None for one that is not valid, as the standard has it."""
    if text is None or len(text) > 512:
        return None
    parts = text.strip().split("-")
    if len(parts) < 4 or [len(part) for part in parts[:4]] != [2, 32, 16, 2]:
        return None
    version, trace_id, span_id, flags = parts[:4]
    if not all(_HEX.issuperset(part) for part in parts[:4]) or version == "ff" or (version == "00" and len(parts) > 4):
        return None
    if not trace_id.strip("0") or not span_id.strip("0"):
        return None
    return TraceParent(trace_id, span_id, bool(int(flags, 16) & 1))


def trace_id_of(run_id: str) -> str:
    """The trace id of a run whose launcher had none."""
    return _digest("trace", run_id, size=16)


def span_id_of(run_id: str, *parts: object) -> str:
    """The id of a span of a run: the same in every process."""
    return _digest("span", run_id, *parts, size=8)


def _digest(*parts: object, size: int) -> str:
    # all zeros would be invalid; it is as likely as a collision
    return hashlib.blake2b(repr(parts).encode("utf-8", "replace"), digest_size=size).hexdigest()


def task_traceparent(run: RunInfo, node_id: str, iteration: int) -> str:
    """What a run that is launched by a task of another run gets as its `traceparent`."""
    parent = parse_traceparent(run.traceparent)
    trace_id, flags = (trace_id_of(run.run_id), "01") if parent is None else (parent[0], "01" if parent[2] else "00")
    return f"00-{trace_id}-{span_id_of(run.run_id, 'task', node_id, iteration)}-{flags}"


def name_launcher(traceparent: str) -> None:
    """What `launched_by` does, for the rest of the calling asyncio task."""
    _launcher.set(traceparent)


@contextmanager
def launched_by(traceparent: str | None) -> Generator[None]:
    """Runs that are launched inside belong to this trace; nothing valid is as good as nothing."""
    token = _launcher.set(None if parse_traceparent(traceparent) is None else traceparent)
    try:
        yield
    finally:
        _launcher.reset(token)


def launching_traceparent() -> str | None:
    """The trace that a launch by the calling code belongs to: the running task's, or the one that was named, or that of
    the program's own OpenTelemetry span."""
    run = current_run.get()
    task = current_task()
    if run is not None and task is not None and task.run_id == run.run_id:  # inherits its own run's launcher
        return task_traceparent(run, task.node_id, task.iteration)
    return _launcher.get() or _own_span()


def current_task() -> TaskRuntime | None:
    """The attempt that the calling code runs in."""
    if "smithers.engine.runtime" not in sys.modules:
        return None
    from smithers.engine.runtime import TaskRuntime

    found = ambient.attempt.get()
    return found if isinstance(found, TaskRuntime) else None


def _own_span() -> str | None:
    if "opentelemetry.trace" not in sys.modules:
        return None
    from opentelemetry import trace

    span = trace.get_current_span().get_span_context()
    if not span.is_valid:
        return None
    return f"00-{span.trace_id:032x}-{span.span_id:016x}-{int(span.trace_flags) & 1:02x}"


def run_info(run_id: str, workflow_name: str, parent_run_id: str | None, config: str | Mapping[str, object]) -> RunInfo:
    """What is known of a stored run. `config` is its stored configuration."""
    if isinstance(config, str):
        config = object_of(from_json(config)) if '"traceparent"' in config else {}
    return RunInfo(run_id, workflow_name, parent_run_id, text_of(config.get("traceparent")))
