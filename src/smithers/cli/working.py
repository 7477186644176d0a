"""`worker` drives runs of a database; `launch` stores one for workers. How a worker runs is in `worker_host.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from smithers.cli.arguments import positive, read_duration, read_object
from smithers.cli.common import DB_NAME, Common, find_database
from smithers.cli.options import Option
from smithers.errors import StoreNotFound

DEFAULT_HOST = "127.0.0.1"


async def worker(
    *workflows: Path,
    concurrency: Annotated[int, Option("--concurrency", "-c")] = 100,
    queue: Annotated[list[str] | None, Option("--queue", "-q")] = None,
    name: list[str] | None = None,
    interval: Annotated[str, Option("--interval", "-i")] = "10s",
    drain: str = "30s",
    wait_for_db: str = "60s",
    health_port: int | None = None,
    host: Annotated[str, Option("--host", "-H")] = DEFAULT_HOST,
    insecure: Annotated[bool, Option(is_switch=True)] = False,
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
    wait_for_db
        How long to wait for a database that is away at the start; 0s for not at all.
    health_port
        Answer /health, /ready and /metrics at this port, or at a free one with 0.
    host
        Where to answer them. Beyond this machine only if $SMITHERS_API_KEY is what /metrics asks for, or with --insecure.
    insecure
        Show metrics to everybody who reaches the port.
    """
    from smithers.cli.gateway_files import find_files
    from smithers.cli.worker_host import Plan, WorkerHost

    common = common or Common()
    positive(concurrency, "--concurrency")
    settings = common.settings
    plan = Plan(
        files=find_files(Path.cwd(), workflows, name or []),
        db=_database(common),
        concurrency=concurrency,
        queues=queue or None,
        interval_s=read_duration(interval, "--interval") / 1000,
        drain_s=read_duration(drain, "--drain") / 1000,
        wait_s=read_duration(wait_for_db, "--wait-for-db") / 1000,
        health_port=health_port,
        host=host,
        token=settings.api_key,
        insecure=insecure,
    )
    return await WorkerHost(plan, settings, common.output).run()


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
