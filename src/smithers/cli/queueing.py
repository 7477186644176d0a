"""`queue`: what waits for workers, and the limits that hold starts back."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

from smithers.cli.arguments import read_duration
from smithers.cli.common import Common, open_control
from smithers.cli.options import Option
from smithers.cli.output import duration, printable
from smithers.errors import InvalidInput

if TYPE_CHECKING:
    from smithers.store.sql.limits import Limit
    from smithers.store.sql.queue import Lane


async def queue_list(*, common: Common | None = None) -> int:
    """Show how many runs wait for workers, by queue and workflow, and all limits."""
    from smithers.store.sql import limits, queue

    common = common or Common()
    with open_control(common) as control:
        lanes, held = await control.store.aread(lambda c: (queue.lanes(c), limits.limits(c)))
    out = common.output
    if not out.is_text:
        out.document(
            {
                "waiting": [_waiting(lane, is_paused=lane.is_paused(held)) for lane in lanes],
                "limits": [_wire(limit) for limit in held.values()],
            }
        )
        return 0
    if lanes:
        rows = [
            (
                printable(lane.queue),
                printable(lane.workflow),
                f"{lane.runs:,}" + (", paused" if lane.is_paused(held) else ""),
            )
            for lane in lanes
        ]
        out.table(("QUEUE", "WORKFLOW", "WAITING"), rows)
    else:
        out.line("nothing waits")
    if held:
        out.line()
        out.table(("LIMIT OF", "AT ONCE", "STARTS"), [_row(limit) for limit in held.values()])
    return 0


async def queue_limit(
    name: str,
    /,
    *,
    concurrency: Annotated[int | None, Option("--concurrency", "-c")] = None,
    rate: str | None = None,
    common: Common | None = None,
) -> int:
    """Hold starts back, for all workers and gateways of the database. Replaces the limit that there was.

    A limit counts runs that are being driven, not those that wait for somebody; a run that was started goes on when what it
    waits for arrives.

    Parameters
    ----------
    name
        A queue, or workflow:KEY for a workflow.
    concurrency
        At most so many runs at once; 0 is a pause: nothing starts, what was started goes on.
    rate
        At most so many starts in a period: 10/1s, 100/1h.
    """
    from smithers.store.sql import limits

    common = common or Common()
    if concurrency is None and rate is None:
        raise InvalidInput("what is the limit? Give --concurrency, --rate or both; `queue rm` takes a limit away")
    if concurrency is not None and concurrency < 0:
        raise InvalidInput(f"--concurrency: must be 0 or more, not {concurrency}")
    count, period_ms = (None, None) if rate is None else _rate(rate)
    limit = limits.Limit(name, concurrency, count, period_ms)
    with open_control(common) as control:
        await control.store.awrite(lambda c: limits.put(c, limit, time.time_ns() // 1_000_000))
    out = common.output
    if out.is_text:
        at_once, starts = _row(limit)[1:]
        out.line(f"{printable(name)}: at once {at_once}, starts {starts}")
    else:
        out.document(_wire(limit))
    return 0


async def queue_rm(name: str, /, *, common: Common | None = None) -> int:
    """Take a limit away.

    Parameters
    ----------
    name
        As it was given to `queue limit`.
    """
    from smithers.store.sql import limits

    common = common or Common()
    with open_control(common) as control:
        was_there = await control.store.awrite(lambda c: limits.delete(c, name))
    if not was_there:
        raise InvalidInput(f"there is no limit of {name!r:.120}; `queue list` shows them")
    if common.output.is_text:
        common.output.line(f"{printable(name)} has no limit any more")
    else:
        common.output.document({"name": name, "deleted": True})
    return 0


def _rate(text: str) -> tuple[int, int]:
    count, slash, period = text.partition("/")
    if not slash or not count.isdecimal() or not 0 < int(count) <= 1_000_000:
        raise InvalidInput(f"--rate: must be COUNT/PERIOD, such as 10/1s, not {text!r:.80}")
    period_ms = read_duration(period if period[:1].isdigit() else f"1{period}", "--rate")
    if period_ms <= 0:
        raise InvalidInput("--rate: the period must be longer than nothing")
    return int(count), int(period_ms)


def _wire(limit: Limit) -> dict[str, object]:
    return {
        "name": limit.name,
        "concurrency": limit.concurrency,
        "paused": limit.is_pause,
        "rateCount": limit.rate_count,
        "ratePeriodMs": limit.rate_period_ms,
    }


def _waiting(lane: Lane, *, is_paused: bool) -> dict[str, object]:
    return {"queue": lane.queue, "workflow": lane.workflow, "runs": lane.runs, "paused": is_paused}


def _row(limit: Limit) -> tuple[str, str, str]:
    at_once = (
        "any number" if limit.concurrency is None else "none: paused" if limit.is_pause else str(limit.concurrency)
    )
    if limit.rate_count is None or limit.rate_period_ms is None:
        return printable(limit.name), at_once, "any number"
    return printable(limit.name), at_once, f"{limit.rate_count} in {duration(limit.rate_period_ms)}"
