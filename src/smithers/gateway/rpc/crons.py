"""RPC: schedules."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Final, Literal

from pydantic import Field

from smithers.control import crons
from smithers.control.hosting import Place
from smithers.errors import CronNotFound
from smithers.gateway.launching import LaunchOptions, Trigger
from smithers.gateway.problems import RpcError
from smithers.gateway.rpc.call import RpcCall
from smithers.gateway.rpc.registry import Area, Codes, Handler, P, Params
from smithers.gateway.rpc.runs import NonEmpty
from smithers.store.sql.crons import TARGET, CronRow

area = Area()
_NOT_THERE = ("INVALID_REQUEST", "NOT_FOUND")
_NO_CRON: Final[Codes] = {CronNotFound: "NOT_FOUND"}


def _writing(name: str, params: type[P], alias: str, codes: Codes | None = None) -> Callable[[Handler[P]], Handler[P]]:
    """Declare a method that changes schedules."""
    touches = ("crons", "runs", "run_events")
    return area.method(
        name, scope="cron:write", params=params, codes=codes, errors=_NOT_THERE, touches=touches, aliases=(alias,)
    )


class CronFilter(Params):
    """Which schedules."""

    workflow: str | None = None


class CronListParams(Params):
    """Which schedules."""

    filter: CronFilter = Field(default_factory=CronFilter)


@area.method("cronList", scope="cron:read", params=CronListParams, aliases=("cron.list",))
async def cron_list(call: RpcCall, params: CronListParams) -> list[dict[str, object]]:
    """Schedules, enabled or not, oldest first."""
    found: list[dict[str, object]] = []
    for place in await call.services.launching.places():
        found += await crons.list_crons(place.control, workflow=params.filter.workflow)
    found.sort(key=lambda row: (str(row["createdAtMs"]).zfill(16), str(row["cronId"])))
    return found


class CronCreateParams(Params):
    """What to start, and when."""

    workflow: NonEmpty
    pattern: NonEmpty
    cron_id: NonEmpty | None = None
    enabled: bool = True
    time_zone: str | None = None
    missed: Literal["skip", "once"] | None = None


@_writing("cronCreate", CronCreateParams, "cron.add")
async def cron_create(call: RpcCall, params: CronCreateParams) -> dict[str, object]:
    """Store a schedule, or replace the one with this id; its time zone and policy stay where they are left out."""
    entry = await call.services.launching.entry(params.workflow)
    place = await call.services.launching.place_of(entry)
    before: CronRow | None = None
    if params.cron_id is not None:
        with suppress(CronNotFound):
            before = await crons.get_cron(place.control, params.cron_id)
    stored: Literal["skip", "once"] = "once" if before is not None and before.missed == "once" else "skip"
    found = await crons.put_cron(
        place.control,
        workflow=entry.key,
        pattern=params.pattern,
        cron_id=params.cron_id,
        enabled=params.enabled,
        time_zone=params.time_zone if params.time_zone is not None or before is None else before.time_zone,
        missed=params.missed or stored,
    )
    call.services.wake_crons()
    return found


class CronParams(Params):
    """Names a schedule."""

    cron_id: NonEmpty


@_writing("cronDelete", CronParams, "cron.remove", _NO_CRON)
async def cron_delete(call: RpcCall, params: CronParams) -> dict[str, object]:
    """Forget a schedule."""
    place, _ = await _find(call, params.cron_id)
    found = await crons.delete_cron(place.control, params.cron_id)
    call.services.wake_crons()
    return found


async def _find(call: RpcCall, cron_id: str) -> tuple[Place, CronRow]:
    for place in await call.services.launching.places():
        try:
            return place, await crons.get_cron(place.control, cron_id)
        except CronNotFound:
            continue
    raise CronNotFound(f"there is no schedule {cron_id!r:.80}", {"cronId": cron_id})


class CronRunParams(Params):
    """Which schedule, or which workflow."""

    cron_id: NonEmpty | None = None
    workflow: NonEmpty | None = None
    input: dict[str, object] = Field(default_factory=dict[str, object])


@_writing("cronRun", CronRunParams, "cron.trigger", _NO_CRON)
async def cron_run(call: RpcCall, params: CronRunParams) -> dict[str, object]:
    """Start what a schedule starts, now."""
    if params.cron_id is None and params.workflow is None:
        raise RpcError("INVALID_REQUEST", "cronId or workflow must be given", field="cronId")
    place: Place | None = None
    key = params.workflow
    if params.cron_id is not None:
        try:
            place, row = await _find(call, params.cron_id)
            key = row.workflow_path.removeprefix(TARGET)
        except CronNotFound:
            if key is None:
                raise
    found = await call.services.launching.launch(str(key), params.input, Trigger.by(call.identity), LaunchOptions())
    if place is not None and params.cron_id is not None:
        await crons.record_run(place.control, params.cron_id, str(found["runId"]))
        call.services.wake_crons()
    call.follow_run(str(found["runId"]))
    return found


class CronHistoryParams(CronParams):
    """Of which schedule."""

    limit: int = Field(default=50, ge=1)


@area.method(
    "cronHistory", scope="cron:read", params=CronHistoryParams, codes=_NO_CRON, errors=_NOT_THERE, is_published=False
)
async def cron_history(call: RpcCall, params: CronHistoryParams) -> list[dict[str, object]]:
    """When a schedule has fired, and what came of it; newest first."""
    place, _ = await _find(call, params.cron_id)
    return await crons.cron_history(place.control, params.cron_id, limit=params.limit)
