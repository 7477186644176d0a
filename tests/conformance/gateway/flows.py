"""The workflows of the gateway's conformance tests."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

from pydantic import BaseModel

from smithers import Approval, Context, Element, Sequence, Task, WaitForEvent, Workflow, create_smithers, write
from smithers.components.workflow import SmithersWorkflow


class Note(BaseModel):
    text: str


class Verdict(BaseModel):
    approved: bool
    note: str | None = None


class Choice(BaseModel):
    selected: str = ""
    notes: str | None = None


class Ranking(BaseModel):
    ranked: list[str] = []
    notes: str | None = None


class Ping(BaseModel):
    n: int = 0


class Ask(BaseModel):
    size: int


OPTIONS = [{"key": "a", "label": "A"}, {"key": "b", "label": "B", "summary": "the other"}]


async def _forever() -> dict[str, object]:
    await asyncio.sleep(3600)
    return {"text": "never"}


def _until_there(file: Path) -> Callable[[], dict[str, object]]:
    def look() -> dict[str, object]:
        while not file.exists():
            time.sleep(0.005)
        return {"text": file.read_text()}

    return look


async def _writing() -> dict[str, object]:
    return {"text": await write("made.txt", "made\n")}


def _broken() -> dict[str, object]:
    raise ValueError("broken on purpose")


def workflows(db: Path) -> dict[str, SmithersWorkflow]:
    """The workflows of the tests, all in one database."""
    models: dict[str, type[BaseModel]] = {
        "note": Note,
        "verdict": Verdict,
        "choice": Choice,
        "ranking": Ranking,
        "ping": Ping,
    }
    smithers, outputs = create_smithers(models, db=db)
    strictly, _ = create_smithers(models, input=Ask, db=db)

    @smithers
    def one(ctx: Context[dict[str, object]]) -> Element:
        """Says hello."""
        return Workflow(name="one")[Task(id="a", output=outputs.note)[lambda: {"text": "hi"}]]

    @smithers
    def gated(ctx: Context[dict[str, object]]) -> Element:
        return Workflow(name="gated")[
            Sequence[
                Task(id="a", output=outputs.note)[lambda: {"text": "hi"}],
                Approval(id="ship", output=outputs.verdict, request={"title": "Ship?", "summary": "All of it"}),
                Task(id="b", output=outputs.note)[lambda: {"text": "done"}],
            ]
        ]

    @smithers
    def choosing(ctx: Context[dict[str, object]]) -> Element:
        request = {"title": "Which?"}
        return Workflow(name="choosing")[
            Approval(id="pick", output=outputs.choice, mode="select", request=request, options=OPTIONS),
            Approval(id="order", output=outputs.ranking, mode="rank", request=request, options=OPTIONS),
        ]

    @smithers
    def waiting(ctx: Context[dict[str, object]]) -> Element:
        given = ctx.input.get("key")
        key = None if given is None else str(given)
        return Workflow(name="waiting")[WaitForEvent(id="ping", event="ping", correlation_id=key, output=outputs.ping)]

    @smithers
    def slow(ctx: Context[dict[str, object]]) -> Element:
        return Workflow(name="slow")[Task(id="nap", output=outputs.note)[_forever]]

    @smithers
    def patient(ctx: Context[dict[str, object]]) -> Element:
        return Workflow(name="patient")[
            Task(id="look", output=outputs.note)[_until_there(Path(str(ctx.input["file"])))]
        ]

    @smithers
    def broken(ctx: Context[dict[str, object]]) -> Element:
        return Workflow(name="broken")[Task(id="bad", output=outputs.note, retries=0)[_broken]]

    @strictly
    def strict(ctx: Context[Ask]) -> Element:
        return Workflow(name="strict")[Task(id="a", output=outputs.note)[lambda: {"text": "hi"}]]

    @smithers
    def writing(ctx: Context[dict[str, object]]) -> Element:
        return Workflow(name="writing")[Task(id="a", output=outputs.note)[_writing]]

    found = (one, writing, gated, choosing, waiting, slow, patient, broken, strict)
    return {workflow.function_name: workflow for workflow in found}
