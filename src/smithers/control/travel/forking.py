"""Forking: a new run that begins as another one was at a frame. The other one is left as it is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

from pydantic_core import from_json, to_json

from smithers.components.workflow import SmithersWorkflow
from smithers.control.caller import Caller
from smithers.control.control import Control
from smithers.control.travel import effects
from smithers.control.travel.effects import EffectBoundaryReport
from smithers.engine.admission import checked_run_id
from smithers.engine.continuation import new_run_id as made_run_id
from smithers.errors import InvalidInput
from smithers.events import EventDraft, event
from smithers.jsons import object_of
from smithers.store.sql import branching, reads


@dataclass(frozen=True, slots=True)
class Forked:
    """A new run, paused at the frame that it was forked from. `reset_nodes` as `node_id::iteration`."""

    run_id: str
    parent_run_id: str
    frame_no: int
    label: str | None
    reset_nodes: tuple[str, ...]
    effects: EffectBoundaryReport

    def wire(self) -> dict[str, object]:
        """As it is sent."""
        return {
            "runId": self.run_id,
            "parentRunId": self.parent_run_id,
            "parentFrameNo": self.frame_no,
            "branchLabel": self.label,
            "resetNodes": list(self.reset_nodes),
            "status": "paused",
            "effectBoundary": self.effects.wire(),
        }


async def fork(
    control: Control,
    run_id: str,
    frame_no: int | None = None,
    *,
    caller: Caller,
    new_run_id: str | None = None,
    reset_nodes: Iterable[str] = (),
    input: object = None,
    workflow: SmithersWorkflow | None = None,
    label: str | None = None,
    description: str | None = None,
    is_replay: bool = False,
    restores_vcs: bool = False,
    force: bool = False,
) -> Forked:
    """Make a new run out of what a run was right after a frame (the newest by default). It is `paused`: resume it with
    `Engine.resume`.

    Args:
        new_run_id: its id; made up if not given.
        reset_nodes: ids of nodes (`id`, or `id::iteration`) that are to be done again, with all that came after them.
        input: another input (JSON object), held to the workflow's input model if `workflow` is given.
        label, description: what the branch is called.
        is_replay: the caller goes on with the new run at once, so effects of the old run may happen again: those that may
            not be repeated block, unless `force` is given.
        restores_vcs: for the record of a replay: whether the caller puts files back first.

    Raises:
        RunNotFound, FrameOutOfRange, RunAlreadyExists, NodeNotFound, InvalidInput, SideEffectBlocked (a replay).
    """
    new = made_run_id() if new_run_id is None else checked_run_id(new_run_id)
    text = _input_text(input, workflow)
    row, (_, config_json) = await control.store.aread(lambda c: (reads.run(c, run_id), reads.spec(c, run_id)))
    at = row.frame_no if frame_no is None else frame_no
    operation = effects.REPLAY if is_replay else effects.FORK
    found = await effects.cross(
        control,
        run_id,
        at,
        None,
        operation=operation,
        op_id=new,
        force=force,
        no_revert=True,
        caller=caller,
        workflow=workflow,
    )
    told = list[EventDraft]()
    if found:
        told.append(effects.crossed_event(found, op_id=new, operation=operation, parent_run_id=run_id))
    if is_replay:
        told.append(event("ReplayStarted", parentRunId=run_id, parentFrameNo=at, restoreVcs=restores_vcs))
    config = object_of(from_json(config_json))
    if caller.user is not None:
        config["gatewayTriggeredBy"] = caller.user  # whose run it is; `ctx.auth` stays what the tasks have seen
    fork = branching.NewFork(
        run_id=new,
        parent_run_id=run_id,
        frame_no=at,
        now_ms=control.clock.now_ms(),
        config_json=to_json(config).decode(),
        reset=tuple(reset_nodes),
        input_json=text,
        label=label,
        description=description,
        told=tuple(told),
    )
    keys = await control.store.awrite(lambda c: branching.fork(c, fork))
    return Forked(new, run_id, at, label, tuple(f"{node}::{iteration}" for node, iteration in keys), found)


def _input_text(input: object, workflow: SmithersWorkflow | None) -> str | None:
    """Another input as it is stored. Raises `InvalidInput`."""
    if input is None:
        return None
    if workflow is not None:
        return workflow.parse_input(input)[1]
    if not isinstance(input, dict):
        raise InvalidInput("input must be a JSON object")
    try:
        return to_json(cast("dict[str, object]", input)).decode()
    except Exception as error:
        raise InvalidInput(f"input is not JSON: {error}") from error
