"""Workflows: what can be decorated, what input is taken, and what becomes of a render that fails."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from smithers.components import workflow as limits
from smithers.components.context import Context, use_ctx
from smithers.components.flow import Sequence, Workflow
from smithers.components.outputs import Output
from smithers.components.rundata import RunData
from smithers.components.task import Task
from smithers.components.workflow import SmithersWorkflow, check_json, create_smithers
from smithers.errors import InvalidElement, InvalidInput, TaskMissingOutput, UnknownOutputSchema, WorkflowRenderFailed


class Row(BaseModel):
    n: int = 0


class ReviewInput(BaseModel):
    files: list[str] = Field(min_length=1)
    depth: int = 1


smithers, outputs = create_smithers({"row": Row})
typed, _ = create_smithers({"row": Row}, input=ReviewInput)


def decorate(function: object) -> SmithersWorkflow:
    return smithers(cast("Callable[[object], object]", function))


def render(function: object) -> Workflow:
    tree, _ = decorate(function).render(RunData("r"))
    return tree


# ── decorating ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def async_function(ctx: object) -> None: ...


async def async_generator(ctx: object) -> AsyncIterator[None]:
    yield


def generator(ctx: object) -> Iterator[None]:
    yield


def no_parameter() -> None: ...


def two_parameters(ctx: object, more: object) -> None: ...


def keyword_only(*, ctx: object) -> None: ...


class AsyncCallable:
    async def __call__(self, ctx: object) -> None: ...


class Plain:
    def __init__(self, ctx: object) -> None: ...


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (async_function, "workflow 'async_function' must be a plain function: rendering does no I/O"),
        (async_generator, "must be a plain function"),
        (functools.partial(async_function), "must be a plain function"),
        (AsyncCallable(), "must be a plain function"),
        (generator, "workflow 'generator' must return its Workflow element, not yield"),
        (no_parameter, "must take the context"),
        (two_parameters, "must take the context"),
        (keyword_only, "must take the context"),
        (Plain, "@smithers decorates a function, not"),
        (Row, "@smithers decorates a function, not"),
        (Workflow("w"), "@smithers decorates a function, not Workflow('w')"),
        ("review", "@smithers decorates a function, not 'review'"),
    ],
)
def test_what_can_never_render_is_refused_where_it_is_decorated(function: object, says: str) -> None:
    with pytest.raises(InvalidElement) as caught:
        decorate(function)
    assert says in str(caught.value)


def test_decorating_a_workflow_twice_is_refused() -> None:
    with pytest.raises(InvalidElement, match="@smithers decorates a function"):
        decorate(review)


def test_a_workflow_keeps_its_functions_name_docstring_and_file() -> None:
    def review(ctx: Context[object], extra: int = 1) -> Workflow:
        """Reviews."""
        return Workflow("review")

    made = smithers(always_render=True)(review)
    assert (made.function_name, made.__doc__, made.always_render) == ("review", "Reviews.", True)
    assert made.source_path == Path(__file__)
    assert repr(made) == "SmithersWorkflow('review')"
    assert decorate(functools.partial(review, extra=2)).source_path is None


def test_create_smithers_takes_only_a_model_as_input() -> None:
    for bad in (int, {"files": list}, ReviewInput(files=["a"]), BaseModel):
        with pytest.raises(InvalidElement, match="input must be a Pydantic model class"):
            create_smithers({}, input=cast("type[BaseModel]", bad))


# ── rendering ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_render_gives_the_tree_and_the_context_with_what_was_read() -> None:
    def wf(ctx: Context[object]) -> Workflow:
        assert use_ctx() is ctx
        return Workflow("w")[ctx.output_maybe(Row, "a") or Task("a", output=outputs.row)[{"n": 1}]]

    tree, ctx = decorate(wf).render(RunData("r"))
    assert [child.id for child in tree.children] == ["a"]
    assert ctx.reads == {("node", "a")}


@pytest.mark.parametrize(
    ("returned", "says"),
    [
        (None, "NoneType None"),
        (Sequence("s"), "Sequence('s')"),
        ([Workflow("w")], "list [Workflow('w')]"),
        (Workflow, "the class Workflow itself (call it first: Workflow(…))"),
        (lambda: Workflow("w"), "the function '<lambda>' (call it"),
        ("w", "str 'w'"),
    ],
)
def test_anything_but_one_workflow_element_is_refused(returned: object, says: str) -> None:
    def wf(ctx: object) -> object:
        return returned

    with pytest.raises(InvalidElement) as caught:
        render(wf)
    assert "must return one Workflow element, not " + says in str(caught.value)


def test_a_coroutine_that_a_plain_function_returns_is_refused_and_closed() -> None:
    def wf(ctx: object) -> object:
        return async_function(ctx)

    with pytest.raises(InvalidElement, match="not a coroutine"):
        render(wf)


def line_of(text: str) -> int:
    return next(n for n, line in enumerate(Path(__file__).read_text("utf-8").splitlines(), 1) if line.endswith(text))


def test_a_render_that_raises_names_the_authors_file_and_line_and_keeps_the_cause() -> None:
    def helper(found: dict[str, int]) -> int:
        return found["missing"]  # raises here

    def wf(ctx: Context[object]) -> Workflow:
        return Workflow("w")[Task("a", output=Row)[helper({})]]

    with pytest.raises(WorkflowRenderFailed) as caught:
        render(wf)
    place = f"{Path(__file__).name}:{line_of('# raises here')}"
    assert str(caught.value) == f"workflow 'wf' raised KeyError: 'missing' ({place})"
    assert caught.value.details == {"at": place}
    assert isinstance(caught.value.__cause__, KeyError)


def test_the_line_is_the_authors_also_when_a_library_raised() -> None:
    def wf(ctx: Context[object]) -> Workflow:
        ReviewInput.model_validate_json("{")  # the author's line
        return Workflow("w")

    with pytest.raises(WorkflowRenderFailed, match="ValidationError") as caught:
        render(wf)
    expected = f"{Path(__file__).name}:{line_of('# the author' + chr(39) + 's line')}"
    assert caught.value.details == {"at": expected}


def test_the_line_is_found_for_code_without_a_file() -> None:
    names: dict[str, object] = {}
    exec("def wf(ctx):\n\n    return 1 / 0\n", names)
    with pytest.raises(WorkflowRenderFailed, match=r"ZeroDivisionError: .* \(<string>:3\)"):
        render(names["wf"])


def test_an_authoring_error_stays_typed_and_says_where() -> None:
    def wf(ctx: Context[object]) -> Workflow:
        make = cast("Callable[..., Task]", Task)
        return Workflow("w")[make("a")]  # no output

    with pytest.raises(TaskMissingOutput, match="Task 'a' names no output") as caught:
        render(wf)
    assert caught.value.details["at"] == f"{Path(__file__).name}:{line_of('# no output')}"


def test_an_unknown_output_attribute_is_named() -> None:
    def wf(ctx: Context[object]) -> Output[BaseModel]:
        return outputs.rwo

    with pytest.raises(UnknownOutputSchema, match="no output 'rwo'; known: row"):
        render(wf)


def endless(ctx: object) -> object:
    return endless(ctx)


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


def unprintable(ctx: object) -> object:
    raise Unprintable


def leaving(ctx: object) -> object:
    sys.exit(3)


def stopping(ctx: object) -> object:
    raise StopIteration


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (endless, "RecursionError"),
        (unprintable, "Unprintable: …"),
        (leaving, "SystemExit: 3"),
        (stopping, "StopIteration"),
    ],
)
def test_whatever_a_workflow_function_does_becomes_a_typed_error(function: object, says: str) -> None:
    with pytest.raises(WorkflowRenderFailed, match=says):
        render(function)


def test_an_interrupt_of_the_operator_passes_through() -> None:
    def wf(ctx: object) -> object:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        render(wf)


# ── input ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@typed
def review(ctx: Context[ReviewInput]) -> Workflow:
    return Workflow("review")


@smithers
def anything(ctx: Context[object]) -> Workflow:
    return Workflow("anything")


def test_input_is_the_model_or_the_json_object() -> None:
    value, text = review.parse_input({"files": ["a"]})
    assert value == ReviewInput(files=["a"])
    assert text == '{"files":["a"]}'
    assert review.load_input(text) == value
    assert review.parse_input(ReviewInput(files=["a"], depth=2)) == (
        ReviewInput(files=["a"], depth=2),
        '{"files":["a"],"depth":2}',
    )
    assert anything.parse_input(None) == ({}, "{}")
    assert anything.parse_input({"a": (1, 2.5, None)}) == ({"a": [1, 2.5, None]}, '{"a":[1,2.5,null]}')


def test_what_parse_input_gives_is_what_load_input_gives_later() -> None:
    raw = {"x": float("nan"), "y": "é", "big": 2**70}
    value, text = anything.parse_input(raw)
    assert anything.load_input(text) == value


def nest(levels: int) -> object:
    value: object = 1
    for _ in range(levels):
        value = {"a": value}
    return value


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        ([], "input must be an object, not list"),
        ("{}", "input must be an object, not str"),
        ({1: "x"}, "input has the key 1; keys are strings"),
        ({"a": {"b": [0, {2}]}}, "input.a.b[1] is a set, which JSON cannot hold"),
        ({"a": b"x"}, "input.a is a bytes"),
        ({"a": Row}, "input.a is a"),
        ({"a": "x" * (limits.MAX_INPUT_STRING + 1)}, "input.a has 65537 characters"),
        ({"k" * (limits.MAX_INPUT_STRING + 1): 1}, "input has a key of 65537 characters"),
        ({"a": list(range(limits.MAX_INPUT_ITEMS + 1))}, "input.a has 513 items"),
        ({"a": ["x" * 60_000] * 20}, "bytes as JSON; at most 1048576"),
        ({"a": ["é" * 30_000] * 20}, "input has 1200"),
        ({"a": "\ud800"}, "input is not JSON"),
        (nest(limits.MAX_INPUT_DEPTH + 1), "is nested deeper than 32 levels"),
        (nest(100_000), "is nested deeper than 32 levels"),
    ],
    ids=range(14),
)
def test_input_beyond_json_or_the_limits_is_refused_naming_the_place(raw: object, says: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        anything.parse_input(raw)
    assert says in str(caught.value)


def test_input_at_the_limits_is_taken() -> None:
    for raw in (nest(limits.MAX_INPUT_DEPTH), {"a": ["x"] * 512}, {"a": "x" * 65_536}):
        assert anything.parse_input(raw)[0] == raw


def test_input_that_does_not_fit_the_model_names_the_field_and_counts_the_rest() -> None:
    with pytest.raises(
        InvalidInput, match=r"^input: files\.0: Input should be a valid string \(and 1 more\)$"
    ) as caught:
        review.parse_input({"files": [5], "depth": "x"})
    assert caught.value.details["issues"] == [
        {"path": "files.0", "message": "Input should be a valid string", "type": "string_type"},
        {
            "path": "depth",
            "message": "Input should be a valid integer, unable to parse string as an integer",
            "type": "int_parsing",
        },
    ]
    with pytest.raises(InvalidInput, match="input: files: Field required"):
        review.parse_input({})
    with pytest.raises(InvalidInput, match="input: files"):
        review.load_input('{"files": 1}')


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(st.text(), json_values, max_size=4))
def test_any_json_object_within_the_limits_comes_back_as_it_was(raw: dict[str, object]) -> None:
    try:
        json.dumps(raw, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # a lone surrogate
        with pytest.raises(InvalidInput, match="not JSON"):
            anything.parse_input(raw)
        return
    value, text = anything.parse_input(raw)
    assert value == raw == anything.load_input(text)


def test_a_value_that_holds_itself_is_refused() -> None:
    knot: dict[str, object] = {}
    knot["a"] = knot
    with pytest.raises(InvalidInput, match="nested deeper"):
        check_json(knot, "input")
