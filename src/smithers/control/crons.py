"""Schedules: what a cron pattern means, and the schedules that a database keeps. Who sleeps until they are due is a door's
business (`gateway/cron.py`).

A moment is fired at most once, whoever looks after a database: it is claimed by compare-and-set on the schedule's next
moment, together with a row of its own that only one can insert. Whoever claims and dies before a run is started leaves the
row, and the next one to look takes it up, with the same idempotency key.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache
from typing import Final, Literal
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError
from pydantic_core import to_json

from smithers.control.control import Control
from smithers.errors import CronNotFound, InvalidInput, SmithersError, error_object
from smithers.store.sql import crons as table
from smithers.store.sql.crons import CronRow, FireRow
from smithers.store.sql.session import Session

Wire = dict[str, object]
Missed = Literal["skip", "once"]

MAX_CRONS: Final = 10_000
MAX_PATTERN: Final = 256
MAX_ID: Final = 256
RETRY_MS: Final = 60_000
"""How long after a failure a schedule tries again."""
GRACE_MS: Final = 60_000
"""A moment that is noticed later than this was missed."""
STALE_MS: Final = 60_000
"""Who has not settled a claim by then will not."""
BATCH: Final = 100
HISTORY: Final = 200
"""So many moments are remembered of each schedule."""


# ── patterns ───────────────────────────────────────────────────────────────────────────────────────────────────────


class _LocalZone(tzinfo):
    """The machine's own time zone with its rules, whatever it is called."""

    def utcoffset(self, dt: datetime | None) -> timedelta | None:
        return None if dt is None else dt.replace(tzinfo=None).astimezone().utcoffset()

    def dst(self, dt: datetime | None) -> timedelta | None:
        return None

    def tzname(self, dt: datetime | None) -> str | None:
        return None if dt is None else dt.replace(tzinfo=None).astimezone().tzname()

    def fromutc(self, dt: datetime) -> datetime:
        found = dt.replace(tzinfo=UTC).astimezone()
        naive = found.replace(tzinfo=None)
        is_second = naive.astimezone().utcoffset() != found.utcoffset()
        return naive.replace(tzinfo=self, fold=int(is_second))


LOCAL: Final[tzinfo] = _LocalZone()


@lru_cache(maxsize=256)
def zone_of(name: str | None) -> tzinfo:
    """The time zone of an IANA name; the machine's own for None. Raises `InvalidInput`."""
    if name is None:
        return LOCAL
    try:
        return UTC if name.upper() == "UTC" else ZoneInfo(name)
    except (OSError, ValueError) as error:  # ZoneInfoNotFoundError is a KeyError
        raise InvalidInput(f"timeZone must be the name of an IANA time zone, not {name!r:.80}") from error
    except KeyError as error:
        raise InvalidInput(f"there is no time zone {name!r:.80}") from error


def checked_pattern(pattern: str) -> str:
    """A pattern with single spaces between its 5 fields, or 6 with leading seconds. Raises `InvalidInput`."""
    fields = pattern.split()
    if len(pattern) > MAX_PATTERN or len(fields) not in (5, 6):
        raise InvalidInput(f"pattern must have 5 fields, or 6 with leading seconds, not {pattern!r:.80}")
    text = " ".join(fields)
    next_fire(text, 0, UTC)
    return text


def next_fire(pattern: str, after_ms: int, zone: tzinfo) -> int | None:
    """The first moment of a pattern after another one, both in milliseconds since the epoch; None if there is none.

    A daily moment that a change of the clocks skips is due at the first instant after it, one that comes twice at the
    first; a pattern of hours or minutes goes by real time. Raises `InvalidInput`.
    """
    try:
        # floored to the second: the first second after it is after `after_ms` too
        moments = CronSim(pattern, datetime.fromtimestamp(after_ms // 1000, UTC).astimezone(zone))
        for moment in moments:
            found = int(moment.timestamp()) * 1000
            # in the second pass of a repeated hour the first pass is offered again
            if found > after_ms:
                return found
    except CronSimError as error:
        raise InvalidInput(f"pattern {pattern!r:.80}: {str(error).lower()}") from error
    except (OverflowError, ValueError, AssertionError) as error:
        raise InvalidInput(f"pattern {pattern!r:.80} cannot be used") from error
    return None


def _next_of(row: CronRow, after_ms: int) -> int | None:
    return next_fire(row.pattern, after_ms, zone_of(row.time_zone))


# ── keeping ────────────────────────────────────────────────────────────────────────────────────────────────────────


def cron_wire(row: CronRow) -> Wire:
    """A schedule, as it is sent."""
    return {
        "cronId": row.cron_id,
        "pattern": row.pattern,
        "workflowPath": row.workflow_path,
        "workflow": row.workflow,
        "enabled": row.enabled != 0,
        "createdAtMs": row.created_at_ms,
        "lastRunAtMs": row.last_run_at_ms,
        "nextRunAtMs": row.next_run_at_ms,
        "errorJson": row.error_json,
    }


async def list_crons(control: Control, *, workflow: str | None = None) -> list[Wire]:
    """Schedules (`CronRow`), enabled or not, oldest first."""
    return [cron_wire(row) for row in await control.store.aread(lambda c: table.crons(c, workflow, MAX_CRONS))]


async def get_cron(control: Control, cron_id: str) -> CronRow:
    """One schedule. Raises `CronNotFound`."""
    row = await control.store.aread(lambda c: table.get(c, cron_id))
    if row is None:
        raise _not_found(cron_id)
    return row


async def put_cron(
    control: Control,
    *,
    workflow: str,
    pattern: str,
    cron_id: str | None = None,
    enabled: bool = True,
    time_zone: str | None = None,
    missed: Missed = "skip",
    owner_key: str | None = None,
) -> Wire:
    """Store a schedule, or replace the one with this id but for its creation time, last run and owner; as it is stored.

    Args:
        workflow: the key of the workflow to start.
        time_zone: IANA name; the machine's own zone by default.
        missed: what to do about a moment at which nobody looked: `skip` it, or fire `once` for all that were missed.
        owner_key: who keeps it.

    Raises `InvalidInput` naming the parameter.
    """
    row = _new_row(control, workflow, pattern, cron_id, enabled, time_zone, missed, owner_key)
    return cron_wire(await control.store.awrite(lambda c: table.put(c, row)))


async def declare_cron(
    control: Control, *, workflow: str, pattern: str, time_zone: str | None = None, missed: Missed = "skip"
) -> Wire:
    """Store the schedule that a workflow was registered with, as `gateway:<workflow>`.

    One that is stored like this already is left alone, so that a restart neither loses nor repeats a moment. Raises
    `InvalidInput`.
    """
    name = table.TARGET + workflow
    row = _new_row(control, workflow, pattern, name, True, time_zone, missed, name)

    def job(connection: Session) -> CronRow:
        table.lock(connection, name)
        found = table.get(connection, name)
        if found is not None and found.enabled and found.next_run_at_ms is not None:
            wanted = (row.pattern, row.workflow_path, row.time_zone, row.missed)
            if (found.pattern, found.workflow_path, found.time_zone, found.missed) == wanted:
                return found
        return table.put(connection, row)

    return cron_wire(await control.store.awrite(job))


def _new_row(
    control: Control,
    workflow: str,
    pattern: str,
    cron_id: str | None,
    enabled: bool,
    time_zone: str | None,
    missed: str,
    owner_key: str | None,
) -> CronRow:
    if not workflow:
        raise InvalidInput("workflow must name a registered workflow")
    if cron_id is not None and not (0 < len(cron_id) <= MAX_ID and cron_id.isprintable()):
        raise InvalidInput(f"cronId must have 1 to {MAX_ID} printable characters")
    if missed not in ("skip", "once"):
        raise InvalidInput(f"missed must be 'skip' or 'once', not {missed!r:.80}")
    zone = zone_of(time_zone)
    text = checked_pattern(pattern)
    now = control.clock.now_ms()
    name = str(uuid.uuid4()) if cron_id is None else cron_id
    target = table.TARGET + workflow
    following = next_fire(text, now, zone)
    if following is None:
        raise InvalidInput(f"pattern {text!r} is never due")
    return CronRow(name, text, target, int(enabled), now, None, following, None, time_zone, missed, owner_key)


async def delete_cron(control: Control, cron_id: str) -> Wire:
    """Forget a schedule: `{cronId, removed}`. Raises `CronNotFound`."""
    if not await control.store.awrite(lambda c: table.delete(c, cron_id)):
        raise _not_found(cron_id)
    return {"cronId": cron_id, "removed": True}


async def record_run(control: Control, cron_id: str, run_id: str | None = None) -> Wire:
    """Note that somebody has fired a schedule by hand; its next moment is counted from now. Raises `CronNotFound`."""
    now = control.clock.now_ms()

    def job(connection: Session) -> CronRow | None:
        table.lock(connection, cron_id)
        row = table.get(connection, cron_id)
        if row is None:
            return None
        fire = None if run_id is None else FireRow(cron_id, now, now, "started", run_id, None)
        return table.record(connection, cron_id, _next_of(row, now), now, fire)

    row = await control.store.awrite(job)
    if row is None:
        raise _not_found(cron_id)
    return cron_wire(row)


async def cron_history(control: Control, cron_id: str, *, limit: int = HISTORY) -> list[Wire]:
    """When a schedule has fired, newest first: `{cronId, fireAtMs, claimedAtMs, outcome, runId, errorJson}`."""
    rows = await control.store.aread(lambda c: table.fires(c, cron_id, max(1, min(limit, HISTORY))))
    return [
        {
            "cronId": row.cron_id,
            "fireAtMs": row.fire_at_ms,
            "claimedAtMs": row.claimed_at_ms,
            "outcome": row.outcome,
            "runId": row.run_id,
            "errorJson": row.error_json,
        }
        for row in rows
    ]


def _not_found(cron_id: str) -> CronNotFound:
    return CronNotFound(f"there is no schedule {cron_id!r:.80}", {"cronId": cron_id})


# ── firing ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class CronFire:
    """A moment of a schedule that the holder of this is to start a run for.

    Attributes:
        cron: the schedule, with the moment that comes after this one.
        fire_at_ms: the moment.
    """

    cron: CronRow
    fire_at_ms: int

    @property
    def idempotency_key(self) -> str:
        """To launch with: whoever fires this moment again gets the same run."""
        return f"cron:{self.cron.cron_id}:{self.fire_at_ms}"


async def claim_due(control: Control, workflows: Collection[str], *, grace_ms: int = GRACE_MS) -> list[CronFire]:
    """Claim every moment that has come of the schedules of these workflows: no other process gets it.

    A moment that is noticed more than `grace_ms` late is passed over or fired, as its schedule says; of several that were
    missed at most one is fired. What somebody claimed long ago and has not settled is claimed again.
    """
    now = control.clock.now_ms()

    def look(connection: Session) -> bool:
        return any(
            table.due(connection, workflow, now, 1) or table.stale(connection, workflow, now - STALE_MS)
            for workflow in workflows
        )

    if not await control.store.aread(look):
        return []

    def job(connection: Session) -> list[CronFire]:
        found: list[CronFire] = []
        for workflow in workflows:
            again = table.reclaim(connection, workflow, now - STALE_MS, now, BATCH)
            found += [CronFire(row, moment) for row, moment in again]
            for row in table.due(connection, workflow, now, BATCH):
                fire = _claim(connection, row, now, grace_ms)
                if fire is not None:
                    found.append(fire)
        return found

    return await control.store.awrite(job)


def _claim(connection: Session, row: CronRow, now_ms: int, grace_ms: int) -> CronFire | None:
    moment = now_ms if row.next_run_at_ms is None else row.next_run_at_ms
    try:
        following = _next_of(row, now_ms)
    except SmithersError as error:  # written by somebody else, or the zone is not known here
        table.move(connection, row, now_ms + RETRY_MS, last_run_at_ms=None, error_json=_error_json(error))
        return None
    is_missed = row.missed == "skip" and now_ms - moment > grace_ms
    last = None if is_missed else now_ms
    if not table.move(
        connection, row, following, last_run_at_ms=last, error_json=row.error_json if is_missed else None
    ):
        return None
    is_mine = table.begin(connection, row.cron_id, moment, now_ms, "missed" if is_missed else "claimed")
    table.trim(connection, row.cron_id, HISTORY)
    if is_missed or not is_mine:
        return None
    return CronFire(row._replace(next_run_at_ms=following, last_run_at_ms=now_ms, error_json=None), moment)


async def settle_started(control: Control, fire: CronFire, run_id: str) -> None:
    """Note the run that a claimed moment has started."""
    await control.store.awrite(lambda c: table.settle(c, fire.cron.cron_id, fire.fire_at_ms, "started", run_id, None))


async def settle_failed(control: Control, fire: CronFire, error: Exception) -> None:
    """Note why a claimed moment has started nothing, and have its schedule try again after `RETRY_MS`."""
    text = _error_json(error)
    retry = control.clock.now_ms() + RETRY_MS

    def job(connection: Session) -> None:
        table.settle(connection, fire.cron.cron_id, fire.fire_at_ms, "failed", None, text)
        table.fail(connection, fire.cron.cron_id, fire.cron.next_run_at_ms, retry, text)

    await control.store.awrite(job)


async def next_due(control: Control, workflows: Collection[str]) -> int | None:
    """The next moment of any schedule of these workflows, in milliseconds since the epoch; None for none."""
    return await control.store.aread(lambda c: table.next_due(c, workflows))


def _error_json(error: Exception) -> str:
    return to_json(error_object(error, with_stack=False)).decode()
