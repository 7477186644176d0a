"""Continuation: the run that a ContinueAsNew, or a loop's threshold, hands over to."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from pydantic_core import from_json, to_json

from smithers.errors import ContinuationTooLarge, InvalidContinuation
from smithers.events import event
from smithers.graph.plan import ContinueNode, LoopNode
from smithers.store.interface import NewRun

if TYPE_CHECKING:
    from smithers.engine.state import RunState

MAX_STATE_BYTES = 10 * 1024 * 1024
_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"


def new_run_id() -> str:
    """A run id that nobody else will make: 80 random bits in 16 letters."""
    bits = secrets.randbits(80)
    return "run-" + "".join(_ALPHABET[(bits >> shift) & 31] for shift in range(75, -1, -5))


def next_run(state: RunState, node: ContinueNode | LoopNode, now_ms: int) -> NewRun:
    """The successor of a run. Raises `InvalidContinuation` or `ContinuationTooLarge`."""
    if isinstance(node, ContinueNode):
        envelope: dict[str, object] = {"reason": "explicit", "payload": node.element.state}
        carried = {state.workflow.outputs.resolve(out, repr(node.element)).key for out in node.element.carry}
    else:
        loops = {id: [loop.iteration, loop.done] for id, loop in state.data.loops.items()}
        loops[node.id or ""] = [node.iteration + 1, False]
        envelope = {"reason": "loop-threshold", "payload": None, "loops": loops}
        carried = set(state.workflow.outputs)
    try:
        payload = to_json(envelope, inf_nan_mode="constants")
        from_json(payload, allow_inf_nan=False)
    except Exception as error:
        raise InvalidContinuation(f"the state given to ContinueAsNew is not JSON: {error}") from error
    if len(payload) > MAX_STATE_BYTES:
        raise ContinuationTooLarge(
            f"the state given to ContinueAsNew has {len(payload)} bytes",
            {"runId": state.run_id, "sizeBytes": len(payload), "maxBytes": MAX_STATE_BYTES},
        )
    depth = state.config.get("ancestryDepth", 0)
    config = {
        **{name: value for name, value in state.config.items() if name != "forgivenAttempts"},
        "ancestryDepth": (depth if isinstance(depth, int) else 0) + 1,
        "continuation": {"parentRunId": state.run_id, **from_json(payload)},
        "carriedFrom": state.run_id if carried or isinstance(node, LoopNode) else None,
        "carried": sorted(carried),
    }
    return NewRun(
        run_id=new_run_id(),
        workflow_name=state.name,
        workflow_path=state.workflow_path,
        workflow_hash=state.workflow_hash,
        input_json=state.input_json,
        config_json=to_json(config, fallback=str).decode(),
        owner=state.owner,
        now_ms=now_ms,
        parent_run_id=state.run_id,
        events=(event("RunStarted"), event("RunStatusChanged", None, None, status="running")),
    )
