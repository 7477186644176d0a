"""Audit: who may take a run back, the hold on a run while its history is changed, and what is left of rewinds that were cut
off. How often somebody may, and the record, are the store's (`store/sql/audit.py`)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import Final
from uuid import uuid4

from pydantic_core import from_json

from smithers.control.caller import Caller
from smithers.control.control import Control
from smithers.errors import NotRunOwner, RunNotFound, SmithersError
from smithers.events import event
from smithers.jsons import object_of
from smithers.records import dataclass
from smithers.store.sql import audit, travel
from smithers.store.sql import statements as sql
from smithers.store.sql.control import append_events
from smithers.store.sql.session import Session

log = logging.getLogger(__name__)

LEASE_MS: Final = 60_000
RENEW_S: Final = 20.0
TEND_S: Final = 1.0
"""At least so long between two looks at rewinds that have not ended."""
ADMIN: Final = "admin"


def name_of(caller: Caller) -> str:
    """What a caller is called in records."""
    if caller.user is None and caller.token_id is not None:
        return f"token:{caller.token_id}"
    return caller.user or f"role:{caller.role}"


def owner_of(config_json: str) -> str | None:
    """Who launched a run, from what is stored of the launch; None if nobody is named."""
    config = object_of(from_json(config_json))
    found = config.get("gatewayTriggeredBy") or object_of(config.get("auth")).get("triggeredBy")
    return found if isinstance(found, str) else None


def require_owner(caller: Caller, run_id: str, config_json: str) -> None:
    """Raises `NotRunOwner` unless the caller is an administrator or has launched the run: by name, or, without one, with
    the same token."""
    if caller.role.lower() == ADMIN:
        return
    if caller.user is None:
        launched = object_of(object_of(from_json(config_json)).get("auth")).get("tokenId")
        is_owner = caller.token_id is not None and caller.token_id == launched
    else:
        is_owner = caller.user == owner_of(config_json)
    if not is_owner:
        raise NotRunOwner(
            f"run {run_id!r} may be taken back by an administrator or whoever launched it", {"runId": run_id}
        )


@dataclass(slots=True)
class Hold:
    """A run that nobody else may take over or take back. `halted` is set once its owner was shut out."""

    run_id: str
    token: str
    halted: bool = False


@asynccontextmanager
async def holding(control: Control, run_id: str) -> AsyncGenerator[Hold]:
    """Hold a run while its history is changed. On the way out a run that was halted, and is as it was, is woken.

    Raises:
        RunNotFound. TravelBusy: somebody else holds it.
    """
    hold = Hold(run_id, uuid4().hex)
    await _take(control, hold)
    renewing = asyncio.create_task(_renew(control, hold))
    try:
        yield hold
    finally:
        renewing.cancel()
        await control.store.awrite(lambda c: travel.let_go(c, run_id, hold.token, wakes=hold.halted))


async def _take(control: Control, hold: Hold) -> None:
    now = control.clock.now_ms()
    await control.store.awrite(lambda c: travel.hold(c, hold.run_id, hold.token, now, LEASE_MS))


async def _renew(control: Control, hold: Hold) -> None:
    while True:
        await asyncio.sleep(RENEW_S)
        try:
            await _take(control, hold)
        except SmithersError as error:
            log.warning("cannot renew the hold on a run", extra={"run_id": hold.run_id, "code": error.error_code})


async def tend(control: Control) -> None:
    """Close the record of rewinds that were cut off, also of those whose hold has yet to run out; then end."""
    while True:
        try:
            due = await control.store.aread(audit.next_expiry)
            if due is None:
                return
            await recover_interrupted(control)
            pause_s = max(TEND_S, (due - control.clock.now_ms()) / 1000)
        except SmithersError as error:
            log.warning("cannot look after rewinds that were cut off", extra={"code": error.error_code})
            pause_s = RENEW_S
        await asyncio.sleep(pause_s)


async def recover_interrupted(control: Control) -> list[str]:
    """Close the record of rewinds that were cut off (`in_progress` → `partial`); their runs' ids. For hosts, at their start.

    Such a run is as it was before: history is changed at once or not at all. But effects may have been undone, so its log
    tells of it, and it goes on.
    """
    now = control.clock.now_ms()

    def job(c: Session) -> list[str]:
        found = audit.interrupted(c, now)
        for row in found:
            audit.close(c, row.id, "partial", max(0, now - row.timestamp_ms))
            told = event(
                "TimeTravelInterrupted",
                fromFrameNo=row.from_frame_no,
                toFrameNo=row.to_frame_no,
                caller=row.caller,
                needsAttention=True,
            )
            with suppress(RunNotFound):
                append_events(c, row.run_id, now, [told])
                c.execute(sql.WAKEUP, (row.run_id,))
        return list(dict.fromkeys(row.run_id for row in found))

    if not await control.store.aread(lambda c: audit.interrupted(c, now)):
        return []
    return await control.store.awrite(job)
