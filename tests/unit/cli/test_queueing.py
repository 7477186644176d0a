"""`smithers queue`: what waits, the limits, and a pause."""

from __future__ import annotations

import pytest
from tests.unit.cli.support import Cli


@pytest.fixture
def waiting(cli: Cli) -> Cli:
    """A database in which two runs wait, in two queues."""
    cli.write("one")
    for queue in ("default", "slow"):
        assert cli("launch", "one.py", "--queue", queue, "--db", "smithers.db").code == 0
    return cli


def test_a_queue_of_which_nothing_may_start_is_shown_as_paused(waiting: Cli) -> None:
    found = waiting("queue", "limit", "slow", "--concurrency", "0")
    assert (found.code, found.out) == (0, "slow: at once none: paused, starts any number\n")
    text = waiting("queue", "list").out
    assert [line.split() for line in text.splitlines() if line.startswith(("default", "slow "))] == [
        ["default", "one", "1"],
        ["slow", "one", "1,", "paused"],
        ["slow", "none:", "paused", "any", "number"],
    ]
    listed = waiting("queue", "list", "--format", "json").json
    assert listed["waiting"] == [
        {"queue": "default", "workflow": "one", "runs": 1, "paused": False},
        {"queue": "slow", "workflow": "one", "runs": 1, "paused": True},
    ]
    assert listed["limits"] == [
        {"name": "slow", "concurrency": 0, "paused": True, "rateCount": None, "ratePeriodMs": None}
    ]
    assert waiting("launch", "one.py", "--queue", "slow").code == 0
    assert waiting("queue", "rm", "slow").code == 0
    assert "paused" not in waiting("queue", "list").out


def test_a_workflow_is_paused_in_all_queues(waiting: Cli) -> None:
    assert waiting("queue", "limit", "workflow:one", "--concurrency", "0").code == 0
    assert waiting("queue", "list").out.count("1, paused") == 2


@pytest.mark.parametrize("flags", [["--concurrency", "-1"], [], ["--rate", "0/1s"]])
def test_a_limit_that_cannot_be_is_refused(waiting: Cli, flags: list[str]) -> None:
    assert waiting("queue", "limit", "slow", *flags).code == 4


def test_why_tells_that_a_run_waits_for_a_worker_or_for_the_end_of_a_pause(waiting: Cli) -> None:
    assert waiting("launch", "one.py", "--run-id", "r").code == 0
    told = waiting("why", "r").out
    assert "waits for a worker or gateway that has its workflow, and room; 2 runs wait in queue default" in told
    assert "smithers queue list" in told
    assert waiting("queue", "limit", "default", "--concurrency", "0").code == 0
    assert "waits for somebody to lift a limit: nothing of queue default" in waiting("why", "r").out
