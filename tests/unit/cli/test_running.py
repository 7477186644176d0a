"""`up`, `resume`, and what every command does with wrong arguments."""

from __future__ import annotations

import io
import logging
import sys
from pathlib import Path

import pytest
from tests.unit.cli.support import Cli, at


def test_a_finished_run_exits_with_0_and_shows_its_output(cli: Cli) -> None:
    cli.write("one")
    done = cli("up", "one.py", "--run-id", "r1", "--input", '{"n": 7}')
    assert done.code == 0
    assert "a started" in done.out
    assert "run r1 finished" in done.out
    assert '{"n": 7}' in done.out
    assert "\x1b" not in done.out


def test_json_is_one_document_and_jsonl_is_events_and_the_result(cli: Cli) -> None:
    cli.write("one")
    assert cli("up", "one.py", "-r", "r1", "--format", "json").json == {
        "runId": "r1",
        "status": "finished",
        "output": [{"n": 1}],
    }
    lines = cli("up", "one.py", "-r", "r2", "--format", "jsonl").lines
    assert lines[0]["type"] == "RunStarted"
    assert {"NodeStarted", "NodeFinished", "RunFinished"} <= {line.get("type") for line in lines}
    assert lines[-1] == {"runId": "r2", "status": "finished", "output": [{"n": 1}]}


@pytest.mark.parametrize(
    ("workflow", "code", "status"),
    [("gate", 3, "waiting-approval"), ("event", 3, "waiting-event"), ("failing", 1, "failed")],
)
def test_the_exit_code_tells_how_a_run_ended(cli: Cli, workflow: str, code: int, status: str) -> None:
    cli.write(workflow)
    done = cli("up", f"{workflow}.py", "--format", "json")
    assert done.code == code
    assert done.json["status"] == status


def test_a_parked_run_prints_the_commands_that_go_on(cli: Cli) -> None:
    cli.write("gate", "event", "human", "select")
    assert "smithers approve g --node ship" in cli("up", "gate.py", "-r", "g").out
    assert "smithers resume g" in cli("inspect", "g").out
    assert "smithers signal e go --data JSON --correlation 'c 1'" in cli("up", "event.py", "-r", "e").out
    assert "smithers answer h --node ask --value JSON" in cli("up", "human.py", "-r", "h").out
    assert "smithers approve 'my run' --node pick --select red" in cli("up", "select.py", "-r", "my run").out


def test_what_a_failing_task_says_cannot_reach_the_terminal(cli: Cli) -> None:
    cli.write("failing")
    done = cli("up", "failing.py", "-r", "f")
    assert "ValueError" in done.out or "broken" in done.out
    assert "\x1b" not in done.out + cli("inspect", "f").out + cli("logs", "f").out + cli("events", "f").out
    assert "stack" not in cli("up", "failing.py", "--format", "json").out


def test_input_comes_from_a_word_a_file_or_stdin(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    cli.write("one")
    (cli.folder / "in.json").write_text('{"n": 2}')
    monkeypatch.setattr("sys.stdin", io.StringIO('{"n": 3}'))
    results = [cli("up", "one.py", "-i", text, "--format", "json").json for text in ('{"n": 1}', "@in.json", "-")]
    assert [at(result, "output", 0, "n") for result in results] == [1, 2, 3]


def test_a_prompt_becomes_the_input_s_prompt(cli: Cli) -> None:
    cli.write("one")
    assert cli("up", "one.py", "-r", "r", "-p", "- hello", "-i", '{"n": 1}').code == 0
    assert cli("inspect", "r", "--format", "json").json["input"] == {"n": 1, "prompt": "- hello"}


@pytest.mark.parametrize(
    ("tokens", "said"),
    [
        (["up", "one.py", "-i", "{bad"], "--input: not JSON"),
        (["up", "one.py", "-i", "[1]"], "must be a JSON object, not a list"),
        (["up", "one.py", "-i", "@missing.json"], "cannot read missing.json"),
        (["up", "one.py", "--annotations", '{"a": {}}'], "annotations.a"),
        (["up", "one.py", "-c", "0"], "--max-concurrency"),
        (["up", "one.py", "--force"], "--force: belongs to --resume"),
        (["up", "one.py", "--resume"], "which run"),
        (["up", "nothing.py"], "there is no workflow file nothing.py"),
        (["up", "one.py", "--bogus"], "--bogus"),
        (["up"], "WORKFLOW"),
        (["nonsense"], "nonsense"),
    ],
)
def test_wrong_arguments_exit_with_4_and_one_line(cli: Cli, tokens: list[str], said: str) -> None:
    cli.write("one")
    done = cli(*tokens)
    assert done.code == 4
    assert said in done.err
    assert done.out == ""
    assert done.err.count("\n") == 1
    assert not (cli.folder / "smithers.db").exists() or "annotations" in said


def test_errors_are_documents_where_json_is_wanted(cli: Cli) -> None:
    done = cli("up", "nothing.py", "--format", "json")
    assert done.code == 4
    assert done.err == ""
    assert done.json["ok"] is False
    assert at(done.json, "error", "code") == "WORKFLOW_MISSING_DEFAULT"


def test_a_workflow_that_raises_names_its_line(cli: Cli) -> None:
    cli.write("broken")
    done = cli("up", "broken.py", "-r", "b")
    assert done.code in (1, 4)
    line = (cli.folder / "broken.py").read_text().splitlines().index(
        '    return Workflow(name="broken")[ctx.nothing]'
    ) + 1
    assert f"broken.py:{line}" in done.out + done.err


def test_a_used_run_id_is_refused_unless_resumed(cli: Cli) -> None:
    cli.write("one")
    assert cli("up", "one.py", "-r", "r").code == 0
    again = cli("up", "one.py", "-r", "r")
    assert (again.code, "RUN_ALREADY_EXISTS" in again.err) == (4, True)
    for tokens in (["-r", "r", "--resume"], ["--resume", "r"], ["--resume=r"]):
        assert cli("up", "one.py", *tokens, "--format", "json").json["output"] == [{"n": 1}]


def test_resume_finds_the_workflow_and_repeats_nothing(cli: Cli) -> None:
    cli.write("gate")
    assert cli("up", "gate.py", "-r", "g").code == 3
    assert cli("approve", "g").code == 0
    done = cli("resume", "g", "--format", "json")
    assert (done.code, done.json["status"]) == (0, "finished")
    assert (cli.folder / "done.txt").read_text() == "a\n"
    assert cli("resume", "g").code == 0
    assert cli("resume", "nobody").code == 4


def test_a_changed_workflow_is_resumed_only_when_accepted(cli: Cli) -> None:
    cli.write("gate")
    assert cli("up", "gate.py", "-r", "g").code == 3
    assert cli("approve", "g").code == 0
    (cli.folder / "gate.py").write_text((cli.folder / "gate.py").read_text() + "\n# changed\n")
    refused = cli("resume", "g")
    assert (refused.code, "RESUME_METADATA_MISMATCH" in refused.err) == (4, True)
    assert cli("resume", "g", "--accept-workflow-change").code == 0


def test_the_database_is_the_given_one_or_the_nearest(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    cli.write("gate")
    nothing = cli("ps")
    assert (nothing.code, "CLI_DB_NOT_FOUND" in nothing.err) == (4, True)
    parked = cli("up", "gate.py", "-r", "r", "--db", "other.db")
    assert "smithers resume r --db other.db" in parked.out
    assert cli("ps").code == 4
    assert cli("ps", "--db", "other.db").code == 0
    monkeypatch.setenv("SMITHERS_DB", "other.db")
    assert "r " in cli("ps").out
    monkeypatch.delenv("SMITHERS_DB")
    Path("other.db").rename("smithers.db")
    Path("below").mkdir()
    monkeypatch.chdir("below")
    assert "r " in cli("ps").out


def test_an_unexpected_error_is_one_line_and_a_traceback_only_when_asked_for(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    def explode(path: object) -> None:
        raise LookupError("surprise")

    monkeypatch.setattr("smithers.engine.loading.load_workflow", explode)
    plain = cli("up", "one.py")
    assert (plain.code, plain.err.count("\n")) == (1, 1)
    assert "surprise" in plain.err
    assert "--debug" in plain.err
    assert "Traceback" in cli("up", "one.py", "--debug").err


def test_version_help_and_completions(cli: Cli) -> None:
    assert cli("--version").out.strip() == "0.1.0"
    listed = cli("--help").out
    assert all(name in listed for name in ("up", "supervise", "completions"))
    assert "--accept-workflow-change" in cli("resume", "--help").out
    script = cli("completions", "bash")
    assert script.code == 0
    assert "smithers" in script.out
    assert cli("completions", "fishy").code == 4


TYPED = """
from pydantic import BaseModel
from smithers import Task, Workflow, create_smithers

class In(BaseModel):
    topic: str = "nothing"

class Out(BaseModel):
    n: int

smithers, outputs = create_smithers({"output": Out}, input=In)

@smithers
def typed(ctx):
    return Workflow(name="typed")[Task(id="a", output=outputs.output)[{"n": 1}]]
"""


@pytest.mark.parametrize("has_log", [True, False])
def test_keys_of_the_input_that_nobody_reads_are_named_in_one_line(cli: Cli, has_log: bool) -> None:
    (cli.folder / "typed.py").write_text(TYPED)
    kept, logging.getLogger().handlers = (
        logging.getLogger().handlers,
        list[logging.Handler]([logging.NullHandler()] if has_log else []),
    )
    try:
        done = cli("up", "typed.py", "-i", '{"x": 1, "topic": "t"}', "--format", "json")
        assert cli("up", "typed.py", "-i", '{"topic": "t"}').err == ""
    finally:
        logging.getLogger().handlers = kept
    assert (done.code, done.json["status"]) == (0, "finished")
    assert done.err == "input: the workflow does not know 'x'; it knows 'topic'\n"


def test_hot_reload_needs_watchfiles(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    cli.write("one")
    monkeypatch.setitem(sys.modules, "watchfiles", None)
    for more in ([], ["--detach"]):
        refused = cli("up", "one.py", "--hot", *more)
        assert (refused.code, "pip install 'smithers[watch]'" in refused.err) == (4, True)
