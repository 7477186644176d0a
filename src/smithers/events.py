"""Events: everything that can happen to a run. Drafted by the engine, stored with a step, sent as one JSON object.

The common keys (`type, runId, timestampMs, nodeId, iteration`) are columns; a draft's payload holds the rest as JSON text,
so that an event is encoded once and spliced for every reader.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final, NamedTuple

from pydantic_core import from_json, to_json

from smithers.errors import json_safe


class EventDraft(NamedTuple):
    """An event before it has its number. `payload` is JSON object text without the common keys, or None."""

    type: str
    node_id: str | None = None
    iteration: int | None = None
    payload: str | None = None


class EventRow(NamedTuple):
    """A stored event. `wire_json` makes the object that is sent of it."""

    seq: int
    timestamp_ms: int
    frame_no: int
    type: str
    node_id: str | None
    iteration: int | None
    payload: str | None


CATEGORIES: Final[dict[str, str]] = {
    "Run": "run",
    "Frame": "frame",
    "Node": "node",
    "NodeOutput": "output",
    "Task": "node",
    "Approval": "approval",
    "ToolCall": "tool-call",
    "Agent": "agent",
    "Token": "token",
    "Timer": "timer",
    "Signal": "signal",
    "Workflow": "workflow",
    "Scorer": "scorer",
    "Sandbox": "sandbox",
    "Supervisor": "supervisor",
    "RetryTask": "run",
    "EffectRevert": "revert",
    "SideEffectBoundary": "revert",
    "TimeTravel": "revert",
}
"""Category of an event by the longest matching beginning of its type."""

TERMINAL_TYPES: Final = frozenset({"RunFinished", "RunFailed", "RunCancelled", "RunContinuedAsNew"})
"""After one of these a run's stream has ended (until somebody resumes the run)."""


def category(type: str) -> str:
    """The category of an event type; `other` for unknown ones."""
    found = max((p for p in CATEGORIES if type.startswith(p)), key=len, default=None)
    return CATEGORIES[found] if found is not None else "other"


def event(type: str, node_id: str | None = None, iteration: int | None = None, /, **fields: object) -> EventDraft:
    """A draft with these fields beyond the common ones, in wire spelling; None leaves a field out."""
    given = {k: v for k, v in fields.items() if v is not None}
    if not given:
        return EventDraft(type, node_id, iteration)
    try:
        payload = to_json(given, inf_nan_mode="null")
    except Exception:  # not JSON, or a lone surrogate: say what can be said
        payload = to_json(json_safe(given))
    return EventDraft(type, node_id, iteration, payload.decode())


@lru_cache(maxsize=256)
def attempt_payload(attempt: int) -> str:
    """The payload of the most frequent events."""
    return f'{{"attempt":{attempt}}}'


def attempt_event(type: str, node_id: str, iteration: int, attempt: int) -> EventDraft:
    """A draft that tells of an attempt and nothing else; the fast way."""
    return EventDraft(type, node_id, iteration, attempt_payload(attempt))


def wire_json(run_id: str, row: EventRow) -> str:
    """The event as sent and streamed: one JSON object."""
    head = f'{{"type":{_quoted(row.type)},"runId":{_quoted(run_id)},"timestampMs":{row.timestamp_ms}'
    if row.node_id is not None:
        head += f',"nodeId":{_quoted(row.node_id)},"iteration":{row.iteration}'
    if row.payload is None or row.payload == "{}":
        return head + "}"
    return f"{head},{row.payload[1:]}"


def wire_object(run_id: str, row: EventRow) -> dict[str, object]:
    """The event as a dictionary."""
    found: dict[str, object] = from_json(wire_json(run_id, row))
    return found


@lru_cache(maxsize=4096)
def _quoted(text: str) -> str:
    return to_json(text).decode()
