"""Workers and gateways that start before their database, what they tell of themselves, and what they do not wait for."""

from __future__ import annotations

import re
import signal
import time

import httpx2
import pytest
from tests.acceptance.cli.support import DEADLINE_S, Process, Shell
from tests.postgres_support import Line, PostgresServer


def asked(process: Process) -> str:
    """Where a worker tells how it is."""
    found = re.search(r"http://\S+", process.until("health and metrics at"))
    assert found is not None
    return found[0]


def health(url: str, path: str = "/health") -> tuple[int, dict[str, object]]:
    answer = httpx2.get(url + path, trust_env=False)
    return answer.status_code, answer.json()


def until(url: str, **wanted: object) -> dict[str, object]:
    """Ask until a process is as wanted."""
    give_up_at = time.monotonic() + DEADLINE_S
    while True:
        _, found = health(url)
        if wanted.items() <= found.items():
            return found
        assert time.monotonic() < give_up_at, found
        time.sleep(0.05)


def test_a_worker_waits_for_its_database_and_tells_how_it_is_all_the_while(shell: Shell, postgres_line: Line) -> None:
    postgres_line.away()
    worker = shell.start("worker", "one.py", "slow.py", "--db", postgres_line.url, "--health-port", "0")
    url = asked(worker)
    worker.until("waiting for it, up to 60 s")
    code, told = health(url, "/ready")
    assert (code, told["live"], told["ready"], told["degraded"]) == (503, True, False, True)
    postgres_line.back()
    worker.until("the database is there")
    worker.until("working for")
    assert until(url, ready=True) == {
        "ok": True,
        "live": True,
        "ready": True,
        "degraded": False,
        "reason": None,
        "runs": 0,
        "draining": False,
    }
    assert shell("launch", "slow.py", "--db", postgres_line.url, "--run-id", "s").code == 0
    shell.until_noted("started")
    until(url, runs=1)
    shell.release()
    until(url, runs=0)
    assert shell("launch", "slow.py", "--db", postgres_line.url, "--run-id", "t").code == 0
    until(url, runs=0)
    metrics = httpx2.get(url + "/metrics", trust_env=False).text
    assert re.search(r"^smithers_runs_finished_total [12]\.?0?$", metrics, re.MULTILINE), metrics

    postgres_line.away()
    assert until(url, degraded=True)["reason"] == "the database cannot be reached"
    assert health(url, "/ready")[0] == 200
    assert httpx2.get(url + "/metrics", trust_env=False).status_code == 200
    postgres_line.back()
    until(url, degraded=False)
    worker.send(signal.SIGTERM)
    assert worker.end() == 0


def test_a_worker_that_drains_is_alive_and_not_ready(shell: Shell) -> None:
    worker = shell.start("worker", "slow.py", "--db", "smithers.db", "--health-port", "0")
    url = asked(worker)
    worker.until("working for")
    assert shell("launch", "slow.py", "--db", "smithers.db").code == 0
    shell.until_noted("started")
    worker.send(signal.SIGTERM)
    worker.until("stopping")
    code, told = health(url, "/ready")
    assert (code, told["live"], told["draining"], told["runs"]) == (503, True, True, 1)
    shell.release()
    assert worker.end() == 0


def test_a_gateway_waits_for_its_database(shell: Shell, postgres_line: Line) -> None:
    postgres_line.away()
    gateway = shell.start("gateway", "one.py", "--db", postgres_line.url, "--backend", "postgres", "--port", "0")
    gateway.until("waiting for it, up to 60 s")
    postgres_line.back()
    found = re.search(r"http://[^,\s]+", gateway.until("gateway of"))
    assert found is not None
    told = until(found[0], degraded=False)
    identity = told["identity"]
    assert isinstance(identity, dict)
    assert identity["backend"] == "postgres"
    postgres_line.away()
    assert until(found[0], degraded=True)["reason"] == "the database cannot be reached"
    postgres_line.back()
    until(found[0], degraded=False)
    gateway.send(signal.SIGTERM)
    assert gateway.end() == 143


@pytest.mark.parametrize("command", ["worker", "gateway"])
def test_whoever_waits_can_be_ended(shell: Shell, postgres_line: Line, command: str) -> None:
    postgres_line.away()
    waiting = shell.start(command, "one.py", "--db", postgres_line.url)
    waiting.until("waiting for it")
    waiting.send(signal.SIGTERM)
    assert waiting.end() == {"worker": 0, "gateway": 143}[command]
    postgres_line.back()


@pytest.mark.parametrize("command", ["worker", "gateway"])
def test_a_database_that_is_not_there_is_not_waited_for(
    shell: Shell, postgres_server: PostgresServer, command: str
) -> None:
    done = shell(command, "one.py", "--db", postgres_server.url("nowhere"))
    assert done.code == 1
    assert 'database "nowhere" does not exist' in done.err
    assert "waiting" not in done.err


def test_nobody_waits_who_was_told_not_to(shell: Shell, postgres_line: Line) -> None:
    postgres_line.away()
    done = shell("worker", "one.py", "--db", postgres_line.url, "--wait-for-db", "0s")
    assert (done.code, "STORAGE_ERROR" in done.err, "waiting" in done.err) == (1, True, False)
    postgres_line.back()


def test_metrics_are_not_shown_beyond_this_machine_unawares(shell: Shell) -> None:
    done = shell("worker", "one.py", "--health-port", "0", "--host", "0.0.0.0")
    assert (done.code, "SMITHERS_API_KEY" in done.err) == (4, True)
    assert shell("worker", "one.py", "--health-port", "70000").code == 4
