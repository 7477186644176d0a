"""Records behave as the standard library's dataclasses do."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from dataclasses import field
from typing import cast

import pytest

from smithers.records import dataclass


@dataclass(frozen=True, slots=True)
class Point:
    x: int
    y: int = 2
    tags: list[str] = field(default_factory=list[str])
    secret: str = field(default="s", repr=False)
    note: str = field(default="", compare=False)


@dataclasses.dataclass(frozen=True, slots=True)
class Twin:
    x: int
    y: int = 2
    tags: list[str] = field(default_factory=list[str])
    secret: str = field(default="s", repr=False)
    note: str = field(default="", compare=False)


@dataclass(slots=True)
class Counter:
    n: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    b: int = 1
    a: str


@dataclass(frozen=True)
class Doubled:
    n: int
    twice: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "twice", 2 * self.n)


@dataclass(frozen=True, slots=True)
class Nothing:
    pass


def test_an_instance_has_what_a_dataclass_has() -> None:
    made, twin = Point(1, note="n"), Twin(1, note="n")

    assert repr(made) == repr(twin).replace("Twin", "Point")
    assert dataclasses.asdict(made) == dataclasses.asdict(twin)
    assert Point.__match_args__ == Twin.__match_args__
    assert dataclasses.replace(made, y=3) == Point(1, 3)
    assert not hasattr(made, "__dict__")
    assert Point(1).tags is not Point(1).tags


def test_equality_and_hash_go_by_what_is_compared() -> None:
    assert Point(1, note="a") == Point(1, note="b")
    assert Point(1) != Point(2)
    assert Named(a="x") != cast(object, Point(1))
    assert hash(Named(a="x")) == hash(Named(a="x"))
    assert Nothing() == Nothing()
    assert hash(Nothing()) == hash(Nothing())
    with pytest.raises(TypeError, match="unhashable"):
        hash(Counter())


def test_a_frozen_record_refuses_changes_and_others_take_them() -> None:
    made, counter = Point(1), Counter()

    with pytest.raises(dataclasses.FrozenInstanceError, match="cannot assign to field 'x'"):
        made.x = 2  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(dataclasses.FrozenInstanceError, match="cannot delete field 'x'"):
        del made.x  # pyright: ignore[reportAttributeAccessIssue]
    counter.n += 1
    assert counter == Counter(1)


def test_arguments_are_refused_as_functions_refuse_them() -> None:
    with pytest.raises(TypeError, match=r"Named\.__init__\(\) missing 1 required keyword-only argument: 'a'"):
        Named()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    with pytest.raises(TypeError, match="takes 1 positional argument"):
        Named("x")  # type: ignore[call-arg,arg-type]  # pyright: ignore[reportCallIssue]
    assert repr(Named(a="x")) == "Named(b=1, a='x')"


def test_post_init_completes_the_fields_that_are_no_arguments() -> None:
    assert Doubled(2).twice == 4
    assert repr(Doubled(2)) == "Doubled(n=2)"


def test_records_can_be_copied_and_pickled() -> None:
    made = Point(1, tags=["a"])

    assert copy.deepcopy(made) == made
    assert copy.copy(made) == made
    assert pickle.loads(pickle.dumps(made)) == made
