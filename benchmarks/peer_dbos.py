# mypy: disable-error-code="import-not-found, untyped-decorator"
"""DBOS on SQLite, with WAL and `synchronous=FULL`, and on PostgreSQL: trivial async steps in async workflows."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

from dbos import DBOS
from sqlalchemy import Engine, event

from benchmarks.meter import Meter, kib_per_task, rounds_of

WARM_TASKS = 20


@event.listens_for(Engine, "connect")
def _use_full_durability(connection: Any, _: object) -> None:
    if not type(connection).__module__.startswith("sqlite3"):
        return
    connection.execute("PRAGMA journal_mode=WAL").fetchall()
    connection.execute("PRAGMA synchronous=FULL")


@DBOS.step()
async def trivial() -> int:
    """Work that costs nothing."""
    return 1


@DBOS.workflow()
async def chain_of_steps(n: int) -> int:
    """One step after another."""
    return sum([await trivial() for _ in range(n)])


@DBOS.workflow()
async def steps_at_once(n: int) -> int:
    """All steps at once."""
    return sum(await asyncio.gather(*[trivial() for _ in range(n)]))


Work = Callable[[], Awaitable[dict[str, float]]]


def _hosted(database: str, work: Work) -> dict[str, float]:
    """Run `work` under DBOS on a fresh database."""
    DBOS(
        config={
            "name": "benchmark",
            "system_database_url": database,
            "log_level": "ERROR",
            "enable_otlp": False,
        }
    )

    async def main() -> dict[str, float]:
        DBOS.launch()
        await chain_of_steps(WARM_TASKS)
        await steps_at_once(WARM_TASKS)
        return await work()

    try:
        return asyncio.run(main())
    finally:
        DBOS.destroy()


def _file(scratch: Path) -> Path:
    return scratch / f"dbos-{uuid4().hex}.db"


def _on_file(database: Path) -> str:
    return f"sqlite:///{database}"


def _throughput(workflow: Callable[[int], Awaitable[int]], n: int, database: str) -> dict[str, float]:
    rounds = rounds_of(n)

    async def work() -> dict[str, float]:
        with Meter() as meter:
            for _ in range(rounds):
                assert await workflow(n) == n
        return meter.per_task(n * rounds)

    return _hosted(database, work)


def _with_size(workflow: Callable[[int], Awaitable[int]], n: int, scratch: Path) -> dict[str, float]:
    database = _file(scratch)
    found = _throughput(workflow, n, _on_file(database))
    return found | {"kib": kib_per_task(database, n * rounds_of(n) + 2 * WARM_TASKS)}


def chain(n: int, scratch: Path) -> dict[str, float]:
    """Steps one after another."""
    return _with_size(chain_of_steps, n, scratch)


def fan_out(n: int, scratch: Path) -> dict[str, float]:
    """Steps all at once."""
    return _with_size(steps_at_once, n, scratch)


def _many_runs(n: int, database: str) -> dict[str, float]:
    async def work() -> dict[str, float]:
        with Meter() as meter:
            await asyncio.gather(*[chain_of_steps(1) for _ in range(n)])
        return {"runs_per_s": n / meter.wall_s, "cpu_ms": meter.cpu_s / n * 1e3}

    return _hosted(database, work)


def many_runs(n: int, scratch: Path) -> dict[str, float]:
    """Runs a second, of `n` workflows of one step at the same time."""
    return _many_runs(n, _on_file(_file(scratch)))


def postgres_chain(n: int, scratch: Path) -> dict[str, float]:
    """Steps one after another, on PostgreSQL."""
    from benchmarks.cluster import postgres  # its server is not wanted in measurements without it

    del scratch
    with postgres() as db:
        return _throughput(chain_of_steps, n, db)


def postgres_runs(n: int, scratch: Path) -> dict[str, float]:
    """Runs a second, of `n` workflows of one step at the same time, on PostgreSQL."""
    from benchmarks.cluster import postgres  # its server is not wanted in measurements without it

    del scratch
    with postgres() as db:
        return _many_runs(n, db)
