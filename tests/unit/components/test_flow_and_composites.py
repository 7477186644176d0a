"""Flow and composites: what Workflow, Parallel, Loop, Branch, Saga, Try and Subflow accept and refuse."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest
from pydantic import BaseModel

from smithers.components.composites import Saga, SagaStep, Subflow, TryCatchFinally
from smithers.components.context import Context
from smithers.components.element import Element
from smithers.components.flow import (
    Branch,
    ContinueAsNew,
    Loop,
    MergeQueue,
    Parallel,
    Sequence,
    Workflow,
    continue_as_new,
)
from smithers.components.waits import Timer
from smithers.components.workflow import create_smithers
from smithers.errors import AuthoringError, DuplicateId, InvalidElement, TaskMissingOutput


class Row(BaseModel):
    n: int = 0


smithers, _ = create_smithers({"row": Row})


@smithers
def child(ctx: Context[object]) -> Workflow:
    return Workflow("child")


a, b, c = (Timer(id, duration=1) for id in "abc")


def untyped(component: object) -> Callable[..., object]:
    return cast("Callable[..., object]", component)


def never() -> bool:
    raise AssertionError("a condition is a value")


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Workflow(""), "Workflow needs a non-empty string id"),
        (lambda: untyped(Sequence)("s", failure_policy="x"), "Sequence('s'): failure_policy must be one of"),
        (lambda: untyped(Sequence)("s", skip_if=never), "Sequence('s'): skip_if is a value"),
        (lambda: untyped(Parallel)(max_concurrency="8"), "Parallel: max_concurrency must be a whole number"),
        (lambda: untyped(Parallel)(max_concurrency=True), "Parallel: max_concurrency"),
        (lambda: untyped(Parallel)("p", priority="high"), "Parallel('p'): priority"),
        (lambda: Parallel(subtree_concurrency=0), "subtree_concurrency must be a whole number of at least 1"),
        (lambda: MergeQueue(max_concurrency=0), "MergeQueue: max_concurrency"),
        (lambda: Loop("l", max_iterations=0), "Loop 'l': max_iterations"),
        (lambda: Loop("l", until=never), "Loop 'l': until is a value computed at each render"),
        (lambda: untyped(Loop)("l", on_max_reached="stop"), "Loop 'l': on_max_reached must be one of"),
        (lambda: Loop("l", continue_as_new_every=0), "Loop 'l': continue_as_new_every"),
        (lambda: Branch(if_=never, then=a), "Branch: if_ is a value"),
        (lambda: Branch(if_=True, then="a"), "Branch cannot hold str 'a'"),
        (lambda: Branch(if_=False, then=a, else_=Sequence), "the class Sequence itself"),
        (lambda: Branch(if_=True, then=a)[b], "Branch takes no children"),
        (lambda: ContinueAsNew({})[a], "ContinueAsNew takes no children"),
        (lambda: untyped(ContinueAsNew)({}, when=never), "ContinueAsNew: when is a value"),
        (lambda: untyped(ContinueAsNew)({}, carry="row"), "carry must be a list"),
        (lambda: Saga("s")[a], "Saga 's' holds SagaStep children only"),
        (lambda: untyped(Saga)("s", on_failure="undo"), "Saga 's': on_failure must be one of"),
        (lambda: untyped(Saga)("s", steps={"id": "x"}), "Saga 's': steps are a list"),
        (lambda: untyped(Saga)("s", steps=["x"]), "Saga 's': each step is a mapping"),
        (lambda: Saga("s", steps=[{"id": "x"}]), "Saga 's': the step 'x' has no action"),
        (lambda: Saga("s", steps=[{"id": "x", "action": a, "undo": b}]), "unknown keys 'undo'"),
        (lambda: Saga("s", steps=[{"action": a}]), "SagaStep needs a non-empty string id"),
        (lambda: Saga("s", steps=[{"id": 5, "action": a}]), "SagaStep needs a non-empty string id, not 5"),
        (lambda: Saga("s", steps=[{"id": "x", "action": a, "compensation": [b]}]), "exactly one element"),
        (lambda: untyped(SagaStep)("x", compensation=[a]), "SagaStep 'x': compensation must be exactly one element"),
        (lambda: untyped(SagaStep)("x", compensation=Sequence), "exactly one element"),
        (lambda: TryCatchFinally("t", try_="a"), "cannot hold str 'a'"),
        (lambda: TryCatchFinally("t", try_=a, catch=Sequence), "the class Sequence itself"),
        (lambda: TryCatchFinally("t", try_=a, finally_=never), "the function 'never' (call it"),
        (lambda: TryCatchFinally("t", try_=a, catch_errors="TASK_TIMEOUT"), "catch_errors must be a list"),
        (lambda: TryCatchFinally("t", try_=a)[b], "takes no children"),
        (lambda: untyped(Subflow)("s", workflow=never, output=Row), "decorate it with @smithers"),
        (lambda: untyped(Subflow)("s", workflow=5, output=Row), "Subflow 's': workflow must be"),
        (lambda: Subflow("s", workflow={"file": "x.py"}, output=Row), "workflow is {path, approved_root}"),
        (lambda: untyped(Subflow)("s", workflow=child, output=Row, mode="fork"), "mode must be one of"),
        (lambda: Subflow("s,1", workflow=child, mode="inline"), "must not hold ','"),
        (lambda: Subflow("s", workflow=child, output=Row)[a], "takes no children"),
    ],
)
def test_what_does_not_fit_is_refused_naming_the_element(make: Callable[[], object], says: str) -> None:
    with pytest.raises(AuthoringError) as caught:
        make()
    assert says in str(caught.value)


def test_a_child_run_needs_an_output_and_an_inline_subflow_does_not() -> None:
    with pytest.raises(TaskMissingOutput, match="Subflow 's' names no output"):
        Subflow("s", workflow=child)
    assert Subflow("s", workflow=child, mode="inline").workflow is child
    assert Subflow("s", workflow=Path("x.py"), output=Row).workflow == {"path": "x.py"}


def test_a_concurrency_of_zero_or_less_is_unlimited() -> None:
    assert Parallel(max_concurrency=0).max_concurrency is None
    assert Parallel(max_concurrency=-1).max_concurrency is None
    assert Parallel(max_concurrency=3).max_concurrency == 3
    assert (MergeQueue().max_concurrency, MergeQueue().priority) == (1, 1000)


def test_conditions_are_any_value_with_a_truth() -> None:
    assert Branch(if_=Row(), then=a).if_ is True
    assert Branch(if_=[], then=a).if_ is False
    assert Loop("l", until=None).until is False
    assert Sequence(skip_if=True).skip_if is True


def test_continue_as_new_copies_its_state_and_can_be_left_out() -> None:
    state = {"seen": [1]}
    element = ContinueAsNew(state, carry=[Row])
    state["seen"].append(2)
    assert element.state == {"seen": [1]}
    assert element.carry == (Row,)
    assert ContinueAsNew(state, when=False).skip_if is True
    assert continue_as_new(5).state == 5
    state["seen"].append(state)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    with pytest.raises(InvalidElement, match="holds itself"):
        ContinueAsNew(state)


def test_saga_steps_are_mappings_or_children_with_distinct_ids() -> None:
    saga = Saga("s", steps=[{"id": "one", "action": [a, b], "compensation": c, "label": "One"}])[SagaStep("two")[a]]
    first, second = saga.children
    assert isinstance(first, SagaStep)
    assert (first.id, first.children, first.compensation, first.label) == ("one", (a, b), c, "One")
    assert second.id == "two"
    with pytest.raises(DuplicateId, match="'two'"):
        saga[SagaStep("two")[b]]


def test_a_try_block_takes_elements_or_a_function_of_the_error() -> None:
    def catch(error: object) -> Element:
        return b

    assert TryCatchFinally("t", try_=[a, None], catch=catch).catch is catch
    block = TryCatchFinally("t", try_=(a, b), catch=c, catch_errors=["TASK_TIMEOUT"], finally_=[c])
    assert (block.try_, block.catch, block.finally_) == ((a, b), (c,), (c,))
    assert block.catch_errors == ("TASK_TIMEOUT",)
    assert block.has_catch
    assert not TryCatchFinally("t", try_=a).has_catch
