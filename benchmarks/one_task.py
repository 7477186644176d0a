"""A workflow of one task, for `smithers up`."""

from __future__ import annotations

from pydantic import BaseModel

from smithers import Context, Task, Workflow, create_smithers


class Answer(BaseModel):
    """What the task returns."""

    n: int


smithers, outputs = create_smithers({"answer": Answer}, input=None)


async def answer() -> Answer:
    """Work that costs nothing."""
    return Answer(n=1)


@smithers
def workflow(ctx: Context[dict[str, object]]) -> Workflow:
    """One task."""
    return Workflow("one-task")[Task("answer", output=outputs.answer)[answer]]
