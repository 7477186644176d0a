"""The process dies within a tool call: it stays on record, the next attempt knows of it, and nothing finished is repeated."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.acceptance.crash import workflows
from tests.acceptance.crash.child import Order
from tests.acceptance.crash.observe import Witness, opened
from tests.acceptance.crash.zygote import Zygote

from smithers.store.sql import calls, reads

pytestmark = pytest.mark.crash


def states(folder: Path) -> list[tuple[str, int, int, str, str]]:
    """What is on record of each call."""
    with opened(folder) as store:
        found = store.read(lambda c: calls.tool_calls(c, workflows.RUN))
    return sorted((row.node_id, row.attempt, row.seq, row.tool_name, row.status) for row in found)


def test_a_call_that_a_kill_cut_off_is_unknown_to_the_next_attempt_of_a_function(
    zygote: Zygote, tmp_path: Path
) -> None:
    witness = Witness(tmp_path)
    assert zygote.run(Order(str(tmp_path), "drive", "paying")).was_killed
    witness.look()
    before = [
        ("notify", 1, 1, "notify", "finished"),
        ("pay", 1, 1, "notify", "finished"),
        ("pay", 1, 2, "pay", "started"),
    ]
    assert states(tmp_path) == before

    assert zygote.run(Order(str(tmp_path), "drive", "paying")).report.status == "finished"
    witness.look()
    assert workflows.calls_of(tmp_path) == [
        "notify 1 smithers:book:notify:0:notify:1",
        "notify 2 smithers:book:pay:0:notify:1",
        "pay 2 smithers:book:pay:0:pay:1",
        "earlier notify succeeded",
        "earlier pay unknown",
        "notify 2 smithers:book:pay:0:notify:1",
        "pay 2 smithers:book:pay:0:pay:1",
    ]
    after = [("pay", 2, 1, "notify", "finished"), ("pay", 2, 2, "pay", "finished")]
    assert states(tmp_path) == before + after


def test_an_agent_is_told_of_the_call_that_a_kill_cut_off(zygote: Zygote, tmp_path: Path) -> None:
    witness = Witness(tmp_path)
    assert zygote.run(Order(str(tmp_path), "drive", "buying")).was_killed
    witness.look()
    assert zygote.run(Order(str(tmp_path), "drive", "buying")).report.status == "finished"
    witness.look()
    assert workflows.calls_of(tmp_path) == [
        "notify 1 smithers:book:notify:0:notify:1",
        "told nothing",
        "pay 3 smithers:book:pay:0:pay:1",
        'told - attempt 1: pay {"of":3} may or may not have taken effect',
        "pay 3 smithers:book:pay:0:pay:1",
    ]


def test_a_call_that_a_kill_cut_off_is_not_repeated_before_somebody_has_agreed(zygote: Zygote, tmp_path: Path) -> None:
    witness = Witness(tmp_path)
    assert zygote.run(Order(str(tmp_path), "drive", "spending")).was_killed
    witness.look()
    assert states(tmp_path) == [("spend", 1, 1, "spend", "started")]

    for _ in range(2):  # whoever takes it over finds the same
        assert zygote.run(Order(str(tmp_path), "drive", "spending")).report.status == "waiting-approval"
        witness.look()
        assert workflows.calls_of(tmp_path) == ["spend 4"]
    with opened(tmp_path) as store:
        (asked,) = store.read(lambda c: reads.approvals(c, workflows.RUN))
    assert '"kind":"ReplayUnsafeApproval"' in asked.request_json

    assert zygote.run(Order(str(tmp_path), "play", "spending")).report.status == "finished"
    witness.look()
    assert workflows.calls_of(tmp_path) == ["spend 4"] * 2
    assert [row[1:] for row in states(tmp_path)] == [(1, 1, "spend", "started"), (2, 1, "spend", "finished")]
