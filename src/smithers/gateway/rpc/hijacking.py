"""RPC: taking a run over. The request is recorded with the run; terminals of agents are not offered in this version."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar
from uuid import uuid4

from pydantic import Field

from smithers.errors import RunNotFound
from smithers.gateway.problems import RpcError
from smithers.gateway.rpc.call import RpcCall
from smithers.gateway.rpc.nodes import RunId
from smithers.gateway.rpc.registry import Area, Params
from smithers.store.sql import takeovers

area = Area()
MAX_TARGET = 256


class Hijack(Params):
    """Which run to take over; `options.target` may name who or what takes it."""

    field_codes: ClassVar[Mapping[str, str]] = {"runId": "InvalidRunId"}

    run_id: RunId
    options: Annotated[dict[str, object], Field(default_factory=dict[str, object])]


@area.method(
    "hijackRun",
    scope="run:admin",
    params=Hijack,
    codes={RunNotFound: "RunNotFound"},
    errors=("InvalidRunId", "RunNotFound", "RUN_NOT_ACTIVE"),
    touches=("runs", "run_events"),
)
async def hijack_run(call: RpcCall, params: Hijack) -> dict[str, object]:
    """Record that somebody wants to take a run over. Its agents' sessions are at `hijack-candidates`."""
    target = params.options.get("target")
    if target is not None and not (isinstance(target, str) and 0 < len(target) <= MAX_TARGET):
        raise RpcError("INVALID_REQUEST", f"options.target must have 1 to {MAX_TARGET} characters", field="target")
    place = await call.place(params.run_id)
    now = call.services.clock.now_ms()
    await place.store.awrite(lambda c: takeovers.request_hijack(c, params.run_id, now, target))
    place.hub.touch(params.run_id)
    return {"runId": params.run_id, "status": "hijack-ready", "sessionId": str(uuid4())}
