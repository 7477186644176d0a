"""`up --serve` as a process: a run that is looked at and decided over HTTP, and a server that outlives it."""

from __future__ import annotations

import json
import os
import signal
import socket
import urllib.error
import urllib.request
from pathlib import Path
from typing import cast

import pytest
from tests.acceptance.cli.support import DEADLINE_S, Process, Shell

_open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open


def _url(process: Process) -> str:
    return process.until("HTTP server listening on").split()[-1]


def _ask(url: str, body: dict[str, object] | None = None, token: str = "") -> dict[str, object]:
    """The answer to a GET, or to a POST where there is a body."""
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
    data = None if body is None else json.dumps(body).encode()
    with _open(urllib.request.Request(url, data, headers), timeout=DEADLINE_S) as answer:
        return cast("dict[str, object]", json.load(answer))


def test_a_served_run_is_approved_over_http_and_can_be_looked_at_after_its_end(shell: Shell) -> None:
    process = shell.start("up", "gate.py", "-r", "r", "--serve", "--port", "0")
    url = _url(process)
    process.until("this process goes on by itself")
    assert _ask(url)["status"] == "waiting-approval"
    assert _ask(f"{url}/approve/ship", {"decidedBy": "ann"}) == {"runId": "r"}
    process.until("run r finished")
    process.until("the run is served at")
    found = _ask(url)
    assert (found["runId"], found["status"]) == ("r", "finished")
    process.send(signal.SIGINT)
    assert process.end() == 0


def test_a_run_that_is_cancelled_over_http_ends_and_stays_served(shell: Shell) -> None:
    process = shell.start("up", "slow.py", "-r", "r", "--serve", "--port", "0")
    url = _url(process)
    process.until("slow started")
    assert _ask(f"{url}/cancel", {})["won"] is True
    process.until("the run is served at")
    assert _ask(url)["status"] == "cancelled"
    process.send(signal.SIGTERM)
    assert process.end() == 2


def test_a_token_is_asked_for_and_an_interrupt_leaves_a_parked_run_parked(shell: Shell) -> None:
    process = shell.start("up", "gate.py", "-r", "r", "--serve", "--port", "0", "--auth-token", "secret")
    url = _url(process)
    process.until("this process goes on by itself")
    with pytest.raises(urllib.error.HTTPError, match="401") as refused:
        _ask(url)
    refused.value.close()
    assert _ask(url, token="secret")["status"] == "waiting-approval"
    process.send(signal.SIGINT)
    assert process.end() == 130
    assert shell("inspect", "r", "--format", "json").out.count('"status": "waiting-approval"') == 1


PAGES = """
from pydantic import BaseModel
from smithers import Approval, ContinueAsNew, Workflow, create_smithers

class Verdict(BaseModel):
    approved: bool

smithers, outputs = create_smithers({"verdict": Verdict})

@smithers
def workflow(ctx):
    page = 0 if ctx.continuation is None else ctx.continuation["page"]
    return Workflow("pages")[
        Approval(f"page{page}", output=outputs.verdict, request={"title": "On?"}),
        ContinueAsNew({"page": page + 1}, when=page < 1),
    ]
"""


def test_the_server_follows_a_run_that_is_continued_as_another(shell: Shell) -> None:
    (shell.folder / "pages.py").write_text(PAGES)
    process = shell.start("up", "pages.py", "-r", "r", "--serve", "--port", "0")
    url = _url(process)
    process.until("this process goes on by itself")
    with _open(f"{url}/events", timeout=DEADLINE_S) as events:
        _ask(f"{url}/approve/page0", {})
        text = events.read().decode()
    assert "RunContinuedAsNew" in text
    assert text.endswith("\n\nid\n\n")  # so that whoever comes back begins at the next run's first event
    process.until("this process goes on by itself")
    found = _ask(url)
    assert (found["runId"] != "r", found["status"]) == (True, "waiting-approval")
    assert _ask(f"{url}/approve/page1", {}) == {"runId": found["runId"]}
    process.until("the run is served at")
    assert _ask(url)["status"] == "finished"
    process.send(signal.SIGINT)
    assert process.end() == 0


def test_a_supervisor_beside_a_served_run_goes_on_with_runs_that_were_left_behind(shell: Shell) -> None:
    left = shell.start("up", "slow.py", "-r", "left")
    left.until("slow started")
    left.send(signal.SIGKILL)
    left.end()
    process = shell.start("up", "gate.py", "-r", "r", "--serve", "--port", "0", "--no-metrics", "--supervise")
    url = _url(process)
    process.until("supervisor enabled (interval=10000ms, staleThreshold=30000ms, maxConcurrent=3, dryRun=false)")
    process.until("supervisor: resumed left")
    shell.release()
    logs = shell.start("logs", "left", "--follow")
    assert logs.end() == 0
    assert '"status": "finished"' in shell("inspect", "left", "--format", "json").out
    with pytest.raises(urllib.error.HTTPError, match="404") as refused:
        _ask(f"{url}/metrics")
    refused.value.close()
    process.send(signal.SIGINT)
    assert process.end() == 130


def test_a_supervisor_on_a_dry_run_only_tells(shell: Shell) -> None:
    left = shell.start("up", "slow.py", "-r", "left")
    left.until("slow started")
    left.send(signal.SIGKILL)
    left.end()
    process = shell.start("supervise", "--all", "--dry-run")
    process.until("skipped left: dry run")
    process.send(signal.SIGINT)
    process.end()
    assert '"status": "running"' in shell("inspect", "left", "--format", "json").out


def test_a_run_in_the_background_is_served_and_its_token_is_no_argument(shell: Shell) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    flags = ("--serve", "--port", str(port), "--auth-token", "hush")
    done = shell("up", "gate.py", "-r", "r", "--detach", *flags, "--format", "json")
    assert done.code == 0
    pid = cast("int", done.json["pid"])
    try:
        assert "hush" not in Path(f"/proc/{pid}/cmdline").read_text()
        logs = shell.start("logs", "r", "--follow")
        logs.until("waiting")
        assert _ask(f"http://127.0.0.1:{port}/approve/ship", {}, token="hush") == {"runId": "r"}
        assert logs.end() == 0
    finally:
        os.kill(pid, signal.SIGTERM)
