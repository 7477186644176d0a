"""Outputs: the registry of models and how tasks name them."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import pytest
from pydantic import BaseModel

from smithers.components.outputs import Outputs
from smithers.components.workflow import create_smithers
from smithers.errors import InvalidElement, UnknownOutputSchema


class A(BaseModel):
    n: int


class B(BaseModel):
    n: int


outputs = Outputs({"a": A, "b": B})


def test_an_output_is_found_by_attribute_key_and_model() -> None:
    assert outputs.a is outputs["a"]
    for name in (outputs.a, "a", A):
        assert outputs.resolve(name, "Task 't'") is outputs.a
    assert list(outputs) == ["a", "b"]
    assert len(outputs) == 2
    assert repr(outputs.a) == "outputs.a"
    assert repr(outputs) == "Outputs(a, b)"


class NotRegistered(BaseModel):
    n: int


@pytest.mark.parametrize("name", ["c", "A", NotRegistered, BaseModel, int, 5, None, [A], outputs])
def test_an_unknown_output_is_refused_naming_who_asked_and_what_is_known(name: object) -> None:
    with pytest.raises(UnknownOutputSchema, match="Task 't'") as caught:
        outputs.resolve(name, "Task 't'")
    assert caught.value.details == {"known": ["a", "b"]}


def test_a_model_under_two_keys_must_be_named_by_key() -> None:
    twice = Outputs({"first": A, "second": A})
    with pytest.raises(UnknownOutputSchema, match=r"A is registered under several keys; name one as outputs\.<key>"):
        twice.resolve(A, "Task 't'")
    assert twice.resolve(twice.second, "Task 't'").key == "second"


def test_an_entry_of_another_registry_is_foreign_even_with_the_same_key() -> None:
    _, other = create_smithers({"a": A})
    with pytest.raises(UnknownOutputSchema, match=r"outputs\.a belongs to another create_smithers"):
        outputs.resolve(other.a, "Task 't'")


def test_an_unknown_attribute_is_both_a_typed_error_and_an_attribute_error() -> None:
    with pytest.raises(UnknownOutputSchema, match="no output 'c'; known: a, b"):
        _ = outputs.c
    assert not hasattr(outputs, "c")
    assert getattr(outputs, "c", None) is None
    with pytest.raises(KeyError):
        _ = outputs["c"]
    assert copy.copy(outputs).a is outputs.a


def test_the_registry_cannot_be_changed() -> None:
    with pytest.raises(AttributeError, match="create_smithers"):
        setattr(outputs, "c", A)  # noqa: B010 - a plain assignment is a type error already
    assert "c" not in outputs


@pytest.mark.parametrize(
    ("models", "says"),
    [
        ({"two words": A}, "'two words' must be an identifier"),
        ({"_a": A}, "'_a' must be an identifier"),
        ({"": A}, "'' must be an identifier"),
        ({5: A}, "5 must be an identifier"),
        ({"items": A}, "outputs.items is a method"),
        ({"get": A}, "outputs.get is a method"),
        ({"a": int}, "output 'a' must be a Pydantic model class"),
        ({"a": A(n=1)}, "output 'a' must be a Pydantic model class"),
        ({"a": BaseModel}, "output 'a' must be a Pydantic model class"),
        ({"fooBar": A, "foo_bar": B}, "outputs 'fooBar' and 'foo_bar' are too alike"),
        ({"row": A, "ROW": B}, "too alike"),
        ([A, B], "outputs are a mapping"),
    ],
)
def test_what_cannot_become_a_table_is_refused(models: Mapping[str, type[BaseModel]], says: str) -> None:
    with pytest.raises(InvalidElement) as caught:
        create_smithers(models)
    assert says in str(caught.value)
