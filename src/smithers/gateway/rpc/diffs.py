"""RPC: what tasks and runs have changed: differences of files, and of the states of two runs."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import Field

from smithers.control import diffs
from smithers.control.travel.diffing import diff_runs
from smithers.errors import (
    AttemptNotFinished,
    AttemptNotFound,
    DiffTooLarge,
    NodeNotFound,
    RunActive,
    RunNotFound,
    VcsError,
    VcsNotFound,
    WorkingTreeDirty,
)
from smithers.gateway.rpc.call import RpcCall
from smithers.gateway.rpc.nodes import NodeParams
from smithers.gateway.rpc.registry import Area, Codes, Params
from smithers.gateway.rpc.runs import NonEmpty

area = Area()

_CODES: Final[Codes] = {
    RunNotFound: "RunNotFound",
    NodeNotFound: "NodeNotFound",
    AttemptNotFound: "AttemptNotFound",
    AttemptNotFinished: "AttemptNotFinished",
    DiffTooLarge: "DiffTooLarge",
    RunActive: "RUN_ACTIVE",
    VcsError: "VcsError",
    VcsNotFound: "VcsError",
    WorkingTreeDirty: "WorkingTreeDirty",
}


@area.method(
    "getNodeDiff",
    scope="run:read",
    params=NodeParams,
    codes=_CODES,
    errors=(
        "InvalidRunId",
        "InvalidNodeId",
        "InvalidIteration",
        "RunNotFound",
        "NodeNotFound",
        "AttemptNotFound",
        "AttemptNotFinished",
        "DiffTooLarge",
        "VcsError",
    ),
    aliases=("devtools.getNodeDiff",),
)
async def get_node_diff(call: RpcCall, params: NodeParams) -> dict[str, object]:
    """What a node's newest attempt has changed in the files of its folder."""
    control = await call.control(params.run_id)
    return await diffs.node_diff(control, params.run_id, params.node_id, params.iteration)


class RunDiffParams(Params):
    """Of which run."""

    run_id: Annotated[str, Field(min_length=1, max_length=256)]


@area.method(
    "getRunDiff",
    scope="run:read",
    params=RunDiffParams,
    codes=_CODES,
    errors=("InvalidRequest", "RunNotFound", "RUN_ACTIVE", "VcsError"),
)
async def get_run_diff(call: RpcCall, params: RunDiffParams) -> dict[str, object]:
    """What a run that has ended has changed in the files of its folders."""
    return await diffs.run_diff(await call.control(params.run_id), params.run_id)


class RunsDiffParams(Params):
    """Which two runs."""

    left_run_id: NonEmpty
    right_run_id: NonEmpty


@area.method(
    "runs.diff",
    scope="run:read",
    params=RunsDiffParams,
    errors=("INVALID_REQUEST", "NOT_FOUND"),
    is_published=False,
)
async def runs_diff(call: RpcCall, params: RunsDiffParams) -> dict[str, object]:
    """How the newest states of two runs differ."""
    left = (await call.control(params.left_run_id), params.left_run_id)
    right = (await call.control(params.right_run_id), params.right_run_id)
    return (await diff_runs(left, right)).wire()
