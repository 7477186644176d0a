"""Elements: brackets, children, immutability, and calls that do not fit."""

from __future__ import annotations

import copy
import itertools
import operator
import pickle
from collections.abc import Callable, Iterator
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from smithers.components import element as element_module
from smithers.components.element import Element
from smithers.components.flow import Loop, Parallel, Sequence, Workflow
from smithers.components.task import Task
from smithers.components.waits import Timer
from smithers.errors import AuthoringError, InvalidElement, TaskIdRequired, TaskMissingOutput


class Row(BaseModel):
    n: int = 0


def timer(id: str = "t") -> Timer:
    return Timer(id, duration="1s")


def dynamic(component: object) -> Callable[..., Element]:
    """The component as untyped code sees it: with any parameters."""
    return cast("Callable[..., Element]", component)


# ── children ───────────────────────────────────────────────────────────────────────────────────────────────────────

a, b, c = timer("a"), timer("b"), timer("c")

nested = st.recursive(
    st.sampled_from([a, b, c, None, False]),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.lists(inner, max_size=4).map(tuple)),
    max_leaves=25,
)


def leaves(child: object) -> list[object]:
    if isinstance(child, (list, tuple)):
        return [leaf for item in cast("list[object]", child) for leaf in leaves(item)]
    return [] if child is None or child is False else [child]


@given(nested)
def test_nested_children_become_flat_in_document_order(children: object) -> None:
    assert list(Sequence()[children].children) == leaves(children)


@given(nested)
def test_a_generator_gives_the_same_children_as_its_list(children: object) -> None:
    def generated() -> Iterator[object]:
        yield from [children, [children]]

    assert Sequence()[generated()].children == Sequence()[[children, [children]]].children


def test_a_component_without_attributes_takes_its_children_directly() -> None:
    assert Sequence[a, b].children == (a, b)
    assert Parallel[[a], None].children == (a,)
    assert Sequence[a].children == (a,)


def test_brackets_again_replace_the_children() -> None:
    assert Sequence[a, b][c].children == (c,)


def test_the_same_element_may_be_given_twice_and_is_kept_twice() -> None:
    assert Sequence[a, a].children == (a, a)  # that ids are unique is checked over the whole tree


class Custom:
    pass


def component() -> Element:
    return a


@pytest.mark.parametrize(
    ("child", "says"),
    [
        ("text", "str 'text'"),
        (b"bytes", "bytes"),
        ("", "only None and False add nothing"),
        (0, "only None and False add nothing"),
        (True, "only None and False add nothing"),
        (3, "int 3"),
        ({"a": a}, "dict"),
        ({a}, "a set (it has no order"),
        (frozenset([a]), "a frozenset (it has no order"),
        (Row(), "Row Row(n=0)"),
        (Custom, "the class Custom itself"),
        (Sequence, "call it first: Sequence(…)"),
        (component, "the function 'component' (call it"),
        (lambda: a, "the function '<lambda>' (call it"),
        (object(), "object <object"),
    ],
)
@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: [[x]], lambda x: (a, x)])  # pyright: ignore
def test_what_is_no_child_is_refused_where_it_is_written(
    child: object, says: str, wrap: Callable[[object], object]
) -> None:
    with pytest.raises(InvalidElement) as caught:
        Sequence("steps")[wrap(child)]
    assert "Sequence('steps')" in str(caught.value)
    assert says in str(caught.value)


def test_a_coroutine_as_child_is_refused_and_closed() -> None:
    async def work() -> Element:
        return a

    with pytest.raises(InvalidElement, match="rendering awaits nothing"):
        Sequence[work()]


def test_a_generator_that_raises_keeps_its_own_error() -> None:
    def broken() -> Iterator[Element]:
        yield a
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        Sequence[broken()]


def test_a_list_that_holds_itself_is_refused() -> None:
    knot: list[object] = [a]
    knot.append(knot)
    with pytest.raises(InvalidElement, match="does one hold itself"):
        Sequence[knot]


def test_a_generator_that_never_ends_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(element_module, "MAX_CHILDREN", 100)
    with pytest.raises(InvalidElement, match="more than 100 children"):
        Sequence[(timer(str(n)) for n in itertools.count())]


# ── immutability ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_elements_cannot_be_changed() -> None:
    task = Task("a", output=Row)
    changes: list[Callable[[], None]] = [
        lambda: setattr(task, "id", "b"),
        lambda: setattr(task, "anything", 1),
        lambda: delattr(task, "id"),
        lambda: delattr(task, "retries"),
    ]
    for change in changes:
        with pytest.raises(AttributeError, match="make a new Task instead"):
            change()
    assert task.id == "a"


def test_brackets_leave_the_element_they_are_applied_to_as_it_was() -> None:
    empty = Sequence("s")
    assert empty[a] is not empty
    assert empty.children == ()
    plain = Task("t", output=Row)
    assert plain["work"].child == "work"
    assert plain.child is None


def test_elements_are_equal_only_to_themselves_and_hashable() -> None:
    assert timer() != timer()
    assert len({a, a, b}) == 2


def test_elements_are_always_true_and_never_iterated() -> None:
    assert bool(Sequence()) is True
    for use in (list, tuple, iter, set):
        with pytest.raises(TypeError, match="is one element"):
            dynamic(use)(Sequence[a])
    with pytest.raises(TypeError, match="not iterable"):
        operator.contains(cast("list[object]", Sequence[a]), a)


def test_copies_of_elements_are_elements() -> None:
    tree = Sequence("s")[Task("t", output="row")[{"n": [1]}]]
    for other in (copy.copy(tree), copy.deepcopy(tree), pickle.loads(pickle.dumps(tree))):
        assert repr(other) == "Sequence('s')"
        assert other.children[0].id == "t"


def test_what_the_author_changes_later_does_not_reach_the_element() -> None:
    value: dict[str, list[int]] = {"n": []}
    meta = {"tags": ["x"]}
    ids = ["first"]
    tasks: list[Task] = []
    for n in range(2):
        value["n"].append(n)
        tasks.append(Task(f"t{n}", output=Row, meta=meta, depends_on=ids)[value])
    meta["tags"].append("y")
    ids.append("second")
    assert [task.child for task in tasks] == [{"n": [0]}, {"n": [0, 1]}]
    assert tasks[0].meta == {"tags": ["x"]}
    assert tasks[0].depends_on == ("first",)


def test_elements_share_no_state_through_their_defaults() -> None:
    one, two = Task("one", output=Row), Task("two", output=Row)
    for name, value in vars(Task).items():
        assert name.startswith("__") or not isinstance(value, (list, dict, set)), name
    assert one.depends_on == two.depends_on == ()


# ── calls that do not fit ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: dynamic(Task)(), TaskIdRequired, "Task needs an id"),
        (lambda: dynamic(Task)(output=Row), TaskIdRequired, "Task needs an id"),
        (lambda: Task["work"], TaskIdRequired, "Task needs an id"),
        (lambda: dynamic(Task)("a"), TaskMissingOutput, "Task 'a' names no output"),
        (lambda: dynamic(Task)("a", output=None), TaskMissingOutput, "Task 'a' names no output"),
        (lambda: dynamic(Timer)(duration="1s"), TaskIdRequired, "Timer needs an id"),
        (lambda: Workflow[a], InvalidElement, "Workflow(…) missing 1 required positional argument: 'name'"),
        (lambda: Loop[a], InvalidElement, "Loop(…) missing 1 required positional argument: 'id'"),
        (lambda: dynamic(Sequence)(a, b), InvalidElement, "children go in brackets"),
        (lambda: dynamic(Sequence)(a), InvalidElement, "children go in brackets"),
        (lambda: dynamic(Task)("a", outptu=Row), InvalidElement, "no property 'outptu'; did you mean 'output'?"),
        (lambda: dynamic(Task)("a", output=Row, dependsOn=["b"]), InvalidElement, "did you mean 'depends_on'?"),
        (lambda: dynamic(Parallel)(zzz=1), InvalidElement, "Parallel has no property 'zzz'"),
    ],
)
def test_a_call_that_does_not_fit_is_a_typed_error(
    call: Callable[[], object], error: type[AuthoringError], says: str
) -> None:
    with pytest.raises(error) as caught:
        call()
    assert says in str(caught.value)


def test_a_type_error_of_an_author_is_not_taken_for_a_bad_call() -> None:
    def broken() -> Iterator[str]:
        raise TypeError("mine")
        yield

    with pytest.raises(TypeError, match="mine"):
        Task("a", output=Row, depends_on=broken())


# ── ids ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("bad", ["   ", "a::b", "a@@b", "line\nbreak", "nul\0", "x" * 257, 7, object(), ["a"]])
@pytest.mark.parametrize(("component", "properties"), [(Sequence, {}), (Loop, {}), (Timer, {"duration": 1})])
def test_a_bad_id_is_refused_naming_the_component(bad: object, component: type, properties: dict[str, int]) -> None:
    with pytest.raises(AuthoringError) as caught:
        dynamic(component)(bad, **properties)
    assert str(caught.value).startswith(component.__name__)
    assert len(str(caught.value)) < 200


@given(st.text(min_size=1, max_size=256))
def test_an_id_is_kept_as_it_is_or_refused(id: str) -> None:
    try:
        kept = Timer(id, duration=1).id
    except AuthoringError:
        assert not id.strip() or not id.isprintable() or "::" in id or "@@" in id
    else:
        assert kept == id


def test_a_loop_id_with_the_comma_of_scopes_is_refused() -> None:
    with pytest.raises(InvalidElement, match="must not hold ','"):
        Loop("a,b")
