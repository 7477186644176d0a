"""The workflow that the gateway of these tests serves, and that `smithers up` runs beside it. Its database is in the current
folder, and so is the file that its gate waits for."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from pathlib import Path

from pydantic import BaseModel

from smithers import Approval, Context, Task, WaitForEvent, Workflow, create_smithers, write
from smithers.agents.calls import AgentCall

GATE = Path("gate")
CHUNK = 65_536


class Note(BaseModel):
    """What tasks return."""

    text: str = ""


class Verdict(BaseModel):
    """What an approval writes."""

    approved: bool
    note: str | None = None


class Ping(BaseModel):
    """What a signal brings."""

    n: int = 0


class Wanted(BaseModel):
    """The input: what the run is made of."""

    steps: int = 0
    gated: bool = False
    asks: bool = False
    chunks: int = 0
    writes: bool = False


smithers, outputs = create_smithers({"note": Note, "verdict": Verdict, "ping": Ping}, input=Wanted)


def step(name: str) -> Callable[[], Awaitable[Note]]:
    """Work that takes a little while, never the same."""

    async def work() -> Note:
        await asyncio.sleep(random.uniform(0.05, 0.25))
        return Note(text=name)

    return work


async def writing() -> Note:
    """Work that changes a file."""
    return Note(text=await write("made.txt", "made\n"))


async def at_the_gate() -> Note:
    """Work that ends when the file is there."""
    while not GATE.exists():  # noqa: ASYNC110, ASYNC240
        await asyncio.sleep(0.05)
    return Note(text="through")


class Talker:
    """An agent that says much."""

    id = "talker"

    def __init__(self, chunks: int) -> None:
        self._chunks = chunks

    async def generate(self, call: AgentCall) -> Note:
        """Speak chunk by chunk."""
        for number in range(self._chunks):
            call.on_text(f"{number}:" + "x" * CHUNK, "stdout")
            await asyncio.sleep(0.002)
        return Note(text="done")


@smithers
def workflow(ctx: Context[Wanted]) -> Workflow:
    """As the input wants it."""
    wanted = ctx.input
    return Workflow("flow")[
        [Task(f"t{i}", output=outputs.note)[step(f"t{i}")] for i in range(wanted.steps)],
        wanted.writes and Task("wrote", output=outputs.note)[writing],
        wanted.gated and Task("gated", output=outputs.note)[at_the_gate],
        wanted.chunks > 0 and Task("talk", output=outputs.note, agent=Talker(wanted.chunks))["Speak."],
        wanted.asks and Approval("ship", output=outputs.verdict, request={"title": "Ship it?"}),
        wanted.asks and WaitForEvent("ping", event="ping", correlation_id="build", output=outputs.ping),
        wanted.asks and Task("last", output=outputs.note)[step("last")],
    ]
