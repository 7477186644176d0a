"""RPC: approvals and signals: what people and other programs tell runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Final, TypedDict

from pydantic import ConfigDict, Field
from pydantic_core import from_json

from smithers.control import run_lists
from smithers.control.hosting import Place
from smithers.errors import NodeNotFound, RunNotActive, SmithersError
from smithers.gateway.auth.identity import caller
from smithers.gateway.problems import RpcError
from smithers.gateway.rpc.call import RpcCall
from smithers.gateway.rpc.registry import Area, Params
from smithers.gateway.rpc.runs import Iteration, NonEmpty, limit_of
from smithers.jsons import list_of, object_of
from smithers.store.interface import ApprovalRow
from smithers.store.sql import reads

area = Area()
_DECIDED: Final = ("approvals", "runs", "run_events", "nodes")


class Decision(Params):
    """What was decided, with whatever else the caller says of it."""

    model_config = ConfigDict(extra="allow")

    approved: bool | None = None
    note: str | None = None


class ApprovalParams(Params):
    """Which approval, and what was decided."""

    run_id: NonEmpty
    node_id: NonEmpty
    iteration: Iteration = 0
    approved: bool | None = None
    decision: Decision | None = None
    note: str | None = None


class Decided(TypedDict):
    """A decision that was recorded."""

    runId: str
    nodeId: str
    iteration: int
    approved: bool


@area.method(
    "submitApproval",
    scope="approval:submit",
    params=ApprovalParams,
    errors=("INVALID_REQUEST", "NOT_FOUND", "AlreadyDecided"),
    touches=_DECIDED,
    aliases=("approvals.decide",),
)
async def submit_approval(call: RpcCall, params: ApprovalParams) -> Decided:
    """Decide an approval, once; durable on return, and the run goes on by itself."""
    given = params.decision
    approved = params.approved if params.approved is not None else (given.approved if given is not None else None)
    if approved is None:
        raise RpcError("INVALID_REQUEST", "approved (or decision.approved) must be true or false", field="approved")
    note = params.note if params.note is not None else (given.note if given is not None else None)
    place = await call.place(params.run_id)
    stored = await place.store.aread(
        lambda c: [
            row
            for row in reads.approvals(c, params.run_id, only_open=False)
            if (row.node_id, row.iteration) == (params.node_id, params.iteration)
        ]
    )
    if not stored and await _answers(call, params, place, approved=approved):
        return {"runId": params.run_id, "nodeId": params.node_id, "iteration": params.iteration, "approved": True}
    decision = _decision(given, stored[0] if stored else None, approved=approved)
    try:
        await place.control.decide(
            params.run_id,
            params.node_id,
            params.iteration,
            approved=approved,
            caller=caller(call.identity),
            note=note,
            decision=decision,
        )
    except (NodeNotFound, RunNotActive) as error:
        raise await _refusal(call, params, error) from error
    place.hub.touch(params.run_id)
    call.follow_run(params.run_id)
    return {"runId": params.run_id, "nodeId": params.node_id, "iteration": params.iteration, "approved": approved}


async def _answers(call: RpcCall, params: ApprovalParams, place: Place, *, approved: bool) -> bool:
    """Answer a human task, which lists have among the approvals; False if the node is none that waits."""
    asked = await place.store.aread(lambda c: reads.human_requests(c, params.run_id))
    if not any((ask.node_id, ask.iteration) == (params.node_id, params.iteration) for ask in asked):
        return False
    if not approved:
        raise RpcError("INVALID_REQUEST", "a human task is answered, not denied: send decision.value", field="approved")
    given = {} if params.decision is None else params.decision.model_dump(by_alias=True, exclude_unset=True)
    value = given["value"] if "value" in given else {k: v for k, v in given.items() if k not in ("approved", "note")}
    await place.control.answer(
        params.run_id, params.node_id, value, caller=caller(call.identity), iteration=params.iteration
    )
    place.hub.touch(params.run_id)
    call.follow_run(params.run_id)
    return True


async def _refusal(call: RpcCall, params: ApprovalParams, error: SmithersError) -> RpcError:
    """A node that is there but waits for no approval is a wrong request, not a missing one; and a decision that was made
    stays made when its run has ended."""
    place = await call.place(params.run_id)
    run_id, node_id, iteration = params.run_id, params.node_id, params.iteration
    row = await place.store.aread(lambda c: reads.approval(c, run_id, node_id, iteration))
    if row is not None and row.status in ("approved", "denied"):
        decided = {"runId": run_id, "nodeId": node_id, "iteration": iteration, "status": row.status}
        return RpcError("AlreadyDecided", f"approval {node_id!r} was {row.status} before", decided)
    nodes = await place.store.aread(lambda c: reads.nodes(c, params.run_id))
    if any((n.node_id, n.iteration) == (params.node_id, params.iteration) for n in nodes):
        return RpcError("INVALID_INPUT", f"node {params.node_id!r} is not waiting for approval")
    return RpcError("NOT_FOUND", error.summary)


def _decision(given: Decision | None, row: ApprovalRow | None, *, approved: bool) -> Mapping[str, object] | None:
    """What the workflow gets of a decision: a choice for approvals that offer one, nothing for the others."""
    if given is None or not approved or row is None:
        return None
    fields = object_of(given.model_dump(by_alias=True, exclude_unset=True))
    value = fields.get("value")
    chosen = object_of(value) or fields
    request = object_of(from_json(row.request_json))
    mode = request.get("mode")
    keys = [str(object_of(option).get("key")) for option in list_of(request.get("options"))]
    if mode == "select":
        selected = value if isinstance(value, str) else chosen.get("selected")
        if not isinstance(selected, str) or (keys and selected not in keys):
            raise RpcError(
                "INVALID_REQUEST", f"decision.selected must be one of {', '.join(keys)}", field="decision.selected"
            )
        return {"selected": selected}
    if mode == "rank":
        ranked = list_of(value) or list_of(chosen.get("ranked"))
        if not ranked or sorted(map(str, ranked)) != sorted(keys):
            raise RpcError(
                "INVALID_REQUEST", f"decision.ranked must hold each of {', '.join(keys)} once", field="decision.ranked"
            )
        return {"ranked": ranked}
    return None


class ApprovalFilter(Params):
    """Which approvals."""

    run_id: str | None = None
    workflow: str | None = None
    limit: int | str | None = None


class ListApprovalsParams(ApprovalFilter):
    """Which approvals; a key of its own wins over the filter's."""

    field_codes: ClassVar[Mapping[str, str]] = {"limit": "INVALID_INPUT"}

    filter: ApprovalFilter = Field(default_factory=ApprovalFilter)


@area.method(
    "listApprovals",
    scope="run:read",
    params=ListApprovalsParams,
    aliases={"approvals.list": "run:read"},
)
async def list_approvals(call: RpcCall, params: ListApprovalsParams) -> list[dict[str, object]]:
    """Approvals that wait for a decision, oldest first."""
    given = params.filter
    limit = limit_of(params.limit if params.limit is not None else given.limit, 1_000)
    run_id = params.run_id or given.run_id
    workflow = params.workflow or given.workflow
    names = call.services.entries.names()
    found: list[dict[str, object]] = []
    for place in await call.services.launching.places():
        found += await run_lists.pending_approvals(
            place.control, run_id=run_id, workflow_key=workflow, limit=limit, registered=names
        )
    if len(found) > limit or len(call.services.hosting.places) > 1:
        found.sort(key=lambda row: (row["requestedAtMs"] or 0, str(row["runId"]), str(row["nodeId"])))
    return found[:limit]


class SignalParams(Params):
    """What is delivered to which run."""

    run_id: NonEmpty
    correlation_key: str | None = None
    signal_name: str | None = None
    correlation_id: str | None = None
    payload: object = None
    data: object = None
    idempotency_key: Annotated[str, Field(min_length=1, max_length=256)] | None = None


class SignalReceipt(TypedDict):
    """A signal that was stored."""

    runId: str
    seq: int
    signalName: str
    correlationId: str | None
    receivedAtMs: int


@area.method(
    "submitSignal",
    scope="signal:submit",
    params=SignalParams,
    errors=("INVALID_REQUEST", "NOT_FOUND"),
    touches=("runs", "run_events", "nodes"),
    aliases=("signals.send",),
)
async def submit_signal(call: RpcCall, params: SignalParams) -> SignalReceipt:
    """Deliver a signal to a run, once per idempotency key; durable on return, kept if nobody waits for it yet."""
    name = params.signal_name if params.signal_name is not None else params.correlation_key
    if name is None:
        raise RpcError("INVALID_REQUEST", "signalName or correlationKey must be given", field="correlationKey")
    correlation = params.correlation_id if params.correlation_id is not None else params.correlation_key
    sent = params.model_fields_set
    payload: object = params.data if "data" in sent else params.payload if "payload" in sent else dict[str, object]()
    place = await call.place(params.run_id)
    found = await place.control.signal(
        params.run_id,
        name,
        payload,
        correlation_id=correlation,
        caller=caller(call.identity),
        idempotency_key=params.idempotency_key,
    )
    place.hub.touch(params.run_id)
    call.follow_run(params.run_id)
    return {
        "runId": params.run_id,
        "seq": found.seq,
        "signalName": found.signal_name,
        "correlationId": found.correlation_id,
        "receivedAtMs": found.received_at_ms,
    }
