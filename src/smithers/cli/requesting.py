"""`cancel` and `pause`: ask a run to stop, for good or for a while."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from smithers.cli.arguments import read_duration
from smithers.cli.common import Common, open_control
from smithers.cli.options import Option
from smithers.cli.output import printable

if TYPE_CHECKING:
    from smithers.store.interface import RunRow

DONE = 2
"""Exit code of a cancelled run, and of one that was asked to pause."""

Patience = Annotated[str, Option(help="How long to wait for the run's owner; it happens later as well.")]


async def cancel(run: str, /, *, patience: Patience = "2s", common: Common | None = None) -> int:
    """Cancel a run and its children. Exits with 2.

    Parameters
    ----------
    run
        The run's id.
    """
    common = common or Common()
    wait_s = read_duration(patience, "--patience") / 1000
    with open_control(common) as control:
        row = await control.cancel(run, source="cli", patience_s=wait_s)
    told = "cancelled" if row.status == "cancelled" else "asked to cancel; its owner has not got there yet"
    return _tell(common, row, told, "cancelRequested")


async def pause(run: str, /, *, patience: Patience = "0s", common: Common | None = None) -> int:
    """Ask a live run to finish what is under way and pause. Exits with 2.

    Parameters
    ----------
    run
        The run's id.
    """
    common = common or Common()
    wait_s = read_duration(patience, "--patience") / 1000
    with open_control(common) as control:
        row = await control.pause(run, patience_s=wait_s)
    told = "asked to pause; it finishes what is under way first" if row.status == "running" else row.status
    return _tell(common, row, told, "pauseRequested")


def _tell(common: Common, row: RunRow, told: str, request: str) -> int:
    out = common.output
    if out.is_text:
        out.line(f"run {printable(row.run_id)} {told}")
    else:
        out.document({"runId": row.run_id, "status": row.status, request: True})
    return DONE
