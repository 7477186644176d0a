"""Finding and validating the JSON in an answer."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import date
from time import thread_time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, RootModel
from tests.unit.agents.support import Verdict

from smithers.agents.structured import (
    MAX_RESPONSE_CHARS,
    MAX_TASK_CHARS,
    Accepted,
    Rejected,
    correction_prompt,
    find_json,
    interpret,
    shorten,
    with_instructions,
)
from smithers.errors import AgentConfigInvalid

GOOD = '{"ok": true, "note": "a } brace"}'


def read(text: str, output: object = None) -> object:
    found = interpret(Verdict, output=output, text=text)
    return found.output.model_dump() if isinstance(found, Accepted) else found.issues


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        f"\ufeff  {GOOD}\n",
        f"Here it is:\n```json\n{GOOD}\n```\nDone.",
        f'```json\n{{"ok": false}}\n```\nNo, rather:\n```json\n{GOOD}\n```',
        f"```\n{GOOD}\n```\n```sh\nls\n```",
        f"Well {GOOD} it is.",
        f"Use {{ to open, don't \"quote. {GOOD}",
        f'First {{"ok": false}}, then {GOOD}',
        f'{{"unclosed": {GOOD}',
        f"```json {GOOD} ```",
        f'{{"a": "unclosed string\n{GOOD}',
    ],
)
def test_the_answer_is_found_in_its_usual_wrappings(text: str) -> None:
    assert read(text) == {"ok": True, "note": "a } brace"}


def test_a_native_object_is_preferred_to_the_text() -> None:
    assert read('{"ok": false}', {"ok": True}) == {"ok": True, "note": ""}
    assert read("", GOOD) == {"ok": True, "note": "a } brace"}


def test_a_broken_last_block_is_not_replaced_by_an_earlier_one() -> None:
    problem = read(f'```json\n{GOOD}\n```\n```json\n{{"ok": tru\n```')
    assert isinstance(problem, tuple)
    assert "fenced block is not valid JSON" in problem[0]


@pytest.mark.parametrize(
    "text", ["", "   ", "no json", "{", "}{", "42", '"text"', "[]", '{"ok": NaN}', '{"ok": "\\ud800"}']
)
def test_an_answer_without_a_fitting_object_is_rejected_with_a_reason(text: str) -> None:
    assert isinstance(read(text), tuple)


def test_issues_name_the_fields_and_are_bounded() -> None:
    class Many(BaseModel):
        values: list[int]

    found = interpret(Many, output={"values": ["x"] * 100}, text="")
    assert isinstance(found, Rejected)
    assert len(found.issues) == 21
    assert found.issues[0].startswith("values.0: ")
    assert found.issues[-1] == "and 80 more"


def test_a_strict_model_takes_what_json_can_say() -> None:
    class Strict(BaseModel):
        model_config = ConfigDict(strict=True)
        day: date

    assert isinstance(interpret(Strict, output={"day": "2026-01-02"}, text=""), Accepted)
    assert isinstance(interpret(Strict, output=None, text='{"day": "2026-01-02"}'), Accepted)


def test_a_list_can_be_an_output() -> None:
    found = interpret(RootModel[list[int]], output=None, text="So:\n```json\n[1, 2]\n```")
    assert isinstance(found, Accepted)
    assert found.output == RootModel[list[int]]([1, 2])


@given(st.text(alphabet=st.sampled_from('{}[]"\\`\n :,ajson1\ufeff\ud800'), max_size=300))
def test_no_text_breaks_the_search_and_what_it_finds_is_json(text: str) -> None:
    found = find_json(text)
    if isinstance(found, str):
        json.loads(found)
    assert isinstance(interpret(Verdict, output=None, text=text), Accepted | Rejected)


@given(
    st.dictionaries(st.text(max_size=5), st.text(max_size=8) | st.integers() | st.lists(st.booleans()), max_size=4),
    st.text(alphabet=st.characters(exclude_characters='{}"`', exclude_categories=["Cs"]), max_size=40),
)
def test_an_object_is_found_whole_behind_any_prose_without_braces(value: dict[str, object], prose: str) -> None:
    found = find_json(f"{prose}.\n{json.dumps(value)}\n{prose}!")
    assert isinstance(found, str)
    assert json.loads(found) == value


@pytest.mark.parametrize(
    "unit", ["{", '{"', '{"a":', "}", '"', "`", "```json\n", "{}", "\\", "{ ", '{"a":{}', "```\n{\n```\n", "\n"]
)
def test_hostile_repetition_costs_linear_time(unit: str) -> None:
    def seconds(length: int) -> float:
        text = "x" + unit * (length // len(unit))
        begin = thread_time()
        find_json(text)
        return thread_time() - begin

    assert seconds(400_000) < 4 + 20 * seconds(40_000)


@given(st.text(max_size=200), st.integers(min_value=20, max_value=100))
def test_shortened_text_keeps_to_its_limit_and_both_ends(text: str, limit: int) -> None:
    short = shorten(text, limit)
    assert len(short) <= limit
    assert short[:5] == text[:5]
    assert short[-3:] == text[-3:]


def test_the_correction_repeats_task_and_answer_only_where_there_is_no_conversation() -> None:
    def prompt(has_conversation: bool) -> str:
        return correction_prompt(
            Verdict, ["ok: missing"], task="T" * 20_000, response="R" * 9_000, has_conversation=has_conversation
        )

    alone = prompt(False)
    assert alone.count("T" * 100) > 0
    assert alone.count("T") <= MAX_TASK_CHARS + 10
    assert alone.count("R") <= MAX_RESPONSE_CHARS + 10
    assert "- ok: missing" in alone
    assert '"ok"' in alone
    assert "TTT" not in prompt(True)
    assert "- ok: missing" in prompt(True)


def test_instructions_surround_the_prompt() -> None:
    told = with_instructions("Judge it.", Verdict)
    before, after = told.split("Judge it.")
    assert "JSON" in before
    assert '"properties"' in after


def test_a_model_without_json_schema_is_refused_by_name() -> None:
    class Opaque(BaseModel):
        work: Callable[[], None]

    with pytest.raises(AgentConfigInvalid, match="Opaque"):
        with_instructions("x", Opaque)
