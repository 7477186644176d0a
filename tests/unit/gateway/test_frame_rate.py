"""How many frames a connection may send."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from smithers.gateway.ws.limits import ABUSE, FrameRate


@given(st.integers(1, 50), st.lists(st.floats(0, 0.5), min_size=1, max_size=200))
def test_never_more_than_a_second_s_worth_above_the_rate(rate: int, pauses: list[float]) -> None:
    now, taken = 0.0, 0
    bucket = FrameRate(rate, now)
    for pause in pauses:
        now += pause
        taken += bucket.take(now) == "ok"
        assert taken <= rate * now + rate + 1e-6


def test_whoever_keeps_to_the_rate_is_never_late() -> None:
    bucket = FrameRate(10, 0.0)
    assert all(bucket.take(number / 10) == "ok" for number in range(1, 1_000))


def test_abuse_is_what_goes_on_without_a_rest() -> None:
    bucket = FrameRate(10, 0.0)
    verdicts = [bucket.take(0.0) for _ in range(10 + 10 * ABUSE + 1)]
    assert (verdicts[9], verdicts[10], verdicts[-2], verdicts[-1]) == ("ok", "late", "late", "abuse")
    assert bucket.take(1.0) == "ok"  # rested
    assert [bucket.take(1.0) for _ in range(12)][-1] == "late"
