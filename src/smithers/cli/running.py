"""`up` and `resume`: start a run or go on with one, here or in a process of its own."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from smithers.cli.arguments import login_name, positive, read_object
from smithers.cli.common import Common, find_database, open_control
from smithers.cli.launching import Asked, Resumption, ToolLimits
from smithers.cli.options import Option
from smithers.cli.overseeing import Supervision
from smithers.cli.serving import Serving

if TYPE_CHECKING:
    from smithers.cli.driving import Start
    from smithers.cli.output import Output
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
    resumption: Resumption | None = None,
    max_concurrency: Annotated[int | None, Option("--max-concurrency", "-c")] = None,
    root: Path | None = None,
    annotations: Annotated[str | None, Option(takes_dashes=True)] = None,
    tools: ToolLimits | None = None,
    wait: bool = False,
    hot: Annotated[bool, Switch] = False,
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
    max_concurrency
        At most so many tasks at once.
    root
        The folder that tasks work in; the current one by default.
    annotations
        A flat JSON object to store with the run.
    wait
        Stay while the run waits, and go on when what it waits for arrives.
    hot
        Go on with the workflow's changed source whenever it is saved. Includes --wait.
    detach
        Run in the background; returns once the run is stored.
    """
    common, serving, supervision = common or Common(), serving or Serving(), supervision or Supervision()
    resumption = resumption or Resumption()
    positive(max_concurrency, "--max-concurrency")
    given = None if input is None else read_object(input, "--input")
    asked = Asked(
        workflow=workflow,
        input=given if prompt is None else {**(given or {}), "prompt": prompt},
        annotations=None if annotations is None else read_object(annotations, "--annotations"),
        run_id=run_id,
        resumed=resumption.run_of(run_id),
        resumption=resumption,
        max_concurrency=max_concurrency,
        root=root,
        tools=tools or ToolLimits(),
        wait=wait or hot,
        hot=hot,
    )
    asked.check()
    supervision.check(has_place=detach or serving.serve)
    serving.check(common.settings)
    return await (_detach if detach else _drive)(asked, serving, supervision, common)


async def _drive(asked: Asked, serving: Serving, supervision: Supervision, common: Common) -> int:
    """Run it here."""
    from smithers.engine.loading import load_workflow

    loaded = load_workflow(asked.workflow)
    root_dir = None if asked.root is None else _absolute(asked.root)
    if asked.resumed is None:
        start = _launching(loaded, asked, root_dir)
    else:
        start = _resuming(loaded, asked.resumed, asked.input, asked.resumption, root_dir, asked.max_concurrency)

    from smithers.cli.driving import drive

    settings, out = common.settings, common.output
    if asked.resumed is None and logging.getLogger("smithers").hasHandlers():  # or the engine's warning is shown
        _hint_at_unknown(loaded, asked, out)
    oversight = None
    if supervision.supervise:
        from smithers.cli.overseeing import Oversight

        oversight = Oversight(supervision, settings, out)
    hot = None
    if asked.hot:
        from smithers.engine.reload import HotReload

        hot = HotReload(loaded, file=asked.workflow)
    server, db = serving.listen(settings), settings.db or loaded.db
    return await drive(
        loaded, start, db=db, settings=settings, out=out, wait=asked.wait, server=server, oversight=oversight, hot=hot
    )


def _hint_at_unknown(workflow: SmithersWorkflow, asked: Asked, out: Output) -> None:
    from smithers.components.inputs import unknown_keys

    if hint := unknown_keys(workflow.input_model, asked.input):
        out.note(hint)


async def _detach(asked: Asked, serving: Serving, supervision: Supervision, common: Common) -> int:
    """Run it in a process of its own."""
    from smithers.cli.detaching import Background, detach_run
    from smithers.engine.loading import load_workflow

    loaded = load_workflow(asked.workflow)
    if asked.hot:
        from smithers.engine.reload import check_watching

        check_watching()
    if asked.resumed is None:
        _hint_at_unknown(loaded, asked, common.output)
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


def _launching(workflow: SmithersWorkflow, asked: Asked, root_dir: str | None) -> Start:
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
            allow_network=asked.tools.allow_network,
            sandbox=asked.tools.sandbox,
            max_output_bytes=asked.tools.max_output_bytes,
            tool_timeout_ms=asked.tools.tool_timeout_ms,
        )
        return handle, 0

    return start


def _resuming(
    workflow: SmithersWorkflow,
    run_id: str,
    input: dict[str, object] | None,
    resumption: Resumption,
    root_dir: str | None,
    max_concurrency: int | None,
) -> Start:
    async def start(engine: Engine, control: Control) -> tuple[RunHandle, int]:
        from smithers.cli.stored import require_top

        before = await control.run(run_id)
        await require_top(control, run_id)
        if before.status == "finished":
            return await engine.attach(run_id, workflow), before.next_seq
        handle = await engine.resume(
            run_id,
            workflow,
            input=input,
            force=resumption.force,
            accept_workflow_change=resumption.accept_workflow_change,
            root_dir=root_dir,
            max_concurrency=max_concurrency,
            resumed_by={"triggeredBy": login_name() or "cli", "role": "operator", "atMs": control.clock.now_ms()},
        )
        return handle, before.next_seq

    return start


def _absolute(path: Path) -> str:
    return str(path.resolve())


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
    from smithers.cli.stored import require_top, workflow_of

    with open_control(common) as control:
        await require_top(control, run)
        loaded = await workflow_of(control, run)
    from smithers.cli.driving import drive

    resumption = Resumption(run, force, accept_workflow_change)
    start = _resuming(loaded, run, None, resumption, None, max_concurrency)
    db = find_database(common.settings)
    return await drive(loaded, start, db=db, settings=common.settings, out=common.output, wait=wait)
