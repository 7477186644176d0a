"""Example values: whatever the model, the example is one of its instances."""

from __future__ import annotations

import ipaddress
import uuid
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, IntEnum
from typing import Annotated, Literal, cast

import annotated_types
import pytest
from pydantic import (
    AnyUrl,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    FutureDate,
    HttpUrl,
    Json,
    NaiveDatetime,
    PastDatetime,
    RootModel,
    create_model,
    field_validator,
)

from smithers.errors import InvalidInput
from smithers.testing import example


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Level(IntEnum):
    LOW = 1
    HIGH = 2


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int


class Dog(BaseModel):
    kind: Literal["dog"]
    tricks: list[str]


class Tree(BaseModel):
    name: str
    left: Tree | None
    right: list[Tree]
    by_name: dict[str, Tree]


class Aliased(BaseModel):
    model_config = ConfigDict(extra="forbid")
    inner: int = Field(alias="outerName", gt=3)


TYPES: list[object] = [
    bool, int, float, str, bytes, Decimal, date, datetime, time, timedelta, uuid.UUID, None, object,
    uuid.UUID, AnyUrl, HttpUrl, AwareDatetime, NaiveDatetime, PastDatetime, FutureDate, Json[dict[str, int]],
    ipaddress.IPv4Address, ipaddress.IPv6Address, ipaddress.IPv4Network, ipaddress.IPv6Interface,
    Colour, Level, Literal["a", 3, None], int | None, str | int, list[int], set[str], frozenset[Colour],
    tuple[int, str], tuple[int, ...], dict[str, int], dict[int, str], dict[Colour, bool], dict[uuid.UUID, int],
    list[dict[str, list[Colour | None]]],
    Cat, Cat | Dog, list[Annotated[Cat | Dog, Field(discriminator="kind")]], Tree, Aliased, RootModel[list[Cat]],
    Annotated[int, Field(gt=3)], Annotated[int, Field(lt=-3)], Annotated[int, Field(ge=7, le=7)],
    Annotated[int, Field(gt=3, multiple_of=5)], Annotated[int, Field(lt=1)], Annotated[int, Field(le=0)],
    Annotated[float, Field(gt=0, lt=0.001)], Annotated[float, Field(ge=0, le=1)], Annotated[float, Field(lt=0)],
    Annotated[float, Field(gt=1, multiple_of=0.5)], Annotated[Decimal, Field(gt=0, max_digits=4, decimal_places=2)],
    Annotated[str, Field(min_length=30)], Annotated[str, Field(max_length=2)], Annotated[str, Field(max_length=0)],
    Annotated[str, Field(pattern=r"^[a-z]+$")], Annotated[str, Field(pattern=r"^\d{4}$")],
    Annotated[str, Field(pattern=r"^[A-Z]{2,3}-\d+$")], Annotated[str, Field(pattern=r"^v?\d+\.\d+\.\d+$")],
    Annotated[list[int], Field(min_length=3)], Annotated[list[int], Field(max_length=0)],
    Annotated[set[int], Field(min_length=4)], Annotated[set[str], Field(min_length=3)],
    Annotated[set[Annotated[str, Field(max_length=1)]], Field(min_length=3)],
    Annotated[dict[str, int], Field(min_length=2)], Annotated[list[int], annotated_types.Len(2, 2)],
    Annotated[str, Field(examples=["taken as it is"])],
]  # fmt: skip


@pytest.mark.parametrize("kind", TYPES, ids=str)
def test_every_common_field_type_has_an_example(kind: object) -> None:
    make = cast("Callable[..., type[BaseModel]]", create_model)
    model = make("Holder", field=(kind, ...))
    made = example(model)
    assert model.model_validate(made.model_dump(by_alias=True, round_trip=True)) == made
    assert example(model) == made


def test_defaults_are_kept_and_examples_preferred() -> None:
    class Note(BaseModel):
        text: str = Field(examples=["well done"])
        stars: int = 4
        tags: list[str] = []

    assert example(Note) == Note(text="well done")


def test_a_model_that_cannot_be_met_says_so() -> None:
    class Stubborn(BaseModel):
        value: str

        @field_validator("value")
        @classmethod
        def never(cls, value: str) -> str:
            raise ValueError(f"not {value}")

    class Endless(BaseModel):
        inner: Endless

    with pytest.raises(InvalidInput, match=r"Stubborn.*examples"):
        example(Stubborn)
    with pytest.raises(InvalidInput):
        example(Endless)
