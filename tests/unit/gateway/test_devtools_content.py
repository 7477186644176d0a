"""What DevTools show of a task: the agents that it is given, how often it may be tried, and what has become of it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from smithers.gateway.devtools.content import props_text, task_text
from smithers.store.sql.devtools import TaskRow

SUMMARY = {"label": "writer", "engine": "pydantic-ai", "model": "m1"}


def task(props: dict[str, str], row: TaskRow | None = None) -> dict[str, Any]:
    text = task_text({"id": "a", **props}, ["Ask."], row)
    assert text is not None
    found: dict[str, Any] = json.loads(text)
    return found


def row(meta: object) -> TaskRow:
    return TaskRow("a", 0, "finished", 2, "note", None, json.dumps(meta))


@pytest.mark.parametrize(
    ("props", "most"),
    [
        ({"kind": "agent"}, 4),
        ({"kind": "compute"}, 1),
        ({"kind": "static"}, 1),
        ({"kind": "approval"}, 1),
        ({"kind": "agent", "retries": "0"}, 1),
        ({"kind": "compute", "retries": "7"}, 8),
    ],
)
def test_a_task_says_how_often_it_is_tried_at_most(props: dict[str, str], most: int) -> None:
    assert task(props)["maxAttempts"] == most


def test_the_agents_that_a_task_is_given_are_known_before_any_has_worked() -> None:
    given = {**SUMMARY, "chain": [SUMMARY, {"label": "second", "engine": "command"}]}

    found = task({"kind": "agent", "agentSummary": json.dumps(given)})

    assert found["agentSummary"] == given
    assert (found["agent"], "agentRan" in found) == ("writer", False)


def test_the_agent_that_has_worked_is_told_apart_from_those_that_were_given() -> None:
    ran = {"prompt": "Sent.", "agentId": "second", "agentEngine": "command", "agentModel": ""}

    found = task({"kind": "agent", "agentSummary": json.dumps(SUMMARY)}, row(ran))

    assert (found["agent"], found["agentRan"]["agentId"], found["prompt"]) == ("second", "second", "Sent.")
    assert found["agentSummary"] == SUMMARY


def test_what_is_shown_in_the_task_is_no_property_besides() -> None:
    props = {"kind": "agent", "id": "a", "agentSummary": json.dumps(SUMMARY)}

    assert json.loads(props_text("smithers:task", props, None)) == {"kind": "agent", "id": "a"}


@pytest.mark.parametrize("text", ["", "no json", "[1]", "null"])
def test_a_summary_that_cannot_be_read_is_left_out(text: str) -> None:
    assert "agentSummary" not in task({"kind": "agent", "agentSummary": text})
