"""Views: what a run looks like from outside. Pure functions of stored rows, the time and owners' liveness."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from pydantic_core import from_json

from smithers.engine.leases import LEASE_MS, is_mirror, is_owner_dead
from smithers.store.calls import ToolCallRow
from smithers.store.interface import ApprovalRow, HumanRow, NodeRow, RunRow, TimerRow

TIMER_GRACE_MS = 30_000


def iso(moment_ms: int) -> str:
    """A moment as ISO-8601 text in UTC."""
    return datetime.fromtimestamp(moment_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def run_state(
    run: RunRow,
    *,
    nodes: Sequence[NodeRow],
    asked: Sequence[ApprovalRow | HumanRow],
    timers: Sequence[TimerRow],
    now_ms: int,
    lease_ms: int = LEASE_MS,
) -> dict[str, object]:
    """The derived state of a run: `{runId, state, computedAt, blocked?, unhealthy?}`.

    Args:
        asked: the open approvals and questions of the run, oldest first; if it has none, of the runs below it.
        timers: what the run waits for by the clock, earliest first.
    """
    view: dict[str, object] = {"runId": run.run_id, "state": run.status, "computedAt": iso(now_ms)}
    match run.status:
        case "finished" | "continued":
            view["state"] = "succeeded"
        case "running":
            _live(view, run, now_ms, lease_ms)
        case "waiting-approval":
            if asked:
                first = asked[0]
                view["blocked"] = {
                    "kind": "approval",
                    "nodeId": first.node_id,
                    "requestedAt": iso(first.requested_at_ms),
                    **({} if first.run_id == run.run_id else {"childRunId": first.run_id}),
                }
            else:
                view["blocked"] = {
                    "kind": "approval-decided-resume-required",
                    "nodeId": _waiting(nodes, "waiting-approval"),
                }
        case "waiting-timer":
            due = [t for t in timers if t.kind == "timer"]
            if due:
                view["blocked"] = {"kind": "timer", "nodeId": due[0].node_id, "wakeAt": iso(due[0].due_at_ms)}
                late = now_ms - due[0].due_at_ms
                if late > TIMER_GRACE_MS:
                    view["unhealthy"] = {"kind": "timer-overdue", "wakeAt": iso(due[0].due_at_ms), "overdueMs": late}
        case "waiting-event":
            node = _waiting(nodes, "waiting-event")
            view["blocked"] = {"kind": "external-trigger"} if node is None else {"kind": "event", "nodeId": node}
        case "waiting-quota":
            view["blocked"] = {"kind": "quota", "nodeId": _waiting(nodes, "waiting-quota")}
        case "failed" | "cancelled" | "paused":
            pass
        case _:
            view["state"] = "unknown"
    return view


def _live(view: dict[str, object], run: RunRow, now_ms: int, lease_ms: int) -> None:
    if is_mirror(run):
        return  # who drives it is known in its own database only
    alive = max(run.heartbeat_at_ms or 0, run.started_at_ms or 0)
    if not alive:
        view["state"] = "unknown"
    elif run.runtime_owner_id is None or is_owner_dead(run.runtime_owner_id):
        view["state"] = "orphaned"
    elif now_ms - alive > lease_ms:
        view["state"] = "stale"
    if view["state"] != "running":
        view["unhealthy"] = {"kind": "engine-heartbeat-stale", "lastHeartbeatAt": iso(alive)}


def _waiting(nodes: Sequence[NodeRow], state: str) -> str | None:
    return next((node.node_id for node in nodes if node.state == state), None)


def run_summary(run: RunRow) -> dict[str, object]:
    """A run as it is listed."""
    return {
        "runId": run.run_id,
        "parentRunId": run.parent_run_id,
        "workflowName": run.workflow_name,
        "workflowPath": run.workflow_path,
        "status": run.status,
        "createdAtMs": run.created_at_ms,
        "startedAtMs": run.started_at_ms,
        "finishedAtMs": run.finished_at_ms,
        "error": None if run.error_json is None else from_json(run.error_json),
    }


def node_summary(node: NodeRow) -> dict[str, object]:
    """A node as it is listed."""
    return {
        "nodeId": node.node_id,
        "iteration": node.iteration,
        "state": node.state,
        "lastAttempt": node.last_attempt,
        "updatedAtMs": node.updated_at_ms,
        "outputTable": node.output_table,
        "label": node.label,
    }


def tool_call_summary(call: ToolCallRow) -> dict[str, object]:
    """A tool call as it is listed, without what it was given and gave."""
    return {
        "toolCallId": call.call_token,
        "nodeId": call.node_id,
        "iteration": call.iteration,
        "attempt": call.attempt,
        "seq": call.seq,
        "toolName": call.tool_name,
        "status": call.status,
        "startedAtMs": call.started_at_ms,
        "finishedAtMs": call.finished_at_ms,
        "sideEffect": bool(call.side_effect),
        "idempotent": bool(call.idempotent),
        "idempotencyKey": call.idempotency_key,
        "error": None if call.error_json is None else from_json(call.error_json),
    }


def approval_summary(row: ApprovalRow) -> dict[str, object]:
    """An approval as it is listed."""
    return {
        "runId": row.run_id,
        "nodeId": row.node_id,
        "iteration": row.iteration,
        "status": row.status,
        "workflowName": row.workflow_name,
        "requestedAtMs": row.requested_at_ms,
        "decidedAtMs": row.decided_at_ms,
        "note": row.note,
        "decidedBy": row.decided_by,
        "request": from_json(row.request_json),
        "decision": None if row.decision_json is None else from_json(row.decision_json),
    }
