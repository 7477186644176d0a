"""`smithers up --hot` as a process: the workflow's file is edited while its run goes on."""

from __future__ import annotations

import os
import pty
import subprocess

from tests.acceptance.cli.support import DEADLINE_S, Shell, command, environment


def edit(shell: Shell, name: str, old: str, new: str) -> None:
    """Save a file as editors do: a new one in the old one's place."""
    file = shell.folder / name
    text = file.read_text()
    assert old in text
    saved = file.with_suffix(".new")
    saved.write_text(text.replace(old, new))
    saved.replace(file)


def test_an_edit_takes_effect_with_the_next_task_and_a_wrong_one_is_refused(shell: Shell) -> None:
    process = shell.start("up", "slow.py", "-r", "r", "--hot")
    shell.until_noted("started")
    edit(shell, "slow.py", '{"n": 2}', '{"n": 42}')
    assert "slow.py" in process.until("workflow reloaded: ")
    edit(shell, "slow.py", 'name="slow"', 'name="other"')
    assert "name changed" in process.until("workflow not reloaded: ")
    edit(shell, "slow.py", 'name="other"', 'name="slow" "')
    refusal = process.until("workflow not reloaded: ")
    assert refusal.count("SyntaxError") == refusal.count("unterminated") == 1
    shell.release()
    assert process.end() == 0
    assert '{"n": 42}' in process.text.replace("'", '"')
    assert shell.done() == ["first", "started", "finished"]
    assert "new source" in shell("timeline", "r").out


def test_a_parked_run_is_reloaded_and_others_resume_it_without_being_asked(shell: Shell) -> None:
    process = shell.start("up", "gate.py", "-r", "r", "--hot")
    process.until("waiting-approval")
    edit(shell, "gate.py", '{"n": 2}', '{"n": 43}')
    process.until("workflow reloaded: ")
    process.until("waiting-approval")
    process.stop()
    assert shell("approve", "r").code == 0
    resumed = shell("resume", "r", "--format", "json")
    assert (resumed.code, resumed.err, shell.done()) == (0, "", ["a"])
    assert {"n": 43} in [{"n": row["n"]} for row in resumed.json["output"]]  # type: ignore[attr-defined]


def test_a_terminal_shows_reloads_above_its_table(shell: Shell) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        command("up", "slow.py", "-r", "r", "--hot"),
        cwd=shell.folder,
        env=environment(),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    shell.until_noted("started")
    edit(shell, "slow.py", '{"n": 2}', '{"n": 42}')
    shown = b""
    while b"workflow reloaded: slow.py" not in shown:
        shown += os.read(ours, 4096)
    shell.release()
    try:
        while more := os.read(ours, 4096):
            shown += more
    except OSError:  # a terminal whose other side has gone
        pass
    assert process.wait(DEADLINE_S) == 0
    os.close(ours)
