"""Reviews the health of a Python source tree and writes a ranked report.

    smithers up examples/code_health.py --input '{"path": "src"}'

One task lists the files, one task a file measures it, one ranks them all. A person may be asked before the report is
written (`"ask": true`). Where `SMITHERS_MODEL` and `OPENAI_API_KEY` are set, that model is given the measurements, but no
code, and adds a summary and suggestions; without it, or if it fails, the report is complete but for that section.

The measuring itself is in `health_metrics.py`, the Markdown in `health_report.py`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from hashlib import sha256

from health_metrics import FileHealth, measure
from health_report import Advice, Ranking, advice_prompt, rank, render_report
from pydantic import BaseModel, Field

from smithers import Approval, Context, Parallel, Task, Workflow, create_smithers, openai_compatible, task_runtime


class Request(BaseModel):
    """What to review."""

    path: str = Field("src", description="folder or file, below the run's root folder or absolute")
    limit: int = Field(2_000, ge=1, description="at most so many files, in order of their paths")
    top: int = Field(15, ge=1, description="rows in each table of the report")
    report: str = Field(".smithers/code-health.md", description="where the report goes, relative to the root folder")
    max_lines: int = Field(60, ge=1, description="longer functions are reported")
    ask: bool = Field(False, description="ask a person before the report is written")


class Listing(BaseModel):
    """The files that there are, and whether a model can be asked about them. Durable, so a resumed run agrees."""

    files: list[str]
    has_model: bool


class Decision(BaseModel):
    """What the person said."""

    approved: bool
    note: str | None = None


class Written(BaseModel):
    """The report that was written."""

    report: str
    files: int
    findings: int
    worst: str | None


smithers, outputs = create_smithers(
    {
        "listing": Listing,
        "health": FileHealth,
        "ranking": Ranking,
        "advice": Advice,
        "decision": Decision,
        "output": Written,
    },
    input=Request,
)
adviser = openai_compatible(
    instructions="You review Python code bases. You are given measurements, not code. Be specific and brief."
)


def list_files(request: Request) -> Listing:
    """All Python files below the path, without hidden folders and caches."""
    root = task_runtime().root_dir
    base = root / request.path
    if not base.exists():
        raise FileNotFoundError(f"there is nothing at {request.path}")
    found = [base] if base.is_file() else sorted(base.rglob("*.py"))
    visible = [f for f in found if not any(part.startswith((".", "__pycache__")) for part in f.relative_to(base).parts)]
    names = [str(f.relative_to(root) if f.is_relative_to(root) else f) for f in visible]
    has_model = bool(os.environ.get("SMITHERS_MODEL"))  # noqa: TID251 - a row, so that a resumed run takes the same path
    return Listing(files=names[: request.limit], has_model=has_model)


def scan_id(path: str) -> str:
    """The node id of a file's task; a path that cannot be an id is replaced by its digest."""
    fits = len(path) < 200 and path.isprintable() and "::" not in path and "@@" not in path
    return "scan:" + (path if fits else sha256(path.encode(errors="surrogateescape")).hexdigest()[:16])


def scan(path: str, max_lines: int) -> FileHealth:
    """Measure one file; a file that cannot be read or parsed is a finding, not a failure."""
    return measure(task_runtime().root_dir / path, path, max_lines)


def rank_all(rows: Mapping[str, object]) -> Ranking:
    """The ranking of all measured files."""
    return rank([row for row in rows.values() if isinstance(row, FileHealth)])


def write_report(request: Request, rows: Mapping[str, object]) -> Written:
    """Write the report, in one piece: a reader finds the old one or the new one, never half of it."""
    ranking = rows["ranking"]
    assert isinstance(ranking, Ranking)
    advice = rows.get("advice")
    target = task_runtime().root_dir / request.report
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f".{target.name}.{task_runtime().run_id}")
    text = render_report(request.path, ranking, advice if isinstance(advice, Advice) else None, request.top)
    draft.write_text(text, encoding="utf-8")
    draft.replace(target)
    worst = ranking.files[0].path if ranking.files else None
    return Written(report=request.report, files=len(ranking.files), findings=ranking.findings, worst=worst)


@smithers
def code_health(ctx: Context[Request]) -> Workflow:
    """List, measure each file, rank, ask, write."""
    request = ctx.input
    listing = ctx.output_maybe(Listing, "list")
    files = listing.files if listing else []
    has_model = listing is not None and listing.has_model
    ids = [scan_id(path) for path in files]
    return Workflow("code-health")[
        Task("list", output=outputs.listing)[partial(list_files, request)],
        listing
        and [
            Parallel("scans", max_concurrency=8)[
                [
                    Task(id, output=outputs.health)[partial(scan, path, request.max_lines)]
                    for id, path in zip(ids, files, strict=True)
                ],
            ],
            Task("ranking", output=outputs.ranking, needs={id: id for id in ids})[rank_all],
            has_model
            and Task(
                "advice",
                output=outputs.advice,
                agent=adviser,
                retries=1,
                timeout_ms=120_000,
                continue_on_fail=True,
                deps={"ranking": Ranking},
            )[advice_prompt],
            Approval(
                "publish",
                output=outputs.decision,
                request={"title": f"Write the report on {len(files)} files to {request.report}?"},
                auto_approve=not request.ask,
                on_deny="skip",
            )[
                Task(
                    "report",
                    output=outputs.output,
                    needs={"ranking": "ranking"} | ({"advice": "advice"} if has_model else {}),
                )[partial(write_report, request)],
            ],
        ],
    ]
