"""External programs as agents. Real processes, short ones."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path

import pytest
from pydantic import BaseModel
from tests.unit.agents.support import Recorder, Verdict, make_call, run

from smithers.agents import CommandAgent, Usage, run_agent
from smithers.errors import (
    AgentConfigInvalid,
    AgentError,
    AgentQuotaExceeded,
    ProcessIdleTimeout,
    ProcessSpawnFailed,
    ProcessTimeout,
)


def python(source: str) -> list[str]:
    return [sys.executable, "-S", "-c", source]


def test_the_prompt_comes_by_standard_input_or_as_argument(tmp_path: Path) -> None:
    echo = "import sys, json; print(json.dumps({'ok': 'Judge it.' in %s}))"
    for via, where in (("stdin", "sys.stdin.read()"), ("arg", "sys.argv[-1]")):
        agent = CommandAgent(python(echo % where), prompt_via="stdin" if via == "stdin" else "arg")
        assert run(agent, make_call(tmp_path)).output == Verdict(ok=True)


def test_folder_and_environment_are_those_of_the_task(tmp_path: Path) -> None:
    class Seen(BaseModel):
        cwd: str
        env: list[str]

    names = ["SMITHERS_RUN_ID", "SMITHERS_NODE_ID", "SMITHERS_ITERATION", "SMITHERS_ATTEMPT", "EXTRA"]
    source = f"import os, json; print(json.dumps({{'cwd': os.getcwd(), 'env': [os.environ[n] for n in {names}]}}))"
    result = run(CommandAgent(python(source), env={"EXTRA": "e"}), make_call(tmp_path, output_type=Seen))
    assert result.output == Seen(cwd=str(tmp_path.resolve()), env=["run-1", "judge", "2", "3", "e"])


def test_events_of_a_stream_give_answer_usage_and_progress(tmp_path: Path) -> None:
    lines: list[object] = [
        {"type": "started", "engine": "x", "title": "t"},
        {"type": "message", "message": {"content": [{"type": "text", "text": "thinking"}]}},
        {"type": "result", "result": '{"ok": true}', "usage": {"input_tokens": 5, "output_tokens": 6}, "model": "m-1"},
    ]
    text = "not json\n" + "\n".join(json.dumps(line) for line in lines)
    heard = Recorder()
    agent = CommandAgent(python(f"print({text!r}, end='')"), parser="jsonl")
    result = run(agent, make_call(tmp_path, recorder=heard), recorder=heard)
    assert result.output == Verdict(ok=True)
    assert (result.usage, result.model) == (Usage(5, 6), "m-1")
    assert len(heard.events) == 5  # the three of the program between started and completed
    assert "".join(piece for piece, _ in heard.texts) == text


@pytest.mark.parametrize(
    "document", [{"ok": True}, {"result": '{"ok": true}'}, {"message": {"content": [{"text": 'so {"ok": true}'}]}}]
)
def test_a_document_is_the_answer_or_wraps_it(tmp_path: Path, document: object) -> None:
    agent = CommandAgent(python(f"print({json.dumps(document)!r})"), parser="json")
    assert run(agent, make_call(tmp_path)).output == Verdict(ok=True)


def test_a_failing_program_is_an_error_with_the_end_of_stderr(tmp_path: Path) -> None:
    source = "import sys; sys.stderr.write('x' * 100_000 + ' disk on fire hunter2secret'); sys.exit(3)"
    agent = CommandAgent(python(source), env={"MY_API_KEY": "hunter2secret"})
    with pytest.raises(AgentError, match="disk on fire") as caught:
        run(agent, make_call(tmp_path))
    assert caught.value.details["exitCode"] == 3
    assert len(str(caught.value.details["stderrTail"])) <= 2_000
    assert "hunter2" not in f"{caught.value} {caught.value.details} {agent!r} {agent.id}"


@pytest.mark.parametrize(
    ("source", "parser"),
    [
        ("import sys; sys.exit('usage limit reached, retry after 60 seconds')", "text"),
        ('print("You\'ve hit your usage limit. Retry after 60 seconds")', "text"),
        ('print(\'{"type": "error", "message": "rate limit exceeded, retry after 60 s"}\')', "jsonl"),
    ],
)
def test_a_used_up_limit_is_told_from_other_failures(tmp_path: Path, source: str, parser: str) -> None:
    agent = CommandAgent(python(source), parser="jsonl" if parser == "jsonl" else "text")
    with pytest.raises(AgentQuotaExceeded) as caught:
        run(agent, make_call(tmp_path))
    assert "quotaResetAtMs" in caught.value.details


def test_an_answer_that_speaks_of_limits_is_an_answer(tmp_path: Path) -> None:
    agent = CommandAgent(python("""print('{"ok": true, "note": "429 rate limit exceeded, try again"}')"""))
    assert run(agent, make_call(tmp_path)).output.model_dump()["ok"] is True


def test_usage_of_a_failed_program_is_told(tmp_path: Path) -> None:
    source = """print('{"type": "error", "message": "boom", "usage": {"input_tokens": 9}}')"""
    heard = Recorder()
    with pytest.raises(AgentError, match="boom"):
        run(CommandAgent(python(source), parser="jsonl"), make_call(tmp_path), recorder=heard)
    assert [report.usage.input_tokens for report in heard.usage] == [9]


def test_a_program_that_cannot_start_is_a_typed_error(tmp_path: Path) -> None:
    with pytest.raises(ProcessSpawnFailed, match="no-such-program"):
        run(CommandAgent(["no-such-program"]), make_call(tmp_path))
    with pytest.raises(ProcessSpawnFailed):
        run(CommandAgent(["sh"], cwd=tmp_path / "missing"), make_call(tmp_path))


FAMILY = """
import os, sys, subprocess, time
child = subprocess.Popen([sys.executable, '-S', '-c', 'import time; time.sleep(600)'])
print(child.pid, flush=True)
time.sleep(600)
"""


def is_alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rsplit(")", 1)[1].split()[0] != "Z"


def dies(pid: int) -> bool:
    """Whether a process that was sent a SIGKILL is gone: the kernel may take a moment over it."""
    deadline = time.monotonic() + 60
    while is_alive(pid) and time.monotonic() < deadline:
        time.sleep(0.005)
    return not is_alive(pid)


def test_a_deadline_kills_the_whole_family(tmp_path: Path) -> None:
    heard = Recorder()
    with pytest.raises(ProcessIdleTimeout):
        run(CommandAgent(python(FAMILY), idle_timeout_s=1.0), make_call(tmp_path, recorder=heard))
    assert dies(int(heard.texts[0][0]))
    with pytest.raises(ProcessTimeout):
        run(CommandAgent(python("while True: print('busy', flush=True)"), timeout_s=0.3), make_call(tmp_path))


def test_cancellation_kills_the_whole_family(tmp_path: Path) -> None:
    async def scenario() -> int:
        heard, spoke = Recorder(), asyncio.Event()
        call = make_call(tmp_path, recorder=heard)

        def on_text(text: str, stream: str) -> None:
            heard.texts.append((text, stream))
            spoke.set()

        object.__setattr__(call, "on_text", on_text)
        attempt = asyncio.create_task(run_agent([CommandAgent(python(FAMILY))], call))
        await spoke.wait()
        attempt.cancel()
        with pytest.raises(asyncio.CancelledError):
            await attempt
        return int(heard.texts[0][0])

    assert dies(asyncio.run(scenario()))


def test_a_child_that_outlives_the_program_is_killed_and_does_not_hold_it_up(tmp_path: Path) -> None:
    source = FAMILY.replace("print(child.pid", 'print(\'{"ok": true, "note": "%d"}\' % child.pid').replace(
        "time.sleep(600)\n", "", 1
    )
    source = "\n".join(line for line in source.splitlines() if line != "time.sleep(600)")
    result = run(CommandAgent(python(source), timeout_s=30), make_call(tmp_path))
    assert dies(int(str(result.output.model_dump()["note"])))


def test_only_the_end_of_a_flood_is_kept(tmp_path: Path) -> None:
    source = """import sys
for _ in range(200): sys.stdout.write('x' * 10_000)
print('{"ok": true}')"""
    result = run(CommandAgent(python(source), max_output_bytes=1_000), make_call(tmp_path))
    assert result.output == Verdict(ok=True)
    assert len(result.text) == 1_000


def test_a_program_that_does_not_read_its_prompt_is_not_an_error(tmp_path: Path) -> None:
    agent = CommandAgent(python("print('{\"ok\": true}')"))
    assert run(agent, make_call(tmp_path, prompt="x" * 3_000_000)).output == Verdict(ok=True)


def test_a_tool_list_is_refused_and_not_ignored(tmp_path: Path) -> None:
    with pytest.raises(AgentConfigInvalid, match="allow_tools"):
        run(CommandAgent(["true"]), make_call(tmp_path, allow_tools=()))


def test_ids_depend_on_the_definition_only() -> None:
    assert CommandAgent(["a", "b"]).id == CommandAgent(["a", "b"]).id
    assert CommandAgent(["a", "b"]).id != CommandAgent(["a", "c"]).id
    assert CommandAgent(["a"], env={"K_TOKEN": "1"}).id == CommandAgent(["a"], env={"K_TOKEN": "2"}).id
    assert CommandAgent(["a"], id="mine").id == "mine"


@pytest.mark.parametrize("options", [{"timeout_s": 0}, {"idle_timeout_s": -1.0}, {"max_output_bytes": 0}])
def test_options_that_make_no_sense_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(AgentConfigInvalid):
        CommandAgent(["a"], **options)  # type: ignore[arg-type]
    with pytest.raises(AgentConfigInvalid):
        CommandAgent([])
