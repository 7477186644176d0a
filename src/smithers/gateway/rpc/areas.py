"""Areas: all methods of the gateway, by area."""

from __future__ import annotations

from typing import Final

from smithers.gateway.rpc import (
    approvals,
    crons,
    devtools,
    diffs,
    hijacking,
    later,
    library,
    narrating,
    nodes,
    runs,
    streams,
    tickets,
    travel,
    workflows,
)
from smithers.gateway.rpc.registry import Area

AREAS: Final[tuple[Area, ...]] = (
    runs.area,
    nodes.area,
    narrating.area,
    approvals.area,
    workflows.area,
    crons.area,
    tickets.area,
    library.area,
    streams.area,
    devtools.area,
    diffs.area,
    hijacking.area,
    travel.area,
    later.area,
)
