"""`ps`, `inspect`, `logs`, `events`, `output`, `graph`, `check`, `init`: what is shown of runs and workflows."""

from __future__ import annotations

import json
from typing import cast

from tests.unit.cli.support import HEAD, Cli, at


def test_ps_lists_runs_newest_first_with_what_they_wait_for(cli: Cli) -> None:
    cli.write("one", "gate")
    assert cli("up", "one.py", "-r", "r1").code == 0
    assert cli("up", "gate.py", "-r", "r2").code == 3
    shown = cli("ps").out.splitlines()
    assert shown[0].split()[0] == "RUN"
    assert shown[1].startswith("r2")
    assert "approval ship" in shown[1]
    assert shown[2].startswith("r1")
    runs = cast("list[object]", cli("ps", "--format", "json").json["runs"])
    assert [at(run, "runId") for run in runs] == ["r2", "r1"]
    assert at(runs[0], "state", "blocked", "nodeId") == "ship"
    assert [line["runId"] for line in cli("ps", "-s", "finished", "--format", "jsonl").lines] == ["r1"]
    assert [line["runId"] for line in cli("ps", "-l", "1", "--format", "jsonl").lines] == ["r2"]
    assert len(cli("ps", "-l", "1", "-a", "--format", "jsonl").lines) == 2
    assert "no runs" in cli("ps", "-s", "paused").out
    assert cli("ps", "-s", "asleep").code == 4
    assert cli("ps", "-l", "0").code == 4


def test_inspect_shows_steps_and_waits(cli: Cli) -> None:
    cli.write("gate")
    assert cli("up", "gate.py", "-r", "r").code == 3
    shown = cli("inspect", "r").out
    assert "waiting-approval" in shown
    assert "smithers approve r --node ship" in shown
    document = cli("inspect", "r", "--format", "json").json
    nodes = cast("list[dict[str, object]]", document["nodes"])
    a = next(node for node in nodes if node["nodeId"] == "a")
    assert at(a, "attempts", 0, "state") == "finished"
    assert at(document, "approvals", 0, "nodeId") == "ship"
    assert at(document, "next", 0, "command") == "smithers approve r --node ship"


def test_inspect_watch_ends_with_the_run(cli: Cli) -> None:
    cli.write("one")
    assert cli("up", "one.py", "-r", "r").code == 0
    assert cli("inspect", "r", "--watch").code == 0


def test_inspect_does_not_show_who_was_authenticated(cli: Cli) -> None:
    cli.write("one")
    (cli.folder / "start.py").write_text(
        "from smithers import load_workflow, run_workflow_sync\n"
        "run_workflow_sync(load_workflow('one.py'), run_id='r', auth={'token': 'hush'})\n"
    )
    exec(compile((cli.folder / "start.py").read_text(), "start.py", "exec"), {})
    assert "hush" not in cli("inspect", "r", "--format", "json").out


def test_logs_are_in_words_and_can_be_continued_from_a_number(cli: Cli) -> None:
    cli.write("gate")
    assert cli("up", "gate.py", "-r", "r").code == 3
    lines = cli("logs", "r").out.splitlines()
    assert [line.split("  ", 1)[1] for line in lines] == [
        "run started",
        "a started",
        "a finished",
        "ship waits for approval: Ship it?",
        "run waiting-approval",
    ]
    assert cli("logs", "r", "-n", "2").out.splitlines() == lines[-2:]
    records = cli("logs", "r", "--format", "jsonl").lines
    assert json.loads(cli("logs", "r", "--format", "json").out) == {"runId": "r", "lines": records}
    rest = cli("logs", "r", "--format", "jsonl", "--from-seq", str(records[1]["seq"])).lines
    assert rest == records[2:]


def test_logs_follow_ends_with_the_run_and_misses_nothing(cli: Cli) -> None:
    cli.write("one")
    assert cli("up", "one.py", "-r", "r").code == 0
    assert cli("logs", "r", "--follow").out == cli("logs", "r").out


def test_events_are_dense_and_can_be_filtered(cli: Cli) -> None:
    cli.write("gate")
    assert cli("up", "gate.py", "-r", "r").code == 3
    events = cast("list[dict[str, object]]", cli("events", "r", "--format", "json").json["events"])
    assert [event["seq"] for event in events] == list(range(len(events)))
    assert {e["nodeId"] for e in cli("events", "r", "-n", "a", "--format", "jsonl").lines} == {"a"}
    assert {e["type"] for e in cli("events", "r", "-t", "approval", "--format", "jsonl").lines} == {"ApprovalRequested"}
    assert len(cli("events", "r", "-l", "3", "--format", "jsonl").lines) == 3
    assert len(cli("events", "r", "--since", "1h", "--format", "jsonl").lines) == len(events)
    assert "ApprovalRequested  ship" in cli("events", "r").out
    assert cli("events", "r", "--since", "soon").code == 4


def test_output_is_a_row_or_a_user_error(cli: Cli) -> None:
    cli.write("one")
    assert cli("up", "one.py", "-r", "r").code == 0
    assert json.loads(cli("output", "r", "a").out) == {"n": 1}
    assert cli("output", "r", "a", "--format", "json").json == {
        "runId": "r",
        "nodeId": "a",
        "iteration": 0,
        "row": {"n": 1},
    }
    assert cli("output", "r", "b").code == 4
    assert cli("output", "r", "a", "--iteration", "3").code == 4


def test_graph_of_a_file_and_of_a_run_with_its_states(cli: Cli) -> None:
    cli.write("gate")
    drawn = cli("graph", "gate.py").out.splitlines()
    assert drawn[0] == "workflow gate"
    assert drawn[1].startswith("├─ a  compute")
    assert not (cli.folder / "smithers.db").exists()
    assert not (cli.folder / "done.txt").exists()
    assert cli("up", "gate.py", "-r", "r").code == 3
    assert "├─ a  finished" in cli("graph", "r").out
    document = cli("graph", "r", "--format", "json").json
    assert at(document, "tasks", 1) == {
        "nodeId": "ship",
        "iteration": 0,
        "kind": "approval",
        "state": "waiting-approval",
    }
    flow = cli("graph", "r", "--format", "mermaid").out
    assert flow.startswith("flowchart TD")
    assert '["a: finished"]' in flow
    assert cli("graph", "r", "--input", "{}").code == 4


def test_check_tells_mistakes_with_their_line(cli: Cli) -> None:
    cli.write("one", "broken", "impure")
    (cli.folder / "syntax.py").write_text(HEAD + "\ndef (:\n")
    good = cli("check", "one.py")
    assert (good.code, "a     compute" in good.out) == (0, True)
    broken = cli("check", "broken.py", "--format", "json")
    assert broken.code == 1
    assert at(broken.json, "problems", 0, "code") == "WORKFLOW_RENDER_FAILED"
    assert "broken.py:" in cli("check", "broken.py").out
    assert f"syntax.py:{len(HEAD.splitlines()) + 2}" in cli("check", "syntax.py").out
    impure = cli("check", "impure.py")
    assert (impure.code, "not pure" in impure.out) == (1, True)
    assert cli("check", "missing.py").code == 4
    assert cli("check", "one.py", "-i", "[").code == 4
    assert not (cli.folder / "smithers.db").exists()


def test_the_starter_project_runs_offline_to_its_end(cli: Cli) -> None:
    assert cli("init").code == 0
    assert cli("check", "workflow.py").code == 0
    assert cli("up", "workflow.py", "-r", "first").code == 3
    assert cli("approve", "first").code == 0
    assert cli("resume", "first").code == 0
    assert json.loads(cli("output", "first", "report").out)["files"] == 2


def test_init_writes_over_nothing_unless_forced(cli: Cli) -> None:
    (cli.folder / "workflow.py").write_text("mine")
    refused = cli("init")
    assert (refused.code, "--force" in refused.err) == (4, True)
    assert (cli.folder / "workflow.py").read_text() == "mine"
    assert not (cli.folder / "README.md").exists()
    assert cli("init", "--force", "--format", "json").code == 0
    assert (cli.folder / "workflow.py").read_text() != "mine"
    assert cli("init", "below/new").code == 0
