"""`smithers` as processes: exit codes, pipes, a terminal, the background, other processes' decisions, and being killed."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path
from typing import cast

import pytest
from tests.acceptance.cli.support import DEADLINE_S, Shell, command, environment
from tests.unit.cli.support import HEAD


def test_a_command_tells_by_its_exit_code_and_streams(shell: Shell) -> None:
    good = shell("up", "one.py", "-r", "r", "--format", "json")
    assert (good.code, good.json["status"], good.err) == (0, "finished", "")
    bad = shell("up", "one.py", "-r", "r")
    assert (bad.code, bad.out) == (4, "")
    assert "RUN_ALREADY_EXISTS" in bad.err


LOUD = """
import os
import subprocess
import sys

print("imported")

def work():
    print("at work")
    os.write(1, b"past Python\\n")
    subprocess.run([sys.executable, "-c", "print('of a program')"], check=True)
    return {"n": 1}

@smithers
def loud(ctx):
    print("rendered")
    return Workflow(name="loud")[Task(id="a", output=outputs.output)[work]]
"""


def test_a_program_gets_documents_only_whatever_a_workflow_prints(shell: Shell) -> None:
    (shell.folder / "loud.py").write_text(HEAD + LOUD)

    found = shell("up", "loud.py", "-r", "r", "--format", "json")
    lines = shell("retry-task", "r", "-n", "a", "--format", "jsonl")
    travelled = shell("timetravel", "r", "-n", "a", "--format", "json")

    assert (found.code, found.json["status"]) == (0, "finished")
    assert all(json.loads(line)["type"] for line in lines.out.splitlines()[:-1])
    assert travelled.json["resetNodes"] == ["a::0"]
    assert set(found.err.splitlines()) == {"imported", "rendered", "at work", "past Python", "of a program"}
    assert "imported\n" in shell("up", "loud.py", "-r", "t").out


@pytest.mark.parametrize("format", ["text", "jsonl"])
def test_a_reader_that_goes_away_is_not_an_error(shell: Shell, format: str) -> None:
    assert shell("up", "one.py", "-r", "r").code == 0
    process = subprocess.Popen(
        command("events", "r", "--format", format),
        cwd=shell.folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(DEADLINE_S) == 141
    process.stderr.close()


def test_a_run_goes_on_when_the_reader_of_its_progress_goes_away(shell: Shell) -> None:
    process = subprocess.Popen(
        command("up", "slow.py", "-r", "r"), cwd=shell.folder, env=environment(), stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    shell.release()
    process.wait(DEADLINE_S)
    assert shell("ps", "--format", "json").out.count('"finished"') == 1


def test_on_a_terminal_progress_is_a_live_table(shell: Shell) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        command("up", "one.py", "-r", "r"),
        cwd=shell.folder,
        env=environment(),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            chunk = os.read(ours, 65_536)
        except OSError:  # how Linux says that the other side is closed
            break
        if not chunk:
            break
        shown += chunk
    os.close(ours)
    assert process.wait(DEADLINE_S) == 0
    assert b"\x1b[" in shown
    assert "✓".encode() in shown
    assert b"\x1b[32mfinished\x1b[0m" in shown


# ── interrupting ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_first_interrupt_lets_work_finish_and_parks_the_run(shell: Shell) -> None:
    process = shell.start("up", "slow.py", "-r", "r")
    process.until("slow started")
    shell.until_noted("started")
    process.send(signal.SIGINT)
    process.until("waiting for 1 task under way")
    shell.release()
    assert process.end() == 130
    assert "smithers resume r" in process.text
    assert shell("resume", "r", "--format", "json").code == 0
    assert shell.done() == ["first", "started", "finished"]


def test_the_second_interrupt_stops_at_once_and_the_run_is_resumable(shell: Shell) -> None:
    process = shell.start("up", "slow.py", "-r", "r")
    process.until("slow started")
    shell.until_noted("started")
    process.send(signal.SIGINT)
    process.until("waiting for 1 task under way")
    process.send(signal.SIGINT)
    assert process.end() == 130
    assert "smithers resume r" in process.text
    shell.release()
    assert shell("resume", "r").code == 0
    assert shell.done() == ["first", "started", "started", "finished"]


def test_sigterm_gives_the_run_up_cleanly(shell: Shell) -> None:
    process = shell.start("up", "slow.py", "-r", "r")
    process.until("slow started")
    process.send(signal.SIGTERM)
    assert process.end() == 143
    shell.release()
    assert shell("resume", "r").code == 0


def test_interrupting_a_process_that_only_waits_leaves_the_run_parked(shell: Shell) -> None:
    process = shell.start("up", "gate.py", "-r", "r", "--wait")
    process.until("this process goes on by itself")
    process.send(signal.SIGINT)
    assert process.end() == 130
    assert shell("inspect", "r", "--format", "json").out.count('"status": "waiting-approval"') == 1


# ── other processes ────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_approval_from_another_process_moves_a_waiting_one(shell: Shell) -> None:
    process = shell.start("up", "gate.py", "-r", "r", "--wait")
    process.until("this process goes on by itself")
    assert shell("approve", "r").code == 0
    assert process.end() == 0
    assert "run r finished" in process.text


def test_a_pause_from_another_process_lets_work_finish(shell: Shell) -> None:
    process = shell.start("up", "slow.py", "-r", "r")
    process.until("slow started")
    assert shell("pause", "r").code == 2
    assert shell("ps").code == 0  # by the time that this takes, the run has heard of it
    shell.release()
    assert process.end() == 3
    assert "smithers resume r" in process.text


def test_a_cancel_from_another_process_ends_a_live_run(shell: Shell) -> None:
    process = shell.start("up", "slow.py", "-r", "r")
    process.until("slow started")
    assert shell("cancel", "r").code == 2
    assert process.end() == 2


def test_logs_follow_what_another_process_does(shell: Shell) -> None:
    process = shell.start("up", "slow.py", "-r", "r")
    process.until("slow started")
    logs = shell.start("logs", "r", "--follow")
    logs.until("slow started")
    shell.release()
    assert logs.end() == 0
    assert process.end() == 0
    assert "run finished" in logs.text


def test_a_supervisor_goes_on_with_a_run_that_was_decided(shell: Shell) -> None:
    assert shell("up", "gate.py", "-r", "r").code == 3
    host = shell.start("supervise", "--all", "--interval", "200ms")
    host.until("supervising")
    assert shell("approve", "r").code == 0
    host.until("resumed r")
    logs = shell("logs", "r", "--follow")
    assert "run finished" in logs.out
    host.send(signal.SIGINT)
    assert host.end() == 130


def test_supervise_wants_to_know_which_runs(shell: Shell) -> None:
    assert shell("supervise").code == 4


# ── being killed, and the background ───────────────────────────────────────────────────────────────────────────────


def test_after_kill_9_a_resume_repeats_no_finished_task(shell: Shell) -> None:
    process = shell.start("up", "slow.py", "-r", "r")
    process.until("slow started")
    shell.until_noted("started")
    process.send(signal.SIGKILL)
    assert process.end() == -signal.SIGKILL
    shell.release()
    done = shell("up", "slow.py", "--run-id", "r", "--resume", "--format", "json")
    assert (done.code, done.json["status"]) == (0, "finished")
    assert shell.done() == ["first", "started", "started", "finished"]


def test_a_live_run_is_not_taken_over(shell: Shell) -> None:
    process = shell.start("up", "slow.py", "-r", "r")
    process.until("slow started")
    refused = shell("resume", "r")
    assert (refused.code, "RUN_OWNER_ALIVE" in refused.err) == (4, True)
    shell.release()
    assert process.end() == 0


def test_detach_returns_once_the_run_is_stored_and_leaves_it_running(shell: Shell) -> None:
    done = shell("up", "slow.py", "-r", "a/b", "-i", '{"secret": "hush"}', "--detach", "--format", "json")
    assert done.code == 0
    assert done.json["status"] == "running"
    pid = cast("int", done.json["pid"])
    try:
        assert "hush" not in " ".join(command_line(pid))
        logs = shell.start("logs", "a/b", "--follow")
        logs.until("slow started")
        shell.release()
        assert logs.end() == 0
        log = shell.folder / ".smithers" / "executions" / "a%2Fb" / "up.log"
        assert str(log) == done.json["logFile"]
        assert log.read_text().startswith("run a/b\n")
    finally:
        shell.release()


def command_line(pid: int) -> list[str]:
    """The arguments of a process, as everybody on the machine can see them."""
    return Path(f"/proc/{pid}/cmdline").read_text().split("\0")


def test_detach_tells_of_mistakes_before_it_starts_anything(shell: Shell) -> None:
    broken = shell("up", "broken.py", "--detach")
    assert broken.code == 4
    assert "broken.py:" in broken.err
    assert not (shell.folder / ".smithers").exists()


def test_detach_tells_of_a_process_that_dies_before_it_has_the_run(shell: Shell) -> None:
    (shell.folder / "dying.py").write_text(
        "import os, sys\nif '--detach' not in sys.argv: sys.exit('gone too early')\n"
        + (shell.folder / "one.py").read_text()
    )
    done = shell("up", "dying.py", "--detach")
    assert done.code == 1
    assert "gone too early" in done.err


# ── quickness ──────────────────────────────────────────────────────────────────────────────────────────────────────


NOT_FOR_UP = {
    *("cyclopts", "attrs", "attr", "rich", "jsonschema", "pydantic_ai", "httpx2", "http.client", "logging.config"),
    *("anyio", "starlette", "uvicorn", "prometheus_client", "opentelemetry", "multiprocessing", "urllib.request"),
    *("smithers.agents", "smithers.asgi", "smithers.observability", "smithers.server", "smithers.serve"),
    *("smithers.tools", "smithers.control.hosting", "smithers.control.webhooks", "smithers.store.sql.mirror"),
    *("smithers.cli.described", "smithers.cli.detaching", "smithers.cli.inspecting", "smithers.cli.listing"),
    *("smithers.cli.gatewaying", "smithers.cli.scheduling", "smithers.gateway", "smithers.client", "websockets"),
}


def test_commands_load_only_what_they_need(shell: Shell) -> None:
    assert loaded_by(shell, "up", "one.py") & NOT_FOR_UP == set()
    assert loaded_by(shell, "ps") & {"cyclopts", "rich", "smithers.cli.running", "smithers.engine.engine"} == set()
    assert loaded_by(shell, "cron", "list") & {"cyclopts", "smithers.gateway", "smithers.client", "starlette"} == set()
    assert loaded_by(shell, "--version") & {"pydantic", "apsw", "asyncio", "smithers.engine"} == set()
    assert (
        loaded_by(shell, "--help") & {"pydantic", "apsw", "asyncio", "smithers.engine", "smithers.cli.running"} == set()
    )


def loaded_by(shell: Shell, *tokens: str) -> set[str]:
    """The modules that a command has loaded at its end."""
    code = f"import sys; from smithers.cli.app import run; run({list(tokens)!r}); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=shell.folder, env=environment(), capture_output=True, text=True, check=True
    )
    return set(done.stderr.split())
