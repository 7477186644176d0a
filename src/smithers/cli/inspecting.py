"""`inspect` and `output`: one run with everything in it; one row that a node has produced."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from smithers.cli.common import Common, open_control
from smithers.cli.listing import blocked
from smithers.cli.options import Option
from smithers.cli.output import Output, duration, moment, printable, shortened, to_text
from smithers.cli.progress import node_name

if TYPE_CHECKING:
    from smithers.cli.steps import Step
    from smithers.control.control import Control, RunReport
    from smithers.store.calls import ToolCallRow
    from smithers.store.interface import AttemptRow, NodeRow

MAX_CALLS = 1000
SHOWN_CALLS = 20
"""The newest so many calls of tools are listed as text; all that are read (the newest `MAX_CALLS`) otherwise."""
Tokens = dict[tuple[str, int], tuple[int, int]]


async def inspect(
    run: str,
    /,
    *,
    watch: Annotated[bool, Option("--watch", "-w", is_switch=True)] = False,
    common: Common | None = None,
) -> int:
    """Show everything about a run: state, steps, calls of tools, approvals, timers, loops, tokens.

    Parameters
    ----------
    run
        The run's id.
    watch
        Stay, and show it again whenever it changes, until it has ended.
    """
    common = common or Common()
    out = common.output
    with open_control(common) as control:
        if not watch:
            await _show(control, out, run)
            return 0
        seen: int | None = -1
        async for _ in control.changes():
            if (await control.run(run)).next_seq == seen:
                continue
            if seen != -1:
                out.clear()
            seen = await _show(control, out, run)
            if seen is None:
                break
    return 0


async def _show(control: Control, out: Output, run_id: str) -> int | None:
    """Show the run as it is; the number of its next event, or None if it has ended."""
    from smithers.cli.steps import next_steps

    report, tokens = await control.inspect(run_id), await control.usage(run_id)
    calls = await control.tool_calls(run_id, limit=MAX_CALLS)
    steps = await next_steps(control, run_id) if report.run.status != "running" or "unhealthy" in report.state else []
    if out.is_text:
        _tell(out, report, tokens, calls, steps, control.clock.now_ms())
    else:
        out.document(_document(report, tokens, calls, steps))
    has_ended = report.run.status in ("finished", "failed", "cancelled", "continued")
    return None if has_ended else report.run.next_seq


def _document(report: RunReport, tokens: Tokens, calls: list[ToolCallRow], steps: list[Step]) -> dict[str, object]:
    from pydantic_core import from_json

    from smithers.control import views

    attempts: dict[tuple[str, int], list[dict[str, object]]] = {}
    for row in sorted(report.attempts, key=lambda a: a.attempt):
        attempts.setdefault((row.node_id, row.iteration), []).append(
            {
                "attempt": row.attempt,
                "state": row.state,
                "startedAtMs": row.started_at_ms,
                "finishedAtMs": row.finished_at_ms,
                "error": None if row.error_json is None else from_json(row.error_json),
                "cached": bool(row.cached),
            }
        )
    called: dict[tuple[str, int], list[dict[str, object]]] = {}
    for call in calls:
        called.setdefault((call.node_id, call.iteration), []).append(views.tool_call_summary(call))
    nodes: list[dict[str, object]] = []
    for node in report.nodes:
        key = (node.node_id, node.iteration)
        used = tokens.get(key)
        usage = {} if used is None else {"tokens": {"input": used[0], "output": used[1]}}
        tools = {"toolCalls": called[key]} if key in called else {}
        nodes.append({**views.node_summary(node), "attempts": attempts.get(key, []), **tools, **usage})
    return {
        "run": views.run_summary(report.run),
        "state": report.state,
        "input": report.input,
        "config": {key: value for key, value in report.config.items() if key != "auth"},
        "nodes": nodes,
        "approvals": [views.approval_summary(row) for row in report.approvals],
        "humanRequests": [
            {
                "requestId": row.request_id,
                "nodeId": row.node_id,
                "iteration": row.iteration,
                "status": row.status,
                "prompt": row.prompt,
                "schema": None if row.schema_json is None else from_json(row.schema_json),
            }
            for row in report.humans
        ],
        "timers": [_camel(timer) for timer in report.timers],
        "loops": [_camel(loop) for loop in report.loops],
        "children": report.children,
        "tokens": {"input": sum(t[0] for t in tokens.values()), "output": sum(t[1] for t in tokens.values())},
        "next": [step._asdict() for step in steps],
    }


def _camel(row: dict[str, object]) -> dict[str, object]:
    names = {"node_id": "nodeId", "due_at_ms": "dueAtMs", "ralph_id": "loopId"}
    return {names.get(key, key): value for key, value in row.items()}


def _tell(
    out: Output, report: RunReport, tokens: Tokens, calls: list[ToolCallRow], steps: list[Step], now: int
) -> None:
    run = report.run
    derived = str(report.state["state"])
    also = f" ({derived})" if derived not in (run.status, "succeeded") else ""
    waits = blocked(report.state)
    out.line(f"{out.style(printable(run.run_id), 'bold')}  {printable(run.workflow_name)}")
    out.line(f"  status    {out.state(run.status)}{also}" + (f", waits for {shortened(waits)}" if waits else ""))
    if run.started_at_ms is not None:
        took = duration((run.finished_at_ms or now) - run.started_at_ms)
        out.line(f"  started   {moment(run.started_at_ms)}, {took} ago" if run.finished_at_ms is None
                 else f"  started   {moment(run.started_at_ms)}, took {took}")  # fmt: skip
    if run.workflow_path is not None:
        out.line(f"  workflow  {printable(run.workflow_path)}")
    if report.input not in ({}, None):
        out.line(f"  input     {shortened(to_text(report.input))}")
    if run.parent_run_id is not None:
        out.line(f"  parent    {printable(run.parent_run_id)}")
    for child in report.children:
        out.line(f"  child     {printable(child)}")
    if tokens:
        spent, given = (sum(t[i] for t in tokens.values()) for i in (0, 1))
        out.line(f"  tokens    {spent:,} in, {given:,} out")
    if run.error_json is not None:
        from pydantic_core import from_json

        from smithers.cli.driving import error_line

        out.line(f"  {out.style('error', 'red')}     {printable(error_line(from_json(run.error_json)))}")
    _tell_steps(out, report, tokens, now)
    _tell_calls(out, calls, now)
    _tell_waits(out, report, now)
    if steps:
        from smithers.cli.driving import step_lines

        out.line()
        out.line("next:")
        for line in step_lines(steps):
            out.line(line)


def _tell_steps(out: Output, report: RunReport, tokens: Tokens, now: int) -> None:
    attempts: dict[tuple[str, int], list[AttemptRow]] = {}
    for row in report.attempts:
        attempts.setdefault((row.node_id, row.iteration), []).append(row)
    rows: list[tuple[str, ...]] = []
    for node in sorted(report.nodes, key=lambda n: _place(n, attempts)):
        key = (node.node_id, node.iteration)
        tried = sorted(attempts.get(key, []), key=lambda a: a.attempt)
        used = tokens.get(key)
        rows.append(
            (
                printable(node_name(*key)),
                out.state(node.state),
                str(len(tried) or ""),
                _took(node, tried, now),
                f"{used[0] + used[1]:,}" if used else "",
                _problem(node, tried),
            )
        )
    if rows:
        out.line()
        out.table(("STEP", "STATE", "ATTEMPTS", "TOOK", "TOKENS", "ERROR"), rows, indent="  ")


def _tell_calls(out: Output, calls: list[ToolCallRow], now: int) -> None:
    rows: list[tuple[str, ...]] = []
    for call in calls[-SHOWN_CALLS:]:
        is_over = call.finished_at_ms is not None or call.status == "unknown"
        ended = (call.finished_at_ms or call.started_at_ms) if is_over else now
        rows.append(
            (
                printable(node_name(call.node_id, call.iteration)),
                printable(call.tool_name),
                call.status,
                "" if call.status == "unknown" else duration(ended - call.started_at_ms),
                str(call.attempt),
                shortened(call.input_json or "", 60),
            )
        )
    if rows:
        out.line()
        out.table(("STEP", "TOOL", "STATUS", "TOOK", "ATTEMPT", "INPUT"), rows, indent="  ")
    if len(calls) > SHOWN_CALLS:
        out.line(f"  the newest {SHOWN_CALLS} calls of tools; all with --format json")


def _place(node: NodeRow, attempts: dict[tuple[str, int], list[AttemptRow]]) -> tuple[float, float]:
    """Nodes in the order of their first attempts; those without any come after, as they changed."""
    tried = attempts.get((node.node_id, node.iteration))
    return (min(a.started_at_ms for a in tried) if tried else float("inf"), node.updated_at_ms)


def _took(node: NodeRow, attempts: list[AttemptRow], now: int) -> str:
    if not attempts:
        return ""
    last = attempts[-1].finished_at_ms
    if last is None and node.state not in ("in-progress", "waiting-approval", "waiting-event", "waiting-timer"):
        return ""
    return duration((last or now) - attempts[0].started_at_ms)


def _problem(node: NodeRow, attempts: list[AttemptRow]) -> str:
    text = attempts[-1].error_json if attempts and node.state != "finished" else None
    if text is None:
        return ""
    from pydantic_core import from_json

    error: dict[str, object] = from_json(text)
    return shortened(f"{error.get('summary') or error.get('message')} [{error.get('code') or error.get('name')}]", 100)


def _tell_waits(out: Output, report: RunReport, now: int) -> None:
    for approval in report.approvals:
        by = f" by {approval.decided_by}" if approval.decided_by else ""
        note = f": {approval.note}" if approval.note else ""
        out.line(
            "  approval  " + shortened(f"{node_name(approval.node_id, approval.iteration)} {approval.status}{by}{note}")
        )
    for human in report.humans:
        out.line(
            "  question  " + shortened(f"{node_name(human.node_id, human.iteration)} {human.status}: {human.prompt}")
        )
    for timer in report.timers:
        due, number = timer["due_at_ms"], timer["iteration"]
        assert isinstance(due, int)
        assert isinstance(number, int)
        left = f"in {duration(due - now)}" if due > now else f"{duration(now - due)} ago"
        out.line(f"  {timer['kind']!s:<9} " + shortened(f"{node_name(str(timer['node_id']), number)} due {left}"))
    for loop in report.loops:
        done = ", done" if loop["done"] else ""
        out.line("  loop      " + shortened(f"{loop['ralph_id']} at iteration {loop['iteration']}{done}"))


async def output(
    run: str,
    node: str,
    /,
    *,
    iteration: int | None = None,
    common: Common | None = None,
) -> int:
    """Show the row that a node has produced, as JSON.

    Parameters
    ----------
    run
        The run's id.
    node
        The node's id.
    iteration
        Which iteration of a loop; the newest by default.
    """
    common = common or Common()
    out = common.output
    with open_control(common) as control:
        number, row = await control.output(run, node, iteration)
    if out.is_text:
        out.line(to_text(row, indent=2))
    else:
        out.document({"runId": run, "nodeId": node, "iteration": number, "row": row})
    return 0
