"""Time travel in a chain of 10,000 tasks: a frame early and late, a rewind, a fork."""

from __future__ import annotations

import asyncio
import shutil
import statistics
import time
from pathlib import Path

from benchmarks import workflows
from benchmarks.engine import fresh_database, warm_up
from smithers import close_engines, run_workflow
from smithers.control.caller import Caller
from smithers.control.control import Control
from smithers.control.travel.forking import fork
from smithers.control.travel.rewinding import rewind
from smithers.store import open_store
from smithers.store.sql import history

EARLY = 10
READS = 15
ADMIN = Caller(user="bench", role="admin")


def prepare(n: int, scratch: Path) -> None:
    """A database with a run of `n` tasks that has finished."""

    async def main() -> None:
        await run_workflow(workflows.chain, input={"n": n}, run_id="done", db=_done(n, scratch))
        await close_engines()

    asyncio.run(main())


def frames(n: int, scratch: Path) -> dict[str, float]:
    """Time to tell all that a run was right after a frame: an early one, and the last but one."""
    store = open_store(_done(n, scratch))

    def median(frame_no: int) -> float:
        times: list[float] = []
        for _ in range(READS):
            begun = time.perf_counter()
            found = store.read(lambda c: history.state_at(c, "done", frame_no))
            times.append(time.perf_counter() - begun)
            assert sum(node.state == "finished" for node in found.nodes) >= frame_no - 1
        return statistics.median(times) * 1e3

    try:
        median(n // 2)
        return {"early_ms": median(EARLY), "late_ms": median(n)}
    finally:
        store.close()


def changes(n: int, scratch: Path) -> dict[str, float]:
    """Time of a rewind from the end to an early frame, and of a fork of the last frame; durable on return."""

    async def main() -> dict[str, float]:
        database = fresh_database(scratch)
        shutil.copyfile(_done(n, scratch), database)
        await warm_up(fresh_database(scratch))
        store = open_store(database)
        control = Control(store)
        begun = time.perf_counter()
        await fork(control, "done", caller=ADMIN)
        forked = time.perf_counter() - begun
        begun = time.perf_counter()
        await rewind(control, "done", EARLY, caller=ADMIN, confirm=True)
        rewound = time.perf_counter() - begun
        store.close()
        await close_engines()
        return {"fork_ms": forked * 1e3, "rewind_ms": rewound * 1e3}

    return asyncio.run(main())


def _done(n: int, scratch: Path) -> Path:
    return scratch / f"done-{n}.db"
