"""`run_workflow` and its sync twin: one call from a workflow to its result, in this process."""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import sys
import weakref
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from smithers.ambient import SandboxMode
from smithers.components.workflow import SmithersWorkflow
from smithers.engine.engine import Engine, RunHandle
from smithers.engine.hub import follow
from smithers.engine.result import RunResult
from smithers.errors import InvalidInput
from smithers.events import wire_object
from smithers.settings import Settings
from smithers.store import open_store

if TYPE_CHECKING:
    from smithers.engine.reload import HotReload
    from smithers.observability.telemetry import Observation

log = logging.getLogger(__name__)
T = TypeVar("T")
P = ParamSpec("P")
_engines: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, Engine]] = weakref.WeakKeyDictionary()
_observations: weakref.WeakKeyDictionary[Engine, Observation] = weakref.WeakKeyDictionary()


def shared_engine(db: str, settings: Settings | None = None) -> Engine:
    """The engine of this event loop for a database; made at the first call, so that runs share one writer."""
    loop = asyncio.get_running_loop()
    engines = _engines.setdefault(loop, {})
    place = db if "://" in db else os.path.realpath(db)
    found = engines.get(place)
    if found is None:
        settings = settings or Settings.from_environment()
        store = open_store(
            db, durability=settings.durability, busy_timeout_s=settings.busy_timeout_s, pool=settings.db_pool
        )
        found = engines[place] = Engine(store, settings)
        if settings.is_observed:
            from smithers.observability.telemetry import observe

            _observations[found] = observe(settings, store, found.hub)
        _leave_closed_loops()
    return found


def _leave_closed_loops() -> None:
    """Close what was left open in event loops that are closed: each `asyncio.run(run_workflow(…))` has one of its own."""
    loops = [loop for ref in _engines.keyrefs() if (loop := ref()) is not None and loop.is_closed()]
    for engine in [engine for loop in loops for engine in _engines.pop(loop, {}).values()]:
        engine.leave()
        observation = _observations.pop(engine, None)
        if observation is not None:
            observation.leave()
        engine.store.close()


async def close_engines() -> None:
    """Give up all runs of this event loop cleanly and close their databases."""
    engines = _engines.pop(asyncio.get_running_loop(), {})
    for engine in engines.values():
        await engine.close()
        observation = _observations.pop(engine, None)
        if observation is not None:
            await observation.close()
        engine.store.close()


async def run_workflow(
    workflow: SmithersWorkflow,
    *,
    input: object = None,
    run_id: str | None = None,
    db: str | Path | None = None,
    resume: bool = False,
    force: bool = False,
    accept_workflow_change: bool = False,
    wait: bool = False,
    idempotency_key: str | None = None,
    annotations: Mapping[str, object] | None = None,
    auth: object = None,
    root_dir: str | Path | None = None,
    max_concurrency: int | None = None,
    allow_network: bool = False,
    sandbox: SandboxMode = "required",
    max_output_bytes: int | None = None,
    tool_timeout_ms: int | None = None,
    keep_worktrees: bool = False,
    parent_run_id: str | None = None,
    on_progress: Callable[[Mapping[str, object]], None] | None = None,
    engine: Engine | None = None,
    hot: bool = False,
) -> RunResult:
    """Run a workflow until it ends or can only wait. A parked run is a normal return.

    Args:
        workflow: what to run.
        input: a JSON object, or an instance of the input model.
        run_id: the run's id; made up if not given.
        db: the database, instead of `SMITHERS_DB` or the workflow's own.
        resume: go on with the stored run `run_id`; one that has finished gives its result.
        force: with resume: take over although the owner seems alive.
        accept_workflow_change: with resume: go on although the source changed; recorded in the run.
        wait: do not return while the run is parked; go on by itself when what it waits for arrives.
        idempotency_key: a second launch with the same key gives the first one's run.
        annotations: flat JSON object stored with the run.
        auth: who launched it, for `ctx.auth`.
        root_dir: the folder that tasks work in; the current one by default.
        max_concurrency: at most so many leaves at once in this run.
        allow_network: whether the commands of this run's tools may reach other machines.
        sandbox: `"off"` runs those commands without isolation: for a container or machine that holds nothing else.
        max_output_bytes: the most that a tool of this run reads, writes or returns: 1 to 10 MiB, 200,000 by default.
        tool_timeout_ms: the longest that a command or search of these tools takes: 1 ms to 1 hour, a minute by default.
        keep_worktrees: remove no worktrees of the run when it has succeeded.
        on_progress: called with every event of the run, and of what it is continued as, in order, as the wire's JSON object.
        engine: the engine to use, instead of this loop's shared one.
        hot: watch the workflow's source, and go on with what changes in it; needs `smithers[watch]`.

    Raises:
        InvalidInput, RunAlreadyExists, RunNotFound, …: the run could not be started or resumed. A run that fails does not
        raise: its result says so.
    """
    engine = engine or shared_engine(str(db or Settings.from_environment().db or workflow.db))
    reloading = _reloading(workflow) if hot else None
    root = None if root_dir is None else str(root_dir)
    if resume:
        handle = await _resumed(engine, run_id, workflow, input, force, accept_workflow_change, max_concurrency, root)
    else:
        handle = await engine.launch(
            workflow,
            input,
            run_id=run_id,
            parent_run_id=parent_run_id,
            idempotency_key=idempotency_key,
            annotations=annotations,
            auth=auth,
            root_dir=root,
            max_concurrency=max_concurrency,
            allow_network=allow_network,
            sandbox=sandbox,
            max_output_bytes=max_output_bytes,
            tool_timeout_ms=tool_timeout_ms,
            keep_worktrees=keep_worktrees,
        )
    return await _followed(engine, handle, workflow, wait, on_progress, reloading)


async def _followed(
    engine: Engine,
    handle: RunHandle,
    workflow: SmithersWorkflow,
    wait: bool,
    on_progress: Callable[[Mapping[str, object]], None] | None,
    reloading: HotReload | None,
) -> RunResult:
    """How the run ends or parks, with everything told and reloaded meanwhile."""
    teller = None if on_progress is None else _Teller(engine, handle.run_id, on_progress)
    last_run_id: str | None = None
    if reloading is not None:
        reloading.attach(engine, handle.run_id)
    try:
        result = await asyncio.shield(handle.result)
        while wait and result.status.is_parked:
            result = await engine.until_moved(result.run_id, workflow)
        last_run_id = result.run_id
    finally:
        if reloading is not None:
            await reloading.close()
        if teller is not None:
            await teller.finish(last_run_id)
    return result


def _reloading(workflow: SmithersWorkflow) -> HotReload:
    from smithers.engine.reload import HotReload

    module = sys.modules.get(workflow.build.__module__)
    names = [name for name, value in vars(module).items() if value is workflow] if module is not None else []
    return HotReload(workflow, name=names[0] if names else None)


async def _resumed(
    engine: Engine,
    run_id: str | None,
    workflow: SmithersWorkflow,
    input: object,
    force: bool,
    accept: bool,
    max_concurrency: int | None,
    root: str | None,
) -> RunHandle:
    if run_id is None:
        raise InvalidInput("resume needs a run_id")
    row = await engine.run_row(run_id)
    if row.status == "finished":
        return await engine.attach(run_id, workflow)
    return await engine.resume(
        run_id,
        workflow,
        input=input,
        force=force,
        accept_workflow_change=accept,
        max_concurrency=max_concurrency,
        root_dir=root,
    )


class _Teller:
    """Calls `on_progress` for every event of a run and of what it is continued as, in order, and can be brought to an end
    without losing any."""

    def __init__(self, engine: Engine, run_id: str, on_progress: Callable[[Mapping[str, object]], None]) -> None:
        self._engine = engine
        self._on_progress = on_progress
        self._at = (run_id, -1)
        """The run that is told of, and the number of its last event that was told."""
        self._last: tuple[str, int] | None = None
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        heir: str | None = self._at[0]
        while heir is not None:
            run_id, heir = heir, None
            self._at = (run_id, -1)
            async for row in follow(self._engine.hub, self._engine.store, run_id):
                found = wire_object(run_id, row)
                try:
                    self._on_progress(found)
                except Exception:
                    log.exception("on_progress failed", extra={"run_id": run_id})
                self._at = (run_id, row.seq)
                if self._is_there:
                    return
                if row.type == "RunContinuedAsNew":
                    heir = str(found["newRunId"])

    @property
    def _is_there(self) -> bool:
        return self._last is not None and self._at[0] == self._last[0] and self._at[1] >= self._last[1]

    async def finish(self, run_id: str | None) -> None:
        """Tell of everything that is stored by now, up to this run (the one that is told of, if None), then stop."""
        row = await self._engine.run_row(run_id or self._at[0])
        while run_id is None and row.run_id != self._at[0]:  # it has gone over to the next run meanwhile
            row = await self._engine.run_row(self._at[0])
        self._last = (row.run_id, row.next_seq - 1)
        if self._is_there:
            self._task.cancel()
        self._engine.hub.wake(row.run_id)
        with suppress(asyncio.CancelledError):
            await self._task


def _in_own_loop(function: Callable[P, Coroutine[object, object, T]]) -> Callable[P, T]:
    async def work(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await function(*args, **kwargs)
        finally:
            await close_engines()

    @functools.wraps(function)
    def sync(*args: P.args, **kwargs: P.kwargs) -> T:
        return run_sync(lambda: work(*args, **kwargs))

    return sync


run_workflow_sync = _in_own_loop(run_workflow)
"""`run_workflow` for code that is not async; same parameters. Raises `InvalidInput` inside a running event loop."""


def run_sync(work: Callable[[], Coroutine[object, object, T]]) -> T:
    """Run a coroutine function to its end in an event loop of its own. Raises `InvalidInput` inside a running one."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work())
    raise InvalidInput("an event loop is running here already; use the async form and await it")
