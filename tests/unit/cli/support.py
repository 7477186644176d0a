"""Workflows for tests of the command line, and a way to run commands within the test's process."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pytest

from smithers.cli.app import run

HEAD = """
import asyncio
import os
from pathlib import Path
from pydantic import BaseModel
from smithers import (
    Approval, HumanTask, Loop, Parallel, Subflow, Task, Timer, WaitForEvent, Workflow, create_smithers
)

class Out(BaseModel):
    n: int

class Decision(BaseModel):
    approved: bool
    note: str | None = None

class Choice(BaseModel):
    selected: str
    notes: str | None = None

smithers, outputs = create_smithers({"output": Out, "decision": Decision, "choice": Choice})

def note(text):
    with open("done.txt", "a") as file:
        file.write(text + "\\n")
"""

ONE = """
@smithers
def one(ctx):
    return Workflow(name="one")[Task(id="a", output=outputs.output)[lambda: {"n": ctx.input.get("n", 1)}]]
"""

GATE = """
def work():
    note("a")
    return {"n": 1}

@smithers
def gate(ctx):
    return Workflow(name="gate")[
        Task(id="a", output=outputs.output)[work],
        Approval(id="ship", output=outputs.decision, request={"title": "Ship it?"}),
        Task(id="z", output=outputs.output)[lambda: {"n": 2}],
    ]
"""

TWO_GATES = """
@smithers
def gates(ctx):
    return Workflow(name="gates")[Parallel[
        [Approval(id=id, output=outputs.decision, request={"title": id}) for id in ("left", "right")]
    ]]
"""

SELECT = """
@smithers
def select(ctx):
    return Workflow(name="select")[Approval(
        id="pick", output=outputs.choice, mode="select", request={"title": "Which?"},
        options=[{"key": "red", "label": "Red"}, {"key": "blue", "label": "Blue"}],
    )]
"""

EVENT = """
@smithers
def event(ctx):
    return Workflow(name="event")[WaitForEvent(id="wait", event="go", correlation_id="c 1", output=outputs.output)]
"""

HUMAN = """
@smithers
def human(ctx):
    return Workflow(name="human")[HumanTask(id="ask", output=outputs.output, prompt="How many?")]
"""

NESTED = """
@smithers
def child(ctx):
    return Workflow(name="child")[Approval(id="ok", output=outputs.decision, request={"title": "Ok?"})]

@smithers
def workflow(ctx):
    return Workflow(name="nested")[Subflow(id="sub", workflow=child, output=outputs.decision)]
"""

FAILING = """
def fail():
    raise ValueError("broken \\x1b[31mthing")

@smithers
def failing(ctx):
    return Workflow(name="failing")[Task(id="bad", output=outputs.output)[fail]]
"""

IMPURE = """
import itertools
counter = itertools.count()

@smithers
def impure(ctx):
    return Workflow(name="impure")[Task(id=f"task-{next(counter)}", output=outputs.output)[lambda: {"n": 1}]]
"""

BROKEN = """
@smithers
def broken(ctx):
    return Workflow(name="broken")[ctx.nothing]
"""

SLOW = """
async def work():
    note("started")
    while not Path("release").exists():
        await asyncio.sleep(0.005)
    note("finished")
    return {"n": 1}

@smithers
def slow(ctx):
    return Workflow(name="slow")[
        Task(id="first", output=outputs.output)[lambda: note("first") or {"n": 0}],
        Task(id="slow", output=outputs.output)[work],
        Task(id="last", output=outputs.output)[lambda: {"n": 2}],
    ]
"""

WORKFLOWS = {
    "one": ONE,
    "gate": GATE,
    "two_gates": TWO_GATES,
    "select": SELECT,
    "event": EVENT,
    "human": HUMAN,
    "nested": NESTED,
    "failing": FAILING,
    "impure": IMPURE,
    "broken": BROKEN,
    "slow": SLOW,
}


def write_workflows(folder: Path, *names: str) -> None:
    """Put workflow files (`NAME.py`) into a folder."""
    for name in names:
        (folder / f"{name}.py").write_text(HEAD + WORKFLOWS[name])


@dataclass(frozen=True)
class Finished:
    """What a command came to."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, object]:
        """The document that was written."""
        return cast("dict[str, object]", json.loads(self.out))

    @property
    def lines(self) -> list[dict[str, object]]:
        """The JSON lines that were written."""
        return [json.loads(line) for line in self.out.splitlines()]


def at(document: object, *path: str | int) -> object:
    """What is at a place in a JSON document."""
    for part in path:
        document = cast("Mapping[str | int, object]", document)[part]  # a list takes its index the same way
    return document


class Cli:
    """Runs commands in a folder, within this process."""

    def __init__(self, folder: Path, capture: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self._capture = capture

    def __call__(self, *tokens: str) -> Finished:
        self._capture.readouterr()
        code = run(tokens)
        found = self._capture.readouterr()
        return Finished(code, found.out, found.err)

    def write(self, *names: str) -> None:
        """Put workflow files here."""
        write_workflows(self.folder, *names)
