"""The workflows that are measured. Their tasks do nothing, so that what is measured is the engine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from pydantic import BaseModel

from smithers import Approval, Context, Element, Loop, Parallel, Sequence, Task, Workflow, create_smithers, task_runtime

Ctx: TypeAlias = Context[dict[str, object]]


class Number(BaseModel):
    """What every task returns."""

    n: int


class Decision(BaseModel):
    """What an approval writes."""

    approved: bool
    note: str | None = None
    decided_by: str | None = None
    decided_at: str | None = None


smithers, outputs = create_smithers({"number": Number, "decision": Decision}, input=None)


class Progress:
    """What tasks leave for the measurement: moments of process time, and a place to stop at."""

    def __init__(self) -> None:
        self.cpu: list[float] = []
        self.begun_ns: dict[str, int] = {}
        self.has_begun = asyncio.Event()
        self.calls = 0
        self.stop_after: int | None = None
        self.at_stop = asyncio.Event()
        self.renders = 0


progress = Progress()


async def trivial() -> Number:
    """Work that costs nothing."""
    return Number(n=1)


async def counted() -> Number:
    """Counts its calls and notes the process time of each; after `stop_after` calls it never returns."""
    progress.calls += 1
    progress.cpu.append(time.process_time())
    if progress.stop_after is not None and progress.calls > progress.stop_after:
        progress.at_stop.set()
        await asyncio.Event().wait()
    return Number(n=progress.calls)


def size_of(ctx: Ctx) -> int:
    """The `n` of a run's input."""
    n = ctx.input["n"]
    assert isinstance(n, int)
    return n


@smithers
def chain(ctx: Ctx) -> Workflow:
    """One task after another."""
    return Workflow("chain")[[Task(f"t{i}", output=outputs.number)[trivial] for i in range(size_of(ctx))]]


@smithers
def fan_out(ctx: Ctx) -> Workflow:
    """All tasks at once."""
    tasks = [Task(f"t{i}", output=outputs.number)[trivial] for i in range(size_of(ctx))]
    return Workflow("fan-out")[Parallel[tasks]]


@smithers
def reading_fan_out(ctx: Ctx) -> Workflow:
    """All tasks at once, under a render that looks at every result."""
    progress.renders += 1
    results = ctx.outputs(Number)
    tasks = [Task(f"t{i}", output=outputs.number)[trivial] for i in range(size_of(ctx))]
    return Workflow("reading-fan-out")[
        Parallel[tasks],
        len(results) >= size_of(ctx) and Task("sum", output=outputs.number)[{"n": sum(row.n for row in results)}],
    ]


@smithers
def countdown(ctx: Ctx) -> Workflow:
    """A loop that goes on until its last row says so."""
    n = size_of(ctx)
    last = ctx.latest(Number, "step")
    return Workflow("countdown")[
        Loop("again", until=last is not None and last.n >= n, max_iterations=n + 1)[
            Task("step", output=outputs.number)[counted]
        ]
    ]


@smithers
def stopping_chain(ctx: Ctx) -> Workflow:
    """One task after another, until `progress.stop_after`."""
    return Workflow("stopping-chain")[[Task(f"t{i}", output=outputs.number)[counted] for i in range(size_of(ctx))]]


@smithers
def parked(ctx: Ctx) -> Workflow:
    """A run that only waits for a person."""
    return Workflow("parked")[Approval("ship", output=outputs.decision)["Ship it?"]]


BEAT_S = 0.52
"""The engine writes signs of life at most every half second."""


@smithers
def beating(ctx: Ctx) -> Workflow:
    """One task that shows signs of life, each of its own size, so that they can be told apart."""

    async def beat() -> Number:
        for i in range(size_of(ctx)):
            await asyncio.sleep(BEAT_S)
            task_runtime().heartbeat("." * i)
        await asyncio.sleep(BEAT_S)
        return Number(n=1)

    return Workflow("beating")[Task("beat", output=outputs.number)[beat]]


def noting(name: str) -> Callable[[], Awaitable[Number]]:
    """Work that notes when it began."""

    async def note() -> Number:
        progress.begun_ns[name] = time.monotonic_ns()
        progress.has_begun.set()
        return Number(n=1)

    return note


async def hold() -> Number:
    """Work that never ends."""
    await asyncio.Event().wait()
    return Number(n=0)


def gate_steps(n: int) -> list[list[Element]]:
    """Approvals one after another, each followed by a task that notes when it began."""
    return [
        [
            Approval(f"gate{i}", output=outputs.decision)["Go on?"],
            Task(f"after{i}", output=outputs.number)[noting(f"after{i}")],
        ]
        for i in range(n)
    ]


@smithers
def gates(ctx: Ctx) -> Workflow:
    """Waits for one decision after another, and for nothing else: each time it parks and is woken."""
    return Workflow("gates")[gate_steps(size_of(ctx))]


@smithers
def busy_gates(ctx: Ctx) -> Workflow:
    """The same beside a task that never ends, so that the run stays active."""
    return Workflow("busy-gates")[
        Parallel[Task("hold", output=outputs.number)[hold], Sequence[gate_steps(size_of(ctx))]]
    ]
