"""`ps`: the runs of a database."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from smithers.cli.arguments import as_object, positive
from smithers.cli.common import Common, open_control
from smithers.cli.options import Option
from smithers.cli.output import Output, duration, moment, printable, shortened

if TYPE_CHECKING:
    from smithers.control.control import Control
    from smithers.store.interface import RunRow

NO_LIMIT = 100_000


async def ps(
    *,
    status: Annotated[list[str] | None, Option("--status", "-s", is_switch=True)] = None,
    limit: Annotated[int, Option("--limit", "-l")] = 20,
    all: Annotated[bool, Option("--all", "-a", is_switch=True)] = False,
    watch: Annotated[bool, Option("--watch", "-w", is_switch=True)] = False,
    common: Common | None = None,
) -> int:
    """List runs, newest first.

    Parameters
    ----------
    status
        Only runs of this status; may be given several times.
    limit
        At most so many runs.
    all
        All runs, however many.
    watch
        Stay, and list again whenever something changes.
    """
    common = common or Common()
    positive(limit, "--limit")
    out = common.output
    with open_control(common) as control:
        limit = NO_LIMIT if all else limit
        if not watch:
            await _show(control, out, status or (), limit)
            return 0
        async for _ in control.changes():
            out.clear()
            await _show(control, out, status or (), limit)
    return 0


async def _show(control: Control, out: Output, statuses: Sequence[str], limit: int) -> None:
    found = await control.overview(statuses, limit)
    if not out.is_text:
        records: list[dict[str, object]] = [_record(run, state) for run, state in found]
        if out.format == "json":
            out.document({"runs": records})
        else:
            for record in records:
                out.record(record)
        return
    if not found:
        out.line("no runs" + (f" with status {', '.join(statuses)}" if statuses else ""))
        return
    now = control.clock.now_ms()
    out.table(("RUN", "WORKFLOW", "STATUS", "STARTED", "TOOK", "WAITS FOR"), [_row(out, *each, now) for each in found])


def _record(run: RunRow, state: dict[str, object]) -> dict[str, object]:
    from smithers.control import views

    return {**views.run_summary(run), "state": state}


def _row(out: Output, run: RunRow, state: dict[str, object], now: int) -> tuple[str, ...]:
    derived = str(state["state"])
    shown = run.status if derived in (run.status, "succeeded") else f"{run.status} ({derived})"
    started = run.started_at_ms or run.created_at_ms
    took = duration((run.finished_at_ms or now) - started) if run.started_at_ms else ""
    name = derived if derived in ("orphaned", "stale") else run.status
    return (
        printable(run.run_id),
        shortened(run.workflow_name, 40),
        out.state(name) if shown == name else out.state(name).replace(name, shown, 1),
        moment(started),
        took,
        shortened(blocked(state), 60),
    )


def blocked(state: dict[str, object]) -> str:
    """What a run waits for, in words; empty if it does not wait."""
    found = as_object(state.get("blocked"))
    if not found:
        return ""
    node = f" {found['nodeId']}" if found.get("nodeId") else ""
    until = f" until {found['wakeAt']}" if found.get("wakeAt") else ""
    return f"{str(found.get('kind')).replace('-', ' ')}{node}{until}"
