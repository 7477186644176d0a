"""What the tests of the examples share: where they are, and running one in a process that is killed at a named event."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from pydantic_core import from_json

from smithers import run_workflow
from smithers.components.workflow import SmithersWorkflow
from smithers.engine.result import RunResult
from smithers.engine.run import close_engines, shared_engine
from smithers.store.interface import AttemptRow
from smithers.store.sql import reads

ROOT = Path(__file__).parents[3]
EXAMPLES = ROOT / "examples"

_KILLED = """\
import json, os, signal, sys
from smithers import load_workflow, run_workflow_sync

path, db, run_id, text, type, prefix, count = sys.argv[1:]
seen = 0

def watch(event):
    global seen
    seen += event["type"] == type and event.get("nodeId", "").startswith(prefix)
    if seen == int(count):
        os.kill(os.getpid(), signal.SIGKILL)

run_workflow_sync(load_workflow(path), input=json.loads(text), db=db, run_id=run_id, on_progress=watch)
"""


def run_and_kill(
    example: Path, db: Path, run_id: str, input: Mapping[str, object], *, at: str, node: str, count: int = 1
) -> None:
    """Run a workflow in a process of its own that kills itself at the `count`th event of type `at` of a node whose id
    begins with `node`."""
    arguments = [str(example), str(db), run_id, json.dumps(input), at, node, str(count)]
    done = subprocess.run([sys.executable, "-c", _KILLED, *arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr


def smithers(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in a folder, without the variables that change what it does but for those given."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("SMITHERS_", "OPENAI_"))}
    return subprocess.run(
        [sys.executable, "-m", "smithers.cli.app", *arguments],
        cwd=folder,
        env=inherited | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def run(
    workflow: SmithersWorkflow, db: Path, input: Mapping[str, object] | None = None, **options: object
) -> tuple[RunResult, list[Mapping[str, object]]]:
    """Run or resume a workflow here; the result, and the events that were told meanwhile."""
    events: list[Mapping[str, object]] = []

    async def main() -> RunResult:
        try:
            return await run_workflow(workflow, input=input, db=db, on_progress=events.append, **options)  # type: ignore[arg-type]
        finally:
            await close_engines()

    return asyncio.run(main()), events


def attempts(db: Path, run_id: str) -> dict[str, list[AttemptRow]]:
    """All attempts of a run by node, and `/iteration` where that is not 0."""

    async def main() -> list[AttemptRow]:
        try:
            return await shared_engine(str(db)).store.aread(lambda c: reads.attempts(c, run_id))
        finally:
            await close_engines()

    found: dict[str, list[AttemptRow]] = {}
    for row in asyncio.run(main()):
        found.setdefault(f"{row.node_id}/{row.iteration}" if row.iteration else row.node_id, []).append(row)
    return found


def finished(events: list[Mapping[str, object]]) -> list[object]:
    """Ids of the nodes that finished, in order."""
    return [event["nodeId"] for event in events if event["type"] == "NodeFinished"]


def as_json(row: object) -> dict[str, object]:
    """An output row as plain JSON."""
    found: dict[str, object] = from_json(row.model_dump_json())  # type: ignore[attr-defined]
    return found
