"""`why`: why a run, or a step of it, is where it is, and the commands that would move it."""

from __future__ import annotations

import shlex
from textwrap import wrap
from typing import TYPE_CHECKING

from smithers.cli.arguments import as_list, as_object
from smithers.cli.common import Common, open_control
from smithers.cli.output import Output, duration, moment, printable, shortened
from smithers.cli.progress import node_name
from smithers.cli.steps import Step, db_flag
from smithers.errors import InvalidInput

if TYPE_CHECKING:
    from smithers.control.blockers import Blocker
    from smithers.control.explaining import Diagnosis

MOST_SUMMARY = 1_500
"""As many columns of what somebody is asked are shown."""
TEXT_WIDTH = 94
_MARKS = {"failed": "✗", "failed-dependency": "✗", "owner-dead": "✗", "owner-silent": "!", "working": "▸"}
_NOTHING = {
    "finished": "It has finished: nothing is in its way.",
    "skipped": "It was skipped: it will not run.",
    "cancelled": "It was cancelled.",
}


async def why(
    run: str,
    node: str | None = None,
    /,
    *,
    iteration: int | None = None,
    common: Common | None = None,
) -> int:
    """Tell why a run, or a step of it, is where it is: what it waits for, since when, and what would move it.

    Parameters
    ----------
    run
        The run's id.
    node
        A step's id; without it the run is meant.
    iteration
        Which iteration of a loop; the newest by default.
    """
    common = common or Common()
    out = common.output
    if iteration is not None and node is None:
        raise InvalidInput("--iteration is one of a step's; name the step")
    from smithers.control import explaining

    with open_control(common) as control:
        found = await explaining.why(control, run, node, iteration)
        moves = moves_of(found, db_flag(control.store.path))
    if out.is_text:
        _tell(out, found, moves)
    else:
        steps = [step._asdict() for listed in moves for step in listed]
        out.document({**found.wire(), "next": list({step["command"]: step for step in steps}.values())})
    return 0


def _tell(out: Output, found: Diagnosis, moves: list[list[Step]]) -> None:
    name = found.run.run_id if found.node_id is None else node_name(found.node_id, found.iteration or 0)
    of = (
        f"  of {printable(found.run.run_id)}"
        if found.node_id is not None
        else f"  {printable(found.run.workflow_name)}"
    )
    since = f", since {moment(found.since_ms)}" if found.since_ms is not None else ""
    ago = f" ({duration(found.now_ms - found.since_ms)})" if found.since_ms is not None else ""
    out.line(f"{out.style(printable(name), 'bold')}{of}  {out.state(found.state)}{since}{ago}")
    if not found.blockers:
        out.line(f"  {_NOTHING.get(found.state, 'Nothing is in its way.')}")
        return
    told: set[str] = set()
    for blocker, steps in zip(found.blockers, moves, strict=True):
        _tell_one(out, blocker, found)
        for step in steps:
            if step.command not in told:
                told.add(step.command)
                out.line(
                    f"      {out.style(printable(step.command), 'cyan')}  {out.style(shortened(step.description, 60), 'dim')}"
                )
    if found.more:
        out.line(f"  and {found.more} more of the same kinds; all states: smithers inspect {found.run.run_id}")


def _tell_one(out: Output, blocker: Blocker, found: Diagnosis) -> None:
    parts: list[str] = []
    if blocker.kind == "rewound" and blocker.since_ms is not None:
        parts.append(f"at {moment(blocker.since_ms)}")
    if blocker.since_ms is not None and blocker.kind not in ("failed", "cancelled", "continued"):
        parts.append(f"since {duration(found.now_ms - blocker.since_ms)}")
    if blocker.until_ms is not None:
        left = blocker.until_ms - found.now_ms
        word = "until" if blocker.kind in ("timer", "retry", "quota") else "at the latest"
        parts.append(f"{word} {moment(blocker.until_ms)} ({'in ' + duration(left) if left > 0 else 'overdue'})")
    where = "" if blocker.run_id == found.run.run_id else f" in {blocker.run_id}"
    is_other = blocker.node_id is not None and (blocker.node_id, blocker.iteration) != (found.node_id, found.iteration)
    place = node_name(blocker.node_id, blocker.iteration) + where if blocker.node_id is not None and is_other else ""
    waits = "" if blocker.kind in ("failed", "cancelled", "continued") else "waits for "
    text = f"{printable(place)} " if place and waits else ""
    mark = out.style(_MARKS.get(blocker.kind, "●"), "red" if blocker.kind in ("failed", "owner-dead") else "yellow")
    after = f"  {out.style(', '.join(parts), 'dim')}" if parts else ""
    out.line(f"  {mark} {text}{waits}{shortened(blocker.text, 200)}{after}")
    summary = as_object(blocker.details).get("summary")
    if isinstance(summary, str) and summary.strip():
        for line in wrap(shortened(summary, MOST_SUMMARY), TEXT_WIDTH):
            out.line(f"      {line}")


# ── what would move it ─────────────────────────────────────────────────────────────────────────────────────────────


def moves_of(found: Diagnosis, db: str) -> list[list[Step]]:
    """For each blocker the commands that would move it; for one that moves by itself, none."""
    return [_moves(blocker, found, db) for blocker in found.blockers]


def _moves(blocker: Blocker, found: Diagnosis, db: str) -> list[Step]:
    run, details = shlex.quote(blocker.run_id), as_object(blocker.details)
    at = ""
    if blocker.node_id is not None:
        at = f" --node {shlex.quote(blocker.node_id)}"
        at += f" --iteration {blocker.iteration}" if blocker.iteration else ""
    top = shlex.quote(found.top_run_id)
    match blocker.kind:
        case "approval":
            keys = [str(key) for key in as_list(details.get("options"))]
            choice = ""
            if details.get("mode") == "select" and keys:
                choice = f" --select {shlex.quote(keys[0])}"
            elif details.get("mode") == "rank" and keys:
                choice = f" --rank {shlex.quote(','.join(keys))}"
            users = [str(user) for user in as_list(details.get("allowedUsers"))]
            by = f" --by {shlex.quote(users[0])}" if users else ""
            one_of = f" (one of {', '.join(keys)})" if choice else ""
            return [
                Step(f"smithers approve {run}{at}{choice}{by}{db}", f"approve it{one_of}"),
                Step(f"smithers deny {run}{at}{by}{db}", "deny it"),
            ]
        case "question":
            return [Step(f"smithers answer {run}{at} --value JSON{db}", "answer it")]
        case "signal":
            about = details.get("correlationId")
            more = f" --correlation {shlex.quote(str(about))}" if about else ""
            name = shlex.quote(str(details.get("signalName")))
            return [Step(f"smithers signal {run} {name} --data JSON{more}{db}", "send it")]
        case "timer" | "retry" | "quota" if blocker.until_ms is not None and found.run.status != "running":
            stays = Step(f"smithers supervise --all{db}", "stay, and go on by itself when the moment comes")
            is_due = blocker.until_ms <= found.now_ms
            return [Step(f"smithers resume {top}{db}", "go on: the moment has come"), stays] if is_due else [stays]
        case "paused" | "decided" | "unowned" | "owner-dead" | "rewound" | "reset":
            return [Step(f"smithers resume {top}{db}", "go on")]
        case "owner-silent":
            return [Step(f"smithers resume {top} --force{db}", "take it over")]
        case "failed":
            moves = [Step(f"smithers resume {top}{db}", "go on from what has finished")]
            if at and run == top:
                again = "do this step again, with what was built upon it"
                moves.insert(0, Step(f"smithers retry-task {run}{at}{db}", again))
            return moves
        case "cancelled":
            return [Step(f"smithers resume {top}{db}", "take it up again")]
        case "continued":
            heir = str(details.get("newRunId"))
            return [Step(f"smithers why {shlex.quote(heir)}{db}", "look at the run that it goes on as")]
        case "queued":
            return [Step(f"smithers queue list{db}", "see what waits, and the limits")]
        case "room":
            return [Step(f"smithers inspect {run}{db}", "see what is at work")]
        case _:
            return []
