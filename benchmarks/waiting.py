"""Waiting: memory of parked runs, and how soon a decision made in another process is noticed."""

from __future__ import annotations

import asyncio
import random
import sys
from pathlib import Path
from statistics import median, quantiles

from benchmarks import workflows
from benchmarks.engine import first_of, fresh_database
from benchmarks.meter import MEGABYTE, Meter, resident_bytes
from benchmarks.workflows import progress
from smithers import SmithersWorkflow, close_engines, run_workflow

AT_ONCE = 100
PAUSE_S = (0.005, 0.040)
"""Between two decisions, at random, so that they do not march in step with whoever looks for them."""


def parked(n: int, scratch: Path) -> dict[str, float]:
    """Memory that `n` runs waiting for an approval add to the process that launched them."""

    async def launch(count: int, database: Path) -> None:
        for _ in range(count // AT_ONCE):
            results = await asyncio.gather(*[run_workflow(workflows.parked, db=database) for _ in range(AT_ONCE)])
            assert all(result.status == "waiting-approval" for result in results)

    async def main() -> dict[str, float]:
        database = fresh_database(scratch)
        await launch(10 * AT_ONCE, database)
        before = resident_bytes()
        with Meter() as meter:
            await launch(n, database)
        grown = resident_bytes() - before
        await close_engines()
        return {"rss_mb": grown / MEGABYTE, "runs_per_s": n / meter.wall_s}

    return asyncio.run(main())


def active(n: int, scratch: Path) -> dict[str, float]:
    """Milliseconds from a decision in another process to the next task, in a run that has other work."""
    return asyncio.run(_latency(workflows.busy_gates, n, scratch))


def woken(n: int, scratch: Path) -> dict[str, float]:
    """The same for a run that has parked and must be claimed and loaded first."""
    return asyncio.run(_latency(workflows.gates, n, scratch))


async def _latency(workflow: SmithersWorkflow, n: int, scratch: Path) -> dict[str, float]:
    database = fresh_database(scratch)
    pauses = random.Random(n)
    running = asyncio.ensure_future(
        run_workflow(workflow, input={"n": n + 10}, run_id="gated", db=database, wait=True)
    )
    decider = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "benchmarks.decider",
        str(database),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert decider.stdin is not None and decider.stdout is not None
    late: list[float] = []
    for i in range(n + 10):
        await asyncio.sleep(pauses.uniform(*PAUSE_S))
        decider.stdin.write(f"gated gate{i}\n".encode())
        asked, committed = map(int, (await decider.stdout.readline()).split())
        if i < n + 9:
            await first_of(running, lambda name=f"after{i}": _begun(name))  # type: ignore[misc]
            late.append((progress.begun_ns[f"after{i}"] - committed) / 1e6)
            assert progress.begun_ns[f"after{i}"] > asked
    decider.stdin.close()
    await decider.wait()
    await close_engines()
    await asyncio.wait([running])
    warm = late[10:]
    return {"p50_ms": median(warm), "p99_ms": quantiles(warm, n=100)[98], "max_ms": max(warm)}


async def _begun(name: str) -> None:
    while name not in progress.begun_ns:
        await asyncio.sleep(0.002)
