"""Mapping: whatever is stored, what is pushed of it is what the contract says."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.unit.gateway.contract import contract, schema_of

from smithers.events import EventDraft, EventRow, event
from smithers.gateway.streams.mapping import event_name, event_payload

RUN = 'run "1"'
NODE_TYPES = (
    "NodePending",
    "NodeStarted",
    "NodeFinished",
    "NodeFailed",
    "NodeSkipped",
    "NodeCancelled",
    "NodeRetrying",
    "NodeWaitingApproval",
    "NodeWaitingTimer",
    "NodeOutput",
    "TaskHeartbeat",
    "ApprovalRequested",
    "ApprovalGranted",
    "ApprovalDenied",
    "ApprovalAutoApproved",
    "AgentEvent",
    "AgentSessionEvent",
    "AgentTraceEvent",
    "AgentTraceSummary",
    "TokenUsageReported",
)
RUN_TYPES = (
    "RunFinished",
    "RunFailed",
    "RunCancelled",
    "RunCanceled",
    "RunStatusChanged",
    "TimeTravelJumped",
    "SideEffectBoundaryCrossed",
)
UNLISTED = ("RunStarted", "FrameCommitted", "NodeWaitingEvent", "SignalReceived", "RunContinuedAsNew", "Unheard")

texts = st.text(max_size=20)
numbers = st.integers(-3, 10**12)
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
# the fields that the vocabulary has, of the right kind, of a wrong kind, or missing
fields = st.fixed_dictionaries(
    {},
    optional={
        "attempt": st.integers(0, 9) | values,
        "error": values,
        "reason": texts,
        "request": st.dictionaries(texts, values, max_size=3),
        "firesAtMs": numbers,
        "text": texts | values,
        "stream": st.sampled_from(["stdout", "stderr"]) | values,
        "engine": texts | values,
        "event": st.dictionaries(texts, values, max_size=3) | values,
        "transcript": values,
        "trace": values,
        "summary": values,
        "model": texts | values,
        "agent": texts | values,
        "inputTokens": numbers | values,
        "outputTokens": numbers,
        "cacheReadTokens": numbers | values,
        "reasoningTokens": numbers,
        "failedChildren": numbers | values,
        "failedChildKeys": st.lists(texts, max_size=3) | values,
        "fromFrameNo": st.integers(-1, 9) | values,
        "toFrameNo": numbers | values,
        "caller": texts | st.none() | numbers,
        "opId": texts | values,
        "operation": texts,
        "report": values | st.fixed_dictionaries({"blocking": st.lists(values, max_size=2), "warnings": values}),
        "warningOnly": values,
        "parentRunId": values,
        "status": st.sampled_from(["running", "waiting-approval", "paused", "finished", "canceled", "continued"])
        | values,
    },
)


def row(type: str, payload: str | None, *, node: bool = True) -> EventRow:
    return EventRow(3, 1_700_000_000_000, 2, type, 'n"1' if node else None, 4 if node else None, payload)


def mapped(stored: EventRow) -> tuple[str, dict[str, Any]] | None:
    name = event_name(stored)
    return None if name is None else (name, json.loads(event_payload(RUN, stored)))


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(NODE_TYPES + RUN_TYPES), fields)
def test_every_pushed_payload_is_what_the_contract_says(type: str, given_fields: Mapping[str, object]) -> None:
    found = mapped(row(type, json.dumps(given_fields) if given_fields else None, node=type in NODE_TYPES))
    if found is None:
        assert type == "RunStatusChanged"
        assert given_fields["status"] in ("finished", "failed", "cancelled", "canceled")
        return
    name, payload = found
    assert payload["runId"] == RUN
    schema = schema_of("events", name)
    if schema is None:
        assert name == "run.status_changed"
        assert set(payload) == {"runId", "status", "timestampMs"}
    else:
        schema(payload)
    if type in NODE_TYPES:
        assert (payload["nodeId"], payload["iteration"]) == ('n"1', 4)


@given(st.sampled_from(NODE_TYPES), st.integers(0, 99))
def test_an_attempt_that_is_stored_is_told(type: str, attempt: int) -> None:
    found = mapped(row(type, json.dumps({"attempt": attempt})))
    assert found is not None
    assert found[1].get("attempt", attempt) == attempt
    assert "attempt" in found[1] or type == "NodePending"


def test_every_run_event_of_the_contract_has_a_source() -> None:
    own = ("connect.challenge", "tick", "cron.triggered")
    wire = {
        name
        for name in contract()["events"]
        if name not in own
        and not name.startswith(("devtools.", "ext.", "browser."))
        and name not in ("run.event", "run.gap_resync", "run.heartbeat", "run.error")
    }
    found = {event_name(row(type, '{"status":"paused"}')) for type in NODE_TYPES + RUN_TYPES}
    assert found == wire | {"run.status_changed"}


@pytest.mark.parametrize("type", UNLISTED)
def test_what_is_not_listed_is_not_pushed(type: str) -> None:
    assert event_name(row(type, None)) is None


def test_output_is_renamed_without_being_read() -> None:
    draft = event("NodeOutput", "n", 0, attempt=2, text='say "hi"\n\\ {"attempt":1}', stream="stderr")
    stored = EventRow(0, 1, 1, *draft)
    assert json.loads(event_payload("r", stored)) == {
        "runId": "r",
        "nodeId": "n",
        "iteration": 0,
        "attempt": 2,
        "output": 'say "hi"\n\\ {"attempt":1}',
        "stream": "stderr",
    }


@pytest.mark.parametrize(
    ("draft", "expected"),
    [
        (event("RunFinished"), {"status": "finished"}),
        (event("RunFinished", failedChildren=2, failedChildKeys=["a::0", "b::1"]), None),
        (
            event("RunFailed", error={"code": "X", "message": "no"}),
            {"status": "failed", "error": {"code": "X", "message": "no"}},
        ),
        (event("RunCancelled"), {"status": "cancelled"}),
    ],
)
def test_the_end_of_a_run_says_how(draft: EventDraft, expected: dict[str, object] | None) -> None:
    expected = expected or {"status": "finished", "failedChildren": 2, "failedChildKeys": ["a::0", "b::1"]}
    assert mapped(EventRow(1, 1, 1, *draft)) == ("run.completed", {"runId": RUN, **expected})


@pytest.mark.parametrize(("status", "is_told"), [("waiting-approval", True), ("continued", True), ("finished", False)])
def test_a_change_of_status_is_told_unless_the_end_is_told_already(status: str, is_told: bool) -> None:
    stored = EventRow(1, 7, 1, *event("RunStatusChanged", None, None, status=status))
    expected = ("run.status_changed", {"runId": RUN, "status": status, "timestampMs": 7})
    assert mapped(stored) == (expected if is_told else None)
