"""`timeline` and `diff`: the moments of a run, and what differs between two of them, or between two runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

from smithers.cli.arguments import positive
from smithers.cli.common import Common, open_control
from smithers.cli.options import Option
from smithers.cli.output import Output, clock_time, moment, printable, shortened, to_text
from smithers.cli.progress import node_name
from smithers.errors import InvalidInput

if TYPE_CHECKING:
    from smithers.control.control import Control
    from smithers.control.travel.diffing import NodeDelta, OutputDelta, StateDiff
    from smithers.control.travel.timeline import Timeline
    from smithers.events import EventRow

_SAID = {
    "NodeStarted": "{} started",
    "NodeFinished": "{} finished",
    "NodeFailed": "{} failed",
    "NodeSkipped": "{} skipped",
    "NodeCancelled": "{} cancelled",
    "NodeWaitingApproval": "{} waits for approval",
    "NodeWaitingEvent": "{} waits for a signal",
    "NodeWaitingTimer": "{} waits for its timer",
    "NodeWaitingQuota": "{} waits for a limit",
    "ApprovalGranted": "{} approved",
    "ApprovalDenied": "{} denied",
    "ApprovalAutoApproved": "{} approved by itself",
    "SignalReceived": "a signal came",
    "TimerFired": "{} fired",
    "RunFinished": "the run finished",
    "RunFailed": "the run failed",
    "RunCancelled": "the run was cancelled",
    "RunContinuedAsNew": "the run went on as another",
    "RunForked": "forked",
    "RetryTaskStarted": "{} to be done again",
    "TimeTravelStarted": "{} taken back",
    "TimeTravelJumped": "taken back to here",
    "WorkflowReloaded": "new source",
}
MAX_SAID = 4
ALL = 10_000_000


# ── timeline ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def timeline(
    run: str,
    /,
    *,
    tree: Annotated[bool, Option(help="Show the frames of forks too.", is_switch=True)] = False,
    limit: Annotated[int, Option("--limit", "-l")] = 40,
    all: Annotated[bool, Option("--all", "-a", is_switch=True)] = False,
    common: Common | None = None,
) -> int:
    """Show the frames of a run, what happened in them, and the runs that were forked from them.

    Parameters
    ----------
    run
        The run's id.
    limit
        The newest so many frames.
    all
        All frames, however many.
    """
    common = common or Common()
    positive(limit, "--limit")
    out = common.output
    from smithers.control.travel import timeline as timelines

    with open_control(common) as control:
        found = await timelines.timeline(control, run)
        if not out.is_text:
            out.document(found.wire())
            return 0
        await _tell_timeline(control, out, found, "", ALL if all else limit, is_deep=tree)
    return 0


async def _tell_timeline(
    control: Control, out: Output, found: Timeline, lead: str, limit: int, *, is_deep: bool
) -> None:
    from smithers.store.sql import narration

    first = max(0, found.frame_no - limit + 1)
    steps = await control.store.aread(lambda c: narration.steps(c, found.run_id, first))
    if not lead:
        out.line(_title(out, found))
    trees = {mark.frame_no: mark for mark in found.frames}
    by_frame: dict[int, list[EventRow]] = {}
    for row in steps:
        by_frame.setdefault(row.frame_no, []).append(row)
    forks: dict[int, list[Timeline]] = {}
    for fork in found.forks:
        forks.setdefault(fork.parent_frame_no or 0, []).append(fork)
    start = 0 if found.parent_frame_no is None else found.parent_frame_no + 1
    own = {frame for frame in {*by_frame, *trees} if frame >= start}  # a fork's first frames are the other run's
    shown = sorted(frame for frame in own | forks.keys() if first <= frame <= found.frame_no)
    if shown and first > 1 and not lead:
        out.line(f"{lead}  …  {shown[0] - 1:,} earlier frames; all with --all")
    for number in shown:
        at = (
            trees[number].created_at_ms
            if number in trees
            else min((r.timestamp_ms for r in by_frame.get(number, [])), default=0)
        )
        mark = out.style("●", "cyan") if number in trees else "·"
        here = out.style("  ← here", "bold") if number == found.frame_no else ""
        when = out.style(clock_time(at), "dim") if at else " " * 12
        said = _said(by_frame.get(number, [])) if number >= start else f"of {printable(found.parent_run_id or '')}"
        if not said and number in trees and trees[number].reason == "start":
            said = "taken up again"
        out.line(f"{lead}{number:>5} {mark} {when}  {said}{here}".rstrip())
        for fork in forks.get(number, []):
            out.line(f"{lead}      └─ {_title(out, fork)}")
            if is_deep:
                await _tell_timeline(control, out, fork, lead + "      ", limit, is_deep=True)
    for jump in found.jumps:
        by = f" by {printable(jump.caller)}" if jump.caller else ""
        told = f"taken back from frame {jump.from_frame_no} to {jump.to_frame_no}{by}, {moment(jump.timestamp_ms)}"
        out.line(f"{lead}      {out.style(told, 'dim')}")


def _title(out: Output, found: Timeline) -> str:
    label = f' "{printable(found.label)}"' if found.label else ""
    of = (
        f", forked from {printable(found.parent_run_id)} at frame {found.parent_frame_no}"
        if found.parent_run_id
        else ""
    )
    return f"{out.style(printable(found.run_id), 'bold')}{label}  {out.state(found.status)}, frame {found.frame_no}{of}"


def _said(rows: Sequence[EventRow]) -> str:
    told = [_SAID[row.type].format(node_name(row.node_id or "", row.iteration or 0)) for row in rows]
    ended = {text.removesuffix(" finished") for text in told if text.endswith(" finished")}
    told = [t for t in dict.fromkeys(told) if not (t.endswith(" started") and t.removesuffix(" started") in ended)]
    more = f" and {len(told) - MAX_SAID} more" if len(told) > MAX_SAID else ""
    return printable(", ".join(told[:MAX_SAID])) + more


# ── diff ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def diff(
    run: str,
    node: str | None = None,
    /,
    *,
    frames: Annotated[tuple[int, int] | None, Option("--frames", help="Two frames of the run: --frames 3 9.")] = None,
    against: Annotated[str | None, Option(help="Another run, to compare the newest frames of both.")] = None,
    iteration: Annotated[int | None, Option(help="The iteration of the step's loop; for files 0 if not given.")] = None,
    stat: Annotated[bool, Option(help="For files: only how much changed in which.", is_switch=True)] = False,
    common: Common | None = None,
) -> int:
    """Show what differs between two frames of a run, or between two runs: steps, rows, loops. Or what a step,
    or a run that has ended, has changed in the files of its folder: as a patch for git apply, where it is not a terminal.

    Parameters
    ----------
    run
        The run's id.
    node
        A step. With --frames or --against, nothing but this is shown, and all of it; else the files that it has changed.
    """
    common = common or Common()
    out = common.output
    if iteration is not None and node is None:
        raise InvalidInput("--iteration is one of a step's; name the step")
    if frames is None and against is None:
        return await _files(common, run, node, iteration or 0, is_stat=stat)
    if frames is not None and against is not None:
        raise InvalidInput("what is to be compared? Give two frames (--frames A B), or another run (--against RUN)")
    if stat:
        raise InvalidInput("--stat counts lines of files; two frames or two runs are compared by their steps and rows")
    from smithers.control.travel import diffing

    with open_control(common) as control:
        if frames is not None:
            found = await diffing.diff_frames(control, run, *frames)
        else:
            found = await diffing.diff_runs((control, run), (control, against or ""))
    if node is not None:
        found = found.of(node, iteration)
    if out.is_text:
        _tell_diff(out, found, is_whole=node is not None)
    else:
        out.document(found.wire())
    return 0


async def _files(common: Common, run: str, node: str | None, iteration: int, *, is_stat: bool) -> int:
    """The files that a step or a run has changed, as a unified diff."""
    out = common.output
    from smithers.cli.workspace import tell_patches
    from smithers.control.diffs import node_diff, run_diff

    with open_control(common) as control:
        found = await (run_diff(control, run) if node is None else node_diff(control, run, node, iteration))
    if out.is_text:
        tell_patches(out, found, is_stat=is_stat)
    else:
        out.document(found)
    return 0


def _tell_diff(out: Output, found: StateDiff, *, is_whole: bool) -> None:
    left, right = (
        f"{found.left_run_id} frame {found.left_frame_no}",
        f"{found.right_run_id} frame {found.right_frame_no}",
    )
    out.line(f"{out.style(printable(left), 'bold')} → {out.style(printable(right), 'bold')}")
    nodes: list[tuple[str, ...]] = []
    for mark, style, deltas in (
        ("+", "green", found.added),
        ("-", "red", found.removed),
        ("~", "yellow", found.changed),
    ):
        nodes += [_node_row(out, mark, style, delta) for delta in deltas]
    if found.is_empty:
        out.line("  no difference")
        return
    if nodes:
        out.table(("", "STEP", "BEFORE", "AFTER"), nodes, indent="  ")
    for number, delta in enumerate(found.outputs):
        if nodes or number:
            out.line()
        out.line(
            f"  {printable(node_name(delta.node_id, delta.iteration))}  {out.style(printable(delta.table), 'dim')}"
        )
        for line in _field_lines(out, delta, is_whole=is_whole):
            out.line(f"    {line}")
    if found.loops:
        out.line()
        for loop in found.loops:
            sides = ["not begun" if side is None else f"iteration {side}" for side in (loop.before, loop.after)]
            out.line(f"  loop {printable(loop.loop_id)}  {sides[0]} → {sides[1]}")


def _node_row(out: Output, mark: str, style: str, delta: NodeDelta) -> tuple[str, ...]:
    before, after = ("" if side is None else out.state(side) for side in (delta.before, delta.after))
    return out.style(mark, style), printable(node_name(delta.node_id, delta.iteration)), before, after


def _field_lines(out: Output, delta: OutputDelta, *, is_whole: bool) -> Iterator[str]:
    before: Mapping[str, object] = delta.before or {}
    after: Mapping[str, object] = delta.after or {}
    for name in dict.fromkeys([*before, *after]):
        if name in before and name in after and before[name] == after[name]:
            continue
        for mark, style, side in (("-", "red", before), ("+", "green", after)):
            if name in side:
                text = to_text(side[name])
                yield out.style(
                    f"{mark} {printable(name)}: {printable(text) if is_whole else shortened(text, 100)}", style
                )
