"""Leaves: what Task, Approval, HumanTask, WaitForEvent, Signal and Timer accept and refuse."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from smithers.components.checks import MAX_DURATION_MS
from smithers.components.element import Element
from smithers.components.flow import Sequence
from smithers.components.gates import Approval, ApprovalGate, AutoApprove, HumanTask
from smithers.components.task import CachePolicy, RetryPolicy, Task, agent_chain
from smithers.components.waits import Signal, Timer, WaitForEvent, parse_duration
from smithers.errors import (
    ApprovalOptionsRequired,
    AuthoringError,
    InvalidElement,
    TaskEmptyPrompt,
    TaskIdRequired,
    TaskMissingOutput,
)


class Row(BaseModel):
    n: int = 0


async def fetch() -> dict[str, int]:
    return {"n": 1}


def numbers() -> Iterator[int]:
    yield 1


def task(**properties: object) -> Task:
    made: object = _untyped(Task)("t", output=Row, **properties)
    assert isinstance(made, Task)
    return made


def approval(**properties: object) -> Approval:
    made: object = _untyped(Approval)("ok", output=Row, **properties)
    assert isinstance(made, Approval)
    return made


def _untyped(component: object) -> Callable[..., object]:
    return cast("Callable[..., object]", component)


# ── Task ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("properties", "says"),
    [
        ({"retries": -1}, "retries must be a whole number of at least 0"),
        ({"retries": True}, "retries"),
        ({"retries": 2.0}, "retries"),
        ({"timeout_ms": 0}, "timeout_ms"),
        ({"timeout_ms": MAX_DURATION_MS + 1}, "timeout_ms must be at most"),
        ({"timeout_ms": 10**10_000}, "timeout_ms must be at most"),
        ({"heartbeat_timeout_ms": "5s"}, "heartbeat_timeout_ms"),
        ({"max_schema_retries": -1}, "max_schema_retries"),
        ({"priority": "high"}, "priority must be a whole number"),
        ({"failure_policy": "ignore"}, "failure_policy must be one of halt, quarantine"),
        ({"depends_on": "scan"}, "depends_on must be a list of strings, not 'scan'"),
        ({"depends_on": [1]}, "depends_on holds 1"),
        ({"depends_on": [""]}, "depends_on holds ''"),
        ({"depends_on": [Sequence()]}, "depends_on holds Sequence"),
        ({"depends_on": 5}, "depends_on must be a list"),
        ({"needs": ["a"]}, "needs must be a mapping"),
        ({"needs": {1: "a"}}, "needs has the key 1"),
        ({"needs": {"a": None}}, "needs holds None"),
        ({"deps": [Row]}, "deps must be a mapping"),
        ({"deps": {Row: "a"}}, "deps has the key"),
        ({"meta": "x"}, "meta must be a mapping"),
        ({"retry_policy": "fixed"}, "retry_policy must be a mapping"),
        ({"retry_policy": {"backof": "fixed"}}, "retry_policy: got an unexpected keyword argument 'backof'"),
        ({"retry_policy": {"backoff": "random"}}, "backoff must be one of"),
        ({"retry_policy": {"initial_delay_ms": -1}}, "initial_delay_ms"),
        ({"cache": {"scope": "world"}}, "scope must be one of"),
        ({"cache": {"ttl_ms": -1}}, "ttl_ms"),
        ({"cache": 3}, "cache must be a mapping"),
        ({"agent": []}, "agent is an empty list"),
        ({"fork": ""}, "fork needs a non-empty string id"),
        ({"allow_tools": "bash"}, "allow_tools must be a list of strings"),
        ({"skip_if": lambda: True}, "skip_if is a value computed at each render, not the function"),
        ({"continue_on_fail": numbers}, "continue_on_fail"),
    ],
)
def test_a_property_that_does_not_fit_is_refused_naming_task_and_property(
    properties: dict[str, object], says: str
) -> None:
    with pytest.raises(InvalidElement) as caught:
        task(**properties)
    assert str(caught.value).startswith("Task 't': ")
    assert says in str(caught.value)


@pytest.mark.parametrize("id", ["", None, 5])
def test_a_leaf_without_an_id_is_refused(id: object) -> None:
    with pytest.raises(TaskIdRequired, match="Task needs a non-empty string id"):
        _untyped(Task)(id, output=Row)


def test_what_holds_itself_is_refused() -> None:
    knot: dict[str, object] = {}
    knot["self"] = knot
    makes: list[Callable[[], object]] = [lambda: task()[knot], lambda: task(meta=knot)]
    for make in makes:
        with pytest.raises(InvalidElement, match="holds itself"):
            make()


@pytest.mark.parametrize(
    ("child", "says"),
    [
        (Timer("x", duration=1), "not another element"),
        ([Timer("x", duration=1)], "not another element"),
        (Sequence, "not another element"),
        (numbers(), "give it the function itself, without calling it"),
    ],
)
def test_a_child_that_is_no_work_is_refused(child: object, says: str) -> None:
    with pytest.raises(InvalidElement, match=says):
        task()[child]


def test_a_called_coroutine_function_is_refused_and_closed() -> None:
    with pytest.raises(InvalidElement, match="without calling it"):
        task()[fetch()]
    assert task()[fetch].child is fetch


@pytest.mark.parametrize("value", ["prompt", 1, None, {"n": 1}, [1, 2], numbers, Row(n=1), Row])
def test_prompts_functions_and_values_are_kept_as_the_work(value: object) -> None:
    assert task()[value].child == value


def test_agents_are_a_chain_in_the_order_of_trying() -> None:
    one, two, three = object(), object(), object()
    assert task(agent=one).agent == (one,)
    assert task(agent=[one, two], fallback_agent=three).agent == (one, two, three)
    assert task(fallback_agent=three).agent == (three,)
    assert agent_chain(one) == (one,)
    assert task().agent is None


def test_no_retry_is_zero_retries() -> None:
    assert task(no_retry=True, retries=5).retries == 0
    assert task().retries is None
    assert task(retries=0).retries == 0


def test_policies_may_be_mappings() -> None:
    made = task(retry_policy={"backoff": "linear", "initial_delay_ms": 5}, cache={"version": "2"})
    assert made.retry_policy == RetryPolicy("linear", 5)
    assert made.cache == CachePolicy(version="2")
    assert task(cache=False).cache is False


# ── Approval and HumanTask ─────────────────────────────────────────────────────────────────────────────────────────

OPTIONS = [{"key": "a", "label": "A"}, {"key": "b", "label": "B"}]


@pytest.mark.parametrize("mode", ["select", "rank"])
def test_an_approval_to_select_or_rank_needs_options(mode: str) -> None:
    with pytest.raises(ApprovalOptionsRequired, match="Approval 'ok'"):
        approval(mode=mode)
    assert len(approval(mode=mode, options=OPTIONS).options) == 2


@pytest.mark.parametrize(
    ("properties", "says"),
    [
        ({"mode": "vote"}, "mode must be one of approve, select, rank"),
        ({"on_deny": "retry"}, "on_deny must be one of fail, continue, skip"),
        ({"mode": "select", "options": {"a": "A"}}, "options are a list"),
        ({"mode": "select", "options": ["a"]}, "each option must be a mapping"),
        ({"mode": "select", "options": [{"label": "A"}]}, "non-empty string 'key'"),
        ({"mode": "rank", "options": [OPTIONS[0], OPTIONS[0]]}, "two options share a key"),
        ({"request": "Ship?"}, "request must be a mapping"),
        ({"allowed_users": "alice"}, "allowed_users must be a list of strings"),
        ({"allowed_scopes": [None]}, "allowed_scopes holds None"),
        ({"auto_approve": "yes"}, "auto_approve must be a mapping"),
        ({"auto_approve": {"when": True}}, "auto_approve"),
        ({"auto_approve": {"after": -1}}, "after must be a whole number"),
    ],
)
def test_an_approval_that_does_not_fit_is_refused(properties: dict[str, object], says: str) -> None:
    with pytest.raises(InvalidElement) as caught:
        approval(**properties)
    assert "Approval 'ok'" in str(caught.value)
    assert says in str(caught.value)


def test_a_string_in_an_approvals_brackets_is_its_title_unless_the_request_has_one() -> None:
    assert approval()["Ship?"].request == {"title": "Ship?"}
    assert approval(request={"title": "First", "summary": "s"})["Ship?"].request == {"title": "First", "summary": "s"}
    inner = Timer("x", duration=1)
    assert approval()[inner, None].children == (inner,)


def test_auto_approve_takes_a_bool_a_mapping_or_the_policy() -> None:
    assert approval(auto_approve=True).auto_approve == AutoApprove()
    assert approval(auto_approve=False).auto_approve is None
    assert approval(auto_approve={"after": 2}).auto_approve == AutoApprove(after=2)
    assert approval(auto_approve={}).auto_approve == AutoApprove()


def test_an_approval_gate_asks_only_when_its_condition_holds() -> None:
    asks, passes = ApprovalGate("g", output=Row, when=True), ApprovalGate("g", output=Row, when=False)
    assert isinstance(asks, Approval)
    assert isinstance(passes, Approval)
    assert asks.auto_approve is None
    assert passes.auto_approve == AutoApprove()
    with pytest.raises(InvalidElement, match="when is a value"):
        _untyped(ApprovalGate)("g", output=Row, when=lambda: True)


def test_a_human_task_needs_its_prompt_as_text() -> None:
    assert HumanTask("h", output=Row)["Which one?"].prompt == "Which one?"
    for bad in ("", "  ", None, 5, Timer("x", duration=1)):
        with pytest.raises(TaskEmptyPrompt, match=r"HumanTask\('h'\)"):
            HumanTask("h", output=Row)[bad]
    with pytest.raises(TaskEmptyPrompt, match="HumanTask 'h'"):
        _untyped(HumanTask)("h", output=Row, prompt=5)
    with pytest.raises(InvalidElement, match="max_attempts"):
        HumanTask("h", output=Row, max_attempts=0)


# ── waits ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("component", [Approval, HumanTask])
def test_gates_without_an_output_are_refused(component: object) -> None:
    calls: list[Callable[[], object]] = [
        lambda: _untyped(component)("x"),
        lambda: _untyped(component)("x", output=None),
    ]
    for call in calls:
        with pytest.raises(TaskMissingOutput, match="names no output"):
            call()


def test_an_event_wait_needs_an_event_and_a_tagged_row_to_continue_after_a_timeout() -> None:
    with pytest.raises(InvalidElement, match="event must be a non-empty string"):
        WaitForEvent("w", event="  ", output=Row)
    with pytest.raises(InvalidElement, match="needs tagged=True"):
        WaitForEvent("w", event="go", output=Row, on_timeout="continue")
    with pytest.raises(TaskMissingOutput, match="WaitForEvent 'w'"):
        _untyped(WaitForEvent)("w", event="go")
    with pytest.raises(InvalidElement, match="takes no children"):
        WaitForEvent("w", event="go", output=Row)[Timer("x", duration=1)]
    wait = WaitForEvent("w", event=" go ", output=Row, correlation_id="  ")
    assert (wait.event, wait.correlation_id) == ("go", None)


def test_a_signal_mounts_elements_or_what_its_function_makes_of_the_row() -> None:
    inner = Timer("x", duration=1)

    def then(row: Row) -> list[Element | None]:
        return [Timer(f"x{row.n}", duration=1), None]

    assert Signal("go", schema=Row)[inner].mount(Row()) == (inner,)
    assert [one.id for one in Signal("go", schema=Row)[then].mount(Row(n=3))] == ["x3"]
    assert Signal("go", schema=Row).mount(Row()) == ()
    with pytest.raises(InvalidElement, match="the class Sequence itself"):
        Signal("go", schema=Row)[Sequence]
    with pytest.raises(TaskMissingOutput, match="Signal 'go' names no schema"):
        _untyped(Signal)("go")


@pytest.mark.parametrize(
    "properties",
    [
        {},
        {"duration": "1s", "until": "2026-01-01T00:00:00Z"},
        {"until": "2026-01-01T00:00:00"},
        {"until": datetime(2026, 1, 1)},  # noqa: DTZ001 - the point of this case
        {"until": date(2026, 1, 1)},
        {"until": "tomorrow"},
        {"duration": None, "until": None},
    ],
)
def test_a_timer_needs_one_duration_or_one_zoned_moment(properties: dict[str, object]) -> None:
    with pytest.raises(InvalidElement, match="Timer 't'"):
        _untyped(Timer)("t", **properties)


def test_a_timer_keeps_milliseconds_or_the_moment() -> None:
    assert Timer("t", duration="1.5s").duration_ms == 1500
    assert Timer("t", until="2026-01-01T00:00:00Z").until == datetime(2026, 1, 1, tzinfo=UTC)
    with pytest.raises(InvalidElement, match="takes no children"):
        Timer("t", duration=1)[Timer("x", duration=1)]


UNITS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


@given(st.integers(0, 36_500), st.sampled_from(sorted(UNITS)), st.sampled_from(["", " "]))
def test_a_duration_is_its_number_times_its_unit(number: int, unit: str, gap: str) -> None:
    assert parse_duration(f"{number}{gap}{unit}") == number * UNITS[unit]


@given(st.integers(0, MAX_DURATION_MS))
def test_a_bare_number_is_milliseconds(number: int) -> None:
    assert parse_duration(number) == parse_duration(str(number)) == number


@given(st.one_of(st.text(), st.floats(), st.integers(), st.booleans(), st.none(), st.binary()))
def test_anything_else_is_refused_or_within_bounds(value: object) -> None:
    outcome: object
    try:
        outcome = _untyped(parse_duration)(value, "Timer 't': duration")
    except InvalidElement as error:
        outcome = str(error)
    if isinstance(outcome, str):
        assert outcome.startswith("Timer 't': duration must be ")
    else:
        assert isinstance(outcome, int)
        assert 0 <= outcome <= MAX_DURATION_MS


@pytest.mark.parametrize(
    "bad", ["", "s", "-1s", "1e3s", "1_000s", "nan", "infs", "٣s", "1 w", "1s1s", "9" * 5000, -1, float("nan"), 10**400]
)
def test_misspelt_and_endless_durations_are_refused(bad: str | float) -> None:
    with pytest.raises(AuthoringError, match="duration must be"):
        parse_duration(bad)
