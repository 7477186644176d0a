"""RPC: what changes a run's history: back to a frame, a task done again."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Annotated, ClassVar, Final, Literal

from pydantic import BeforeValidator, Field

from smithers.control.caller import Caller
from smithers.control.checkpoints import Restorer
from smithers.control.travel.resetting import retry_task
from smithers.control.travel.rewinding import rewind
from smithers.errors import (
    ConfirmationRequired,
    FrameOutOfRange,
    NotRunOwner,
    OwnershipError,
    RewindFailed,
    RunActive,
    RunNotFound,
    RunNotResumable,
    SideEffectBlocked,
    TravelBusy,
    TravelRateLimited,
    UnsupportedSandbox,
    VcsError,
)
from smithers.gateway.auth.identity import Identity, caller
from smithers.gateway.launching import ANYBODY, Trigger
from smithers.gateway.problems import RpcError
from smithers.gateway.rpc.call import RpcCall
from smithers.gateway.rpc.nodes import RunId
from smithers.gateway.rpc.registry import Area, Params
from smithers.gateway.rpc.runs import MAX_INT, TOUCHES_ALL, Iteration, NonEmpty

area = Area()
FrameNo = Annotated[int, Field(ge=0, le=MAX_INT)]
_SAME: Final = (
    ConfirmationRequired,
    FrameOutOfRange,
    NotRunOwner,
    TravelBusy,
    TravelRateLimited,
    UnsupportedSandbox,
    VcsError,
    RewindFailed,
    SideEffectBlocked,
)
"""Errors whose code is the wire's."""


def _true(value: object) -> object:
    """`true` itself: Python holds 1 for the same."""
    return value if value is True else None


class Rewind(Params):
    """Back to which frame, and that this is meant."""

    field_codes: ClassVar[Mapping[str, str]] = {
        "runId": "InvalidRunId",
        "frameNo": "InvalidFrameNo",
        "confirm": "ConfirmationRequired",
    }

    run_id: RunId
    frame_no: FrameNo
    confirm: Annotated[Literal[True], BeforeValidator(_true)]
    force: bool = False
    no_revert: bool = False


@area.method(
    "rewindRun",
    scope="run:admin",
    params=Rewind,
    codes={RunNotFound: "RunNotFound", **{error: error.code for error in _SAME}},
    errors=("InvalidRunId", "InvalidFrameNo", "RunNotFound", "RUN_NOT_RESUMABLE", *(error.code for error in _SAME)),
    touches=TOUCHES_ALL,
    aliases=("jumpToFrame", "devtools.jumpToFrame"),
)
async def rewind_run(call: RpcCall, params: Rewind) -> dict[str, object]:
    """Take a run back to right after a frame; what came after is gone but for the log, and the run goes on from there."""
    run_id = params.run_id
    place = await call.place(run_id)
    workflow = await call.services.launching.workflow_of(place, await place.control.run(run_id))
    found = await rewind(
        place.control,
        run_id,
        params.frame_no,
        caller=_launcher(call.identity),
        confirm=params.confirm,
        force=params.force,
        no_revert=params.no_revert,
        workflow=workflow,
        restore=Restorer(place.control, is_forced=params.force),
        stop=place.engine.drop,
    )
    place.hub.touch(run_id)
    await _go_on(call, run_id)
    return found.wire()


class Retry(Params):
    """Which node to do again."""

    run_id: NonEmpty
    node_id: NonEmpty
    iteration: Iteration = 0
    reset_dependents: bool = True


@area.method(
    "retryTask",
    scope="run:write",
    params=Retry,
    codes={RunActive: "RUN_ACTIVE", TravelBusy: "RUN_ACTIVE"},
    errors=("INVALID_REQUEST", "NOT_FOUND", "RUN_ACTIVE", "RUN_NOT_RESUMABLE", SideEffectBlocked.code),
    touches=TOUCHES_ALL,
    is_published=False,
)
async def retry(call: RpcCall, params: Retry) -> dict[str, object]:
    """Have a node done again, with what was started after it had ended; the run goes on, also one that has ended."""
    run_id = params.run_id
    place = await call.place(run_id)
    workflow = await call.services.launching.workflow_of(place, await place.control.run(run_id))
    found = await retry_task(
        place.control,
        run_id,
        params.node_id,
        params.iteration,
        caller=caller(call.identity),
        reset_dependents=params.reset_dependents,
        workflow=workflow,
    )
    place.hub.touch(run_id)
    await _go_on(call, run_id)
    return found.wire()


def _launcher(identity: Identity) -> Caller:
    """The caller, under the name that their launches are stored with."""
    found = caller(identity)
    is_anybody = identity.user_id is None and identity.token_id is None  # nobody is told apart here
    return replace(found, user=ANYBODY) if is_anybody else found


async def _go_on(call: RpcCall, run_id: str) -> None:
    """Have the run driven here, if it can be; a host that is faster does the same."""
    call.follow_run(run_id)
    with suppress(OwnershipError, RunNotResumable, RpcError):
        await call.services.launching.resume(run_id, Trigger.by(call.identity))
