"""`approve`, `deny`, `answer`, `signal`, `cancel`, `pause`: recorded once, refused with a reason."""

from __future__ import annotations

import pytest
from tests.unit.cli.support import Cli, at


def park(cli: Cli, workflow: str) -> None:
    cli.write(workflow)
    assert cli("up", f"{workflow}.py", "-r", "r").code == 3


def test_an_approval_is_recorded_with_who_and_why(cli: Cli) -> None:
    park(cli, "gate")
    done = cli("approve", "r", "--note", "-- fine", "--by", "ann", "--format", "json")
    assert done.code == 0
    assert at(done.json, "approval", "status") == "approved"
    assert at(done.json, "approval", "decidedBy") == "ann"
    assert at(done.json, "approval", "note") == "-- fine"
    assert at(done.json, "run", "isOwned") is False
    again = cli("deny", "r")
    assert again.code == 4


def test_a_decision_names_who_goes_on(cli: Cli) -> None:
    park(cli, "gate")
    assert "smithers resume r" in cli("deny", "r", "--by", "ann").out
    assert cli("resume", "r").code == 1


def test_what_a_child_run_waits_for_is_told_by_its_parent(cli: Cli) -> None:
    cli.write("nested")
    parked = cli("up", "nested.py", "-r", "r")
    assert parked.code == 3
    assert "smithers approve r:child:sub:0 --node ok" in parked.out
    assert cli("approve", "r:child:sub:0").out.splitlines()[-1] == "  smithers resume r"


def test_an_ambiguous_decision_lists_the_candidates(cli: Cli) -> None:
    park(cli, "two_gates")
    done = cli("approve", "r")
    assert done.code == 4
    assert "left" in done.err
    assert "right" in done.err
    assert cli("approve", "r", "--node", "left").code == 0
    assert cli("approve", "r").code == 0
    assert cli("resume", "r").code == 0


def test_a_choice_must_be_one_of_the_options(cli: Cli) -> None:
    park(cli, "select")
    for wrong in (["--select", "green"], ["--rank", "red,blue"], ["--select", "red", "--rank", "red"]):
        assert cli("approve", "r", *wrong).code == 4
    assert cli("approve", "r", "--select", "blue").code == 0
    assert cli("resume", "r").code == 0
    assert at(cli("output", "r", "pick", "--format", "json").json, "row", "selected") == "blue"


def test_an_answer_must_fit_the_question(cli: Cli) -> None:
    park(cli, "human")
    refused = cli("answer", "r", "--value", '{"n": "many"}')
    assert (refused.code, "answer.n" in refused.err) == (4, True)
    assert "not JSON" in cli("answer", "r", "--value", "many").err
    assert cli("answer", "r", "--value", '{"n": 3}', "--by", "bob").code == 0
    assert cli("answer", "r", "--value", '{"n": 4}').code == 4
    assert cli("resume", "r").code == 0
    assert cli("output", "r", "ask").out == '{\n  "n": 3\n}\n'


def test_a_signal_is_delivered_once_per_key(cli: Cli) -> None:
    park(cli, "event")
    tokens = [
        "signal",
        "r",
        "go",
        "--data",
        '{"n": 5}',
        "--correlation",
        "c 1",
        "--idempotency-key",
        "k",
        "--format",
        "json",
    ]
    first, second = cli(*tokens), cli(*tokens)
    assert (first.code, second.code) == (0, 0)
    assert at(first.json, "signal", "seq") == at(second.json, "signal", "seq")
    assert cli("resume", "r").code == 0
    assert cli("signal", "r", "go").code == 4
    assert cli("signal", "nobody", "go").code == 4


def test_cancel_ends_a_parked_run_and_refuses_an_ended_one(cli: Cli) -> None:
    park(cli, "gate")
    done = cli("cancel", "r", "--format", "json")
    assert (done.code, done.json["status"]) == (2, "cancelled")
    again = cli("cancel", "r")
    assert (again.code, "RUN_NOT_ACTIVE" in again.err) == (4, True)
    assert cli("resume", "r").code == 3


def test_pause_is_for_live_runs(cli: Cli) -> None:
    park(cli, "gate")
    done = cli("pause", "r")
    assert (done.code, "RUN_NOT_ACTIVE" in done.err) == (4, True)


@pytest.mark.parametrize(
    "command", ["approve", "deny", "cancel", "pause", "inspect", "logs", "events", "resume", "graph"]
)
def test_an_unknown_run_is_a_user_error_everywhere(cli: Cli, command: str) -> None:
    cli.write("one")
    assert cli("up", "one.py").code == 0
    done = cli(command, "nobody", "--format", "json")
    assert done.code == 4
    assert at(done.json, "error", "code") == "RUN_NOT_FOUND"
