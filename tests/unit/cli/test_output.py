"""How things are written: widths, control characters, durations, JSON from arguments; and what events add up to."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smithers.cli.arguments import read_duration, read_json
from smithers.cli.live import visible
from smithers.cli.output import duration, printable, shortened, to_text, width
from smithers.cli.progress import RunView, TaskView, words
from smithers.errors import InvalidInput


@given(st.text())
def test_printed_text_holds_no_control_characters(text: str) -> None:
    shown = printable(text)
    assert not any(ord(c) < 32 or 127 <= ord(c) < 160 for c in shown)
    assert "\u202e" not in shown
    assert shown.encode() is not None


@given(st.text(), st.integers(2, 60))
def test_shortened_text_fits(text: str, limit: int) -> None:
    assert width(shortened(text, limit)) <= limit


@pytest.mark.parametrize(
    ("text", "columns"), [("abc", 3), ("日本", 4), ("e\u0301", 1), ("\x1b[31mred\x1b[0m", 3), ("🚀", 2)]
)
def test_width_counts_columns(text: str, columns: int) -> None:
    assert width(text) == columns


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [
        (0, "0ms"),
        (999, "999ms"),
        (1500, "1.5s"),
        (59_999, "59.9s"),
        (65_000, "1m05s"),
        (3_720_000, "1h02m"),
        (90_000_000, "1d01h"),
    ],
)
def test_durations_for_people(milliseconds: int, text: str) -> None:
    assert duration(milliseconds) == text


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [("500ms", 500), ("10s", 10_000), ("5m", 300_000), ("2h", 7_200_000), ("3", 3_000), ("1.5s", 1_500)],
)
def test_durations_from_people(text: str, milliseconds: int) -> None:
    assert read_duration(text, "--flag") == milliseconds


@pytest.mark.parametrize("text", ["", "-1s", "ten", "5 m", "1e3"])
def test_what_is_no_duration_names_its_flag(text: str) -> None:
    with pytest.raises(InvalidInput, match="--flag"):
        read_duration(text, "--flag")


@pytest.mark.parametrize("text", ["", "{", "NaN", "'a'", "[" * 100_000, '"' + "x" * 1_048_576 + '"', "\ud800"])
def test_what_is_not_json_names_its_flag(text: str) -> None:
    with pytest.raises(InvalidInput, match="--input"):
        read_json(text, "--input")


def test_json_text_can_always_be_written() -> None:
    assert to_text({"a": float("nan"), "b": "\ud800", "c": object}).encode()


def test_events_add_up_to_the_state_of_tasks() -> None:
    view = RunView()
    for event in (
        {"type": "RunStarted", "timestampMs": 0},
        {"type": "NodePending", "timestampMs": 1, "nodeId": "a", "iteration": 0},
        {"type": "NodeStarted", "timestampMs": 2, "nodeId": "a", "iteration": 0, "attempt": 1},
        {
            "type": "TokenUsageReported",
            "timestampMs": 3,
            "nodeId": "a",
            "iteration": 0,
            "inputTokens": 5,
            "outputTokens": 2,
        },
        {"type": "NodeRetrying", "timestampMs": 4, "nodeId": "a", "iteration": 0, "attempt": 2, "delayMs": 1000},
        {"type": "NodeStarted", "timestampMs": 10, "nodeId": "a", "iteration": 0, "attempt": 2},
    ):
        view.apply(event)
    assert view.in_flight == ["a"]
    assert view.tasks["a", 0].attempt == 2
    view.apply({"type": "NodeFinished", "timestampMs": 15, "nodeId": "a", "iteration": 0, "attempt": 2})
    assert view.in_flight == []
    assert view.tokens == 7
    assert view.tasks["a", 0].took_ms(999) == 5
    assert view.summary() == "1 finished"


def test_when_there_is_no_room_the_tasks_that_move_are_shown() -> None:
    tasks = [TaskView(f"t{i}", 0, "finished", ended_at_ms=i) for i in range(50)]
    tasks += [TaskView(f"p{i}", 0) for i in range(50)]
    tasks.insert(20, TaskView("now", 0, "in-progress"))
    shown = visible(tasks, 10)
    assert len(shown) == 10
    assert "now" in [task.node_id for task in shown]


def test_events_that_tell_no_story_have_no_words() -> None:
    assert words({"type": "FrameCommitted", "timestampMs": 0}) is None
    assert words({"type": "SomethingNew", "timestampMs": 0, "nodeId": "a"}) is None
    failed = words({"type": "NodeFailed", "nodeId": "a", "iteration": 2, "error": {"code": "X", "summary": "no\nluck"}})
    assert failed == "a #2 failed: no luck [X]"
