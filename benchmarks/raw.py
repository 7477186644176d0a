"""The physical limit: the statements of a real run, recorded once, written again by one connection and no engine.

Same schema, same rows, same transactions, same pragmas; savepoints, which only an engine needs, are left out.
"""

from __future__ import annotations

import asyncio
import pickle
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeAlias

import apsw

from benchmarks import engine, workflows
from benchmarks.meter import Meter, kib_per_task, rounds_of
from smithers import close_engines
from smithers.engine.run import shared_engine
from smithers.store.interface import SqlValue
from smithers.store.sql.session import Session
from smithers.store.sqlite.database import STATEMENT_CACHE, WAL_PAGES

Row: TypeAlias = tuple[SqlValue, ...]
Statement: TypeAlias = tuple[str, list[Row]]
"""SQL and the rows that it is executed with, one after the other."""


def _record(name: str, scratch: Path, work: Callable[[Path], Awaitable[None]]) -> None:
    """Leave the database before `work` and the tape of what it writes in the scratch folder."""

    async def main() -> None:
        database = engine.fresh_database(scratch)
        await engine.warm_up(database)
        await close_engines()
        shutil.copyfile(database, scratch / f"{name}.before")
        statements: list[tuple[str, Row]] = []

        def trace(_: object, sql: str, row: Row | None) -> bool:
            statements.append((sql, row or ()))
            return True

        def begin_tape(connection: Session) -> None:
            assert isinstance(connection, apsw.Connection)
            connection.exec_trace = trace  # type: ignore[assignment]  # the store binds tuples only

        store = shared_engine(str(database)).store
        await store.ensure_tables(shared_engine(str(database)).tables(workflows.chain))
        await store.awrite(begin_tape)
        await work(database)
        await close_engines()
        with (scratch / f"{name}.tape").open("wb") as tape:
            pickle.dump(_transactions(statements), tape)

    asyncio.run(main())


def _transactions(statements: list[tuple[str, Row]]) -> list[list[Statement]]:
    """The recorded statements by transaction, equal neighbours joined."""
    found: list[list[Statement]] = []
    for sql, row in statements:
        word = sql.split(maxsplit=1)[0].upper()
        if word == "BEGIN":
            found.append([])
        elif found and word in ("INSERT", "UPDATE", "DELETE"):
            current = found[-1]
            if current and current[-1][0] == sql:
                current[-1][1].append(row)
            else:
                current.append((sql, [row]))
    return [transaction for transaction in found if transaction]


def _replay(name: str, scratch: Path) -> tuple[Meter, Path, int]:
    """Write a tape to a fresh database. Returns the costs, the database and the number of transactions."""
    database = engine.fresh_database(scratch)
    shutil.copyfile(scratch / f"{name}.before", database)
    with (scratch / f"{name}.tape").open("rb") as tape:
        transactions: list[list[Statement]] = pickle.load(tape)
    connection = apsw.Connection(str(database), statementcachesize=STATEMENT_CACHE)
    for pragma in ("journal_mode=WAL", "synchronous=FULL", f"wal_autocheckpoint={WAL_PAGES}", "cache_size=-16384"):
        connection.execute(f"PRAGMA {pragma}").fetchall()
    cursor = connection.cursor()
    with Meter() as meter:
        for transaction in transactions:
            cursor.execute("BEGIN IMMEDIATE")
            for sql, rows in transaction:
                cursor.executemany(sql, rows).fetchall()
            cursor.execute("COMMIT")
    cursor.close()
    connection.close()
    return meter, database, len(transactions)


def _throughput(name: str, n: int, scratch: Path) -> dict[str, float]:
    meter, database, commits = _replay(f"{name}-{n}", scratch)
    tasks = n * rounds_of(n)
    size = {"kib": kib_per_task(database, tasks + 2 * engine.WARM_TASKS)}
    return meter.per_task(tasks) | size | {"commits": commits}


def prepare_chain(n: int, scratch: Path) -> None:
    """Record a chain."""

    async def work(database: Path) -> None:
        for _ in range(rounds_of(n)):
            await engine.run(workflows.chain, database, n)

    _record(f"chain-{n}", scratch, work)


def prepare_fan_out(n: int, scratch: Path) -> None:
    """Record a fan-out."""

    async def work(database: Path) -> None:
        for _ in range(rounds_of(n)):
            await engine.run(workflows.fan_out, database, n)

    _record(f"fan-out-{n}", scratch, work)


def prepare_many_runs(n: int, scratch: Path) -> None:
    """Record many runs at the same time."""
    _record(f"runs-{n}", scratch, lambda database: engine.run_many(n, database))


def chain(n: int, scratch: Path) -> dict[str, float]:
    """The rows of a chain."""
    return _throughput("chain", n, scratch)


def fan_out(n: int, scratch: Path) -> dict[str, float]:
    """The rows of a fan-out."""
    return _throughput("fan-out", n, scratch)


def many_runs(n: int, scratch: Path) -> dict[str, float]:
    """The rows of many runs at the same time."""
    meter, _, commits = _replay(f"runs-{n}", scratch)
    return {"runs_per_s": n / meter.wall_s, "cpu_ms": meter.cpu_s / n * 1e3, "commits": commits}
