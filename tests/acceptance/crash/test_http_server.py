"""A server that is killed with many runs on its hands: the next one goes on with each of them, and has lost nothing that was
answered."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.conformance.http.support import TOKEN, Client, Folder, client_of, events_of

from smithers import Settings, start_server

WORKFLOW = """
import asyncio
from pathlib import Path
from pydantic import BaseModel
from smithers import Approval, Task, WaitForEvent, Workflow, create_smithers

VERSION = {version!r}
LOG = Path({log!r})
GATE = LOG.with_name("gate")

class Row(BaseModel):
    text: str = ""

class Verdict(BaseModel):
    approved: bool

class Ping(BaseModel):
    n: int = 0

smithers, outputs = create_smithers({{"row": Row, "verdict": Verdict, "ping": Ping}}, db={db!r})

def note(name):
    async def work():
        with LOG.open("a") as log:
            log.write(name + "\\n")
        return {{"text": name}}
    return work

def gated(name):
    async def work():
        with LOG.open("a") as log:
            log.write("begun:" + name + "\\n")
        while not GATE.exists():
            await asyncio.sleep(0.1)
        with LOG.open("a") as log:
            log.write("through:" + name + "\\n")
        return {{"text": name}}
    return work

@smithers
def flow(ctx):
    kind, run_id = ctx.input["kind"], ctx.run_id
    return Workflow("flow")[
        Task("first", output=outputs.row)[note("first:" + run_id)],
        kind == "busy" and Task("gated", output=outputs.row)[gated(run_id)],
        kind == "asks" and Approval("ship", output=outputs.verdict, request={{"title": "Ship it?"}}),
        kind == "waits" and WaitForEvent(id="ping", event="ping", output=outputs.ping),
        Task("last", output=outputs.row)[note("last:" + run_id)],
    ]
"""

CHILD = """
import sys
from smithers import Settings, start_server
server = start_server(port=0, db=sys.argv[1], auth_token="t0ken", settings=Settings(heartbeat_ms=200))
print(server.url, flush=True)
server.wait()
"""


@contextmanager
def killed_in_the_end(db: Path) -> Generator[tuple[str, subprocess.Popen[str]]]:
    """A server in a process of its own, and its address."""
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(db)], stdout=subprocess.PIPE, text=True)
    with child:
        try:
            assert child.stdout is not None
            yield child.stdout.readline().strip(), child
        finally:
            child.kill()


def await_work(folder: Folder, count: int) -> None:
    """Wait until so many tasks are at the gate; that they have started is durable a moment before they do."""
    deadline = time.monotonic() + 60
    while sum(line.startswith("begun:") for line in folder.done()) < count:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def start_all(client: Client, counts: dict[str, int]) -> dict[str, list[str]]:
    """Start so many runs of each kind, and wait until all are where they are to be killed."""
    found = {kind: [client.start(kind=kind) for _ in range(count)] for kind, count in counts.items()}
    for kind, status in (("asks", "waiting-approval"), ("waits", "waiting-event")):
        for run_id in found[kind]:
            client.until(run_id, status)
    for run_id in found["busy"]:
        await_gate(client, run_id)
    return found


def await_gate(client: Client, run_id: str) -> None:
    """Follow a run until its gated task has started."""
    with client.http.stream("GET", f"/v1/runs/{run_id}/events") as answer:
        for event in events_of(answer.iter_lines()):
            if event["type"] == "NodeStarted" and event["nodeId"] == "gated":
                return
    raise AssertionError(f"{run_id} has ended")


@pytest.mark.parametrize("other_db", [False, True], ids=["one-database", "mirrored"])
def test_a_killed_server_repeats_no_finished_task_and_loses_no_answered_decision(
    tmp_path: Path, *, other_db: bool
) -> None:
    counts = {"busy": 20, "asks": 5, "waits": 5} if other_db else {"busy": 200, "asks": 25, "waits": 25}
    folder = Folder(tmp_path / "flows", WORKFLOW)
    db = tmp_path / "server.db" if other_db else folder.db
    with killed_in_the_end(db) as (url, child), client_of(url, folder) as client:
        runs = start_all(client, counts)
        for run_id in runs["asks"]:
            answer = client.http.post(f"/v1/runs/{run_id}/nodes/ship/approve", json={"decidedBy": "ann"})
            assert answer.status_code == 200
        for run_id in runs["waits"]:
            assert client.http.post(f"/v1/runs/{run_id}/signals/ping", json={"data": {"n": 7}}).status_code == 200
        await_work(folder, counts["busy"])
        os.kill(child.pid, signal.SIGKILL)

    folder.path.joinpath("gate").touch()
    settings = Settings(durability="normal", heartbeat_ms=200)
    with (
        start_server(port=0, db=db, auth_token=TOKEN, settings=settings) as server,
        client_of(server.url, folder) as client,
    ):
        everything = [run_id for ids in runs.values() for run_id in ids]
        for run_id in everything:
            client.until(run_id, "finished")
        logs = {run_id: client.events(run_id) for run_id in everything}
        rows = client.http.get("/v1/runs", params={"limit": 1_000}).json()
    assert {row["runId"] for row in rows} == set(everything)

    done = Counter(folder.done())
    for run_id, log in logs.items():
        assert [event["id"] for event in log] == list(range(len(log)))
        finished = Counter(event["nodeId"] for event in log if event["type"] == "NodeFinished")
        assert set(finished.values()) == {1}
        assert done[f"first:{run_id}"] == 1
        # killed between the work and its commit, it is done again
        assert done[f"last:{run_id}"] == 1 if run_id in runs["busy"] else done[f"last:{run_id}"] in (1, 2)
    for run_id in runs["busy"]:
        assert (done[f"begun:{run_id}"], done[f"through:{run_id}"]) == (2, 1)
    for run_id in runs["asks"]:
        assert [event["type"] for event in logs[run_id]].count("ApprovalGranted") == 1
    for run_id in runs["waits"]:
        assert [event["type"] for event in logs[run_id]].count("SignalReceived") == 1
