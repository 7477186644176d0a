"""What the engine's tests share: models, and a bench that runs workflows and looks at what was stored."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel
from pydantic_core import to_json

from smithers import Engine, RunResult, Settings, SmithersWorkflow, create_smithers
from smithers.engine.engine import RunHandle
from smithers.engine.hub import follow
from smithers.errors import RunNotFound
from smithers.events import wire_object
from smithers.store import open_store
from smithers.store.interface import ApprovalRow, AttemptRow, HumanRow, RunRow
from smithers.store.sql import reads
from smithers.store.sql.store import SqlStore
from smithers.testing import VirtualClock

SETTINGS = Settings(durability="normal", sync_threads=8, heartbeat_ms=200)


class Row(BaseModel):
    """Most tasks' output."""

    text: str = ""
    n: int = 0


class Out(BaseModel):
    """The row of the table that is a run's result."""

    text: str = ""
    n: int = 0


class Verdict(BaseModel):
    """An approval's row."""

    approved: bool
    note: str | None = None
    decided_by: str | None = None
    decided_at: str | None = None


smithers, outputs = create_smithers({"row": Row, "output": Out, "verdict": Verdict})

Event = dict[str, object]
T = TypeVar("T")


class Bench:
    """One store, any number of engines on it, one virtual clock."""

    def __init__(self, db: str | Path) -> None:
        self.db = str(db)
        self.clock = VirtualClock()
        self.store: SqlStore = open_store(self.db, durability="normal")
        self.engines: list[Engine] = []
        self._engine: Engine | None = None

    @property
    def engine(self) -> Engine:
        """The engine that runs go to unless told otherwise."""
        if self._engine is None:
            self._engine = self.new_engine()
        return self._engine

    def new_engine(self, settings: Settings = SETTINGS) -> Engine:
        """One more engine, which becomes the default one."""
        self._engine = Engine(self.store, settings, self.clock)
        self.engines.append(self._engine)
        return self._engine

    def abandon(self) -> None:
        """Let the engine die as a killed process would: nothing more is written by it."""
        engine, self._engine = self.engine, None
        for task in [*engine._tasks, *([engine._heartbeat] if engine._heartbeat else [])]:  # pyright: ignore[reportPrivateUsage]
            task.cancel()
        for driver in list(engine.drivers.values()):
            driver.work.abort_all()
        if engine._unwatch is not None:  # pyright: ignore[reportPrivateUsage]
            engine._unwatch()  # pyright: ignore[reportPrivateUsage]
        engine.threads.shutdown(wait=False, cancel_futures=True)
        self.engines.remove(engine)

    async def close(self) -> None:
        """Close everything."""
        for engine in self.engines:
            await engine.close()
        self.store.close()

    # ── running ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def start(
        self, workflow: SmithersWorkflow, input: object = None, run_id: str = "r", **options: object
    ) -> RunHandle:
        """Launch a run and do not wait for it."""
        return await self.engine.launch(workflow, input, run_id=run_id, **options)  # type: ignore[arg-type]

    async def run(
        self, workflow: SmithersWorkflow, input: object = None, run_id: str = "r", **options: object
    ) -> RunResult:
        """Run until it ends or parks."""
        handle = await self.start(workflow, input, run_id, **options)
        return await within(asyncio.shield(handle.result))

    async def resume(self, workflow: SmithersWorkflow, run_id: str = "r", **options: object) -> RunResult:
        """Go on with a run until it ends or parks."""
        handle = await self.engine.resume(run_id, workflow, **options)  # type: ignore[arg-type]
        return await within(asyncio.shield(handle.result))

    async def seen(self, type: str, node_id: str | None = None, run_id: str = "r", **fields: object) -> Event:
        """Wait until the log of a run has such an event."""

        async def look() -> Event:
            await self.stored(run_id)
            async for row in follow(self.engine.hub, self.store, run_id):
                found = wire_object(run_id, row)
                is_it = found["type"] == type and node_id in (None, found.get("nodeId"))
                if is_it and all(found.get(name) == value for name, value in fields.items()):
                    return found
            raise AssertionError(f"run {run_id} ended without {type} {node_id} {fields}: {self.types(run_id)}")

        return await within(look())

    async def stored(self, run_id: str) -> None:
        """Wait until the run is there at all."""

        def is_there() -> bool:
            with suppress(RunNotFound):
                return bool(self.row(run_id))
            return False

        await until(is_there, lambda: f"run {run_id} is never launched")

    async def reached(self, run_id: str, *statuses: str) -> None:
        """Wait until the run is there and has one of these statuses."""
        await self.stored(run_id)
        await until(lambda: self.row(run_id).status in statuses, lambda: f"{run_id} is {self.row(run_id).status}")

    async def waited_for(self) -> None:
        """Wait until somebody waits for a moment of the virtual clock."""
        await until(lambda: self.clock.next_due is not None, lambda: "nobody waits for a moment")

    async def knows_of_pause(self, run_id: str = "r") -> None:
        """Wait until whoever drives the run here has read that it is to pause: then it starts nothing any more."""
        await until(lambda: self.engine.drivers[run_id].is_pausing, lambda: f"{run_id} does not hear of its pause")

    # ── from outside ───────────────────────────────────────────────────────────────────────────────────────────────

    async def decide(
        self,
        node_id: str,
        approved: bool = True,
        *,
        iteration: int = 0,
        run_id: str = "r",
        decision: Mapping[str, object] | None = None,
        note: str | None = None,
    ) -> None:
        """Decide on an approval."""
        text = None if decision is None else to_json(decision).decode()
        now = self.clock.now_ms()
        await self.store.decide(run_id, node_id, iteration, now, lambda _row: (approved, note, "ann", text))

    async def answer(self, node_id: str, value: object, *, iteration: int = 0, run_id: str = "r") -> None:
        """Answer a human task, well or badly."""
        text = to_json(value).decode()
        request = f"human:{run_id}:{node_id}:{iteration}"
        await self.store.answer(request, self.clock.now_ms(), lambda _row: (text, "ann"))

    async def signal(self, name: str, payload: object, *, correlation: str | None = None, run_id: str = "r") -> None:
        """Send a signal."""
        text = to_json(payload).decode()
        await self.store.signal(run_id, name, correlation, text, self.clock.now_ms(), None, None)

    # ── looking ────────────────────────────────────────────────────────────────────────────────────────────────────

    def row(self, run_id: str = "r") -> RunRow:
        """The run's row."""
        return self.store.read(lambda c: reads.run(c, run_id))

    def states(self, run_id: str = "r") -> dict[str, str]:
        """Node states by `node_id` (iteration 0) or `node_id::iteration`."""
        rows = self.store.read(lambda c: reads.nodes(c, run_id))
        return {r.node_id if r.iteration == 0 else f"{r.node_id}::{r.iteration}": r.state for r in rows}

    def attempts(self, node_id: str, run_id: str = "r", iteration: int = 0) -> list[AttemptRow]:
        """The attempts of a node, in order."""
        rows = self.store.read(lambda c: reads.attempts(c, run_id, node_id))
        return sorted((r for r in rows if r.iteration == iteration), key=lambda r: r.attempt)

    def approvals(self, run_id: str = "r", *, only_open: bool = False) -> list[ApprovalRow]:
        """The approvals of a run."""
        return self.store.read(lambda c: reads.approvals(c, run_id, only_open=only_open))

    def humans(self, run_id: str = "r") -> list[HumanRow]:
        """The requests to people of a run."""
        return self.store.read(lambda c: reads.human_requests(c, run_id, only_open=False))

    def timers(self, run_id: str = "r") -> list[tuple[str, str, int]]:
        """What a run waits for: (node id, kind, milliseconds from now)."""
        rows = self.store.read(lambda c: reads.timers(c, run_id))
        return [(r.node_id, r.kind, r.due_at_ms - self.clock.now_ms()) for r in rows]

    def events(self, run_id: str = "r") -> list[Event]:
        """The run's log, as sent."""
        rows = self.store.read(lambda c: reads.events(c, run_id, -1, 100_000))
        return [{"seq": r.seq, **wire_object(run_id, r)} for r in rows]

    def types(self, run_id: str = "r", node_id: str | None = None) -> list[str]:
        """The types of the run's events, or of one node's."""
        return [str(e["type"]) for e in self.events(run_id) if node_id in (None, e.get("nodeId"))]

    def texts(self, run_id: str = "r", table: str = "row") -> list[str]:
        """The texts of the rows in a table, in completion order."""
        seqs = {(n.node_id, n.iteration): n.output_seq or 0 for n in self.store.read(lambda c: reads.nodes(c, run_id))}
        rows = self.store.read(
            lambda c: c.execute(
                f'SELECT node_id, iteration, text FROM "{table}" WHERE run_id = ?', (run_id,)
            ).fetchall()
        )
        return [str(r[2]) for r in sorted(rows, key=lambda r: seqs[(str(r[0]), int(str(r[1])))])]


async def within(work: Awaitable[T], seconds: float = 60.0) -> T:
    """Wait, but not for ever: a run that hangs is a failure that names itself."""
    return await asyncio.wait_for(work, seconds)


async def until(is_so: Callable[[], bool], otherwise: Callable[[], str], seconds: float = 60.0) -> None:
    """Wait for what nobody tells of; `otherwise` says what is so instead, if it never comes to be."""
    give_up_at = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < give_up_at, otherwise()
        await asyncio.sleep(0.005)


class Calls:
    """Work that counts its calls, and may be held back."""

    def __init__(self) -> None:
        self.by_name: dict[str, int] = {}
        self.gates: dict[str, asyncio.Event] = {}
        self.begun: dict[str, asyncio.Event] = {}

    def __getitem__(self, name: str) -> int:
        return self.by_name.get(name, 0)

    def task(
        self, name: str, *, fails: Callable[[int], BaseException | None] | None = None
    ) -> Callable[[], dict[str, object]]:
        """A sync function that gives `{"text": name}`; `fails` may give an exception for the nth call."""

        async def work() -> dict[str, object]:
            self.by_name[name] = self[name] + 1
            error = fails(self[name]) if fails is not None else None
            if error is not None:
                raise error
            return {"text": name}

        return work  # type: ignore[return-value]

    def held(self, name: str) -> Callable[[], object]:
        """Async work that goes on only after `release(name)`."""
        self.gates.setdefault(name, asyncio.Event())
        self.begun.setdefault(name, asyncio.Event())

        async def work() -> dict[str, object]:
            self.by_name[name] = self[name] + 1
            self.begun[name].set()
            await self.gates[name].wait()
            return {"text": name}

        return work

    def release(self, name: str) -> None:
        """Let held work go on."""
        self.gates[name].set()
