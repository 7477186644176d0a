"""Time travel in a chain of 10,000 tasks, and a loop of as many: frames early and late, a rewind, a fork."""

from __future__ import annotations

import asyncio
import shutil
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import apsw

from benchmarks import workflows
from benchmarks.engine import fresh_database, warm_up
from smithers import SmithersWorkflow, close_engines, run_workflow
from smithers.control.caller import Caller
from smithers.control.control import Control
from smithers.control.travel.forking import fork
from smithers.control.travel.rewinding import rewind
from smithers.gateway.devtools import reading
from smithers.store import open_store
from smithers.store.sql import history

EARLY = 10
READS = 15
ADMIN = Caller(user="bench", role="admin")


def prepare(n: int, scratch: Path) -> None:
    """A database with a run of `n` tasks that has finished, if there is none yet."""
    if not _done(n, scratch).exists():
        _finish(workflows.chain, n, _done(n, scratch))


def prepare_loop(n: int, scratch: Path) -> None:
    """A database with a run of `n` iterations that has finished."""
    _finish(workflows.countdown, n, _looped(n, scratch))


def _finish(workflow: SmithersWorkflow, n: int, database: Path) -> None:
    async def main() -> None:
        await run_workflow(workflow, input={"n": n}, run_id="done", db=database)
        await close_engines()

    asyncio.run(main())


def frames(n: int, scratch: Path) -> dict[str, float]:
    """Time to tell all that a run was right after a frame: an early one, and the last but one."""
    store = open_store(_done(n, scratch))

    def told(frame_no: int) -> None:
        found = store.read(lambda c: history.state_at(c, "done", frame_no))
        assert sum(node.state == "finished" for node in found.nodes) >= frame_no - 1

    try:
        told(n // 2)
        return {"early_ms": _median_ms(lambda: told(EARLY)), "late_ms": _median_ms(lambda: told(n))}
    finally:
        store.close()


def raw_frames(n: int, scratch: Path) -> dict[str, float]:
    """Time in which SQLite alone hands over as much: a row of five columns for each task."""
    connection = apsw.Connection(str(_done(n, scratch)), flags=apsw.SQLITE_OPEN_READONLY)
    text = "SELECT node_id, iteration, state, last_attempt, output_table FROM _smithers_nodes WHERE run_id = 'done'"

    def rows() -> None:
        assert len(connection.execute(text).fetchall()) == n

    try:
        rows()
        took = _median_ms(rows)
        return {"early_ms": took, "late_ms": took}
    finally:
        connection.close()


def shown(n: int, scratch: Path) -> dict[str, float]:
    """Time to show a frame of a loop, read and written out as `getDevToolsSnapshot` answers it."""
    store = open_store(_looped(n, scratch))

    def show(frame_no: int) -> None:
        text = store.read(lambda c: reading.snapshot(c, "done", frame_no, 1))
        assert f'"frameNo":{frame_no},' in text

    try:
        show(n // 2 + 1)
        found = {
            name: _median_ms(partial(show, at)) for name, at in (("early", EARLY), ("middle", n // 2), ("late", n))
        }
        return {f"{name}_ms": took for name, took in found.items()}
    finally:
        store.close()


def _median_ms(work: Callable[[], None]) -> float:
    times: list[float] = []
    for _ in range(READS):
        begun = time.perf_counter()
        work()
        times.append(time.perf_counter() - begun)
    return statistics.median(times) * 1e3


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


def _looped(n: int, scratch: Path) -> Path:
    return scratch / f"looped-{n}.db"
