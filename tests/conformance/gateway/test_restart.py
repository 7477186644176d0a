"""What a launch promises outlives the process that promised it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
from tests.conformance.gateway import program
from tests.conformance.gateway.support import eventually

ROOT = Path(__file__).parents[3]
PICKS_UP_WITHIN_S = 20.0
"""Long before the dead gateway's lease ends, which is 30 s."""


class Running:
    """A gateway in a process of its own."""

    def __init__(self, process: subprocess.Popen[str], url: str) -> None:
        self.process = process
        self.http = httpx2.Client(base_url=url, timeout=60)

    def call(self, method: str, **params: object) -> Any:
        found = self.http.post(f"/v1/rpc/{method}", json=params).json()
        assert found["ok"], found
        return found["payload"]

    def kill(self) -> None:
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()


@contextmanager
def running(db: Path) -> Generator[Running]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "SMITHERS_LEASE_MS": "30000"}
    command = [sys.executable, str(program.__file__), str(db)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, cwd=db.parent) as process:
        try:
            assert process.stdout is not None
            with (found := Running(process, process.stdout.readline().strip())).http:
                yield found
        finally:
            process.kill()


def test_killed_right_after_the_answer_a_gateway_goes_on_with_its_runs_when_it_is_back(tmp_path: Path) -> None:
    go, db = tmp_path / "go.txt", tmp_path / "gateway.db"
    with running(db) as first:
        launched = first.call("launchRun", workflow="patient", input={"file": str(go)}, options={"idempotencyKey": "k"})
        first.kill()
    with running(db) as second:
        began = time.monotonic()
        run_id = launched["runId"]
        assert second.call("getRun", runId=run_id)["runId"] == run_id
        go.write_text("gone")
        eventually(
            lambda: second.call("getRun", runId=run_id)["status"] == "finished" or None,
            "the run goes on",
            PICKS_UP_WITHIN_S,
        )
        assert time.monotonic() - began < PICKS_UP_WITHIN_S
        assert second.call("getNodeOutput", runId=run_id, nodeId="look")["row"]["text"] == "gone"
        again = second.call("launchRun", workflow="patient", input={"file": str(go)}, options={"idempotencyKey": "k"})
        assert again == launched
        assert second.call("getRun", runId=run_id)["workflowKey"] == "patient"
