"""`smithers gateway` as processes: found, used, killed, started again, stopped; one for each workspace."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import stat
import sys
import time
from pathlib import Path
from typing import cast

import pytest
from tests.acceptance.cli.support import Process, Shell
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect as dial

from smithers import GatewayError, SyncGatewayClient

TAKEN_UP_S = 20.0
"""How soon a gateway goes on with the runs of one that was killed: long before that one's lease ends, which is 30 s."""


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """State files of its own for each test."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.delenv("SMITHERS_API_KEY", raising=False)


def start(shell: Shell, *flags: str, port: int = 0) -> tuple[Process, str]:
    """Start a gateway; its process and address."""
    process = shell.start("gateway", "gate.py", "slow.py", "one.py", "--port", str(port), *flags)
    found = re.search(r"at (http://\S+),", process.until("Ctrl-C ends it"))
    assert found is not None
    return process, found[1]


def state_file(shell: Shell) -> Path:
    return next((shell.folder / "smithers-gateway").glob("*.json"))


def test_a_run_lives_through_the_death_of_its_gateway(shell: Shell) -> None:
    first, url = start(shell)
    port = int(url.rpartition(":")[2])
    with SyncGatewayClient(url) as client:
        client.launch_run("slow", run_id="r")
        client.launch_run("gate", run_id="g")
        events = client.stream_run_events("r")
        seen = [next(events)]
        while shell.done() != ["first", "a", "started"] and shell.done() != ["first", "started", "a"]:
            assert len(seen) < 1_000
            seen.append(next(events))
        for event in client.stream_run_events("g"):
            if event.event == "approval.requested":
                break

        first.send(signal.SIGKILL)
        assert first.end() == -signal.SIGKILL
        shell.release()
        second, again = start(shell, port=port)
        assert again == url
        began = time.monotonic()
        second.until("run started: slow r")
        assert time.monotonic() - began < TAKEN_UP_S
        seen += events  # goes on by itself, with what comes after what it has seen

        assert seen[-1].event == "run.completed"
        assert seen[-1].payload["status"] == "finished"
        numbers = [event.seq for event in seen]
        assert numbers == sorted(set(numbers))
        claimed = [e for e in seen if e.event == "node.started" and e.payload["nodeId"] == "slow"]
        assert len(claimed) == 2  # interrupted, and again
        client.submit_approval("g", "ship", approved=True)
        assert client.wait_for_run("g")["status"] == "finished"
        assert sorted(shell.done()) == ["a", "finished", "first", "started", "started"]
    second.send(signal.SIGTERM)
    assert second.end() == 143


def test_a_gateway_is_found_by_its_workspace_and_is_alone_there(shell: Shell) -> None:
    process, url = start(shell)
    status = shell("gateway", "status", "--format", "json")
    assert (status.code, status.json["running"], status.json["url"]) == (0, True, url)
    assert (status.json["pid"], status.json["workspaceRoot"]) == (process.pid, str(shell.folder))
    second = shell("gateway", "one.py", "--port", "0")
    assert second.code == 4
    assert "GATEWAY_ALREADY_RUNNING" in second.err
    assert url in second.err

    stopped = shell("gateway", "stop")
    assert (stopped.code, process.end()) == (0, 143)
    assert "has stopped" in stopped.out
    assert shell("gateway", "status").code == 1
    assert list((shell.folder / "smithers-gateway").glob("*.json")) == []


def test_a_state_file_of_a_dead_gateway_is_believed_by_nobody(shell: Shell) -> None:
    process, _ = start(shell)
    process.send(signal.SIGKILL)
    process.end()
    assert state_file(shell).exists()
    assert shell("gateway", "status").code == 1
    assert shell("gateway", "stop").out.startswith("no gateway runs")
    _, url = start(shell)
    # another process's number in the file, as after a restart of the machine
    found = json.loads(state_file(shell).read_text())
    state_file(shell).write_text(json.dumps(found | {"pid": os.getpid()}))
    assert shell("gateway", "stop").out.startswith("no gateway runs")
    with SyncGatewayClient(url) as client:
        assert client.health()["ok"] is True


def test_the_operators_token_is_written_nowhere_and_the_session_token_lets_in(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMITHERS_API_KEY", "operator-secret")
    process, url = start(shell, "--mint-token")
    minted = process.until("shown only now").rpartition(" ")[2].strip()
    text = state_file(shell).read_text()
    assert stat.S_IMODE(state_file(shell).stat().st_mode) == 0o600
    assert "operator-secret" not in text
    assert minted not in text
    session = cast("str", json.loads(text)["token"])
    for token in ("operator-secret", minted, session):
        with SyncGatewayClient(url, token=token) as client:
            assert client.list_runs() == []
    for wrong in (None, "guess"):
        with SyncGatewayClient(url, token=wrong) as client, pytest.raises(GatewayError) as refused:
            client.list_runs()
        assert refused.value.http_status == 401
    status = shell("gateway", "status", "--format", "json")
    assert status.json["needsToken"] is True
    assert session not in status.out
    process.send(signal.SIGINT)
    assert process.end() == 130
    assert "operator-secret" not in process.text


def test_issued_tokens_let_in_a_running_gateway_and_lose_their_sockets_when_revoked(shell: Shell) -> None:
    first = shell("token", "issue", "--reveal-token", "--format", "json").json
    process, url = start(shell)
    second = shell("token", "issue", "--reveal-token", "--scopes", "*", "--format", "json").json  # while it runs
    for token in (first["token"], second["token"]):
        with SyncGatewayClient(url, token=cast("str", token)) as client:
            assert client.list_runs() == []
    with SyncGatewayClient(url) as client, pytest.raises(GatewayError) as refused:
        client.list_runs()
    assert refused.value.http_status == 401

    with dial(url.replace("http", "ws", 1), open_timeout=60) as socket:
        connect = {"minProtocol": 1, "maxProtocol": 1, "client": {"id": "t"}, "auth": {"token": second["token"]}}
        socket.send(json.dumps({"type": "req", "id": "1", "method": "connect", "params": connect}))
        while json.loads(socket.recv(60)).get("id") != "1":
            pass
        assert shell("token", "revoke", cast("str", second["tokenId"])).code == 0
        began = time.monotonic()
        with pytest.raises(ConnectionClosed) as closed:
            list(iter(lambda: socket.recv(60), None))
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1008
        assert time.monotonic() - began < 12.0  # the next tick would take 15 s
    script = (
        "import os, smithers\n"
        "with smithers.SyncGatewayClient(os.environ['SMITHERS_GATEWAY_URL'], token=os.environ['SMITHERS_API_KEY']) as c:"
        " print(len(c.list_runs()))"
    )
    found = shell("token", "exec", "--", sys.executable, "-P", "-c", script)
    assert (found.code, found.out) == (0, "0\n")
    process.send(signal.SIGTERM)
    assert process.end() == 143


def test_a_port_that_is_taken_is_replaced_by_a_free_one(shell: Shell) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        process, url = start(shell, port=taken)
    assert f"port {taken} is taken" in process.text
    assert str(taken) not in url


def test_the_first_signal_parks_runs_and_the_second_ends_at_once(shell: Shell) -> None:
    process, url = start(shell)
    with SyncGatewayClient(url) as client:
        client.launch_run("slow", run_id="r")
        process.until("run started: slow r")
        process.send(signal.SIGINT)
        process.until("closing")
        process.send(signal.SIGINT)
        assert process.end() == 130
    shell.release()
    second, url = start(shell)
    with SyncGatewayClient(url) as client:
        assert client.wait_for_run("r")["status"] == "finished"
    second.until("run finished: slow r")


def test_an_edited_file_counts_for_the_next_run_and_not_for_one_that_waits(shell: Shell) -> None:
    process, url = start(shell)
    with SyncGatewayClient(url) as client:
        client.launch_run("gate", run_id="old")
        for event in client.stream_run_events("old"):
            if event.event == "approval.requested":
                break
        file = shell.folder / "gate.py"
        file.write_text(file.read_text().replace('id="z"', 'id="y"'))
        for run_id, last in (("new", "y"), ("old", "z")):
            if run_id == "new":
                client.launch_run("gate", run_id=run_id)
            finished: list[object] = []
            for event in client.stream_run_events(run_id):
                if event.event == "approval.requested":
                    client.submit_approval(run_id, "ship", approved=True)
                if event.event == "node.finished":
                    finished.append(event.payload["nodeId"])
            assert finished[-1] == last
            assert client.get_run(run_id)["status"] == "finished"
    process.until("gate has changed")


def test_a_gateway_without_anything_to_do_ends_by_itself(shell: Shell) -> None:
    process, _ = start(shell, "--idle-timeout", "200ms")
    assert process.end() == 0
    assert "nothing to do" in process.text
    assert shell("gateway", "status").code == 1


def test_a_schedule_is_run_by_hand_through_the_gateway(shell: Shell) -> None:
    _, url = start(shell)
    assert shell("cron", "add", "one", "0 0 1 1 *", "--id", "yearly").code == 0
    ran = shell("cron", "run", "yearly", "--format", "json")
    assert ran.code == 0
    with SyncGatewayClient(url) as client:
        assert client.wait_for_run(str(ran.json["runId"]))["status"] == "finished"
    history = shell("cron", "history", "yearly", "--format", "json")
    assert [fire["runId"] for fire in cast("list[dict[str, object]]", history.json["fires"])] == [ran.json["runId"]]
