"""The workflow that the cluster runs, in the shape that its input names. Every execution of a task appends a line to a file
beside this one, whichever process it is in, so that tests can count what really ran."""

from __future__ import annotations

import asyncio
import json
import os
import random
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel

from smithers import Approval, Context, Loop, Parallel, Subflow, Task, Timer, WaitForEvent, Workflow, create_smithers
from smithers.engine.runtime import task_runtime

EXECUTIONS = "executions.jsonl"
OPEN = "open-"
"""What the name of the file begins with that a gate waits for."""
LONGEST_S = 0.15


class Mark(BaseModel):
    """What a task leaves behind."""

    by: str


class Draft(Mark):
    """What a child's first task leaves behind, which is not its result."""


class Verdict(BaseModel):
    """A decision."""

    approved: bool


class Word(BaseModel):
    """A signal's payload."""

    text: str


class Wanted(BaseModel):
    """The input: the shape of the run."""

    shape: str


class Execution(NamedTuple):
    """An attempt that really ran, and where."""

    run_id: str
    node_id: str
    iteration: int
    attempt: int
    pid: int


smithers, outputs = create_smithers({"mark": Mark, "verdict": Verdict, "word": Word}, input=Wanted)
in_child, _ = create_smithers({"draft": Draft, "output": Mark})
HERE = Path(__file__).parent


def executions(folder: Path) -> list[Execution]:
    """Every execution so far, in order."""
    path = folder / EXECUTIONS
    return [Execution(*json.loads(line)) for line in path.read_text().splitlines()] if path.exists() else []


def record() -> None:
    """Note that the current task runs. One write, so that lines of several processes do not mix."""
    runtime = task_runtime()
    found = Execution(runtime.run_id, runtime.node_id, runtime.iteration, runtime.attempt, os.getpid())
    descriptor = os.open(HERE / EXECUTIONS, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(descriptor, json.dumps(found).encode() + b"\n")
    finally:
        os.close(descriptor)


def work(name: str, output: type[Mark] = Mark) -> Task:
    """A task that takes a little while, never the same."""

    async def run() -> Mark:
        record()
        await asyncio.sleep(random.uniform(0, LONGEST_S))
        return output(by=name)

    return Task(name, output=output)[run]


def gated(name: str) -> Task:
    """A task that ends when its gate is open."""

    async def run() -> Mark:
        record()
        while not (HERE / f"{OPEN}{name}").exists():  # noqa: ASYNC110 - other processes open it
            await asyncio.sleep(0.02)
        return Mark(by=name)

    return Task(name, output=Mark)[run]


@in_child
def child(ctx: Context[dict[str, object]]) -> Workflow:
    """A run of its own."""
    return Workflow("child")[work("child-first", Draft), Timer("child-rest", duration="50ms"), work("child-last")]


@smithers
def workflow(ctx: Context[Wanted]) -> Workflow:
    """As the input wants it."""
    shape = ctx.input.shape
    return Workflow("flow")[
        work("first"),
        shape == "chain" and [work(f"step-{n}") for n in range(3)],
        shape == "fan" and Parallel("fan")[[work(f"part-{n}") for n in range(5)]],
        shape == "approval" and Approval("ship", output=Verdict, request={"title": "Ship it?"}),
        shape == "signal" and WaitForEvent("word", event="word", output=Word),
        shape == "timer" and Timer("rest", duration="400ms"),
        shape == "subflow" and Subflow("child", workflow=child, output=Mark),
        shape == "loop" and Loop("rounds", max_iterations=3)[work("turn"), work("return")],
        shape.startswith("gate") and gated(shape),
        work("last"),
    ]


SHAPES = ("chain", "fan", "approval", "signal", "timer", "subflow", "loop")
"""Those that a cluster finishes by itself, given a decision and a signal."""
