"""Keys of an input that nobody reads are told of; keys that something may read are not."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import AliasChoices, AliasPath, BaseModel, ConfigDict, Field, RootModel, model_validator

from smithers.components.inputs import unknown_keys


class Plain(BaseModel):
    topic: str = "x"
    n: int = 1


class Aliased(BaseModel):
    topic: str = Field("x", alias="subject")
    n: int = Field(1, validation_alias=AliasChoices("count", AliasPath("numbers", 0)))


class ByBoth(Aliased):
    model_config = ConfigDict(populate_by_name=True)


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")


class Closed(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Reading(BaseModel):
    n: int = 1

    @model_validator(mode="before")
    @classmethod
    def read(cls, value: dict[str, Any]) -> dict[str, Any]:
        return {"n": value.get("number", 1)}


class Empty(BaseModel):
    pass


@pytest.mark.parametrize(
    ("model", "raw", "hint"),
    [
        (Plain, {"topic": "a", "n": 2}, None),
        (Plain, {}, None),
        (Plain, None, None),
        (Plain, Plain(), None),
        (Plain, {"x": 1}, "input: the workflow does not know 'x'; it knows 'topic', 'n'"),
        (Aliased, {"subject": "a", "count": 1, "numbers": [1]}, None),
        (Aliased, {"topic": "a"}, "input: the workflow does not know 'topic'; it knows 'subject', 'count', 'numbers'"),
        (ByBoth, {"topic": "a", "n": 1}, None),
        (Open, {"x": 1}, None),
        (Closed, {"x": 1}, None),
        (Reading, {"number": 1}, None),
        (RootModel[dict[str, int]], {"x": 1}, None),
        (Empty, {"x": 1}, "input: the workflow does not know 'x'; it knows no key"),
        (None, {"x": 1}, None),
    ],
)
def test_unknown_keys_are_named_with_the_known_ones(
    model: type[BaseModel] | None, raw: object, hint: str | None
) -> None:
    assert unknown_keys(model, raw) == hint


def test_a_hint_stays_one_short_line() -> None:
    hint = unknown_keys(Plain, {f"{n}" + "y" * 10_000 + "\n": n for n in range(500)})
    assert hint is not None
    assert len(hint) < 1_000
    assert "and 490 more" in hint
    assert "\n" not in hint
