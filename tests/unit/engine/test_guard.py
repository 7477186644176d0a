"""The replay-unsafe guard's pure parts: what names a set of calls, and what a person is told of them."""

from __future__ import annotations

import json
from random import Random
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from smithers import SideEffect, Task
from smithers.engine import guard, requests
from smithers.engine.requests import MOST_CALLS, MOST_CHARS, replay_request
from smithers.errors import InvalidElement
from smithers.store.calls import UnsafeCall


class Out(BaseModel):
    text: str = ""


tokens = st.lists(st.uuids().map(lambda id: id.hex), min_size=1, max_size=8, unique=True)
made = st.builds(
    UnsafeCall,
    st.uuids().map(lambda id: id.hex),
    st.integers(1, 9),
    st.integers(0, 99),
    st.text(min_size=1, max_size=20),
    st.none() | st.text(max_size=3000),
    st.booleans(),
)


@given(tokens, st.randoms())
def test_calls_have_one_name_in_whatever_order_and_another_with_one_more_or_less(
    found: list[str], chance: Random
) -> None:
    shuffled = list(found)
    chance.shuffle(shuffled)
    assert guard.fingerprint(shuffled) == guard.fingerprint(found)
    assert guard.fingerprint([*found, "0" * 32]) != guard.fingerprint(found)
    assert guard.fingerprint(found[1:]) != guard.fingerprint(found)


@given(st.lists(made, min_size=1, max_size=12))
def test_a_request_is_json_of_bounded_size_that_counts_all_calls_and_names_the_first(found: list[UnsafeCall]) -> None:
    asked = replay_request(Task("pay", output=Out), found, "f")
    assert json.loads(json.dumps(asked)) == asked
    named = cast("list[dict[str, object]]", asked["calls"])
    assert asked["callCount"] == len(found)
    assert len(named) == min(len(found), MOST_CALLS)
    assert [call["attempt"] for call in named] == sorted(call.attempt for call in found)[:MOST_CALLS]
    assert all(len(str(call["input"])) <= MOST_CHARS + 1 for call in named)
    assert len(str(asked["summary"])) < 100 + MOST_CALLS * (MOST_CHARS + 100)
    assert (f"; {len(found) - MOST_CALLS} more." in str(asked["summary"])) == (len(found) > MOST_CALLS)


def test_a_person_is_not_shown_credentials() -> None:
    given = '{"url":"https://ann:hunter2@shop/","api_key":"k-123456789","note":"Bearer abcdefghijkl"}'
    text = json.dumps(replay_request(Task("pay", output=Out), [UnsafeCall("t", 1, 1, "order", given, False)], "f"))
    assert not [secret for secret in ("hunter2", "k-123456789", "abcdefghijkl") if secret in text]
    assert "shop" in text


def test_who_may_open_a_tasks_gate_may_agree_to_another_attempt() -> None:
    gate = {"title": "Pay?", "allowedUsers": ["ann"], "allowedScopes": ["pay"]}
    asked = replay_request(Task("pay", output=Out, label="Payment", needs_approval=gate), [], "f")
    assert (asked["title"], asked["allowedUsers"], asked["allowedScopes"]) == (
        "Run 'Payment' again?",
        ["ann"],
        ["pay"],
    )
    assert asked["kind"] == requests.REPLAY_UNSAFE


def test_only_known_policies_are_taken() -> None:
    assert Task("pay", output=Out).unsafe_replay == "ask"
    assert Task("pay", output=Out, unsafe_replay="fail").unsafe_replay == "fail"
    with pytest.raises(
        InvalidElement, match=r"Task 'pay': unsafe_replay must be one of ask, allow, fail, not 'perhaps'"
    ):
        Task("pay", output=Out, unsafe_replay="perhaps")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("effect", "is_unsafe"),
    [
        (SideEffect(), False),
        (SideEffect(accepts_idempotency_key=False), True),
        (SideEffect(idempotent=True, accepts_idempotency_key=False), False),
    ],
)
def test_a_tasks_own_effect_is_unsafe_only_without_a_key(effect: SideEffect, is_unsafe: bool) -> None:
    assert guard.is_unsafe(effect) is is_unsafe
