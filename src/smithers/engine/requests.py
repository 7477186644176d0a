"""Requests: what a person is asked, and what is written for the answer. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import cast

from pydantic import BaseModel
from pydantic_core import from_json

from smithers.components.gates import Approval
from smithers.components.scope import Key
from smithers.components.task import Task
from smithers.store.interface import ApprovalRow


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
