"""When a cron pattern is due: held to a slow walk over every minute, and to what changes of the clocks ask for."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta, tzinfo
from itertools import islice
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from smithers.control.crons import LOCAL, checked_pattern, next_fire, zone_of
from smithers.errors import InvalidInput

NEW_YORK = ZoneInfo("America/New_York")
MINUTE = 60_000


def ms(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


def utc(moment: int | None) -> str:
    assert moment is not None
    return datetime.fromtimestamp(moment / 1000, UTC).strftime("%m-%d %H:%M:%S")


def fires(pattern: str, after: str, zone: tzinfo) -> Iterator[str]:
    moment: int | None = ms(after)
    while moment is not None and (moment := next_fire(pattern, moment, zone)) is not None:
        yield utc(moment)


# ── against a slow walk ────────────────────────────────────────────────────────────────────────────────────────────

MINUTES, HOURS, DAYS, MONTHS, WEEKDAYS = range(60), range(24), range(1, 32), range(1, 13), range(7)


@st.composite
def fields(draw: st.DrawFn, values: range) -> tuple[str, frozenset[int]]:
    """A field's text, and the values that it names."""
    kind = draw(st.sampled_from(["any", "step", "list", "range", "one"]))
    low, high = values[0], values[-1]
    if kind == "any":
        return "*", frozenset(values)
    if kind == "step":
        step = draw(st.integers(1, len(values)))
        return f"*/{step}", frozenset(values[::step])
    if kind == "list":
        some = draw(st.lists(st.sampled_from(values), min_size=1, max_size=4))
        return ",".join(map(str, some)), frozenset(some)
    first = draw(st.integers(low, high))
    if kind == "one":
        return str(first), frozenset([first])
    last = draw(st.integers(first, high))
    return f"{first}-{last}", frozenset(range(first, last + 1))


Field = tuple[str, frozenset[int]]


@st.composite
def patterns(draw: st.DrawFn) -> list[Field]:
    return [draw(fields(values)) for values in (MINUTES, HOURS, DAYS, MONTHS, WEEKDAYS)]


def matches(pattern: list[Field], moment: datetime) -> bool:
    minute, hour, day, month, weekday = pattern
    in_month = moment.day in day[1]
    in_week = moment.isoweekday() % 7 in weekday[1]
    # as in every cron: both given names days of either, one left open leaves the choice to the other
    is_day = in_month and in_week if "*" in (day[0][0], weekday[0][0]) else in_month or in_week
    return moment.minute in minute[1] and moment.hour in hour[1] and is_day and moment.month in month[1]


def walk(pattern: list[Field], after: datetime, days: int) -> datetime | None:
    moment = after.replace(second=0, microsecond=0)
    for _ in range(days * 24 * 60):
        moment += timedelta(minutes=1)
        if matches(pattern, moment):
            return moment
    return None


MOMENTS = st.integers(ms("2026-01-01"), ms("2032-12-31"))


@given(patterns(), MOMENTS)
@example([("0", frozenset([0])), ("0", frozenset([0])), ("29", frozenset([29])), ("*", frozenset(MONTHS)),
          ("*", frozenset(WEEKDAYS))], ms("2026-02-28"))  # fmt: skip
def test_the_next_moment_is_the_first_minute_that_matches(pattern: list[Field], after: int) -> None:
    text = " ".join(field[0] for field in pattern)
    wanted = walk(pattern, datetime.fromtimestamp(after // 1000, UTC), days=4)

    try:
        found = next_fire(text, after, UTC)
    except InvalidInput:  # a day that none of the months has
        assert wanted is None
        return

    if wanted is not None:
        assert found == int(wanted.timestamp() * 1000)
    else:
        assert found is None or found > after + 4 * 24 * 60 * MINUTE - MINUTE


@given(
    patterns(), MOMENTS, st.sampled_from(["America/New_York", "Europe/Berlin", "Australia/Lord_Howe", "Asia/Kolkata"])
)
@example([("30", frozenset([30])), ("1", frozenset([1])), ("*", frozenset(DAYS)), ("*", frozenset(MONTHS)),
          ("*", frozenset(WEEKDAYS))], ms("2026-11-01T06:10"), "America/New_York")  # fmt: skip
def test_moments_only_go_forward_in_every_zone_and_name_the_wall_clock(
    pattern: list[Field], after: int, name: str
) -> None:
    text, zone = " ".join(field[0] for field in pattern), ZoneInfo(name)
    before = after
    for _ in range(5):
        try:
            found = next_fire(text, before, zone)
        except InvalidInput:
            return
        if found is None:
            return
        assert found > before
        wall = datetime.fromtimestamp(found // 1000, zone)
        a_minute_ago = datetime.fromtimestamp(found // 1000 - 60, zone)
        assert matches(pattern, wall) or wall.utcoffset() != a_minute_ago.utcoffset()
        before = found


@given(st.text(max_size=40) | st.text("0123456789*/,-#LW MONFRI", max_size=40))
@example("5L/2 * * * *")
@example("0 0 * * 1#2/3")
@example("*/0 * * * *")
@example("0 0 31 2 *")
@example("² * * * *")
@example("* * " + "1," * 130 + "1 * *")
def test_any_text_is_a_pattern_or_refused_as_input(text: str) -> None:
    with suppress(InvalidInput):
        assert checked_pattern(text) == " ".join(text.split())


# ── seconds ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_sixth_field_in_front_is_the_second() -> None:
    assert list(islice(fires("*/20 0 12 * * *", "2026-03-01T11:00:00", UTC), 4)) == [
        "03-01 12:00:00", "03-01 12:00:20", "03-01 12:00:40", "03-02 12:00:00",
    ]  # fmt: skip


def test_a_moment_is_not_its_own_next_and_one_a_millisecond_later_is() -> None:
    noon = ms("2026-03-01T12:00:00")

    assert next_fire("0 12 * * *", noon, UTC) == noon + 24 * 60 * MINUTE
    assert next_fire("0 12 * * *", noon - 1, UTC) == noon


# ── changes of the clocks ──────────────────────────────────────────────────────────────────────────────────────────


def test_a_daily_moment_in_the_repeated_hour_comes_once() -> None:
    found = list(islice(fires("30 1 * * *", "2026-10-31T12:00", NEW_YORK), 3))

    assert found == ["11-01 05:30:00", "11-02 06:30:00", "11-03 06:30:00"]


def test_a_daily_moment_is_not_offered_again_by_who_starts_in_the_second_pass_of_the_hour() -> None:
    assert utc(next_fire("30 1 * * *", ms("2026-11-01T06:10"), NEW_YORK)) == "11-02 06:30:00"


def test_a_daily_moment_that_is_skipped_comes_at_the_first_instant_after() -> None:
    found = list(islice(fires("30 2 * * *", "2026-03-07T12:00", NEW_YORK), 2))

    assert found == ["03-08 07:00:00", "03-09 06:30:00"]


def test_two_skipped_moments_of_a_day_come_as_one() -> None:
    found = list(islice(fires("15,45 2 * * *", "2026-03-07T12:00", NEW_YORK), 3))

    assert found == ["03-08 07:00:00", "03-09 06:15:00", "03-09 06:45:00"]


def test_an_hourly_pattern_goes_by_real_hours_when_the_clocks_go_back() -> None:
    assert list(islice(fires("0 * * * *", "2026-11-01T03:30", NEW_YORK), 4)) == [
        "11-01 04:00:00", "11-01 05:00:00", "11-01 06:00:00", "11-01 07:00:00",
    ]  # fmt: skip


def test_working_days_are_monday_to_friday() -> None:
    assert utc(next_fire("0 9 * * 1-5", ms("2026-10-30T09:00"), UTC)) == "11-02 09:00:00"


# ── zones ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def in_new_york(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("in_new_york")
@pytest.mark.parametrize("pattern", ["30 1 * * *", "30 2 * * *", "0 * * * *", "*/20 1,2 * * *", "0 9 * * 1-5"])
@pytest.mark.parametrize("after", ["2026-03-07T20:00", "2026-10-31T20:00", "2026-11-01T06:10"])
def test_the_machines_own_zone_has_the_rules_of_the_zone_that_it_is(pattern: str, after: str) -> None:
    assert list(islice(fires(pattern, after, LOCAL), 12)) == list(islice(fires(pattern, after, NEW_YORK), 12))


def test_zones_are_known_by_their_iana_names() -> None:
    assert zone_of(None) is LOCAL
    assert zone_of("Europe/Berlin") == ZoneInfo("Europe/Berlin")


@pytest.mark.parametrize("name", ["", "Nowhere/Else", "../etc/passwd", "/etc/localtime", "Europe", "a\0b", "x" * 5_000])
def test_any_other_zone_is_refused(name: str) -> None:
    with pytest.raises(InvalidInput):
        zone_of(name)
