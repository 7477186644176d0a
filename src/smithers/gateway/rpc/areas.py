"""Areas: all methods of the gateway, by area."""

from __future__ import annotations

from typing import Final

from smithers.gateway.rpc import approvals, crons, later, library, nodes, runs, streams, tickets, workflows
from smithers.gateway.rpc.registry import Area

AREAS: Final[tuple[Area, ...]] = (
    runs.area,
    nodes.area,
    approvals.area,
    workflows.area,
    crons.area,
    tickets.area,
    library.area,
    streams.area,
    later.area,
)
