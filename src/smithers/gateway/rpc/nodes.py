"""RPC: what is inside of a run: descendants, tokens, nodes, outputs, attempts, frames."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Final

from pydantic import Field

from smithers.control import listing, run_lists
from smithers.control.node_output import node_output
from smithers.errors import (
    AttemptNotFound,
    IterationNotFound,
    MalformedOutputRow,
    NodeHasNoOutput,
    NodeNotFound,
    NotFound,
    RunNotFound,
)
from smithers.gateway.launching import RUN_ID
from smithers.gateway.rpc.call import RpcCall
from smithers.gateway.rpc.registry import Area, Codes, Params
from smithers.gateway.rpc.runs import MAX_INT, Iteration, NonEmpty, Positive, RunParams
from smithers.store.sql import reads

area = Area()

_NOT_THERE = ("INVALID_REQUEST", "NOT_FOUND")
_NO_RUN: Final[Codes] = {RunNotFound: "RunNotFound"}
RunId = Annotated[str, Field(pattern=f"^{RUN_ID.pattern.replace('(?=.{1,256}$)', '')}$", max_length=256)]
NodeId = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.@,:=-]{1,256}$")]


class DescendantsParams(RunParams):
    """Of which run."""

    field_codes: ClassVar[Mapping[str, str]] = {"limit": "INVALID_INPUT"}

    limit: Positive = 1_000


@area.method(
    "listRunDescendants", scope="run:read", params=DescendantsParams, errors=_NOT_THERE, aliases=("runs.descendants",)
)
async def list_run_descendants(call: RpcCall, params: DescendantsParams) -> list[dict[str, object]]:
    """A run and the runs below it, by depth."""
    return await run_lists.descendants(await call.control(params.run_id), params.run_id, limit=params.limit)


@area.method(
    "listRunTokenUsage", scope="run:read", params=RunParams, codes=_NO_RUN, errors=("INVALID_REQUEST", "RunNotFound")
)
async def list_run_token_usage(call: RpcCall, params: RunParams) -> dict[str, object]:
    """Every report of used tokens of a run, in order."""
    return await run_lists.token_usage(await call.control(params.run_id), params.run_id)


@area.method("listNodeStates", scope="run:read", params=RunParams, errors=_NOT_THERE, is_published=False)
async def list_node_states(call: RpcCall, params: RunParams) -> list[dict[str, object]]:
    """All nodes of a run with their states and times."""
    return await run_lists.node_states(await call.control(params.run_id), params.run_id)


class NodeParams(Params):
    """Names a node of a run."""

    field_codes: ClassVar[Mapping[str, str]] = {
        "runId": "InvalidRunId",
        "nodeId": "InvalidNodeId",
        "iteration": "InvalidIteration",
    }

    run_id: RunId
    node_id: NodeId
    iteration: Iteration = 0


@area.method(
    "getNodeOutput",
    scope="run:read",
    params=NodeParams,
    codes={
        RunNotFound: "RunNotFound",
        NodeNotFound: "NodeNotFound",
        IterationNotFound: "IterationNotFound",
        NodeHasNoOutput: "NodeHasNoOutput",
        MalformedOutputRow: "MalformedOutputRow",
    },
    errors=(
        "InvalidRunId",
        "InvalidNodeId",
        "InvalidIteration",
        "RunNotFound",
        "NodeNotFound",
        "IterationNotFound",
        "NodeHasNoOutput",
        "PayloadTooLarge",
        "MalformedOutputRow",
    ),
    aliases=("devtools.getNodeOutput",),
)
async def get_node_output(call: RpcCall, params: NodeParams) -> dict[str, object]:
    """What a node has written, or why it has not."""
    place = await call.place(params.run_id)
    row = await place.control.run(params.run_id)
    workflow = await call.services.launching.workflow_of(place, row)
    table = await place.store.aread(
        lambda c: next((n.output_table for n in reads.nodes(c, params.run_id) if n.node_id == params.node_id), None)
    )
    output = None if workflow is None or table is None else workflow.outputs.get(table)
    return await node_output(
        place.control,
        params.run_id,
        params.node_id,
        params.iteration,
        model=None if output is None else output.model,
    )


class AttemptsParams(RunParams):
    """Of which node; of all by default."""

    node_id: NonEmpty | None = None
    iteration: Iteration = 0


@area.method("attempts.list", scope="run:read", params=AttemptsParams, errors=_NOT_THERE, is_published=False)
async def list_attempts(call: RpcCall, params: AttemptsParams) -> list[dict[str, object]]:
    """Attempts: of one node, newest first; of a whole run, by start time."""
    control = await call.control(params.run_id)
    return await run_lists.attempts(control, params.run_id, node_id=params.node_id, iteration=params.iteration)


class AttemptParams(RunParams):
    """Which attempt."""

    node_id: NonEmpty
    iteration: Iteration
    attempt: Annotated[int, Field(ge=1, le=MAX_INT)]


@area.method(
    "attempts.get",
    scope="run:read",
    params=AttemptParams,
    codes={AttemptNotFound: "NOT_FOUND"},
    errors=_NOT_THERE,
    is_published=False,
)
async def get_attempt(call: RpcCall, params: AttemptParams) -> dict[str, object]:
    """One attempt."""
    control = await call.control(params.run_id)
    return await run_lists.attempt(control, params.run_id, params.node_id, params.iteration, params.attempt)


class FramesParams(RunParams):
    """Which frames."""

    field_codes: ClassVar[Mapping[str, str]] = {"limit": "INVALID_INPUT", "afterFrameNo": "INVALID_INPUT"}

    limit: Positive = 50
    after_frame_no: Annotated[int, Field(ge=0, le=MAX_INT)] | None = None


@area.method("frames.list", scope="run:read", params=FramesParams, errors=_NOT_THERE, is_published=False)
async def list_frames(call: RpcCall, params: FramesParams) -> list[dict[str, object]]:
    """A run's frames, newest first."""
    control = await call.control(params.run_id)
    return await listing.frame_list(
        control, params.run_id, after=params.after_frame_no, limit=min(params.limit, run_lists.MAX_LIMIT)
    )


class FrameParams(RunParams):
    """Which frame; the newest by default."""

    frame_no: Annotated[int, Field(ge=0, le=MAX_INT)] | None = None


@area.method("frames.get", scope="run:read", params=FrameParams, errors=_NOT_THERE, is_published=False)
async def get_frame(call: RpcCall, params: FrameParams) -> dict[str, object]:
    """One frame of a run."""
    control = await call.control(params.run_id)
    found = await listing.frame(control, params.run_id, params.frame_no)
    if found is None:
        which = "frame" if params.frame_no is None else f"frame {params.frame_no}"
        raise NotFound(f"run {params.run_id!r} has no {which}")
    return found
