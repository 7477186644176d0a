"""`up --serve` as a process: a run that is looked at and decided over HTTP, and a server that outlives it."""

from __future__ import annotations

import json
import signal
import urllib.error
import urllib.request
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
