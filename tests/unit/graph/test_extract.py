"""Extract: what a tree compiles to, and every authoring error with the element that it names."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from pydantic import BaseModel

from smithers.components.composites import SagaStep, Subflow
from smithers.components.context import Context, use_ctx
from smithers.components.element import Element
from smithers.components.flow import Branch, Loop, Parallel, Sequence, Workflow
from smithers.components.gates import Approval, HumanTask
from smithers.components.outputs import Outputs
from smithers.components.rundata import OutputRow, RunData
from smithers.components.scope import LoopState
from smithers.components.task import Task
from smithers.components.waits import Signal
from smithers.components.workflow import SmithersWorkflow
from smithers.errors import (
    AuthoringError,
    DuplicateId,
    InvalidElement,
    TaskEmptyPrompt,
    TaskMissingOutput,
    UnknownOutputSchema,
    WorkflowRenderFailed,
)
from smithers.graph.extract import MAX_DEPTH, extract
from smithers.graph.plan import LoopNode, Plan


class Out(BaseModel):
    approved: bool = True


class Other(BaseModel):
    x: int = 0


outputs = Outputs({"out": Out})


def task(id: str, *depends: str) -> Task:
    return Task(id, output=Out, depends_on=depends)[{}]


def plan_of(*elements: Element, data: RunData | None = None) -> Plan:
    found = RunData("run") if data is None else data
    return extract(Workflow("test")[elements], Context(found, outputs, None), found, outputs)


def child(build: Callable[[Context[object]], object]) -> SmithersWorkflow:
    return SmithersWorkflow(build, outputs=outputs, input_model=None, db="")


def nested(levels: int) -> Element:
    element: Element = task("a")
    for _ in range(levels):
        element = Sequence[element]
    return element


# ── errors ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("make", "error", "named"),
    [
        (lambda: [task("a"), Sequence[task("a")]], DuplicateId, "'a'"),
        (lambda: [Loop("l")[task("a")], Loop("l")[task("b")]], DuplicateId, "'l'"),
        (lambda: [Task("a", output=Other)[{}]], UnknownOutputSchema, "Task('a')"),
        (lambda: [Task("a", output="nothing")[{}]], UnknownOutputSchema, "Task('a')"),
        (lambda: [Task("a", output=Out, deps={"b": Other})[{}]], UnknownOutputSchema, "Task('a')"),
        (lambda: [Task("a", output=Out, agent="agent")], TaskEmptyPrompt, "Task('a')"),
        (lambda: [Task("a", output=Out, agent="agent")["  "]], TaskEmptyPrompt, "Task('a')"),
        (lambda: [Task("a", output=Out, agent="agent")[{"no": "prompt"}]], TaskEmptyPrompt, "Task('a')"),
        (lambda: [HumanTask("a", output=Out)], TaskEmptyPrompt, "HumanTask('a')"),
        (lambda: [Task("a", output=None)[{}]], TaskMissingOutput, "'a'"),  # type: ignore[arg-type]
        (lambda: [task("a", "a")], InvalidElement, "Task('a')"),
        (lambda: [Sequence[Workflow("inner")[task("a")]]], InvalidElement, "Workflow('inner')"),
        (lambda: [Sequence[SagaStep("s")[task("a")]]], InvalidElement, "SagaStep('s')"),
        (lambda: [nested(MAX_DEPTH + 1)], InvalidElement, "Sequence"),
        (lambda: [Subflow("s", workflow="child.py", mode="inline")], InvalidElement, "Subflow('s')"),
        (lambda: [Subflow("s", workflow=child(lambda _: task("a")), mode="inline")], InvalidElement, "Subflow('s')"),
    ],
)
def test_an_authoring_error_is_typed_and_names_the_element(
    make: Callable[[], list[Element]], error: type[AuthoringError], named: str
) -> None:
    with pytest.raises(error) as caught:
        plan_of(*make())
    assert named in caught.value.summary


def test_the_deepest_allowed_nesting_compiles() -> None:
    assert list(plan_of(nested(MAX_DEPTH - 1)).leaves) == [("a", 0)]


def test_a_workflow_that_mounts_itself_is_refused() -> None:
    def build(_: Context[object]) -> object:
        return Workflow("self")[Subflow("s", workflow=workflow, mode="inline")]

    workflow = child(build)
    with pytest.raises(InvalidElement, match="nested deeper"):
        plan_of(Subflow("s", workflow=workflow, mode="inline"))


def test_an_inline_workflow_that_raises_is_named_with_its_cause() -> None:
    def build(_: Context[object]) -> object:
        raise ValueError("no")

    with pytest.raises(WorkflowRenderFailed, match=r"Subflow\('s'\).*ValueError: no") as caught:
        plan_of(Subflow("s", workflow=child(build), mode="inline"))
    assert isinstance(caught.value.__cause__, ValueError)


# ── ids ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_task_in_one_loop_keeps_its_id_and_has_the_loops_iteration() -> None:
    data = RunData("run", loops={"l": LoopState(3)})
    assert list(plan_of(Loop("l")[task("draft")], data=data).leaves) == [("draft", 3)]


def test_in_nested_loops_ids_carry_the_iterations_of_all_but_the_innermost() -> None:
    loops = {"outer": LoopState(2), "inner@@outer=2": LoopState(1), "inner": LoopState(7)}
    plan = plan_of(Loop("outer")[Loop("inner")[task("draft")]], data=RunData("run", loops=loops))
    assert list(plan.leaves) == [("draft@@outer=2", 1)]
    assert [loop.id for loop in plan.loops] == ["outer", "inner@@outer=2"]
    assert plan.homes == {"draft": ("outer", "inner")}


def test_leaves_are_in_document_order() -> None:
    plan = plan_of(task("a"), Parallel[task("b"), Sequence[task("c")]], task("d"))
    assert [id for id, _ in plan.leaves] == ["a", "b", "c", "d"]
    assert [leaf.ordinal for leaf in plan.leaves.values()] == [1, 2, 3, 4]


def test_references_mean_the_nearest_node_and_loops_seen_from_outside() -> None:
    plan = plan_of(task("a"), Loop("l")[task("b"), task("c", "a", "b")], task("d", "b", "nobody"))
    inside, outside = plan.leaves["c", 0].dep_targets, plan.leaves["d", 0].dep_targets
    assert inside == [plan.leaves["a", 0], plan.leaves["b", 0]]
    assert isinstance(outside[0], LoopNode)
    assert outside[1] is None


def test_any_container_with_an_id_can_be_depended_on() -> None:
    branch = Branch(id="choice", if_=True, then=task("a"))
    plan = plan_of(branch, Sequence("s")[task("b")], Parallel("p")[task("c")], task("d", "choice", "s", "p"))
    assert [target and target.id for target in plan.leaves["d", 0].dep_targets] == ["choice", "s", "p"]


# ── what is mounted ────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_inline_subflow_prefixes_its_ids_and_reads() -> None:
    def build(ctx: Context[object]) -> object:
        assert use_ctx() is ctx
        done = ctx.output_maybe(Out, "x") is not None
        return Workflow("child")[task("x"), task("y", "x"), done and task("z")]

    data = RunData("run")
    data.add_output("out", OutputRow(Out(), "s/x", 0, 0))
    plan = plan_of(Subflow("s", workflow=child(build), mode="inline"), data=data)
    assert list(plan.leaves) == [("s/x", 0), ("s/y", 0), ("s/z", 0)]
    assert plan.leaves["s/y", 0].dep_targets == [plan.leaves["s/x", 0]]


def test_what_an_inline_subflow_depends_on_holds_for_everything_inside() -> None:
    inner = child(lambda _: Workflow("child")[task("x"), task("y", "x")])
    plan = plan_of(Parallel[task("a"), Subflow("s", workflow=inner, mode="inline", depends_on=["a"])])
    assert plan.leaves["s/x", 0].depends == ("a",)
    assert plan.leaves["s/y", 0].depends == ("s/x", "a")


@pytest.mark.parametrize(
    "gate", [Signal("gate", schema=Out)[task("then")], Approval("gate", output=Out)[task("then")]], ids=repr
)
def test_children_of_a_wait_are_mounted_once_its_row_is_there(gate: Element) -> None:
    data = RunData("run")
    assert list(plan_of(gate, data=data).leaves) == [("gate", 0)]
    data.add_output("out", OutputRow(Out(), "gate", 0, 0))
    assert list(plan_of(gate, data=data).leaves) == [("gate", 0), ("then", 0)]


def test_children_of_a_denied_approval_are_not_mounted() -> None:
    data = RunData("run")
    data.add_output("out", OutputRow(Out(approved=False), "gate", 0, 0))
    gate = Approval("gate", output=Out, on_deny="continue")[task("then")]
    assert list(plan_of(gate, data=data).leaves) == [("gate", 0)]


def test_a_signals_function_makes_its_children_from_the_row() -> None:
    def then(row: Out) -> Element:
        return task(f"approved-{row.approved}")

    data = RunData("run")
    data.add_output("out", OutputRow(Out(approved=False), "gate", 0, 0))
    gate = Signal("gate", schema=Out)[then]
    assert list(plan_of(gate, data=data).leaves) == [("gate", 0), ("approved-False", 0)]


def test_a_skipped_container_mounts_nothing() -> None:
    assert list(plan_of(Sequence(skip_if=True)[task("a")], task("b")).leaves) == [("b", 0)]
