"""Compat: a change of models is let through only if what the old model took is something that the new one takes."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, TypeAdapter, ValidationError, create_model

from smithers.engine.compat import accepts, model_problem, table_problem
from smithers.store.columns import table_def


class Inner(BaseModel):
    a: int


class Wider(BaseModel):
    a: int
    b: int = 0


class Node(BaseModel):
    """Refers to itself."""

    below: list[Node] = []


def model(**fields: Any) -> type[BaseModel]:
    return create_model("Row", **fields)


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ({"a": (int, ...)}, {"a": (int, ...)}, None),
        ({"a": (int, ...)}, {"a": (int, Field(3, description="more"))}, None),
        ({"a": (int, 1)}, {"a": (int, ...)}, None),  # rows have all fields
        ({"a": (int, ...)}, {"a": (int, ...), "b": (str, "")}, None),
        ({"a": (int, ...), "b": (str, ...)}, {"a": (int, ...)}, None),
        ({"a": (int, ...)}, {"a": (int | None, ...)}, None),
        ({"a": (Literal["x"], ...)}, {"a": (Literal["x", "y"], ...)}, None),
        ({"a": (Literal["x"], ...)}, {"a": (str, ...)}, None),
        ({"a": (list[Literal["x"]], ...)}, {"a": (list[str], ...)}, None),
        ({"a": (Node, ...)}, {"a": (Node, ...)}, None),
        ({"a": (int, ...)}, {"a": (int, ...), "b": (str, ...)}, "field 'b' is new and has no default"),
        ({"a": (int, ...)}, {"a": (str, ...)}, "the type of field 'a' changed"),
        ({"a": (int | None, ...)}, {"a": (int, ...)}, "the type of field 'a' changed"),
        ({"a": (Literal["x", "y"], ...)}, {"a": (Literal["x"], ...)}, "the type of field 'a' changed"),
        ({"a": (Literal[1], ...)}, {"a": (Literal[True], ...)}, "the type of field 'a' changed"),
        ({"a": (str, ...)}, {"a": (Annotated[str, Field(max_length=3)], ...)}, "the type of field 'a' changed"),
        ({"a": (Inner, ...)}, {"a": (Wider, ...)}, "the type of field 'a' changed"),  # in doubt: no
    ],
)
def test_a_change_is_judged_by_what_rows_may_hold(
    old: dict[str, Any], new: dict[str, Any], problem: str | None
) -> None:
    assert model_problem(model(**old), model(**new)) == problem


def test_a_type_without_a_schema_is_compared_by_its_name() -> None:
    class Own:
        pass

    config: dict[str, Any] = {"__config__": {"arbitrary_types_allowed": True}}
    one, other = create_model("Row", a=(Own, ...), **config), create_model("Row", a=(Own, ...), **config)
    assert model_problem(one, other) is None
    assert model_problem(one, create_model("Row", a=(int, ...), **config)) == "its fields changed"


def test_a_column_keeps_its_kind() -> None:
    old, new = model(a=(int, ...)), model(a=(float, ...))
    assert table_problem(table_def("row", old), table_def("row", old)) is None
    problem = table_problem(table_def("row", old), table_def("row", new))
    assert problem == "field 'a' is stored as number-real now and was stored as number-int"


types = st.recursive(
    st.sampled_from([int, str, bool, Literal["a"], Literal["a", "b"], Literal[1, 2], Annotated[int, Field(ge=0)]]),
    lambda inner: st.one_of(inner.map(lambda t: t | None), inner.map(lambda t: list[t])),  # type: ignore[valid-type]
    max_leaves=3,
)
values = st.recursive(
    st.one_of(st.integers(-2, 3), st.sampled_from(["a", "b", "c"]), st.booleans(), st.none()),
    lambda inner: st.lists(inner, max_size=2),
    max_leaves=4,
)


@given(types, types, values)
def test_what_is_accepted_takes_every_value_of_the_old_type(old: Any, new: Any, value: object) -> None:
    before, after = TypeAdapter[object](old), TypeAdapter[object](new)
    if not accepts(after.json_schema(), before.json_schema()):
        return
    try:
        before.validate_python(value, strict=True)
    except ValidationError:
        return
    after.validate_python(value, strict=True)
