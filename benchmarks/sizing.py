"""What things cost a PostgreSQL server, one by one: the figures behind docs/operations/sizing.md and the simulation.

    python -m benchmarks.sizing --write      # measures (a minute) and keeps the figures in benchmarks/measured.json

Costs are processor time of the server's processes (utime and stime of its backends and helpers), so that a busy machine
makes them little worse. Each is the mean over many repetitions.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from tests.postgres_support import PostgresServer

from benchmarks.cluster import ONE_TASK, SAFE
from smithers.engine.admission import Place
from smithers.engine.engine import Engine
from smithers.engine.loading import load_workflow
from smithers.settings import Settings
from smithers.store import open_store
from smithers.store.sql import control, queue, reads, wakeups
from smithers.store.sql.store import SqlStore

FIGURES = Path(__file__).parent / "measured.json"
TICKS = os.sysconf("SC_CLK_TCK")
RUNS = 600
LOOKS = 400
WAITING = 100_000
LISTENERS = (1, 150)
NOTES = 200
OWNED = (1, 1_000)
BEATS = 60

Figures = dict[str, float]


def cpu_s(pid: int) -> float:
    """Processor time of a process, and of its children that have ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / TICKS


def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def server_cpu_s(server: PostgresServer) -> float:
    """Processor time of a server so far."""
    return cpu_s(server.pid) + sum(cpu_s(child) for child in children(server.pid))


def cost_ms(server: PostgresServer, work: Callable[[], object], count: int) -> float:
    """Milliseconds of the server's processor that one call costs."""
    work()  # statements are prepared, connections made
    began = server_cpu_s(server)
    for _ in range(count):
        work()
    return (server_cpu_s(server) - began) / count * 1e3


@contextmanager
def worker(db: str, folder: str) -> Generator[int]:
    """A worker, ready; its process id."""
    command = [sys.executable, "-m", "smithers", "worker", str(ONE_TASK), "--concurrency", "64", "--db", db]
    with (Path(folder) / "worker.log").open("w") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
    while "working for" not in (Path(folder) / "worker.log").read_text():
        time.sleep(0.05)
    try:
        yield process.pid
    finally:
        process.terminate()
        process.wait()


def launch(store: SqlStore, count: int) -> None:
    """Store runs for workers."""

    async def all_of_them() -> None:
        engine = Engine(store, Settings())
        workflow = load_workflow(ONE_TASK)
        for _ in range(count):
            await engine.launch(workflow, workflow_path=str(ONE_TASK), waits=Place())
        await engine.close()

    asyncio.run(all_of_them())


def finished(store: SqlStore) -> int:
    """How many runs have finished."""
    sql = "SELECT count(*) FROM _smithers_runs WHERE status = 'finished'"
    return int(store.read(lambda c: c.execute(sql).fetchall())[0][0])


def measure_runs(server: PostgresServer, store: SqlStore, db: str, folder: str) -> Figures:
    """What a run of one task costs the server, from launch to end, and a worker."""

    def state() -> tuple[int, int, int]:
        [(wal, commits, size)] = server.execute(
            "SELECT pg_current_wal_lsn() - '0/0', xact_commit, pg_database_size(datname) FROM pg_stat_database "
            "WHERE datname = 'measured'"
        )
        return int(wal), int(commits), int(size)

    with worker(db, folder) as pid:
        launch(store, 50)
        while finished(store) < 50:
            time.sleep(0.1)
        wal, _, size = state()
        server_s, worker_s, began = server_cpu_s(server), cpu_s(pid), time.perf_counter()
        launch(store, RUNS)
        while finished(store) < 50 + RUNS:
            time.sleep(0.05)
        taken, ended = time.perf_counter() - began, state()
        return {
            "run_server_ms": (server_cpu_s(server) - server_s) / RUNS * 1e3,
            "run_worker_ms": (cpu_s(pid) - worker_s) / RUNS * 1e3,
            "run_wal_kb": (ended[0] - wal) / RUNS / 1e3,
            "run_disk_kb": (ended[2] - size) / RUNS / 1e3,
            "one_at_a_time_per_s": RUNS / taken,
            "worker_mb": resident_mb(pid),
        }


def resident_mb(pid: int) -> float:
    """Memory of a process that is in RAM and nobody else's."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1e3


def measure_looks(server: PostgresServer, store: SqlStore) -> Figures:
    """What it costs to hear of a commit, to look for runs that can go on, and to find that another has one."""
    store.write(
        lambda c: c.execute(
            "INSERT INTO _smithers_runs (run_id, workflow_name, status, created_at_ms, epoch, next_seq, frame_no) "
            f"SELECT 'w' || i, 'filled', 'waiting-timer', i, 1, 0, 1 FROM generate_series(1, {WAITING}) i"
        ).fetchall()
    )
    far = (time.time_ns() // 1_000_000) + 10**9
    store.write(
        lambda c: c.execute(
            "INSERT INTO _smithers_timers (run_id, node_id, iteration, kind, due_at_ms) "
            f"SELECT 'w' || i, 'sleep', 0, 'timer', {far} + i FROM generate_series(1, {WAITING}) i"
        ).fetchall()
    )
    server.execute("VACUUM ANALYZE", "measured")
    cursor = store.read(wakeups.cursor_now)
    now = time.time_ns() // 1_000_000

    def sweep() -> None:
        store.read(lambda c: (wakeups.moved_runs(c, 200, bool), wakeups.due_runs(c, now, 200, bool)))
        store.read(lambda c: queue.waiting(c, 200))
        store.read(wakeups.next_due)

    return {
        "look_ms": cost_ms(server, lambda: store.read(lambda c: wakeups.read_on(c, cursor)), LOOKS),
        "sweep_ms": cost_ms(server, sweep, LOOKS),
        "lose_ms": cost_ms(server, lambda: store.read(lambda c: reads.run(c, "w77")), LOOKS),
    }


def measure_beats(server: PostgresServer, store: SqlStore) -> Figures:
    """What a process's heartbeat costs, and the search for owners that have died."""
    costs: list[float] = []
    for count in OWNED:
        claim = (
            f"UPDATE _smithers_runs SET status = 'running', runtime_owner_id = 'o{count}' WHERE run_id LIKE 'w{count}%'"
        )
        store.write(lambda c, claim=claim: c.execute(claim).fetchall())  # type: ignore[misc]
        rows = server.execute(f"SELECT count(*) FROM _smithers_runs WHERE runtime_owner_id = 'o{count}'", "measured")
        server.execute("VACUUM ANALYZE", "measured")
        owner = f"o{count}"

        def beat(owner: str = owner) -> None:
            store.write(lambda c: control.heartbeat(c, owner, time.time_ns() // 1_000_000))

        costs.append(cost_ms(server, beat, BEATS))
        costs.append(float(rows[0][0]))
    few_ms, few, many_ms, many = costs
    each = max(0.0, (few_ms - many_ms) / (few - many))
    orphans = cost_ms(server, lambda: store.read(lambda c: reads.runs(c, ("running",), 10_000)), 20)
    return {"beat_each_ms": each, "beat_ms": max(0.0, many_ms - each * many), "orphans_ms": orphans}


def measure_notes(server: PostgresServer, db: str) -> Figures:
    """What a notification costs, by how many connections listen; and what an idle connection holds."""
    costs: list[float] = []
    held = 0.0
    for count in LISTENERS:
        before = set(children(server.pid))
        listeners = [psycopg.connect(db, autocommit=True) for _ in range(count)]
        for listener in listeners:
            listener.execute("LISTEN measured")
        backends = set(children(server.pid)) - before
        held = sum(map(resident_mb, backends)) / len(backends)
        with psycopg.connect(db, autocommit=True) as speaker:

            def tell(speaker: psycopg.Connection[tuple[object, ...]] = speaker) -> None:
                speaker.execute("NOTIFY measured")
                time.sleep(0.005)  # or listeners would take several at once

            costs.append(cost_ms(server, tell, NOTES))
        for listener in listeners:
            listener.close()
    each = (costs[1] - costs[0]) / (LISTENERS[1] - LISTENERS[0])
    return {"note_each_ms": each, "note_ms": max(0.0, costs[0] - each), "backend_mb": held}


def measure() -> Figures:
    """All figures."""
    server = PostgresServer(**SAFE)
    try:
        server.execute("CREATE DATABASE measured")
        db = server.url("measured")
        store = open_store(db)
        try:
            with tempfile.TemporaryDirectory() as folder:
                found = measure_runs(server, store, db, folder)
            return found | measure_looks(server, store) | measure_beats(server, store) | measure_notes(server, db)
        finally:
            store.close()
    finally:
        server.remove()


def main() -> None:
    """Measure and print; keep the figures if asked to."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sizing", description=__doc__)
    parser.add_argument("--write", action="store_true", help=f"keep the figures in {FIGURES.name}")
    options = parser.parse_args()
    figures = {name: float(f"{value:.3g}") for name, value in measure().items()}
    machine = {"cores": os.cpu_count(), "system": f"{platform.system()} {platform.machine()}", "waiting": WAITING}
    text = json.dumps({"machine": machine, "figures": figures}, indent=2) + "\n"
    if options.write:
        FIGURES.write_text(text)
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
