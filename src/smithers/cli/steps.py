"""Next steps: for a run that has stopped, the exact commands that go on with it."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from smithers.cli.arguments import as_list, as_object
from smithers.cli.common import nearest_database
from smithers.store import database_name

if TYPE_CHECKING:
    from smithers.control.control import Control, RunReport
    from smithers.store.interface import ApprovalRow

MAX_APPROVALS = 10
GOES_ON_ALONE = frozenset({"waiting-approval", "waiting-event", "waiting-timer", "waiting-quota"})


class Step(NamedTuple):
    """A command and what it does."""

    command: str
    description: str


def db_flag(db: str) -> str:
    """` --db PATH`, where the commands would find another database by themselves."""
    found, name = nearest_database(Path.cwd()), database_name(db)
    if found is not None and name == database_name(found):
        return ""
    return f" --db {shlex.quote(name if '://' in db else db)}"


async def next_steps(control: Control, run_id: str) -> list[Step]:
    """What can be done about a run that does not go on by itself; empty for one that has finished."""
    db = db_flag(control.store.path)
    report = await control.inspect(run_id)
    steps = [step for found in await _family(control, report) for step in _waits(found, db)]
    run = shlex.quote(run_id)
    match report.run.status:
        case "waiting-approval" | "waiting-event" | "waiting-timer" | "waiting-quota":
            steps.append(Step(f"smithers resume {run}{db}", "go on, once it has what it waits for"))
            steps.append(Step(f"smithers supervise --all{db}", "stay, and go on by itself with every run that can"))
        case "paused" | "running":
            steps.append(Step(f"smithers resume {run}{db}", "go on"))
        case "failed":
            steps.append(Step(f"smithers inspect {run}{db}", "see what failed"))
            steps.append(Step(f"smithers resume {run}{db}", "go on from what has finished"))
        case "cancelled":
            steps.append(Step(f"smithers resume {run}{db}", "take it up again"))
        case _:
            pass
    return steps


async def _family(control: Control, report: RunReport, depth: int = 0) -> list[RunReport]:
    """A run and its live children: what a subflow waits for is recorded with the subflow's run."""
    found = [report]
    if depth < 8:
        for child in report.children:
            below = await control.inspect(child)
            if below.run.status in GOES_ON_ALONE:
                found += await _family(control, below, depth + 1)
    return found


def _waits(report: RunReport, db: str) -> list[Step]:
    from pydantic_core import from_json

    run = shlex.quote(report.run.run_id)
    steps: list[Step] = []
    waiting = {(n.node_id, n.iteration) for n in report.nodes if n.state == "waiting-event"}
    for approval in [a for a in report.approvals if a.status == "requested"][:MAX_APPROVALS]:
        steps += _decisions(approval, run, db)
    for human in [h for h in report.humans if h.status == "pending"][:MAX_APPROVALS]:
        at = _at(human.node_id, human.iteration)
        steps.append(Step(f"smithers answer {run}{at} --value JSON{db}", f"answer: {human.prompt}"))
    for attempt in report.attempts:
        if (attempt.node_id, attempt.iteration) in waiting and attempt.finished_at_ms is None and attempt.meta_json:
            wait = as_object(as_object(from_json(attempt.meta_json)).get("waitForEvent"))
            if wait:
                about = f" --correlation {shlex.quote(str(wait['correlationId']))}" if wait.get("correlationId") else ""
                name = shlex.quote(str(wait.get("signalName")))
                text = f"send what {attempt.node_id} waits for"
                steps.append(Step(f"smithers signal {run} {name} --data JSON{about}{db}", text))
    return steps


def _decisions(approval: ApprovalRow, run: str, db: str) -> list[Step]:
    from pydantic_core import from_json

    request: dict[str, object] = from_json(approval.request_json)
    at = _at(approval.node_id, approval.iteration)
    title = str(request.get("title") or approval.node_id)
    choice = ""
    keys = [str(as_object(option).get("key")) for option in as_list(request.get("options"))]
    if request.get("mode") == "select" and keys:
        choice = f" --select {shlex.quote(keys[0])}"
        title += f" (one of {', '.join(keys)})"
    elif request.get("mode") == "rank" and keys:
        choice = f" --rank {shlex.quote(','.join(keys))}"
    return [
        Step(f"smithers approve {run}{at}{choice}{db}", f"approve: {title}"),
        Step(f"smithers deny {run}{at}{db}", "deny it"),
    ]


def _at(node_id: str, iteration: int) -> str:
    return f" --node {shlex.quote(node_id)}" + (f" --iteration {iteration}" if iteration else "")
