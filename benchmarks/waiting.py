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
GATES = 20
"""Decisions in one run; the first run is not counted."""
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
    decider = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "benchmarks.decider",
        str(database),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    late: list[float] = []
    for index in range(1 + n // GATES):
        late += await _decide_all(workflow, f"gated-{index}", database, decider, pauses)
    assert decider.stdin is not None
    decider.stdin.close()
    await decider.wait()
    await close_engines()
    warm = late[GATES:]
    return {"p50_ms": median(warm), "p99_ms": quantiles(warm, n=100, method="inclusive")[98], "max_ms": max(warm)}


async def _decide_all(
    workflow: SmithersWorkflow, run_id: str, database: Path, decider: asyncio.subprocess.Process, pauses: random.Random
) -> list[float]:
    """Start a run and have its gates decided. Returns how late each was noticed, in milliseconds."""
    assert decider.stdin is not None
    assert decider.stdout is not None
    progress.begun_ns.clear()
    running = asyncio.ensure_future(run_workflow(workflow, input={"n": GATES}, run_id=run_id, db=database, wait=True))
    late: list[float] = []
    for i in range(GATES):
        await asyncio.sleep(pauses.uniform(*PAUSE_S))
        decider.stdin.write(f"{run_id} gate{i}\n".encode())
        committed_ns = int(await decider.stdout.readline())
        await first_of(running, lambda name=f"after{i}": _begun(name))  # type: ignore[misc]
        late.append((progress.begun_ns[f"after{i}"] - committed_ns) / 1e6)
    return late


async def _begun(name: str) -> None:
    while name not in progress.begun_ns:
        progress.has_begun.clear()
        await progress.has_begun.wait()
