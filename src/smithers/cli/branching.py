"""`fork` and `replay`: a new run that begins as another one was at a frame."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Annotated

from smithers.cli.arguments import read_object
from smithers.cli.boundary import tell_effects
from smithers.cli.common import Common, open_control
from smithers.cli.options import Option
from smithers.cli.output import Output, printable
from smithers.cli.steps import Step, db_flag
from smithers.cli.travelling import Force, RunOption, Target, admin, go_on, tell_kept, tell_next, wire
from smithers.records import dataclass

if TYPE_CHECKING:
    from smithers.control.travel.forking import Forked

Frame = Annotated[int | None, Option("--frame", "-f", help="From which frame; the newest by default.")]
Reset = Annotated[
    list[str] | None,
    Option("--node", "-n", help="A step to do again, with what came after it; may be given several times."),
]
Input = Annotated[
    str | None, Option("--input", "-i", help="Another input: a JSON object, @FILE, or - for stdin.", takes_dashes=True)
]
Label = Annotated[str | None, Option("--label", "-l", help="What the branch is called.", takes_dashes=True)]
NewRun = Annotated[str | None, Option(help="The new run's id; made up if not given.")]


@dataclass(frozen=True)
class Branch:
    """Options of both commands: where from, what to do again, and what the new run is."""

    run_id: RunOption = None
    frame: Frame = None
    node: Reset = None
    input: Input = None
    label: Label = None
    new_run_id: NewRun = None


async def fork(
    target: str,
    /,
    *,
    branch: Branch | None = None,
    run: Annotated[bool, Option(help="Go on with the new run.", is_switch=True)] = False,
    force: Force = False,
    common: Common | None = None,
) -> int:
    """Make a new run that begins as another one was at a frame. The other one is left as it is.

    Parameters
    ----------
    target
        The run's id, or the workflow's file with --run-id.
    """
    common = common or Common()
    asked = _Branch(target, branch or Branch(), force)
    return await _branch(common, asked, goes_on=run)


async def replay(
    target: str,
    /,
    *,
    branch: Branch | None = None,
    restore_vcs: Annotated[bool, Option(help="Put files back to what they were then.", is_switch=True)] = False,
    force: Force = False,
    common: Common | None = None,
) -> int:
    """Make a new run as `fork` does, and go on with it.

    Parameters
    ----------
    target
        The run's id, or the workflow's file with --run-id.
    """
    common = common or Common()
    asked = _Branch(target, branch or Branch(), force)
    return await _branch(common, asked, goes_on=True, restores=restore_vcs)


class _Branch:
    """What `fork` and `replay` are asked for."""

    def __init__(self, target: str, given: Branch, force: bool) -> None:
        self.target = Target(target, given.run_id)
        self.frame = given.frame
        self.nodes = given.node or []
        self.input = None if given.input is None else read_object(given.input, "--input")
        self.label = given.label
        self.new_run_id = given.new_run_id
        self.force = force


async def _branch(common: Common, asked: _Branch, *, goes_on: bool, restores: bool = False) -> int:
    out = common.output
    from smithers.control.travel import effects, forking

    with open_control(common) as control:
        row = await control.run(asked.target.run_id)
        workflow = await asked.target.workflow(control) if goes_on or asked.input is not None else None
        operation = effects.REPLAY if goes_on else effects.FORK
        at = row.frame_no if asked.frame is None else asked.frame
        if out.is_text and 0 <= at <= row.frame_no:
            found = await effects.report(control, row.run_id, at, operation=operation)
            tell_effects(out, found.wire(), f"of {printable(row.run_id)} after frame {at}")
        restorer = None
        if restores:
            from smithers.control.checkpoints import Restorer

            restorer = Restorer(control, is_forced=asked.force)
            await restorer.check(row.run_id, at)
        done = await forking.fork(
            control,
            row.run_id,
            asked.frame,
            caller=admin(),
            new_run_id=asked.new_run_id,
            reset_nodes=asked.nodes,
            input=asked.input,
            workflow=workflow,
            label=asked.label,
            is_replay=goes_on,
            restores_vcs=restores,
            force=asked.force,
        )
        if restorer is not None:
            await restorer(row.run_id, done.frame_no)
        db = db_flag(control.store.path)
    steps = [
        Step(f"smithers resume {shlex.quote(done.run_id)}{db}", "go on with the new run"),
        Step(f"smithers diff {shlex.quote(row.run_id)} --against {shlex.quote(done.run_id)}{db}", "compare the two"),
    ]
    if out.is_text:
        _tell_forked(out, done)
        tell_kept(out, () if restorer is None else restorer.done)
    elif not goes_on:
        out.document({**done.wire(), "next": wire(steps)})
    if goes_on:
        assert workflow is not None
        return await go_on(common, done.run_id, workflow, accept_workflow_change=True)
    if out.is_text:
        tell_next(out, steps)
    return 0


def _tell_forked(out: Output, done: Forked) -> None:
    label = f' "{printable(done.label)}"' if done.label else ""
    out.line(f"{out.style(printable(done.run_id), 'bold')}{label}  forked from {printable(done.parent_run_id)} "
             f"at frame {done.frame_no}")  # fmt: skip
    if done.reset_nodes:
        out.line(f"  to be done again: {', '.join(printable(node) for node in done.reset_nodes)}")
