"""Mapping: a stored event as connections are told of it: its name on the wire, and its payload as JSON text. Pure.

Payloads are stored as JSON text and stay text: the names that every event has are put before it. Only events whose shape is
closed on the wire, or that name a field differently, are taken apart, and each of them once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Final, NamedTuple, cast

from pydantic_core import from_json, to_json

from smithers.events import EventRow

COMPLETED: Final = "run.completed"
STATUS_CHANGED: Final = "run.status_changed"

STATUS_OF: Final = {
    "RunFinished": "finished",
    "RunFailed": "failed",
    "RunCancelled": "cancelled",
    "RunCanceled": "cancelled",
}
"""How a run has ended, by the event that says so; the last spelling is that of older stores."""

_ENDED: Final = frozenset(STATUS_OF.values())
_ATTEMPT: Final = re.compile(r'\{"attempt":\d+[,}]')
_OUTPUT: Final = re.compile(r'\{"attempt":(\d+),"text":"')
_USAGE: Final = ("cacheReadTokens", "cacheWriteTokens", "reasoningTokens")

Payload = dict[str, object]


class _Open(NamedTuple):
    """How a node's event is told whose payload may have more keys than the contract names.

    Attributes:
        head: JSON members after the node's names.
        needs_attempt: whether the wire requires an attempt.
    """

    event: str
    head: str = ""
    needs_attempt: bool = False


_OPEN: Final[dict[str, _Open]] = {
    "NodeStarted": _Open("node.started", ',"state":"in-progress"'),
    "NodeFinished": _Open("node.finished", ',"state":"finished"'),
    "NodeFailed": _Open("node.failed", ',"state":"failed"'),
    "NodeSkipped": _Open("node.skipped", ',"state":"skipped"'),
    "NodeCancelled": _Open("node.cancelled", ',"state":"cancelled"'),
    "NodeRetrying": _Open("node.retrying", ',"state":"in-progress"', needs_attempt=True),
    "NodeWaitingApproval": _Open("node.waiting_approval", ',"state":"waiting"'),
    "NodeWaitingTimer": _Open("node.waiting_timer", ',"state":"waiting"'),
    "TaskHeartbeat": _Open("task.heartbeat", needs_attempt=True),
    "ApprovalRequested": _Open("approval.requested"),
    "ApprovalGranted": _Open("approval.decided", ',"approved":true'),
    "ApprovalDenied": _Open("approval.decided", ',"approved":false'),
    "ApprovalAutoApproved": _Open("approval.auto_approved"),
}


def event_name(row: EventRow) -> str | None:
    """What connections are told of an event; None for one that they are not told of.

    The end of a run is told by `run.completed`, so its change of status is not told beside it; a continued run has no
    `run.completed`, because what it does goes on under another id.
    """
    name = _NAMES.get(row.type)
    if name is STATUS_CHANGED and _status(row) in _ENDED:
        return None
    if name is not None and row.node_id is None and not name.startswith("run."):
        return None
    return name


def event_payload(run_id: str, row: EventRow) -> str:
    """The payload of an event that `event_name` has a name for."""
    shape = _OPEN.get(row.type)
    if shape is not None:
        return _spliced(run_id, row, shape)
    if row.type == "NodePending":
        return _head(run_id, row) + ',"state":"pending"}'
    if row.type == "NodeOutput":
        return _output(run_id, row)
    return _CLOSED[row.type](run_id, row)


def completed_payload(run_id: str, row: EventRow) -> str:
    """The payload of `run.completed`."""
    found = _object(row)
    payload: Payload = {"runId": run_id, "status": STATUS_OF[row.type]}
    if row.type == "RunFailed" and "error" in found:
        payload["error"] = found["error"]
    count, keys = _whole(found.get("failedChildren")), found.get("failedChildKeys")
    if count:
        payload["failedChildren"] = count
    if isinstance(keys, list) and keys:
        payload["failedChildKeys"] = [str(key) for key in cast("list[object]", keys)]
    return _text(payload)


# ── open shapes ────────────────────────────────────────────────────────────────────────────────────────────────────


@lru_cache(maxsize=8192)
def _node_head(run_id: str, node_id: str, iteration: int) -> str:
    return f'{{"runId":{_text(run_id)},"nodeId":{_text(node_id)},"iteration":{iteration}'


def _head(run_id: str, row: EventRow) -> str:
    return _node_head(run_id, row.node_id or "", max(row.iteration or 0, 0))


def _spliced(run_id: str, row: EventRow, shape: _Open) -> str:
    payload = row.payload
    head = _head(run_id, row) + shape.head
    if shape.needs_attempt and (payload is None or _ATTEMPT.match(payload) is None):
        payload = _text({**_object(row), "attempt": _whole(_object(row).get("attempt"))})
    if payload is None or len(payload) <= 2:
        return head + "}"
    return f"{head},{payload[1:]}"


def _output(run_id: str, row: EventRow) -> str:
    """As stored, but the text is called otherwise."""
    payload = row.payload or ""
    found = _OUTPUT.match(payload)
    if found is not None and payload.endswith((',"stream":"stdout"}', ',"stream":"stderr"}')):
        return f'{_head(run_id, row)},"attempt":{found[1]},"output":"{payload[found.end() :]}'
    fields = _object(row)
    rest = {
        "attempt": _whole(fields.get("attempt")),
        "output": str(fields.get("text", "")),
        "stream": "stderr" if fields.get("stream") == "stderr" else "stdout",
    }
    return f"{_head(run_id, row)},{_text(rest)[1:]}"


# ── closed shapes ──────────────────────────────────────────────────────────────────────────────────────────────────


def _attempt_fields(run_id: str, row: EventRow, found: Mapping[str, object]) -> Payload:
    return {
        "runId": run_id,
        "nodeId": row.node_id or "",
        "iteration": max(row.iteration or 0, 0),
        "attempt": _whole(found.get("attempt")),
    }


def _agent_event(run_id: str, row: EventRow) -> str:
    found = _object(row)
    engine = str(found.get("engine", ""))
    return _text(_attempt_fields(run_id, row, found) | {"engine": engine, "event": _inner(found.get("event"))})


def _agent_part(name: str) -> Callable[[str, EventRow], str]:
    def payload(run_id: str, row: EventRow) -> str:
        found = _object(row)
        return _text(_attempt_fields(run_id, row, found) | {name: _inner(found.get(name))})

    return payload


def _usage(run_id: str, row: EventRow) -> str:
    found = _object(row)
    payload = _attempt_fields(run_id, row, found)
    payload |= {name: str(found.get(name) or "unknown") for name in ("model", "agent")}
    payload |= {name: _whole(found.get(name)) for name in ("inputTokens", "outputTokens")}
    payload |= {name: _whole(found[name]) for name in _USAGE if found.get(name) is not None}
    return _text(payload | {"timestampMs": row.timestamp_ms})


def _jumped(run_id: str, row: EventRow) -> str:
    found = _object(row)
    caller = found.get("caller")
    return _text(
        {
            "runId": run_id,
            "fromFrameNo": _whole(found.get("fromFrameNo"), -1),
            "toFrameNo": _whole(found.get("toFrameNo")),
            "timestampMs": row.timestamp_ms,
            "caller": None if caller is None else str(caller),
        }
    )


def _crossed(run_id: str, row: EventRow) -> str:
    found = _object(row)
    report = _inner(found.get("report"))
    payload: Payload = {
        "runId": run_id,
        "opId": str(found.get("opId", "")),
        "operation": str(found.get("operation", "")),
        "report": {
            k: v if isinstance(v := report.get(k), list) else [] for k in ("blocking", "revertible", "warnings")
        },
        "timestampMs": row.timestamp_ms,
    }
    payload |= {k: str(found[k]) for k in ("parentRunId", "archivedByOp") if found.get(k) is not None}
    payload |= {k: bool(found[k]) for k in ("warningOnly", "lateCompletion") if found.get(k) is not None}
    return _text(payload)


def _status_changed(run_id: str, row: EventRow) -> str:
    return _text({"runId": run_id, "status": _status(row), "timestampMs": row.timestamp_ms})


def _status(row: EventRow) -> str:
    found = str(_object(row).get("status", ""))
    return "cancelled" if found == "canceled" else found


_CLOSED: Final[dict[str, Callable[[str, EventRow], str]]] = {
    "AgentEvent": _agent_event,
    "AgentSessionEvent": _agent_part("transcript"),
    "AgentTraceEvent": _agent_part("trace"),
    "AgentTraceSummary": _agent_part("summary"),
    "TokenUsageReported": _usage,
    "TimeTravelJumped": _jumped,
    "SideEffectBoundaryCrossed": _crossed,
    "RunStatusChanged": _status_changed,
    **dict.fromkeys(STATUS_OF, completed_payload),
}

_NAMES: Final[dict[str, str]] = {
    **{type: shape.event for type, shape in _OPEN.items()},
    "NodePending": "node.pending",
    "NodeOutput": "task.output",
    "AgentEvent": "agent.event",
    "AgentSessionEvent": "agent.session",
    "AgentTraceEvent": "agent.trace",
    "AgentTraceSummary": "agent.trace_summary",
    "TokenUsageReported": "token.usage",
    "TimeTravelJumped": "run.time_travel_jumped",
    "SideEffectBoundaryCrossed": "run.side_effect_boundary_crossed",
    "RunStatusChanged": STATUS_CHANGED,
    **dict.fromkeys(STATUS_OF, COMPLETED),
}


def _text(value: object) -> str:
    return to_json(value, inf_nan_mode="null").decode()


def _object(row: EventRow) -> Payload:
    if row.payload is None:
        return {}
    try:
        found: object = from_json(row.payload)
    except ValueError:
        return {}
    return cast("Payload", found) if isinstance(found, dict) else {}


def _inner(value: object) -> Payload:
    return cast("Payload", value) if isinstance(value, dict) else {}


def _whole(value: object, least: int = 0) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= least else 0
