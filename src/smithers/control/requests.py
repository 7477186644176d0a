"""Requests over HTTP that need a word more than `Control` says: what a cancel came to, and why a decision was refused."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import NamedTuple

from smithers.control.caller import Caller
from smithers.control.control import Control
from smithers.errors import (
    AlreadyDecided,
    InvalidRequest,
    NodeNotFound,
    RunNotActive,
    StateConflict,
)
from smithers.store.sql import reads

PATIENCE_S = 10.0
"""How long a cancel waits for the run's live owner."""


class Cancellation(NamedTuple):
    """What a cancel came to.

    Attributes:
        won: whether this call, and no earlier one, cancelled the run.
        terminal_status: the run's status now.
    """

    run_id: str
    won: bool
    terminal_status: str

    def wire(self) -> dict[str, object]:
        """As it is sent. Nothing is ever left half-cancelled here, so nothing is repaired."""
        return {
            "runId": self.run_id,
            "won": self.won,
            "status": "cancelled" if self.won else "already-terminal",
            "terminalStatus": self.terminal_status,
            "repaired": False,
        }


async def cancel_run(control: Control, run_id: str, *, source: str, patience_s: float = PATIENCE_S) -> Cancellation:
    """Cancel a run; the request is durable on return, whatever its owner does. May be repeated.

    Raises:
        RunNotFound.
        RunNotActive: it has ended otherwise, or was continued.
    """
    before = await control.run(run_id)
    if before.status == "cancelled":
        return Cancellation(run_id, False, "cancelled")
    try:
        before = await control.store.request_cancel(run_id, control.clock.now_ms(), source)
        after = await control.cancel(run_id, source=source, patience_s=patience_s)
    except RunNotActive:
        after = await control.run(run_id)
        if after.status != "cancelled":
            raise RunNotActive(run_id, after.status) from None
    is_first = before.cancel_requested_at_ms is None
    return Cancellation(run_id, is_first and after.status not in ("finished", "failed", "continued"), after.status)


async def decide_node(
    control: Control,
    run_id: str,
    node_id: str,
    *,
    approved: bool,
    iteration: int = 0,
    note: str | None = None,
    decided_by: str | None = None,
    decision: Mapping[str, object] | None = None,
    answer: tuple[object] | None = None,
) -> None:
    """Decide an approval, or answer a human task, for a door without scopes of its own; durable on return.

    Args:
        decision: what was chosen, for approvals that offer a choice.
        answer: a human task's answer, in a tuple, as `None` is one.

    Raises:
        RunNotFound.
        InvalidRequest: the run has no such node, or its human task is not given an answer.
        InvalidInput: the choice or the answer does not fit; names the field.
        StateConflict: the node does not wait for a decision (yet, or any more).
    """
    caller = Caller(user=decided_by, scopes=("*",))
    try:
        await control.decide(run_id, node_id, iteration, approved=approved, caller=caller, note=note, decision=decision)
    except (NodeNotFound, AlreadyDecided, RunNotActive) as error:
        details = {"runId": run_id, "nodeId": node_id, "iteration": iteration}
        if isinstance(error, NodeNotFound) and await _asks(control, run_id, node_id, iteration):
            if not approved:
                raise StateConflict(f"Node {node_id} asks a question, which is not denied.", details) from error
            if answer is None:
                raise InvalidRequest(f"Node {node_id} asks a question: give the answer as value", details) from error
            with suppress(NodeNotFound, AlreadyDecided, RunNotActive):  # somebody else was faster
                await control.answer(run_id, node_id, answer[0], caller=caller, iteration=iteration)
                return
        nodes = await control.store.aread(lambda c: reads.nodes(c, run_id))
        if not any(n.node_id == node_id and n.iteration == iteration for n in nodes):
            raise InvalidRequest(f"the run has no node {node_id!r} (iteration {iteration})", details) from error
        raise StateConflict(f"Node {node_id} is not waiting for approval.", details) from error


async def _asks(control: Control, run_id: str, node_id: str, iteration: int) -> bool:
    """Whether a human task waits for its answer."""
    found = await control.store.aread(lambda c: reads.human_requests(c, run_id))
    return any(row.node_id == node_id and row.iteration == iteration for row in found)
