"""A workflow whose tasks take a little while each, so that its commits lie apart: for the latency of a stream."""

from __future__ import annotations

import asyncio
import random

from pydantic import BaseModel

from smithers import Context, Task, Workflow, create_smithers

PAUSE_S = (0.005, 0.030)


class Count(BaseModel):
    """The input: how many tasks."""

    n: int


class Answer(BaseModel):
    """What each task returns."""

    n: int


smithers, outputs = create_smithers({"answer": Answer}, input=Count)


async def pause() -> Answer:
    """Work that waits, for no regular time, so that it does not march in step with anything."""
    await asyncio.sleep(random.uniform(*PAUSE_S))
    return Answer(n=1)


@smithers
def workflow(ctx: Context[Count]) -> Workflow:
    """One task after another."""
    return Workflow("paced")[[Task(f"t{i}", output=outputs.answer)[pause] for i in range(ctx.input.n)]]
