"""RPC: what has happened to a run or a node, in a few sentences."""

from __future__ import annotations

from smithers.errors import IterationNotFound, NodeNotFound, RunNotFound
from smithers.gateway.rpc.call import RpcCall
from smithers.gateway.rpc.nodes import NodeId, NodeParams, RunId
from smithers.gateway.rpc.registry import Area, Params
from smithers.gateway.rpc.runs import Iteration

area = Area()


class WhatHappened(Params):
    """To which run, or which node of it."""

    field_codes = NodeParams.field_codes

    run_id: RunId
    node_id: NodeId | None = None
    iteration: Iteration | None = None


@area.method(
    "whatHappened",
    scope="run:read",
    params=WhatHappened,
    codes={RunNotFound: "RunNotFound", NodeNotFound: "NodeNotFound", IterationNotFound: "IterationNotFound"},
    errors=("InvalidRunId", "InvalidNodeId", "InvalidIteration", "RunNotFound", "NodeNotFound", "IterationNotFound"),
)
async def what_happened(call: RpcCall, params: WhatHappened) -> dict[str, object]:
    """What has happened to a run, or to a node of it, told from its log."""
    control = await call.control(params.run_id)
    story = await call.services.stories.tell(control, params.run_id, params.node_id, params.iteration)
    return story.wire()
