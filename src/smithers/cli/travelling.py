"""`rewind`, `retry-task` and `timetravel`: going back in a run, and doing a part of it again.

What would stay done outside is shown first, by `boundary.py`. `fork` and `replay` are in `branching.py`, `timeline` and
`diff` in `differing.py`.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from smithers.cli.arguments import login_name
from smithers.cli.boundary import crossing, tell_effects
from smithers.cli.common import Common, find_database, open_control
from smithers.cli.options import Option
from smithers.cli.output import Output, duration, printable
from smithers.cli.steps import Step, db_flag
from smithers.errors import InvalidInput, RunNotResumable
from smithers.records import dataclass

if TYPE_CHECKING:
    from collections.abc import Sequence

    from smithers.components.workflow import SmithersWorkflow
    from smithers.control.caller import Caller
    from smithers.control.checkpoints import PutBack
    from smithers.control.control import Control
    from smithers.control.travel.resetting import NodeReset
    from smithers.control.travel.rewinding import Rewound

Switch = Option(is_switch=True)
RunOption = Annotated[str | None, Option("--run-id", "-r", help="The run's id, where a workflow's file is given.")]
Force = Annotated[bool, Option(help="Go on although effects outside stand; that is recorded.", is_switch=True)]
NoRevert = Annotated[bool, Option(help="Undo no effects.", is_switch=True)]
NoVcs = Annotated[bool, Option(help="Leave files as they are.", is_switch=True)]
NoDeps = Annotated[bool, Option(help="Only this step, not what was started after it.", is_switch=True)]
Accept = Annotated[bool, Option(help="Go on although the workflow's source changed.", is_switch=True)]
Node = Annotated[str, Option("--node", "-n", help="The step.")]
Iteration = Annotated[int, Option(help="The iteration of the step's loop.")]


@dataclass(frozen=True)
class Again:
    """Options of the commands that do a step again: what they may pass over."""

    force: Force = False
    no_revert: NoRevert = False
    accept_workflow_change: Accept = False


# ── back for good ──────────────────────────────────────────────────────────────────────────────────────────────────


async def rewind(
    run: str,
    frame: int,
    /,
    *,
    yes: Annotated[bool, Option("--yes", "-y", is_switch=True)] = False,
    force: Force = False,
    no_revert: NoRevert = False,
    no_vcs: NoVcs = False,
    common: Common | None = None,
) -> int:
    """Take a run back to right after a frame, for good: what came later is deleted, but for the event log.

    Parameters
    ----------
    run
        The run's id.
    frame
        The frame, as `timeline` shows it; 0 is before the first.
    yes
        Do not ask.
    """
    common = common or Common()
    out = common.output
    from smithers.cli.stored import driven_by
    from smithers.control.checkpoints import Restorer
    from smithers.control.travel import effects, rewinding

    with open_control(common) as control:
        row = await control.run(run)
        is_there = 0 <= frame <= row.frame_no
        if out.is_text and is_there:
            found = await effects.report(control, run, frame, operation="rewind", no_revert=no_revert)
            tell_effects(out, found.wire(), f"after frame {frame}")
        if not yes and is_there:
            _confirm(
                out, f"Take {printable(run)} back from frame {row.frame_no} to {frame}? What came later is deleted."
            )
        restorer = None if no_vcs else Restorer(control, is_forced=force)
        done = await rewinding.rewind(
            control,
            run,
            frame,
            caller=admin(),
            confirm=True,
            force=force,
            no_revert=no_revert,
            restore=restorer,
        )
        db, top = db_flag(control.store.path), (await driven_by(control, run)).run_id
    steps = [
        Step(f"smithers resume {shlex.quote(top)}{db}", "go on from there"),
        Step(f"smithers timeline {shlex.quote(run)}{db}", "see where it stands"),
    ]
    if out.is_text:
        _tell_rewound(out, done)
        tell_kept(out, () if restorer is None else restorer.done)
        tell_next(out, steps)
    else:
        kept = kept_of(() if restorer is None else restorer.done)
        told = {"runId": run, "fromFrameNo": done.from_frame_no, **done.wire(), "keptFiles": kept}
        out.document({**told, "next": wire(steps)})
    return 0


def _tell_rewound(out: Output, done: Rewound) -> None:
    numbers = [count(done.deleted_frames, "frame"), count(done.deleted_attempts, "attempt")]
    undone = count(len(done.effects.revertible), "effect")
    out.line(f"{out.style(printable(done.run_id), 'bold')}  frame {done.from_frame_no} → {done.new_frame_no}")
    files = f", put {count(done.reverted_sandboxes, 'folder')} back" if done.reverted_sandboxes else ""
    out.line(f"  deleted {' and '.join(numbers)}, undid {undone}{files}, took {duration(done.duration_ms)}")


def _confirm(out: Output, question: str) -> None:
    """Ask on a terminal. Raises `InvalidInput` where nobody can answer, or somebody says no."""
    if not (out.is_text and out.is_terminal and sys.stdin.isatty()):
        raise InvalidInput(
            "this cannot be taken back, and nobody is here to be asked; to do it nevertheless, give --yes"
        )
    out.note(f"{question} [y/N]")
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise InvalidInput("nothing was done")


# ── a step again ───────────────────────────────────────────────────────────────────────────────────────────────────


async def retry_task(
    target: str,
    /,
    *,
    node: Node,
    run_id: RunOption = None,
    iteration: Iteration = 0,
    no_deps: NoDeps = False,
    again: Again | None = None,
    common: Common | None = None,
) -> int:
    """Do a step again, with what was built upon it, and go on.

    Parameters
    ----------
    target
        The run's id, or the workflow's file with --run-id.
    """
    common, again = common or Common(), again or Again()
    out = common.output
    asked = Target(target, run_id)
    from smithers.control.travel import resetting

    with open_control(common) as control:
        workflow = await asked.workflow(control)
        with crossing(out):
            done = await resetting.retry_task(
                control,
                asked.run_id,
                node,
                iteration,
                caller=admin(),
                reset_dependents=not no_deps,
                force=again.force,
                no_revert=again.no_revert,
                workflow=workflow,
            )
    if out.is_text:
        _tell_reset(out, done)
    return await go_on(common, asked.run_id, workflow, accept_workflow_change=again.accept_workflow_change)


async def timetravel(
    target: str,
    /,
    *,
    node: Node,
    run_id: RunOption = None,
    iteration: Iteration = 0,
    attempt: Annotated[int | None, Option("--attempt", "-a", help="Before which attempt; the last by default.")] = None,
    no_vcs: NoVcs = False,
    no_deps: NoDeps = False,
    resume: Annotated[bool, Option(help="Go on from there.", is_switch=True)] = False,
    again: Again | None = None,
    common: Common | None = None,
) -> int:
    """Take a step back to before an attempt of it began, with what was built upon it.

    Parameters
    ----------
    target
        The run's id, or the workflow's file with --run-id.
    """
    common, again = common or Common(), again or Again()
    out = common.output
    asked = Target(target, run_id)
    from smithers.cli.stored import driven_by
    from smithers.control.checkpoints import Restorer
    from smithers.control.travel import resetting

    with open_control(common) as control:
        workflow = await asked.workflow(control)
        restorer = None if no_vcs else Restorer(control, is_forced=again.force)
        with crossing(out):
            done = await resetting.timetravel(
                control,
                asked.run_id,
                node,
                iteration,
                attempt,
                caller=admin(),
                reset_dependents=not no_deps,
                force=again.force,
                no_revert=again.no_revert,
                workflow=workflow,
                restore=restorer,
            )
        db, top = db_flag(control.store.path), (await driven_by(control, asked.run_id)).run_id
    steps = [Step(f"smithers resume {shlex.quote(top)}{db}", "go on from there")]
    if out.is_text:
        _tell_reset(out, done)
        tell_kept(out, () if restorer is None else restorer.done)
    if resume:
        return await go_on(common, asked.run_id, workflow, accept_workflow_change=again.accept_workflow_change)
    if out.is_text:
        tell_next(out, steps)
    else:
        kept = kept_of(() if restorer is None else restorer.done)
        out.document({**_reset_wire(done), "keptFiles": kept, "next": wire(steps)})
    return 0


def _tell_reset(out: Output, done: NodeReset) -> None:
    tell_effects(out, done.effects.wire(), "of the steps that are done again")
    listed = ", ".join(printable(node) for node in done.reset_nodes[:10])
    more = f" and {len(done.reset_nodes) - 10} more" if len(done.reset_nodes) > 10 else ""
    out.line(f"{out.style(printable(done.run_id), 'bold')}  to be done again: {listed}{more}")


def _reset_wire(done: NodeReset) -> dict[str, object]:
    return {
        "runId": done.run_id,
        "nodeId": done.node_id,
        "iteration": done.iteration,
        "resetNodes": list(done.reset_nodes),
        "vcsRestored": done.is_restored,
        "effectBoundary": done.effects.wire(),
    }


# ── shared ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class Target:
    """A run, named by its id, or by its workflow's file and --run-id. Raises `InvalidInput` for anything else."""

    def __init__(self, target: str, run_id: str | None) -> None:
        is_file = target.endswith(".py") or (run_id is not None and Path(target).is_file())
        if is_file and run_id is None:
            raise InvalidInput(f"which run of {target}? Give its id: --run-id RUN")
        if not is_file and run_id is not None and run_id != target:
            raise InvalidInput(f"--run-id names run {run_id!r}, but {target!r} is no workflow's file")
        self.run_id = run_id or target
        self._file = Path(target) if is_file else None

    async def workflow(self, control: Control) -> SmithersWorkflow:
        """The given file's workflow, or the one that the run was started from."""
        from smithers.cli.stored import driven_by, workflow_of

        try:
            return await workflow_of(control, self.run_id, self._file)
        except RunNotResumable:
            top = await driven_by(control, self.run_id)
            if top.run_id == self.run_id:
                raise
            return await workflow_of(control, top.run_id, self._file)  # which knows the subflow


async def go_on(common: Common, run_id: str, workflow: SmithersWorkflow, *, accept_workflow_change: bool) -> int:
    """Resume a run, or the one that it goes on with, and drive it to its end or halt."""
    from smithers.cli.driving import drive
    from smithers.cli.stored import driven_by, workflow_of

    with open_control(common) as control:
        top = await driven_by(control, run_id)
        if top.run_id != run_id:
            run_id, workflow = top.run_id, await workflow_of(control, top.run_id)

    if TYPE_CHECKING:
        from smithers.engine.engine import Engine, RunHandle

    async def start(engine: Engine, control: Control) -> tuple[RunHandle, int]:
        before = await control.run(run_id)
        who = {"triggeredBy": login_name() or "cli", "role": "operator", "atMs": control.clock.now_ms()}
        handle = await engine.resume(run_id, workflow, accept_workflow_change=accept_workflow_change, resumed_by=who)
        return handle, before.next_seq

    db = find_database(common.settings)
    return await drive(workflow, start, db=db, settings=common.settings, out=common.output, wait=False)


def admin() -> Caller:
    """Whoever may use the machine may use its database."""
    from smithers.control.caller import Caller

    return Caller(login_name(), role="admin", scopes=("*",))


def tell_kept(out: Output, done: Sequence[PutBack]) -> None:
    """Say where files are now that no checkpoint held, and that were written over or removed."""
    for each in kept_of(done):
        out.line(
            f"  files that no checkpoint held are kept: git -C {shlex.quote(each['cwd'])} show {each['commit'][:12]}"
        )


def kept_of(done: Sequence[PutBack]) -> list[dict[str, str]]:
    """The same as it is sent."""
    return [{"cwd": each.cwd, "commit": each.safety} for each in done if each.safety is not None]


def count(number: int, thing: str) -> str:
    """So many things, in words."""
    return f"{number:,} {thing}" + ("" if number == 1 else "s")


def wire(steps: list[Step]) -> list[dict[str, str]]:
    """Next steps as they are sent."""
    return [step._asdict() for step in steps]


def tell_next(out: Output, steps: list[Step]) -> None:
    """Say what may be done next."""
    from smithers.cli.driving import step_lines

    out.line("next:")
    for line in step_lines(steps):
        out.line(line)
