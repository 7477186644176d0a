"""`up` and `resume`: start a run or go on with one, here or in a process of its own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from smithers.cli.arguments import positive, read_object
from smithers.cli.common import Common, find_database, open_control
from smithers.cli.serving import Serving
from smithers.errors import InvalidInput, RunNotResumable

if TYPE_CHECKING:
    from smithers.cli.driving import Start
    from smithers.components.workflow import SmithersWorkflow
    from smithers.control.control import Control
    from smithers.engine.engine import Engine, RunHandle

Switch = Parameter(negative=())


async def up(
    workflow: Path,
    /,
    *,
    input: Annotated[str | None, Parameter(["--input", "-i"], allow_leading_hyphen=True)] = None,
    prompt: Annotated[str | None, Parameter(["--prompt", "-p"], allow_leading_hyphen=True)] = None,
    run_id: Annotated[str | None, Parameter(["--run-id", "-r"])] = None,
    resume: str | None = None,
    force: Annotated[bool, Switch] = False,
    accept_workflow_change: Annotated[bool, Switch] = False,
    max_concurrency: Annotated[int | None, Parameter(["--max-concurrency", "-c"])] = None,
    root: Path | None = None,
    annotations: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None,
    allow_network: Annotated[bool, Switch] = False,
    wait: bool = False,
    detach: Annotated[bool, Parameter(["--detach", "-d"], negative=())] = False,
    serving: Serving | None = None,
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
    wait
        Stay while the run waits, and go on when what it waits for arrives.
    detach
        Run in the background; returns once the run is stored.
    """
    common = common or Common()
    serving = serving or Serving()
    positive(max_concurrency, "--max-concurrency")
    given = None if input is None else read_object(input, "--input")
    if prompt is not None:
        given = {**(given or {}), "prompt": prompt}
    notes = None if annotations is None else read_object(annotations, "--annotations")
    resumed = _resumed_id(resume, run_id)
    if resumed is None and (force or accept_workflow_change):
        raise InvalidInput(f"{'--force' if force else '--accept-workflow-change'}: belongs to --resume")
    if detach and serving.serve:
        raise InvalidInput("--serve: not together with --detach")

    flags = [
        *(["--force"] if force else []),
        *(["--accept-workflow-change"] if accept_workflow_change else []),
        *(["--allow-network"] if allow_network else []),
        *(["--wait"] if wait else []),
    ]

    from smithers.engine.loading import load_workflow

    loaded = load_workflow(workflow)
    db = common.settings.db or loaded.db
    if detach:
        from smithers.cli.detaching import Background, detach_run

        background = Background(workflow, db, run_id, resumed, given, notes, max_concurrency, root, flags)
        return await detach_run(loaded, background, common)

    from smithers.cli.driving import drive

    root_dir = None if root is None else _absolute(root)
    if resumed is None:
        start = _launching(loaded, _absolute(workflow), given, run_id, notes, root_dir, max_concurrency, allow_network)
    else:
        start = _resuming(loaded, resumed, given, force, accept_workflow_change, root_dir, max_concurrency)
    server = serving.listen(common.settings)
    return await drive(loaded, start, db=db, settings=common.settings, out=common.output, wait=wait, server=server)


def _launching(
    workflow: SmithersWorkflow,
    path: str,
    input: dict[str, object] | None,
    run_id: str | None,
    annotations: dict[str, object] | None,
    root_dir: str | None,
    max_concurrency: int | None,
    allow_network: bool,
) -> Start:
    async def start(engine: Engine, control: Control) -> tuple[RunHandle, int]:
        del control
        handle = await engine.launch(
            workflow,
            input,
            run_id=run_id,
            annotations=annotations,
            root_dir=root_dir,
            max_concurrency=max_concurrency,
            workflow_path=path,
            allow_network=allow_network,
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
    max_concurrency: Annotated[int | None, Parameter(["--max-concurrency", "-c"])] = None,
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
