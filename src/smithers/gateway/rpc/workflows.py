"""RPC: what a gateway serves, and how it is."""

from __future__ import annotations

from pydantic import Field

from smithers.control import run_lists
from smithers.gateway.http import health_of
from smithers.gateway.rpc.call import RpcCall
from smithers.gateway.rpc.registry import Area, NoParams, Params

area = Area()


@area.method("health", scope="run:read", params=NoParams)
async def health(call: RpcCall, params: NoParams) -> dict[str, object]:
    """How the gateway is."""
    return {**health_of(call.services), "uptimeMs": call.services.uptime_ms}


class WorkflowFilter(Params):
    """Which workflows."""

    has_ui: bool | None = None
    include_system: bool | None = None


class ListWorkflowsParams(WorkflowFilter):
    """Which workflows; a key of its own wins over the filter's."""

    filter: WorkflowFilter = Field(default_factory=WorkflowFilter)


@area.method("listWorkflows", scope="run:read", params=ListWorkflowsParams, aliases={"workflows.list": "run:read"})
async def list_workflows(call: RpcCall, params: ListWorkflowsParams) -> list[dict[str, object]]:
    """The registered workflows, by key."""
    services = call.services
    has_ui = params.has_ui if params.has_ui is not None else params.filter.has_ui
    system = params.include_system if params.include_system is not None else params.filter.include_system
    found: list[dict[str, object]] = []
    for entry in await services.entries.all():
        view = entry.view(services.ui_path_of(entry.key))
        if (system or not entry.is_system) and has_ui in (None, view["hasUi"]):
            found.append(view)
    return found


@area.method("getSchemaSignature", scope="run:read", params=NoParams)
async def get_schema_signature(call: RpcCall, params: NoParams) -> dict[str, object]:
    """What the stored tables look like, as a key for caches."""
    for place in await call.services.launching.places():
        return await run_lists.schema_signature(place.control)
    return dict(run_lists.EMPTY_SIGNATURE)
