"""This project's engine: chains, fan-outs, many runs, loops, renders that read, resuming."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar, cast
from uuid import uuid4

from benchmarks import workflows
from benchmarks.meter import Meter, kib_per_task, rounds_of
from benchmarks.workflows import progress
from smithers import SmithersWorkflow, close_engines, run_workflow

T = TypeVar("T")
WARM_TASKS = 20


def fresh_database(scratch: Path) -> Path:
    """A place for a database of this measurement alone."""
    return scratch / f"{uuid4().hex}.db"


async def run(workflow: SmithersWorkflow, database: Path | str, n: int) -> None:
    """Run a workflow of size `n` to its end."""
    result = await run_workflow(workflow, input={"n": n}, db=database)
    assert result.status == "finished", result


async def warm_up(database: Path | str) -> None:
    """Load and run what the measurement will use."""
    for workflow in (workflows.chain, workflows.fan_out):
        await run(workflow, database, WARM_TASKS)


async def throughput(workflow: SmithersWorkflow, n: int, database: Path | str) -> dict[str, float]:
    """Cost of a task in runs of `n` tasks."""
    rounds = rounds_of(n)
    await warm_up(database)
    with Meter() as meter:
        for _ in range(rounds):
            await run(workflow, database, n)
    await close_engines()
    return meter.per_task(n * rounds)


def _with_size(workflow: SmithersWorkflow, n: int, scratch: Path) -> dict[str, float]:
    """The same on SQLite, and the cost of keeping a task."""
    database = fresh_database(scratch)
    found = asyncio.run(throughput(workflow, n, database))
    return found | {"kib": kib_per_task(database, n * rounds_of(n) + 2 * WARM_TASKS)}


def chain(n: int, scratch: Path) -> dict[str, float]:
    """Tasks one after another."""
    return _with_size(workflows.chain, n, scratch)


def fan_out(n: int, scratch: Path) -> dict[str, float]:
    """Tasks all at once."""
    return _with_size(workflows.fan_out, n, scratch)


async def run_many(n: int, database: Path | str) -> None:
    """`n` runs of one task at the same time."""
    await asyncio.gather(*[run(workflows.chain, database, 1) for _ in range(n)])


def many_runs(n: int, scratch: Path) -> dict[str, float]:
    """Runs a second, of `n` runs of one task at the same time."""
    return asyncio.run(_many_runs(n, fresh_database(scratch)))


async def _many_runs(n: int, database: Path | str) -> dict[str, float]:
    await warm_up(database)
    with Meter() as meter:
        await run_many(n, database)
    await close_engines()
    return {"runs_per_s": n / meter.wall_s, "cpu_ms": meter.cpu_s / n * 1e3}


def postgres_chain(n: int, scratch: Path) -> dict[str, float]:
    """Tasks one after another, on PostgreSQL."""
    from benchmarks.cluster import postgres  # its server is not wanted in measurements without it

    del scratch
    with postgres() as db:
        return asyncio.run(throughput(workflows.chain, n, db))


def postgres_runs(n: int, scratch: Path) -> dict[str, float]:
    """Runs a second, of `n` runs of one task at the same time, on PostgreSQL."""
    from benchmarks.cluster import postgres  # its server is not wanted in measurements without it

    del scratch
    with postgres() as db:
        return asyncio.run(_many_runs(n, db))


def loop(n: int, scratch: Path) -> dict[str, float]:
    """CPU of an iteration in the first and the last quarter of a loop of `n`."""

    async def main() -> dict[str, float]:
        database = fresh_database(scratch)
        await warm_up(database)
        with Meter() as meter:
            await run(workflows.countdown, database, n)
        await close_engines()
        marks, quarter = progress.cpu, n // 4
        assert len(marks) == n
        first = (marks[quarter] - marks[0]) / quarter
        last = (marks[-1] - marks[-1 - quarter]) / quarter
        return meter.per_task(n) | {"first_ms": first * 1e3, "last_ms": last * 1e3, "growth": last / first}

    return asyncio.run(main())


def reading(n: int, scratch: Path) -> dict[str, float]:
    """Cost of a task when the render looks at all results of `n` tasks that run at once."""

    async def main() -> dict[str, float]:
        database = fresh_database(scratch)
        await warm_up(database)
        with Meter() as meter:
            await run(workflows.reading_fan_out, database, n)
        await close_engines()
        return meter.per_task(n) | {"renders": progress.renders}

    return asyncio.run(main())


def prepare_resume(n: int, scratch: Path) -> None:
    """A database with a run of `n` tasks that was given up when half of them had finished."""

    async def main() -> None:
        progress.stop_after = n // 2
        running = asyncio.ensure_future(
            run_workflow(workflows.stopping_chain, input={"n": n}, run_id="half", db=_half_done(n, scratch))
        )
        await progress.at_stop.wait()
        await close_engines()
        await asyncio.wait([running])

    asyncio.run(main())


def resume(n: int, scratch: Path) -> dict[str, float]:
    """Time from asking to resume a run, half of whose `n` tasks have finished, to its first new task."""

    async def main() -> dict[str, float]:
        database = fresh_database(scratch)
        shutil.copyfile(_half_done(n, scratch), database)
        await warm_up(fresh_database(scratch))
        progress.stop_after = 0
        begun, cpu = time.perf_counter(), time.process_time()
        running = asyncio.ensure_future(run_workflow(workflows.stopping_chain, run_id="half", resume=True, db=database))
        await first_of(running, progress.at_stop.wait)
        found = {"wall_s": time.perf_counter() - begun, "cpu_s": time.process_time() - cpu}
        await close_engines()
        await asyncio.wait([running])
        return found

    return asyncio.run(main())


async def first_of(running: asyncio.Future[T], event: Callable[[], Awaitable[object]]) -> None:
    """Wait for an event of a run that must not end before."""
    waiting = asyncio.ensure_future(event())
    both = cast("list[asyncio.Future[object]]", [running, waiting])
    await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
    if not waiting.done():
        waiting.cancel()
        raise AssertionError(f"the run ended: {running.result()}")


def _half_done(n: int, scratch: Path) -> Path:
    return scratch / f"half-{n}.db"
