"""A model becomes columns; an instance becomes a row and comes back equal."""

from __future__ import annotations

import math
import warnings
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from typing import Annotated, Literal, NewType, cast
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import (
    AfterValidator,
    AliasPath,
    Base64Str,
    BaseModel,
    ConfigDict,
    Field,
    Json,
    RootModel,
    Strict,
    StringConstraints,
    computed_field,
    create_model,
    field_serializer,
    model_serializer,
)
from typing_extensions import TypeAliasType

from smithers.errors import AuthoringError, InvalidOutput
from smithers.store.columns import Column, snake_case, table_def


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


class Level(IntEnum):
    LOW = 1


class Loose(Enum):
    NUMBER = 1
    TEXT = "one"


UserId = NewType("UserId", str)
Short = TypeAliasType("Short", Annotated[str, StringConstraints(max_length=9)])


class Scalars(BaseModel):
    flag: bool
    maybe_flag: bool | None = None
    size: int
    ratio: float
    text: str
    colour: Colour
    word: Literal["a", "b"]
    one: Literal[1, 2] = 1
    yes: Literal[True] = True
    user: UserId = UserId("u")
    short: Short = "s"
    limited: Annotated[int, Field(ge=0)] = 0
    checked: Annotated[str, AfterValidator(lambda s: s)] = ""
    optional: str | None = "default"


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")

    the_name: str = Field(validation_alias="theName", serialization_alias="THE_NAME")
    ratio: float = 0.0

    @computed_field  # type: ignore[prop-decorator]
    @property
    def twice(self) -> float:
        return self.ratio * 2


class Mixed(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True)

    size: int = Field(alias="theSize")
    inner: Inner
    inners: list[Inner] = []
    when: datetime
    day: date | None = None
    took: timedelta = timedelta(0)
    price: Decimal
    tags: frozenset[str] = frozenset()
    pair: tuple[int, str] = (0, "")
    by_number: dict[int, Colour] = {}
    either: int | str | list[float] | None = None
    level: Level = Level.LOW
    loose: Loose = Loose.NUMBER
    colour: Colour = Colour.RED
    raw: bytes = b""
    id: UUID = UUID(int=0)
    parsed: Json[list[int]] = Field(default_factory=lambda: [1])
    hidden: list[int] = Field(default_factory=list[int], exclude=True)
    deep: int = Field(default=0, validation_alias=AliasPath("a", "b"))


INTEGERS = (
    st.integers() | st.integers(2**62, 2**66) | st.sampled_from([2**63, 2**63 - 1, -(2**63), -(2**63) - 1, 10**40])
)
FLOATS = st.floats(allow_nan=False)
INNERS = st.fixed_dictionaries({"theName": st.text(), "ratio": FLOATS}).map(Inner.model_validate)

scalars = st.builds(
    Scalars,
    flag=st.booleans(),
    maybe_flag=st.none() | st.booleans(),
    size=INTEGERS,
    ratio=FLOATS,
    text=st.text(),
    colour=st.sampled_from(Colour),
    word=st.sampled_from(["a", "b"]),
    one=st.sampled_from([1, 2]),
    optional=st.none() | st.text(),
)

mixed = st.fixed_dictionaries(
    {
        "theSize": INTEGERS,
        "inner": INNERS,
        "inners": st.lists(INNERS, max_size=2),
        "when": st.datetimes() | st.datetimes(timezones=st.just(UTC)),
        "day": st.none() | st.dates(),
        "took": st.timedeltas(timedelta(days=-400), timedelta(days=400)),
        "price": st.decimals(allow_nan=False, allow_infinity=False),
        "tags": st.frozensets(st.text(), max_size=3),
        "pair": st.tuples(INTEGERS, st.text()),
        "by_number": st.dictionaries(INTEGERS, st.sampled_from(Colour), max_size=3),
        "either": st.none() | INTEGERS | st.text() | st.lists(FLOATS, max_size=3),
        "level": st.sampled_from(Level),
        "loose": st.sampled_from(Loose),
        "colour": st.sampled_from(Colour),
        "raw": st.text().map(str.encode),
        "id": st.uuids(),
        "hidden": st.lists(INTEGERS, max_size=3),
    }
).map(Mixed.model_validate)


def back(instance: BaseModel) -> BaseModel:
    table = table_def("it", type(instance))
    return table.decode(table.encode(instance))


@given(scalars)
def test_plain_fields_come_back_equal(instance: Scalars) -> None:
    assert back(instance) == instance


@given(mixed)
def test_everything_else_comes_back_equal(instance: Mixed) -> None:
    assert back(instance) == instance


@given(
    st.recursive(
        st.none() | st.booleans() | INTEGERS | FLOATS | st.text(), lambda s: st.lists(s) | st.dictionaries(st.text(), s)
    )
)
def test_a_root_model_is_one_column(value: object) -> None:
    instance = RootModel[object](value)
    assert [c.name for c in table_def("any", RootModel[object]).columns] == ["value"]
    assert back(instance) == instance


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")

    a: int = 0


@given(
    st.dictionaries(
        st.text().filter(lambda k: k != "a"),
        st.none() | INTEGERS | st.text() | st.lists(FLOATS, max_size=2),
        max_size=4,
    )
)
def test_extra_values_are_kept(extra: dict[str, object]) -> None:
    instance = Open.model_validate({"a": 1, **extra})
    assert back(instance) == instance


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_floats_that_are_no_numbers_come_back(value: float) -> None:
    class Floats(BaseModel):
        plain: float
        deep: list[float]

    again = back(Floats(plain=value, deep=[value]))
    assert isinstance(again, Floats)
    assert [repr(again.plain), repr(again.deep)] == [repr(value), repr([value])]


def test_each_type_has_its_kind_of_column() -> None:
    kinds = {c.field: c.kind for c in table_def("s", Scalars).columns}
    assert kinds == {
        "flag": "boolean",
        "maybe_flag": "boolean",
        "size": "number-int",
        "ratio": "number-real",
        "text": "text",
        "colour": "text",
        "word": "text",
        "one": "number-int",
        "yes": "boolean",
        "user": "text",
        "short": "text",
        "limited": "number-int",
        "checked": "text",
        "optional": "text",
    }
    plain = {c.field for c in table_def("m", Mixed).columns if c.kind != "json"}
    assert plain == {"size", "colour", "deep"}


def test_types_with_a_schema_of_their_own_are_json() -> None:
    class Encoded(BaseModel):
        secret: Base64Str
        text: Json[str] = Field(default="x")
        strict: Annotated[str, Strict()] = ""

    assert [c.kind for c in table_def("e", Encoded).columns] == ["json", "json", "text"]
    instance = Encoded.model_validate({"secret": "aGVsbG8="})
    assert back(instance) == instance


def test_serializers_for_display_do_not_change_what_is_stored() -> None:
    class Shown(BaseModel):
        size: int

        @field_serializer("size")
        def show(self, size: int) -> str:
            return f"{size} bytes"

    class Whole(BaseModel):
        size: int
        tags: list[str]

        @model_serializer
        def show(self) -> str:
            return "whole"

    assert back(Shown(size=3)) == Shown(size=3)
    assert back(Whole(size=3, tags=["a"])) == Whole(size=3, tags=["a"])


def test_defaults_of_a_neighbouring_type_are_stored_as_the_field_type() -> None:
    model = create_model("Sloppy", ratio=(float, 0), name=(str, None), tags=(list[str], ()))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert table_def("sloppy", model).encode(model()) == (0.0, None, "[]")
    assert back(model()).model_dump() == {"ratio": 0.0, "name": None, "tags": []}


def test_none_and_absent_are_told_apart() -> None:
    class Absent(BaseModel):
        maybe: str | None = "default"
        always: str = "default"
        listed: list[int] = [1]

    table = table_def("absent", Absent)
    assert table.decode(table.encode(Absent(maybe=None))) == Absent(maybe=None)
    assert table.decode((None, None, None)) == Absent(maybe=None)


@pytest.mark.parametrize(
    ("fields", "at_fault"),
    [
        ({"text": "\ud800"}, ["text"]),
        ({"inner": ["ok", "\udfff"]}, ["inner"]),
        ({"text": 1, "size": "1"}, ["text", "size"]),
        ({"inner": [object()]}, ["inner"]),
        ({"flag": 2}, ["flag"]),
        ({"ratio": "much"}, ["ratio"]),
    ],
)
def test_a_value_that_cannot_be_stored_is_refused_with_its_field(
    fields: dict[str, object], at_fault: list[str]
) -> None:
    class Fields(BaseModel):
        text: str = ""
        size: int = 0
        flag: bool = False
        ratio: float = 0.0
        inner: list[object] = []

    with pytest.raises(InvalidOutput) as refused:
        table_def("f", Fields).encode(Fields.model_construct(None, **fields))
    assert refused.value.details["fields"] == at_fault
    refused.value.summary.encode()


def test_an_instance_of_another_model_is_refused() -> None:
    with pytest.raises(InvalidOutput, match="Open"):
        table_def("s", Scalars).encode(Open())


def test_a_row_that_no_longer_fits_is_refused() -> None:
    table = table_def("c", create_model("OfColour", colour=(Colour, ...), n=(int, 0)))
    with pytest.raises(InvalidOutput, match="green"):
        table.decode(("green", 1))
    with pytest.raises(InvalidOutput):
        table.decode(("red",))


@pytest.mark.parametrize(
    ("key", "fields", "named"),
    [
        ("ok", {"runId": int}, "runId"),
        ("ok", {"node_id": str}, "node_id"),
        ("ok", {"Iteration": int}, "Iteration"),
        ("ok", {"fooBar": int, "foo_bar": int}, "fooBar"),
        ("ok", {"x" * 64: int}, "x" * 64),
        ("", {"a": int}, "''"),
        ("2nd", {"a": int}, "2nd"),
        ("a;b", {"a": int}, "a;b"),
        ('a"b', {"a": int}, 'a"b'),
        ("\ud800", {"a": int}, "ud800"),
        ("_smithersRuns", {"a": int}, "_smithersRuns"),
        ("sqlite_master", {"a": int}, "sqlite_master"),
        ("x" * 64, {"a": int}, "x" * 64),
    ],
)
def test_a_name_that_makes_no_column_or_table_is_refused(key: str, fields: dict[str, type], named: str) -> None:
    made = create_model("Named", **{name: (type, ...) for name, type in fields.items()})  # type: ignore[call-overload]
    model = cast("type[BaseModel]", made)
    with pytest.raises(AuthoringError) as refused:
        table_def(key, model)
    assert named in refused.value.summary


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("finding", "finding"),
        ("fooBar", "foo_bar"),
        ("FooBar", "foo_bar"),
        ("HTTPServer", "http_server"),
        ("foo-bar baz", "foo_bar_baz"),
        ("step2Result", "step2_result"),
        ("already_snake", "already_snake"),
        ("Größe", "größe"),
    ],
)
def test_names_become_snake_case(name: str, expected: str) -> None:
    assert snake_case(name) == expected


def test_a_table_definition_is_made_once() -> None:
    assert table_def("finding", Open) is table_def("finding", Open)
    assert table_def("finding", Open).columns == (Column("a", "a", "number-int", False), Column("_extra", None, "json"))
