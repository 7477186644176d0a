"""What a child process does: one order, carried out until it is done or the process dies.

`play` is a whole world in one process: it launches the run, drives it and answers what it asks for. `drive` only drives,
and ends when the run waits for somebody; `wait` waits on, as a host does. `launch` and `resume` do just that, whatever is
stored. `rewind`, `fork` and `retry` change the history of a run that nobody drives.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tests.acceptance.crash import workflows
from tests.acceptance.crash.faults import Point, die_at, die_in, say, stop_before, stop_within

from smithers.control.caller import Caller
from smithers.control.control import Control
from smithers.control.travel.forking import fork
from smithers.control.travel.resetting import retry_task
from smithers.control.travel.rewinding import rewind
from smithers.engine.engine import Engine
from smithers.errors import RunNotFound, SmithersError
from smithers.settings import Settings
from smithers.store import open_store
from smithers.store.interface import RunRow
from smithers.store.sql import reads
from smithers.store.sql.session import Session
from smithers.store.sql.store import SqlStore

ACKNOWLEDGED = "acknowledged.txt"
SOMEBODY = Caller(user="ann", role="admin")
FORK = "fork"
LAST = ("finished", "failed", "cancelled")
NEEDS_SOMEBODY = ("waiting-approval", "waiting-event")
STAYS_FOR: dict[str, tuple[str, ...]] = {
    "play": ("waiting-timer",),
    "drive": ("waiting-timer",),
    "wait": ("waiting-timer", *NEEDS_SOMEBODY),
    "cancel": (),
}
"""While a run is so, the process stays and goes on with it when it can."""


Role = Literal["play", "drive", "wait", "cancel", "launch", "resume", "rewind", "fork", "retry"]


@dataclass(frozen=True)
class Order:
    """What to do and when to die.

    Args:
        folder: holds the database and the records.
        point, nth: die around the nth write; or stop there, if `stops`.
        after_s: die after so many seconds.
        barrier: a pipe to wait for before anything is done.
        frame_no: where a rewind goes to, or a fork begins.
    """

    folder: str
    role: Role = "play"
    workflow: str = "mixed"
    run_id: str = workflows.RUN
    point: str | None = None
    nth: int = 0
    stops: bool = False
    after_s: float | None = None
    barrier: str | None = None
    frame_no: int = 0
    lease_ms: int = 30_000
    heartbeat_ms: int = 600_000
    busy_timeout_s: float = 30.0
    durability: Literal["full", "normal"] = "full"


@dataclass
class Report:
    """How it ended, told to the test; `error` is the class of what was raised."""

    status: str | None = None
    error: str | None = None
    message: str = ""


def carry_out(order: Order) -> Report:
    """Carry out an order in an event loop of its own."""
    report = Report()
    if order.after_s is not None:
        die_in(order.after_s)
    try:
        report.status = asyncio.run(_main(order))
    except SmithersError as error:
        report.error, report.message = type(error).__name__, error.summary
    return report


async def _main(order: Order) -> str:
    folder = Path(order.folder)
    settings = Settings(
        lease_ms=order.lease_ms,
        heartbeat_ms=order.heartbeat_ms,
        durability=order.durability,
        busy_timeout_s=order.busy_timeout_s,
        root_dir=folder,
    )
    store = open_store(folder / workflows.DATABASE, durability=order.durability, busy_timeout_s=order.busy_timeout_s)
    if order.point is not None:
        _prepare_fault(order, store)
    engine = Engine(store, settings)
    if order.barrier is not None:
        await asyncio.to_thread(Path(order.barrier).read_text)
    try:
        if order.role == "launch":
            handle = await engine.launch(workflows.WORKFLOWS[order.workflow], {}, run_id=order.run_id)
            return (await asyncio.shield(handle.result)).status
        if order.role == "resume":
            handle = await engine.resume(order.run_id, workflows.WORKFLOWS[order.workflow])
            return (await asyncio.shield(handle.result)).status
        if order.role in ("rewind", "fork", "retry"):
            await _travel(order, Control(store))
            return order.role
        return await _go_on(order, engine, Control(store))
    finally:
        await engine.close()
        store.close()


async def _travel(order: Order, control: Control) -> None:
    if order.role == "rewind":
        await rewind(control, order.run_id, order.frame_no, caller=SOMEBODY, confirm=True)
    elif order.role == "fork":
        await fork(control, order.run_id, order.frame_no, caller=SOMEBODY, new_run_id=FORK, reset_nodes=["first"])
    else:
        await retry_task(control, order.run_id, "first", caller=SOMEBODY)


def _prepare_fault(order: Order, store: SqlStore) -> None:
    pipe = Path(order.folder) / "entered"
    match Point(order.point or ""), order.stops:
        case point, False:
            die_at(store, point, order.nth)
        case Point.BEFORE, True:
            stop_before(store, order.nth, pipe)
        case _:
            stop_within(store, order.nth, pipe)


async def _go_on(order: Order, engine: Engine, control: Control) -> str:
    """Launch or resume, answer, drive on; until the run has ended, or (`drive`) waits for somebody."""
    workflow = workflows.WORKFLOWS[order.workflow]
    while True:
        row = await newest(engine.store, order.run_id)
        if row is None:
            handle = await engine.launch(workflow, {}, run_id=order.run_id)
        elif row.status in LAST:
            return row.status
        elif order.role == "cancel" and row.status in NEEDS_SOMEBODY and row.cancel_requested_at_ms is None:
            await control.cancel(row.run_id, source="test")
            _acknowledge(order, ["cancel"])
            continue
        else:
            await _answer(order, control, row)
            handle = await engine.resume(row.run_id, workflow)
        if row is None:
            await _answer(order, control, await control.run(order.run_id))
        result = await asyncio.shield(handle.result)
        if order.role == "wait":
            say(Path(order.folder) / "entered", result.status.value)
        while result.status.value in STAYS_FOR[order.role]:
            result = await engine.until_moved(result.run_id, workflow)
        if order.role == "drive" and result.status.value in NEEDS_SOMEBODY:
            return result.status.value


async def _answer(order: Order, control: Control, row: RunRow) -> None:
    """Give the run what it asks for, if that is the role."""
    done: list[str] = []
    try:
        if order.role == "play":
            await workflows.answer(control, row.run_id, done)
    finally:
        _acknowledge(order, done)


def _acknowledge(order: Order, done: list[str]) -> None:
    """Put on record what somebody was told is done."""
    for line in done:
        workflows.append_line(Path(order.folder) / ACKNOWLEDGED, line)


async def newest(store: SqlStore, run_id: str) -> RunRow | None:
    """The run that goes on for `run_id` now: itself, or the one that it was continued as. None if there is none."""

    def query(connection: Session) -> RunRow:
        row = reads.run(connection, run_id)
        while (following := reads.successor(connection, row.run_id)) is not None:
            row = reads.run(connection, following)
        return row

    try:
        return await store.aread(query)
    except RunNotFound:
        return None
