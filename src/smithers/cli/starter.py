"""Counts the words of some files, waits for a go-ahead, and stores a report. Runs offline; change it into your own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pydantic import BaseModel

from smithers import Approval, Context, Parallel, Task, Workflow, create_smithers


class Request(BaseModel):
    files: list[str] = ["README.md", "workflow.py"]


class FileCount(BaseModel):
    file: str
    words: int


class Decision(BaseModel):
    approved: bool
    note: str | None = None


class Report(BaseModel):
    files: int
    words: int


smithers, outputs = create_smithers({"count": FileCount, "decision": Decision, "output": Report}, input=Request)


def count(file: str) -> Callable[[], FileCount]:
    """The work of one task. Once its result is stored, it is never done again, whatever happens to the process."""

    def work() -> FileCount:
        return FileCount(file=file, words=len(Path(file).read_text(encoding="utf-8").split()))

    return work


@smithers
def workflow(ctx: Context[Request]) -> Workflow:
    """From what is stored so far to the tree of what is to be done. Called again as results come; must be pure."""
    counts = ctx.outputs(FileCount)
    return Workflow(name="word-count")[
        Parallel(max_concurrency=4)[
            [Task(id=f"count:{file}", output=outputs.count)[count(file)] for file in ctx.input.files],
        ],
        Approval(id="go", output=outputs.decision, request={"title": f"Report on {len(counts)} files?"}),
        Task(id="report", output=outputs.output)[
            lambda: Report(files=len(counts), words=sum(found.words for found in counts))
        ],
    ]
