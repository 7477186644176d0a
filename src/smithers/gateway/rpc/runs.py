"""RPC: the life of runs: launch, resume, cancel, pause, rerun, and what they look like."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Final, TypedDict

from pydantic import ConfigDict, Field, field_validator
from pydantic_core import from_json

from smithers.control import run_lists
from smithers.engine import leases
from smithers.errors import RunNotActive, RunNotFound
from smithers.gateway.launching import LaunchOptions, Trigger
from smithers.gateway.problems import RpcError
from smithers.gateway.rpc.call import RpcCall
from smithers.gateway.rpc.registry import Area, Codes, Params
from smithers.store.sql import reads

area = Area()

NonEmpty = Annotated[str, Field(min_length=1)]
MAX_INT: Final = 2**31 - 1
MAX_SAFE: Final = 2**53 - 1
"""The largest whole number that every client reads exactly."""
Positive = Annotated[int, Field(ge=1, le=MAX_SAFE)]
Iteration = Annotated[int, Field(ge=0, le=MAX_INT)]
Moment = Annotated[int, Field(ge=0, le=MAX_SAFE)]
"""Epoch milliseconds."""
_NO_RUN: Final[Codes] = {RunNotFound: "RunNotFound"}
_LIVE: Final = ("running", "waiting-approval", "waiting-event", "waiting-timer", "waiting-quota", "paused")
TOUCHES_ALL: Final = ("runs", "run_events", "nodes", "node_outputs")


class RunParams(Params):
    """Names a run."""

    run_id: NonEmpty


class StartedBy(Params):
    """Which program asks for a run, and why."""

    model_config = ConfigDict(extra="forbid")

    harness: Annotated[str, Field(max_length=64)] | None = None
    session_id: Annotated[str, Field(max_length=256)] | None = None
    prompt: str | None = None
    detected: bool | None = None

    @field_validator("detected")
    @classmethod
    def _only_true(cls, value: bool | None) -> bool | None:
        if value is False:
            raise ValueError("is true or left out")
        return value

    def kept(self) -> dict[str, object] | None:
        """What is stored of it; None if it says nothing."""
        found: dict[str, object] = {}
        for name, value in (("harness", self.harness), ("sessionId", self.session_id), ("prompt", self.prompt)):
            if value is not None and value.strip():
                found[name] = value if name == "prompt" else value.strip()
        if self.detected and ("harness" in found or "sessionId" in found):
            found["detected"] = True
        return found or None


class LaunchOptionParams(Params):
    """How a run works."""

    run_id: NonEmpty | None = None
    idempotency_key: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    max_concurrency: Positive | None = None
    allow_network: bool | None = None
    max_output_bytes: Positive | None = None
    tool_timeout_ms: Positive | None = None
    started_by: StartedBy | None = None


class LaunchParams(Params):
    """What to run."""

    field_codes: ClassVar[Mapping[str, str]] = {"input": "INVALID_INPUT"}

    workflow: NonEmpty
    input: dict[str, object] = Field(default_factory=dict[str, object])
    options: LaunchOptionParams = Field(default_factory=LaunchOptionParams)
    run_id: NonEmpty | None = None


class Launched(TypedDict):
    """A run that was started."""

    runId: str
    workflow: str
    system: bool


@area.method(
    "launchRun",
    scope="run:write",
    params=LaunchParams,
    errors=("INVALID_REQUEST", "NOT_FOUND", "CONFLICT", "QUOTA_EXCEEDED"),
    touches=("runs", "run_events"),
    aliases=("runs.create",),
)
async def launch_run(call: RpcCall, params: LaunchParams) -> dict[str, object]:
    """Start a run of a registered workflow; it is durable and can be read from the moment of the answer."""
    options = params.options
    config: dict[str, object] = {}
    if options.max_output_bytes is not None:
        config["maxOutputBytes"] = options.max_output_bytes
    if options.tool_timeout_ms is not None:
        config["toolTimeoutMs"] = options.tool_timeout_ms
    found = await call.services.launching.launch(
        params.workflow,
        params.input,
        Trigger.by(call.identity),
        LaunchOptions(
            run_id=params.run_id or options.run_id,
            idempotency_key=options.idempotency_key,
            max_concurrency=options.max_concurrency,
            allow_network=options.allow_network is True,
            started_by=None if options.started_by is None else options.started_by.kept(),
            config=config,
        ),
    )
    call.follow_run(str(found["runId"]))
    return found


class ResumeOptions(Params):
    """How to resume."""

    force: bool | None = None


class ResumeParams(RunParams):
    """Which run to go on with."""

    options: ResumeOptions = Field(default_factory=ResumeOptions)


@area.method(
    "resumeRun",
    scope="run:write",
    params=ResumeParams,
    errors=("INVALID_REQUEST", "NOT_FOUND", "RUN_OWNER_ALIVE", "RUN_STILL_RUNNING", "RUN_NOT_RESUMABLE"),
    touches=TOUCHES_ALL,
)
async def resume_run(call: RpcCall, params: ResumeParams) -> dict[str, object]:
    """Go on with a run that waits, is paused, or has lost its process."""
    force = params.options.force is True
    status = await call.services.launching.resume(params.run_id, Trigger.by(call.identity), force=force)
    call.follow_run(params.run_id)
    return {"runId": params.run_id, "status": status}


@area.method(
    "cancelRun",
    scope="run:write",
    params=RunParams,
    codes=_NO_RUN,
    errors=("INVALID_REQUEST", "RunNotFound", "RUN_NOT_ACTIVE"),
    touches=TOUCHES_ALL,
    aliases=("runs.cancel",),
)
async def cancel_run(call: RpcCall, params: RunParams) -> dict[str, object]:
    """Cancel a run and its children. Durable on return; asking again changes nothing."""
    run_id = params.run_id
    place = await call.place(run_id)
    before = await place.control.run(run_id)
    if before.status == "cancelled":
        return _cancellation(run_id, won=False, terminal="cancelled")
    if before.status not in _LIVE:
        raise RunNotActive(run_id, before.status)
    is_orphan = before.status == "running" and leases.may_take_over(before, call.services.clock.now_ms())
    try:
        await place.control.cancel(run_id, source="gateway")
    except RunNotActive:
        after = await place.control.run(run_id)
        return _cancellation(run_id, won=False, terminal=after.status)
    place.hub.touch(run_id)
    return _cancellation(run_id, won=before.cancel_requested_at_ms is None, repaired=is_orphan)


def _cancellation(run_id: str, *, won: bool, terminal: str | None = None, repaired: bool = False) -> dict[str, object]:
    found: dict[str, object] = {"runId": run_id, "won": won, "status": "cancelled", "repaired": repaired}
    if terminal is not None:
        found["status"] = "already-terminal"
        found["terminalStatus"] = terminal
    return found


@area.method(
    "pauseRun",
    scope="run:write",
    params=RunParams,
    codes=_NO_RUN,
    errors=("INVALID_REQUEST", "RunNotFound", "RUN_NOT_ACTIVE"),
    touches=("runs",),
    aliases=("runs.pause",),
)
async def pause_run(call: RpcCall, params: RunParams) -> dict[str, object]:
    """Ask a running run to finish what is under way and pause."""
    place = await call.place(params.run_id)
    await place.control.pause(params.run_id)
    place.hub.touch(params.run_id)
    return {"runId": params.run_id, "status": "pausing"}


class RerunParams(RunParams):
    """Which run to start again."""

    new_run_id: NonEmpty | None = None


@area.method(
    "runs.rerun",
    scope="run:write",
    params=RerunParams,
    errors=("INVALID_REQUEST", "NOT_FOUND", "MISSING_INPUT_TABLE"),
    touches=("runs", "run_events"),
    is_published=False,
)
async def rerun(call: RpcCall, params: RerunParams) -> dict[str, object]:
    """Start another run of the same workflow with the same input."""
    place = await call.place(params.run_id)
    row = await place.control.run(params.run_id)
    input_json, config_json = await place.store.aread(lambda c: reads.spec(c, params.run_id))
    key = call.services.entries.key_of(row, from_json(config_json), place.path)
    found = await call.services.launching.launch(
        key, from_json(input_json), Trigger.by(call.identity), LaunchOptions(run_id=params.new_run_id)
    )
    call.follow_run(str(found["runId"]))
    return found


# ── reading ────────────────────────────────────────────────────────────────────────────────────────────────────────


@area.method(
    "getRun",
    scope="run:read",
    params=RunParams,
    errors=("INVALID_REQUEST", "NOT_FOUND"),
    aliases=("runs.get",),
)
async def get_run(call: RpcCall, params: RunParams) -> dict[str, object]:
    """A run: its row, its derived state, its nodes counted by state."""
    place = await call.place(params.run_id)
    return await run_lists.run_record(place.control, params.run_id, registered=call.services.entries.names())


class RunFilter(Params):
    """Which runs."""

    limit: int | str | None = None
    offset: int | None = None
    status: str | None = None
    workflow: str | None = None
    parent_run_id: str | None = None
    include_system: bool | None = None
    cursor: str | None = None


class ListRunsParams(Params):
    """Which runs."""

    filter: RunFilter = Field(default_factory=RunFilter)


def limit_of(value: int | str | None, default: int, most: int = 1_000) -> int:
    """A limit, capped. Raises `RpcError` (`INVALID_INPUT`) for one that is no whole number above 0."""
    if value is None:
        return default
    if isinstance(value, str):
        value = int(value) if value.isascii() and value.isdigit() and len(value) < 16 else 0
    if value <= 0:
        raise RpcError("INVALID_INPUT", "limit must be a whole number above 0", field="limit")
    return min(value, most)


@area.method(
    "listRuns",
    scope="run:read",
    params=ListRunsParams,
    errors=("INVALID_REQUEST",),
    aliases=("runs.list",),
)
async def list_runs(call: RpcCall, params: ListRunsParams) -> list[dict[str, object]]:
    """Runs, newest first, over all registered workflows."""
    given = params.filter
    if given.offset is not None and not 0 <= given.offset <= run_lists.MAX_OFFSET:
        raise RpcError(
            "INVALID_REQUEST", f"filter.offset must be 0 to {run_lists.MAX_OFFSET}; use a cursor", field="filter.offset"
        )
    limit = limit_of(given.limit, 50)
    await call.services.entries.all()
    places = await call.services.launching.places()
    if not places:
        return []
    return await run_lists.list_runs(
        [place.control for place in places],
        limit=limit,
        offset=given.offset or 0,
        status=given.status,
        workflow_key=given.workflow,
        parent_run_id=given.parent_run_id,
        include_system=given.include_system is True,
        cursor=None if given.cursor is None else cursor_of(given.cursor),
        registered=call.services.entries.names(),
    )


def cursor_of(text: str) -> tuple[int, str]:
    """The run that a page goes on after, written as `createdAtMs:runId`. Raises `RpcError`."""
    moment, colon, run_id = text.partition(":")
    if not colon or not run_id or not (moment.isascii() and moment.isdigit() and len(moment) < 16):
        raise RpcError(
            "INVALID_REQUEST", "filter.cursor must be createdAtMs:runId of the last run", field="filter.cursor"
        )
    return int(moment), run_id
