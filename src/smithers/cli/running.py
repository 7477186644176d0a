"""`up` and `resume`: start a run or go on with one, here or in a process of its own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from smithers.cli.arguments import positive, read_object
from smithers.cli.common import Common, find_database, open_control
from smithers.cli.options import Option
from smithers.cli.overseeing import Supervision
from smithers.cli.serving import Serving
from smithers.errors import InvalidInput, RunNotResumable
from smithers.records import dataclass

if TYPE_CHECKING:
    from smithers.cli.driving import Start
    from smithers.components.workflow import SmithersWorkflow
    from smithers.control.control import Control
    from smithers.engine.engine import Engine, RunHandle

Switch = Option(is_switch=True)


async def up(
    workflow: Path,
    /,
    *,
    input: Annotated[str | None, Option("--input", "-i", takes_dashes=True)] = None,
    prompt: Annotated[str | None, Option("--prompt", "-p", takes_dashes=True)] = None,
    run_id: Annotated[str | None, Option("--run-id", "-r")] = None,
    resume: str | None = None,
    force: Annotated[bool, Switch] = False,
    accept_workflow_change: Annotated[bool, Switch] = False,
    max_concurrency: Annotated[int | None, Option("--max-concurrency", "-c")] = None,
    root: Path | None = None,
    annotations: Annotated[str | None, Option(takes_dashes=True)] = None,
    allow_network: Annotated[bool, Switch] = False,
    sandbox: Literal["required", "off"] = "required",
    max_output_bytes: int | None = None,
    tool_timeout_ms: Annotated[int | None, Option("--tool-timeout-ms", "--tool-timeout")] = None,
    wait: bool = False,
    detach: Annotated[bool, Option("--detach", "-d", is_switch=True)] = False,
    serving: Serving | None = None,
    supervision: Supervision | None = None,
    common: Common | None = None,
) -> int:
    """Run a workflow until it ends or can only wait.

    Parameters
    ----------
    workflow
        The workflow's file.
    input
        The input: a JSON object, @FILE, or - for stdin.
    prompt
        Sets the field "prompt" of the input.
    run_id
        The run's id; made up if not given.
    resume
        Go on with the stored run of this id; alone, with that of --run-id.
    force
        With --resume: take over although the owner seems alive.
    accept_workflow_change
        With --resume: go on although the workflow's source changed.
    max_concurrency
        At most so many tasks at once.
    root
        The folder that tasks work in; the current one by default.
    annotations
        A flat JSON object to store with the run.
    allow_network
        Let the commands of this run's tools reach other machines.
    sandbox
        "off" runs these commands without isolation: for a container or machine that holds nothing else.
    max_output_bytes
        The most that a tool of this run reads, writes or returns; 200000 by default.
    tool_timeout_ms
        The longest that a command or search of these tools takes, in milliseconds; 60000 by default.
    wait
        Stay while the run waits, and go on when what it waits for arrives.
    detach
        Run in the background; returns once the run is stored.
    """
    common, serving, supervision = common or Common(), serving or Serving(), supervision or Supervision()
    positive(max_concurrency, "--max-concurrency")
    given = None if input is None else read_object(input, "--input")
    asked = _Asked(
        workflow=workflow,
        input=given if prompt is None else {**(given or {}), "prompt": prompt},
        annotations=None if annotations is None else read_object(annotations, "--annotations"),
        run_id=run_id,
        resumed=_resumed_id(resume, run_id),
        force=force,
        accept_workflow_change=accept_workflow_change,
        max_concurrency=max_concurrency,
        root=root,
        allow_network=allow_network,
        sandbox=sandbox,
        max_output_bytes=max_output_bytes,
        tool_timeout_ms=tool_timeout_ms,
        wait=wait,
    )
    asked.check()
    supervision.check(has_place=detach or serving.serve)
    serving.check(common.settings)
    return await (_detach if detach else _drive)(asked, serving, supervision, common)


@dataclass(frozen=True)
class _Asked:
    """What `up` was asked to run, and how."""

    workflow: Path
    input: dict[str, object] | None
    annotations: dict[str, object] | None
    run_id: str | None
    resumed: str | None
    force: bool
    accept_workflow_change: bool
    max_concurrency: int | None
    root: Path | None
    allow_network: bool
    sandbox: Literal["required", "off"]
    max_output_bytes: int | None
    tool_timeout_ms: int | None
    wait: bool

    def check(self) -> None:
        """Raises `InvalidInput`: options do not go together."""
        if self.resumed is None and (self.force or self.accept_workflow_change):
            raise InvalidInput(f"{'--force' if self.force else '--accept-workflow-change'}: belongs to --resume")

    def flags(self) -> list[str]:
        """What of it are switches."""
        return [
            *(["--force"] if self.force else []),
            *(["--accept-workflow-change"] if self.accept_workflow_change else []),
            *(["--allow-network"] if self.allow_network else []),
            *(["--sandbox", self.sandbox] if self.sandbox != "required" else []),
            *(["--max-output-bytes", str(self.max_output_bytes)] if self.max_output_bytes is not None else []),
            *(["--tool-timeout-ms", str(self.tool_timeout_ms)] if self.tool_timeout_ms is not None else []),
            *(["--wait"] if self.wait else []),
        ]


async def _drive(asked: _Asked, serving: Serving, supervision: Supervision, common: Common) -> int:
    """Run it here."""
    from smithers.engine.loading import load_workflow

    loaded = load_workflow(asked.workflow)
    root_dir = None if asked.root is None else _absolute(asked.root)
    if asked.resumed is None:
        start = _launching(loaded, asked, root_dir)
    else:
        force, accept = asked.force, asked.accept_workflow_change
        start = _resuming(loaded, asked.resumed, asked.input, force, accept, root_dir, asked.max_concurrency)

    from smithers.cli.driving import drive

    settings, out = common.settings, common.output
    oversight = None
    if supervision.supervise:
        from smithers.cli.overseeing import Oversight

        oversight = Oversight(supervision, settings, out)
    server, db = serving.listen(settings), settings.db or loaded.db
    return await drive(
        loaded, start, db=db, settings=settings, out=out, wait=asked.wait, server=server, oversight=oversight
    )


async def _detach(asked: _Asked, serving: Serving, supervision: Supervision, common: Common) -> int:
    """Run it in a process of its own."""
    from smithers.cli.detaching import Background, detach_run
    from smithers.engine.loading import load_workflow

    loaded = load_workflow(asked.workflow)
    background = Background(
        workflow=asked.workflow,
        db=common.settings.db or loaded.db,
        run_id=asked.run_id,
        resumed=asked.resumed,
        input=asked.input,
        annotations=asked.annotations,
        max_concurrency=asked.max_concurrency,
        root=asked.root,
        flags=[*asked.flags(), *serving.flags(), *(supervision.flags() if serving.serve else [])],
        token=serving.token(common.settings) if serving.serve else None,
        supervisor=supervision.command() if supervision.supervise and not serving.serve else None,
    )
    return await detach_run(loaded, background, common)


def _launching(workflow: SmithersWorkflow, asked: _Asked, root_dir: str | None) -> Start:
    async def start(engine: Engine, control: Control) -> tuple[RunHandle, int]:
        del control
        handle = await engine.launch(
            workflow,
            asked.input,
            run_id=asked.run_id,
            annotations=asked.annotations,
            root_dir=root_dir,
            max_concurrency=asked.max_concurrency,
            workflow_path=_absolute(asked.workflow),
            allow_network=asked.allow_network,
            sandbox=asked.sandbox,
            max_output_bytes=asked.max_output_bytes,
            tool_timeout_ms=asked.tool_timeout_ms,
        )
        return handle, 0

    return start


def _resuming(
    workflow: SmithersWorkflow,
    run_id: str,
    input: dict[str, object] | None,
    force: bool,
    accept_workflow_change: bool,
    root_dir: str | None,
    max_concurrency: int | None,
) -> Start:
    async def start(engine: Engine, control: Control) -> tuple[RunHandle, int]:
        before = await control.run(run_id)
        if before.status == "finished":
            return await engine.attach(run_id, workflow), before.next_seq
        handle = await engine.resume(
            run_id,
            workflow,
            input=input,
            force=force,
            accept_workflow_change=accept_workflow_change,
            root_dir=root_dir,
            max_concurrency=max_concurrency,
        )
        return handle, before.next_seq

    return start


def _absolute(path: Path) -> str:
    return str(path.resolve())


def _resumed_id(resume: str | None, run_id: str | None) -> str | None:
    if resume is None:
        return None
    found = resume or run_id
    if not found:
        raise InvalidInput("--resume: which run? Give its id: --resume RUN, or --run-id RUN --resume")
    if run_id is not None and run_id != found:
        raise InvalidInput(f"--resume names run {found!r}, --run-id names {run_id!r}")
    return found


async def resume(
    run: str,
    /,
    *,
    force: Annotated[bool, Switch] = False,
    accept_workflow_change: Annotated[bool, Switch] = False,
    max_concurrency: Annotated[int | None, Option("--max-concurrency", "-c")] = None,
    wait: bool = False,
    common: Common | None = None,
) -> int:
    """Go on with a stored run. Its workflow is loaded from where it was started from.

    Parameters
    ----------
    run
        The run's id.
    force
        Take over although the owner seems alive.
    accept_workflow_change
        Go on although the workflow's source changed.
    max_concurrency
        At most so many tasks at once.
    wait
        Stay while the run waits, and go on when what it waits for arrives.
    """
    common = common or Common()
    positive(max_concurrency, "--max-concurrency")
    with open_control(common) as control:
        row = await control.run(run)
    from smithers.cli.driving import drive

    loaded = workflow_of(run, row.workflow_path)

    start = _resuming(loaded, run, None, force, accept_workflow_change, None, max_concurrency)
    db = find_database(common.settings)
    return await drive(loaded, start, db=db, settings=common.settings, out=common.output, wait=wait)


def workflow_of(run_id: str, path: str | None) -> SmithersWorkflow:
    """The workflow that a run was started from. Raises `RunNotResumable` or `WorkflowLoadFailed`."""
    from smithers.engine.loading import load_workflow

    if path is None:
        raise RunNotResumable(
            f"run {run_id!r} was started from a workflow that is in no file; resume it from the program that has it",
            {"runId": run_id},
        )
    return load_workflow(path)
