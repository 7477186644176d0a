"""`worker` drives runs of a database; `launch` stores one for workers."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from smithers.cli.arguments import positive, read_duration, read_object
from smithers.cli.common import DB_NAME, Common, find_database
from smithers.cli.options import Option
from smithers.cli.output import printable
from smithers.errors import StoreNotFound

if TYPE_CHECKING:
    from smithers.cli.output import Output
    from smithers.components.workflow import SmithersWorkflow
    from smithers.control.worker import Worker

CLOSE_S = 8.0
"""How long work that is given up at the end may take to stop."""


async def worker(
    *workflows: Path,
    concurrency: Annotated[int, Option("--concurrency", "-c")] = 100,
    queue: Annotated[list[str] | None, Option("--queue", "-q")] = None,
    name: list[str] | None = None,
    interval: Annotated[str, Option("--interval", "-i")] = "10s",
    drain: str = "30s",
    common: Common | None = None,
) -> int:
    """Drive runs that others have launched: those in the queue, those that are woken, those whose process has died.

    Any number of workers and gateways may share a database. Stays until SIGTERM or Ctrl-C; then it starts nothing any more,
    waits for what is under way, and leaves the rest to other workers. A second signal ends the wait.

    Parameters
    ----------
    workflows
        Workflow files, or folders of them; those in .smithers/workflows by default.
    concurrency
        At most so many runs at once.
    queue
        Start only runs of this queue; may be given several times.
    name
        Serve a file under another key than its name: KEY=FILE; may be given several times.
    interval
        How often to look for processes that have died.
    drain
        How long to wait for runs that are under way, at the end.
    """
    from smithers.cli.gateway_files import find_files
    from smithers.cli.supervising import Teller
    from smithers.control.worker import Worker
    from smithers.control.workflows import WorkflowFiles
    from smithers.store import open_store

    common = common or Common()
    positive(concurrency, "--concurrency")
    interval_s = read_duration(interval, "--interval") / 1000
    drain_s = read_duration(drain, "--drain") / 1000
    files = find_files(Path.cwd(), workflows, name or [])
    settings = common.settings
    loader = WorkflowFiles(None)
    keys: dict[str, Path] = dict(files)
    for file in files.values():
        loaded, _ = await loader.load(file)  # what cannot be loaded is told now
        keys.setdefault(loaded.function_name, file)
        keys.setdefault(file.stem, file)

    async def find(key: str) -> SmithersWorkflow:
        return (await loader.load(keys[key]))[0]

    store = open_store(_database(common), busy_timeout_s=settings.busy_timeout_s, pool=settings.db_pool)
    try:
        teller = Teller(common.output)
        found = Worker(
            store,
            keys,
            find,
            settings,
            concurrency=concurrency,
            queues=queue or None,
            interval_s=interval_s,
            on_report=teller.tell,
        )
        observation = None
        if settings.is_observed:
            from smithers.observability.telemetry import observe

            observation = observe(settings, store, found.engine.hub)
        try:
            served = ", ".join(printable(key) for key in sorted(files))
            greeting = f"working for {printable(store.path)}: {served}; at most {concurrency} runs at once"
            return await _work(found, drain_s, common.output, greeting)
        finally:
            if observation is not None:
                await observation.close()
    finally:
        store.close()


async def _work(worker: Worker, drain_s: float, out: Output, greeting: str) -> int:
    from smithers.cli.driving import TERMINATING, on_signals

    stop, give_up = asyncio.Event(), asyncio.Event()

    def end() -> None:
        (give_up if stop.is_set() else stop).set()

    on_signals(dict.fromkeys((signal.SIGINT, *TERMINATING), end))
    if out.is_text:
        out.line(greeting)  # only now: whoever reads it may end us
    left = 0
    try:
        await worker.run(stop)
        under_way = len(worker.engine.drivers)
        if under_way:
            out.note(f"stopping: waiting up to {drain_s:g} s for {under_way} runs that are under way")
        left = await worker.drain(drain_s, give_up)
    finally:
        closing = asyncio.ensure_future(worker.close())
        await asyncio.wait([closing], timeout=CLOSE_S)
    if left:
        out.note(f"{left} runs were left to other workers")
    if not closing.done():
        # work that does not let itself be stopped; once this process is dead, anybody may take its run over
        sys.stdout.flush()
        os._exit(0)
    return 0


async def launch(
    workflow: Path,
    /,
    *,
    input: Annotated[str | None, Option("--input", "-i", takes_dashes=True)] = None,
    run_id: Annotated[str | None, Option("--run-id", "-r")] = None,
    queue: Annotated[str, Option("--queue", "-q")] = "default",
    priority: Annotated[int, Option("--priority", takes_dashes=True)] = 0,
    idempotency_key: str | None = None,
    common: Common | None = None,
) -> int:
    """Store a run for workers to start. Prints its id; `logs ID --follow` shows how it goes.

    Parameters
    ----------
    workflow
        The workflow's file.
    input
        The input: a JSON object, @FILE, or - for stdin.
    run_id
        The run's id; made up if not given.
    queue
        The queue whose limits hold for the run.
    priority
        The higher, the sooner it is started, from -1000 to 1000.
    idempotency_key
        Launched twice with the same key, it is one run.
    """
    from smithers.engine.admission import Place
    from smithers.engine.engine import Engine
    from smithers.engine.loading import load_workflow
    from smithers.store import open_store

    common = common or Common()
    given = None if input is None else read_object(input, "--input")
    loaded = load_workflow(workflow)
    settings = common.settings
    store = open_store(_database(common), busy_timeout_s=settings.busy_timeout_s, pool=settings.db_pool)
    try:
        engine = Engine(store, settings)
        try:
            handle = await engine.launch(
                loaded,
                {} if given is None else given,
                run_id=run_id,
                idempotency_key=idempotency_key,
                workflow_path=str(Path.cwd() / workflow),
                waits=Place(queue=queue, priority=priority),
            )
        finally:
            await engine.close()
    finally:
        store.close()
    out = common.output
    if out.is_text:
        out.line(handle.run_id)
    else:
        out.document({"runId": handle.run_id, "queue": queue, "priority": priority})
    return 0


def _database(common: Common) -> str:
    try:
        return find_database(common.settings)
    except StoreNotFound:
        return DB_NAME
