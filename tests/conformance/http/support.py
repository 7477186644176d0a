"""What the HTTP tests share: a workflow file, a client, and ways to wait for what a run becomes."""

from __future__ import annotations

import json
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import httpx2

TOKEN = "t0ken"
HEADERS = {"authorization": f"Bearer {TOKEN}"}

WORKFLOW = """
import asyncio
from pathlib import Path
from pydantic import BaseModel
from smithers import Approval, HumanTask, Loop, Parallel, Sequence, Task, Timer, WaitForEvent, Workflow, create_smithers

class Row(BaseModel):
    text: str = ""

class Verdict(BaseModel):
    approved: bool
    note: str | None = None

class Ping(BaseModel):
    n: int = 0

class Choice(BaseModel):
    selected: str = ""
    notes: str | None = None

smithers, outputs = create_smithers({{"row": Row, "verdict": Verdict, "ping": Ping, "choice": Choice}}, db={db!r})
VERSION = {version!r}

def note(name):
    async def work():
        with Path({log!r}).open("a") as log:
            log.write(name + "\\n")
        return {{"text": VERSION}}
    return work

async def forever():
    await asyncio.sleep(3600)
    return {{"text": "never"}}

def broken():
    raise ValueError("broken on purpose")

@smithers
def flow(ctx):
    wants = ctx.input.get
    return Workflow(name="flow")[
        Task(id="first", output=outputs.row)[note("first:" + ctx.run_id)],
        wants("fail") and Task(id="bad", output=outputs.row)[broken],
        wants("slow") and Task(id="slow", output=outputs.row)[forever],
        wants("ask") and Approval(id="ship/it", output=outputs.verdict, request={{"title": "Ship it?"}}),
        wants("choose") and Approval(id="pick", output=outputs.choice, mode="select", request={{"title": "Which?"}},
                                     options=[{{"key": "a", "label": "A"}}, {{"key": "b", "label": "B"}}]),
        wants("question") and HumanTask(id="how-many", output=outputs.ping)["How many?"],
        wants("wait") and WaitForEvent(id="ping", event="ping", correlation_id=wants("key"), output=outputs.ping),
        wants("timer") and Timer(id="later", duration=wants("timer")),
        wants("many") and [Task(id=f"t{{i}}", output=outputs.row)[note("many")] for i in range(wants("many"))],
        Task(id="last", output=outputs.row)[note("last:" + ctx.run_id)],
    ]
"""


class Folder:
    """A folder with a workflow file, its database and a log of what its tasks did."""

    def __init__(self, path: Path, text: str = WORKFLOW) -> None:
        self.path = path
        self.text = text
        self.workflow = path / "flow.py"
        self.db = path / "flow.db"
        self.log = path / "log.txt"
        path.mkdir(parents=True, exist_ok=True)
        self.write("one")

    def write(self, version: str) -> None:
        """Write the workflow file; tasks return its version."""
        self.workflow.write_text(self.text.format(db=str(self.db), log=str(self.log), version=version))

    def done(self) -> list[str]:
        """What tasks did, in order."""
        return self.log.read_text().splitlines() if self.log.exists() else []


class Client:
    """A client of one server."""

    def __init__(self, url: str, folder: Folder, headers: dict[str, str] | None = None) -> None:
        self.url = url
        self.folder = folder
        self.http = httpx2.Client(base_url=url, headers=HEADERS if headers is None else headers, timeout=60)

    def start(self, run_id: str | None = None, input: dict[str, object] | None = None, **more: object) -> str:
        """Start a run and give its id."""
        body: dict[str, object] = {"workflowPath": str(self.folder.workflow), "input": {**(input or {}), **more}}
        if run_id is not None:
            body["runId"] = run_id
        answer = self.http.post("/v1/runs", json=body)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["runId"])

    def status(self, run_id: str) -> str:
        """A run's status."""
        return str(self.http.get(f"/v1/runs/{run_id}").json()["status"])

    def until(self, run_id: str, *statuses: str) -> str:
        """Wait until a run has one of these statuses."""
        deadline = time.monotonic() + 60
        while (found := self.status(run_id)) not in statuses:
            assert time.monotonic() < deadline, f"{run_id} is {found}, not {statuses}"
            time.sleep(0.01)
        return found

    def until_listed(self, run_id: str, status: str) -> None:
        """Wait until the list of runs has a run with this status: those of other databases are copied in the background."""
        deadline = time.monotonic() + 60
        while (run_id, status) not in [(row["runId"], row["status"]) for row in self.http.get("/v1/runs").json()]:
            assert time.monotonic() < deadline, f"{run_id} is not listed as {status}"
            time.sleep(0.01)

    def events(self, run_id: str, query: str = "", **headers: str) -> list[dict[str, object]]:
        """All events of a run, until its stream ends; each with its number as `id`."""
        with self.http.stream("GET", f"/v1/runs/{run_id}/events{query}", headers=headers) as answer:
            assert answer.status_code == 200
            return list(events_of(answer.iter_lines()))


def events_of(lines: Iterator[str]) -> Iterator[dict[str, object]]:
    """The events of a stream of lines."""
    event: dict[str, object] = {}
    for line in lines:
        if line.startswith("data: "):
            event |= cast("dict[str, object]", json.loads(line[6:]))
        elif line.startswith("id: "):
            event["id"] = int(line[4:])
        elif line.startswith("event: "):
            event["event"] = line[7:]
        elif not line and event:
            yield event
            event = {}


def code(answer: httpx2.Response) -> tuple[int, str]:
    """The status and error code of an answer, which must be in the envelope."""
    error = answer.json()["error"]
    assert isinstance(error["message"], str)
    assert set(error) <= {"code", "message", "details"}
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-content-type-options"] == "nosniff"
    return answer.status_code, error["code"]


@contextmanager
def client_of(url: str, folder: Folder, headers: dict[str, str] | None = None) -> Generator[Client]:
    """A client that is closed at the end."""
    client = Client(url, folder, headers)
    with client.http:
        yield client
