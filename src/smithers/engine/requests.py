"""Requests: what a person is asked, and what is written for the answer. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, datetime
from typing import cast

from pydantic import BaseModel
from pydantic_core import from_json

from smithers.components.gates import Approval
from smithers.components.scope import Key
from smithers.components.task import Task
from smithers.errors import ReplayUnsafe
from smithers.graph.plan import LeafNode
from smithers.store.calls import UnsafeCall
from smithers.store.interface import ApprovalRow

REPLAY_UNSAFE = "ReplayUnsafeApproval"
"""The kind of a request to do again what may have had effects that must not be repeated."""
MOST_CALLS = 5
"""As many calls are named to a person."""
MOST_CHARS = 200
"""As many characters of what a call was given are shown."""


def approval_request(element: Approval) -> dict[str, object]:
    """What an approval stores and shows, in wire spelling."""
    request = element.request
    found: dict[str, object] = {
        "mode": element.mode,
        "waitAsync": element.wait_async,
        "title": request.get("title") or element.label or element.id,
        "summary": request.get("summary"),
        "metadata": request.get("metadata"),
        "options": [dict(option) for option in element.options],
        "allowedScopes": list(element.allowed_scopes),
        "allowedUsers": list(element.allowed_users),
        "autoApprove": None,
    }
    if element.auto_approve is not None:
        found["autoApprove"] = {"after": element.auto_approve.after, "audit": element.auto_approve.audit}
    return {k: v for k, v in found.items() if v not in (None, [])}


def gate_request(element: Task) -> dict[str, object]:
    """What the gate of a task with `needs_approval` stores and shows."""
    given = element.needs_approval
    found: dict[str, object] = {"mode": "approve", "title": element.label or f"Run {element.id}?"}
    if isinstance(given, str):
        found["title"] = given
    elif isinstance(given, Mapping):
        found |= {str(k): v for k, v in cast("Mapping[str, object]", given).items()}
    return found


def replay_request(element: Task, calls: Collection[UnsafeCall], fingerprint: str) -> dict[str, object]:
    """What a person is asked before another attempt of a task whose earlier ones have made these calls. Whoever may open the
    task's own gate may answer."""
    gate, told = gate_request(element), _told_of(calls)
    found: dict[str, object] = {
        "mode": "approve",
        "kind": REPLAY_UNSAFE,
        "title": f"Run '{element.label or element.id}' again?",
        "summary": f"{told[0].upper()}{told[1:]}.",
        "fingerprint": fingerprint,
        "calls": [
            {
                "attempt": call.attempt,
                "toolName": call.tool_name,
                "input": _given(call),
                "outcome": "succeeded" if call.has_succeeded else "unknown",
            }
            for call in _first(calls)
        ],
        "callCount": len(calls),
    }
    return found | {name: gate[name] for name in ("allowedScopes", "allowedUsers") if name in gate}


def unsafe_to_repeat(leaf: LeafNode, calls: Collection[UnsafeCall]) -> ReplayUnsafe:
    """The end of a task that says that there is to be no other attempt after such calls."""
    return ReplayUnsafe(
        f"{leaf.element!r} is not run again: {_told_of(calls)}",
        {"nodeId": leaf.key[0], "iteration": leaf.key[1], "callCount": len(calls)},
    )


def _told_of(calls: Collection[UnsafeCall]) -> str:
    """What calls that must not be repeated come to, without what looks like a credential. Names at most five."""
    told: list[str] = []
    for call in _first(calls):
        outcome = "succeeded" if call.has_succeeded else "may or may not have taken effect"
        told.append(" ".join(filter(None, (f"attempt {call.attempt}:", call.tool_name, _given(call), outcome))))
    more = len(calls) - len(told)
    if more:
        told.append(f"{more} more")
    return f"earlier attempts may have had effects that would be repeated: {'; '.join(told)}"


def _first(calls: Iterable[UnsafeCall]) -> list[UnsafeCall]:
    return sorted(calls, key=lambda call: (call.attempt, call.seq))[:MOST_CALLS]


def _given(call: UnsafeCall) -> str | None:
    from smithers.observability.redaction import scrub  # runs that ask nothing of the kind do not need it

    if call.given is None:
        return None
    text = scrub(call.given)
    return text if len(text) <= MOST_CHARS else text[:MOST_CHARS] + "…"


def decision_row(element: Approval, row: ApprovalRow, model: type[BaseModel] | None) -> dict[str, object]:
    """The row that an approval writes for a decision; for a strict model without the fields that it does not have."""
    decision: dict[str, object] = from_json(row.decision_json) if row.decision_json else {}
    is_denied = row.status != "approved"
    if element.mode == "select":
        return {
            "selected": None if is_denied else decision.get("selected", element.options[0]["key"]),
            "notes": row.note,
        }
    if element.mode == "rank":
        ranked: object = [] if is_denied else decision.get("ranked", [o["key"] for o in element.options])
        return {"ranked": ranked, "notes": row.note}
    decided_at = None
    if row.decided_at_ms is not None:
        decided_at = datetime.fromtimestamp(row.decided_at_ms / 1000, UTC).isoformat()
    full: dict[str, object] = {
        "approved": row.status == "approved",
        "note": row.note,
        "decided_by": row.decided_by,
        "decided_at": decided_at,
    }
    if model is not None and model.model_config.get("extra") == "forbid":
        return {k: v for k, v in full.items() if k in model.model_fields}
    return full


def human_request_id(run_id: str, key: Key) -> str:
    """The id of a human task's request."""
    return f"human:{run_id}:{key[0]}:{key[1]}"
