"""`cron`: the schedules that a database keeps. What a pattern means is in `control/crons.py`; the gateway looks after them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from smithers.cli.arguments import as_object, positive
from smithers.cli.common import Common, open_control
from smithers.cli.options import Option
from smithers.cli.output import Output, moment, printable, shortened
from smithers.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


async def cron_list(*, workflow: str | None = None, common: Common | None = None) -> int:
    """List schedules, oldest first.

    Parameters
    ----------
    workflow
        Only schedules of the workflow that is served under this key.
    """
    from smithers.control import crons

    common = common or Common()
    with open_control(common) as control:
        found = await crons.list_crons(control, workflow=workflow)
    out = common.output
    if not out.is_text:
        _records(out, "crons", found)
    elif not found:
        out.line("no schedules")
    else:
        out.table(("SCHEDULE", "WORKFLOW", "PATTERN", "NEXT", "LAST", ""), [_row(out, cron) for cron in found])
    return 0


async def cron_add(
    workflow: str,
    pattern: Annotated[str, Option(takes_dashes=True)],
    /,
    *,
    id: str | None = None,
    time_zone: str | None = None,
    missed: Literal["skip", "once"] = "skip",
    disabled: Annotated[bool, Option(is_switch=True)] = False,
    common: Common | None = None,
) -> int:
    """Store a schedule, or replace the one with this id.

    Parameters
    ----------
    workflow
        The key under which the gateway serves the workflow.
    pattern
        Five fields as cron has them, or six with seconds first, in quotes.
    id
        The schedule's id; made up if not given.
    time_zone
        The IANA name of the zone that the pattern is meant in; this machine's by default.
    missed
        What to do about moments at which no gateway ran: skip them, or start once for all of them.
    disabled
        Store it without starting anything.
    """
    from smithers.control import crons

    common = common or Common()
    with open_control(common) as control:
        found = await crons.put_cron(
            control,
            workflow=workflow,
            pattern=pattern,
            cron_id=id,
            enabled=not disabled,
            time_zone=time_zone,
            missed=missed,
        )
    out = common.output
    if not out.is_text:
        out.document(found)
    else:
        out.line(f"schedule {printable(str(found['cronId']))} of {printable(workflow)}, next {_next(found)}")
    return 0


async def cron_rm(schedule: str, /, *, common: Common | None = None) -> int:
    """Forget a schedule.

    Parameters
    ----------
    schedule
        The schedule's id.
    """
    from smithers.control import crons

    common = common or Common()
    with open_control(common) as control:
        found = await crons.delete_cron(control, schedule)
    out = common.output
    if not out.is_text:
        out.document(found)
    else:
        out.line(f"schedule {printable(schedule)} is forgotten")
    return 0


async def cron_run(schedule: str, /, *, common: Common | None = None) -> int:
    """Have the gateway of this workspace start what a schedule starts, now.

    Parameters
    ----------
    schedule
        The schedule's id.
    """
    from smithers.cli.gateway_state import StateFile, workspace_root
    from smithers.cli.gatewaying import running
    from smithers.client import GatewayClient

    common = common or Common()
    root = workspace_root(Path.cwd())
    gateway = await running(StateFile(root), root)
    if gateway is None:
        raise InvalidInput(f"no gateway runs for {root}; start it with: smithers gateway")
    async with GatewayClient(gateway.url, token=gateway.token) as client:
        found = await client.cron_run(cron_id=schedule)
    out = common.output
    if not out.is_text:
        out.document(found)
    else:
        out.line(f"run {printable(str(found.get('runId')))} of {printable(str(found.get('workflow')))} started")
    return 0


async def cron_history(
    schedule: str, /, *, limit: Annotated[int, Option("--limit", "-l")] = 20, common: Common | None = None
) -> int:
    """Show when a schedule has fired, newest first, and what came of it.

    Parameters
    ----------
    schedule
        The schedule's id.
    limit
        At most so many moments.
    """
    from smithers.control import crons

    common = common or Common()
    positive(limit, "--limit")
    with open_control(common) as control:
        await crons.get_cron(control, schedule)
        found = await crons.cron_history(control, schedule, limit=limit)
    out = common.output
    if not out.is_text:
        _records(out, "fires", found)
    elif not found:
        out.line("it has not fired yet")
    else:
        rows = [
            (_moment(fire["fireAtMs"]), str(fire["outcome"]), str(fire["runId"] or ""), _why(fire)) for fire in found
        ]
        out.table(("MOMENT", "OUTCOME", "RUN", ""), rows)
    return 0


def _records(out: Output, name: str, found: Sequence[Mapping[str, object]]) -> None:
    if out.format == "json":
        out.document({name: found})
        return
    for record in found:
        out.record(record)


def _row(out: Output, cron: Mapping[str, object]) -> tuple[str, ...]:
    return (
        printable(str(cron["cronId"])),
        shortened(str(cron["workflow"]), 40),
        str(cron["pattern"]),
        _next(cron) if cron["enabled"] else out.style("disabled", "dim"),
        _moment(cron["lastRunAtMs"]),
        _why(cron),
    )


def _next(cron: Mapping[str, object]) -> str:
    return _moment(cron["nextRunAtMs"]) or "never"


def _moment(value: object) -> str:
    return moment(value) if isinstance(value, int) else ""


def _why(found: Mapping[str, object]) -> str:
    """What went wrong, in words; empty if nothing did."""
    from pydantic_core import from_json

    text = found["errorJson"]
    error = as_object(from_json(text) if isinstance(text, str) else None)
    return shortened(str(error.get("message") or error.get("summary") or ""), 80)
