"""Answers that both HTTP doors give: decisions, signals, cancellations, streams. They differ only in how a run is found."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from starlette.responses import Response

from smithers.asgi.bodies import MAX_SAFE_INTEGER, int_field, lenient_int, text_field
from smithers.asgi.problems import json_response
from smithers.asgi.routing import Call
from smithers.control.caller import Caller
from smithers.control.control import MAX_NAME, Control
from smithers.control.requests import decide_node
from smithers.errors import InvalidRequest
from smithers.jsons import object_of

if TYPE_CHECKING:
    from smithers.store.interface import StoredSignal


async def answer_decision(call: Call, control: Control, run_id: str, *, approved: bool) -> Response:
    """Approve or deny the node in the path; `value` answers a human task."""
    body = await call.object()
    decision = body.get("decision")
    if decision is not None and not isinstance(decision, dict):
        raise InvalidRequest("decision must be an object", {"field": "decision"})
    await decide_node(
        control,
        run_id,
        call.params["nodeId"],
        approved=approved,
        iteration=int_field(body, "iteration", 0),
        note=text_field(body, "note"),
        decided_by=text_field(body, "decidedBy", max_length=MAX_NAME),
        decision=None if decision is None else object_of(cast("object", decision)),
        answer=(body["value"],) if "value" in body else None,
    )
    return json_response({"runId": run_id})


async def answer_signal(call: Call, control: Control, run_id: str) -> Response:
    """Deliver the signal in the path, once per idempotency key."""
    body = await call.object()
    by = text_field(body, "receivedBy", max_length=MAX_NAME)
    key = text_field(body, "idempotencyKey", max_length=MAX_NAME)
    if key == "":
        raise InvalidRequest("idempotencyKey must not be empty", {"field": "idempotencyKey"})
    found: StoredSignal = await control.signal(
        run_id,
        call.params["signalName"],
        body.get("data", {}),
        correlation_id=text_field(body, "correlationId", max_length=MAX_NAME),
        caller=Caller(user=by, scopes=("*",)),
        idempotency_key=key,
    )
    return json_response(
        {
            "runId": run_id,
            "seq": found.seq,
            "signalName": found.signal_name,
            "correlationId": found.correlation_id,
            "receivedAtMs": found.received_at_ms,
        }
    )


def cursor_of(call: Call, after_seq: int | None) -> int:
    """The event number that a stream begins after: as asked for, else as the browser remembers it, else from the start."""
    if after_seq is None:
        after_seq = lenient_int(call.header("last-event-id"))
    if after_seq is None:
        return -1
    return max(-1, min(after_seq, MAX_SAFE_INTEGER))
