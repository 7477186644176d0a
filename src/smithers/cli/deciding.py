"""`approve`, `deny`, `answer` and `signal`: what a person or a script tells a run. Recorded once; never a guess."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Annotated

from smithers.cli.arguments import read_json
from smithers.cli.common import Common, caller, open_control
from smithers.cli.options import Option
from smithers.cli.output import Output, printable
from smithers.errors import InvalidInput

if TYPE_CHECKING:
    from smithers.control.control import Control
    from smithers.store.interface import RunRow

Node = Annotated[str | None, Option("--node", "-n", help="The node; needed when several wait.")]
Iteration = Annotated[int | None, Option(help="The iteration of the node's loop.")]
Note = Annotated[str | None, Option(help="A note to keep with the decision.", takes_dashes=True)]
By = Annotated[str | None, Option(help="Who decides; the login name by default.")]


async def approve(
    run: str,
    /,
    *,
    node: Node = None,
    iteration: Iteration = None,
    note: Note = None,
    by: By = None,
    select: Annotated[str | None, Option(help="The chosen option's key.")] = None,
    rank: Annotated[str | None, Option(help="All options' keys, best first: a,b,c.")] = None,
    common: Common | None = None,
) -> int:
    """Approve what a run waits for.

    Parameters
    ----------
    run
        The run's id.
    """
    if select is not None and rank is not None:
        raise InvalidInput("--select and --rank exclude each other")
    decision: dict[str, object] | None = None
    if select is not None:
        decision = {"selected": select}
    elif rank is not None:
        decision = {"ranked": [key.strip() for key in rank.split(",")]}
    return await _decide(run, node, iteration, note, by, decision, common or Common(), approved=True)


async def deny(
    run: str,
    /,
    *,
    node: Node = None,
    iteration: Iteration = None,
    note: Note = None,
    by: By = None,
    common: Common | None = None,
) -> int:
    """Deny what a run waits for.

    Parameters
    ----------
    run
        The run's id.
    """
    return await _decide(run, node, iteration, note, by, None, common or Common(), approved=False)


async def _decide(
    run: str,
    node: str | None,
    iteration: int | None,
    note: str | None,
    by: str | None,
    decision: dict[str, object] | None,
    common: Common,
    *,
    approved: bool,
) -> int:
    from smithers.control import views

    with open_control(common) as control:
        row = await control.decide(
            run, node, iteration, approved=approved, caller=caller(by), note=note, decision=decision
        )
        told = f"{row.status} {row.node_id}" + (f" by {row.decided_by}" if row.decided_by else "")
        await _tell(control, common.output, run, told, {"approval": views.approval_summary(row)})
    return 0


async def answer(
    run: str,
    /,
    *,
    value: Annotated[str, Option(help="The answer as JSON, @FILE, or - for stdin.", takes_dashes=True)],
    node: Node = None,
    iteration: Iteration = None,
    by: By = None,
    common: Common | None = None,
) -> int:
    """Answer the question of a human task.

    Parameters
    ----------
    run
        The run's id.
    """
    common = common or Common()
    found = read_json(value, "--value")
    with open_control(common) as control:
        row = await control.answer(run, node, found, caller=caller(by), iteration=iteration)
        fields = {"requestId": row.request_id, "nodeId": row.node_id, "iteration": row.iteration, "status": row.status}
        told = f"answered {row.node_id}" + (f" by {row.answered_by}" if row.answered_by else "")
        await _tell(control, common.output, run, told, {"answer": fields})
    return 0


async def signal(
    run: str,
    name: str,
    /,
    *,
    data: Annotated[str, Option(help="The payload as JSON, @FILE, or - for stdin.", takes_dashes=True)] = "{}",
    correlation: Annotated[str | None, Option(help="Only for waits with this correlation id.")] = None,
    by: By = None,
    idempotency_key: Annotated[str | None, Option(help="Send it once, however often this is called.")] = None,
    common: Common | None = None,
) -> int:
    """Send a signal to a run. It is kept until something waits for it.

    Parameters
    ----------
    run
        The run's id.
    name
        The signal's name.
    """
    common = common or Common()
    payload = read_json(data, "--data")
    with open_control(common) as control:
        found = await control.signal(
            run, name, payload, correlation_id=correlation, caller=caller(by), idempotency_key=idempotency_key
        )
        fields = {
            "seq": found.seq,
            "signalName": found.signal_name,
            "correlationId": found.correlation_id,
            "receivedAtMs": found.received_at_ms,
        }
        await _tell(control, common.output, run, f"signal {found.signal_name} recorded", {"signal": fields})
    return 0


async def _tell(control: Control, out: Output, run_id: str, told: str, fields: dict[str, object]) -> None:
    """Say what was recorded, and who goes on with the run."""
    from smithers.cli.steps import db_flag

    row = await control.run(run_id)
    owner = live_owner(row, control.clock.now_ms())
    if not out.is_text:
        out.document({"runId": run_id, **fields, "run": {"status": row.status, "isOwned": owner is not None}})
        return
    out.line(printable(told))
    if owner is not None:
        out.line(f"process {owner} drives the run and goes on with it")
        return
    db, top = db_flag(control.store.path), await _waiting_top(control, row)
    out.line(f"no process drives the run now; a `worker`, a `supervise` or a waiting `up --wait` goes on by itself, or:\n"
             f"  smithers resume {shlex.quote(printable(top))}{db}")  # fmt: skip


async def _waiting_top(control: Control, row: RunRow) -> str:
    """The run to resume: a child's outermost parent that waits for it, else the run itself."""
    while row.parent_run_id is not None:
        parent = await control.run(row.parent_run_id)
        if not (parent.status.startswith("waiting-") or parent.status == "paused"):
            break
        row = parent
    return row.run_id


def live_owner(row: RunRow, now_ms: int) -> str | None:
    """The process id of a run's living owner, with the host where that is another one; None without such an owner."""
    from smithers.engine.leases import may_take_over

    if row.status != "running" or row.runtime_owner_id is None or may_take_over(row, now_ms):
        return None
    parts = row.runtime_owner_id.split(":")
    return parts[1] if len(parts) > 1 else row.runtime_owner_id
