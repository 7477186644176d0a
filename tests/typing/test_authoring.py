"""What authors write passes both checkers strictly, and infers the types that the documentation promises.

`assert_type` does nothing at run time; running these functions only shows that the code is also valid.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import assert_type

from pydantic import BaseModel

from smithers.components.composites import Saga, SagaStep, Subflow, TryCatchFinally
from smithers.components.context import Context, use_ctx
from smithers.components.element import Element
from smithers.components.flow import Branch, Loop, Parallel, Sequence, Workflow
from smithers.components.gates import Approval, HumanTask
from smithers.components.outputs import Output, Outputs
from smithers.components.rundata import RunData
from smithers.components.task import Task
from smithers.components.waits import Signal, Timer, WaitForEvent
from smithers.components.workflow import SmithersWorkflow, create_smithers


class Finding(BaseModel):
    file: str
    summary: str = ""


class Verdict(BaseModel):
    approved: bool
    note: str | None = None


class ReviewInput(BaseModel):
    files: list[str]


smithers, outputs = create_smithers({"finding": Finding, "verdict": Verdict}, input=ReviewInput)
untyped, other_outputs = create_smithers({"finding": Finding})
reviewer = object()


@smithers
def review(ctx: Context[ReviewInput]) -> Workflow:
    findings = ctx.outputs(outputs.finding)
    return Workflow(name="review")[
        Parallel(max_concurrency=8)[
            [
                Task(id=f"scan:{path}", output=outputs.finding, agent=reviewer)[f"Review {path}"]
                for path in ctx.input.files
            ],
        ],
        findings and Approval(id="ship", output=outputs.verdict, request={"title": f"Ship {len(findings)} findings?"}),
    ]


@smithers(always_render=True)
def eager(ctx: Context[ReviewInput]) -> Workflow:
    return Workflow(name="eager")[Task(id="n", output=Verdict)[lambda: {"approved": bool(ctx.input.files)}]]


@untyped
def mapping_input(ctx: Context[Mapping[str, object]]) -> Workflow:
    return Workflow("plain")[ctx.input.get("go") and Timer("pause", duration="5s")]


@untyped
def any_input(ctx: Context[object]) -> Element:
    return Workflow("plain")[Timer("pause", duration="5s")]


def test_decorated_functions_are_workflows() -> None:
    assert_type(review, SmithersWorkflow)
    assert_type(eager, SmithersWorkflow)
    assert_type(mapping_input, SmithersWorkflow)
    assert_type(any_input, SmithersWorkflow)
    assert_type(outputs, Outputs)
    assert_type(outputs.finding, Output[BaseModel])
    assert_type(outputs["finding"], Output[BaseModel])


def test_brackets_keep_the_type_of_the_component() -> None:
    def then(row: Finding) -> Element:
        return Task("then", output=Finding)[{"file": row.file}]

    a = Task("a", output=Finding)["work"]
    b = Timer("b", duration="1s")
    assert_type(a, Task)
    assert_type(a.id, str)
    assert_type(Sequence[a, b], Sequence)
    assert_type(Sequence()[a, b], Sequence)
    assert_type(Parallel[(one for one in (a,))], Parallel)
    assert_type(Parallel(max_concurrency=8)[[Task(f"t{n}", output="finding")["x"] for n in range(3)]], Parallel)
    assert_type(Loop("l", until=False)[a, None, False], Loop)
    assert_type(Workflow("w")[[a], b], Workflow)
    assert_type(Branch(if_=True, then=a, else_=[b, None]), Branch)
    assert_type(Approval("ok", output=Verdict)["Ship?"], Approval)
    assert_type(HumanTask("ask", output=Verdict)["Which?"], HumanTask)
    assert_type(Signal("go", schema=Finding)[then], Signal)
    assert_type(WaitForEvent("w", event="go", output=Finding), WaitForEvent)
    assert_type(Saga("s")[SagaStep("one", compensation=b)[a]], Saga)
    assert_type(TryCatchFinally("t", try_=a, catch=lambda error: b), TryCatchFinally)
    assert_type(Subflow("sub", workflow=review, output=Finding), Subflow)
    element: Element = a
    assert element.id == "a"


def test_a_component_is_a_plain_function() -> None:
    def Reviewed(path: str, *, strict: bool = False) -> list[Element | bool]:
        return [Task(f"scan:{path}", output=Finding)[path], strict and Timer("pause", duration="1s")]

    assert_type(Sequence[Reviewed("a"), Reviewed("b", strict=True)], Sequence)


def typed_reads(ctx: Context[ReviewInput]) -> None:
    assert_type(ctx.input, ReviewInput)
    assert_type(ctx.input.files, list[str])
    assert_type(ctx.output(Finding, "a"), Finding)
    assert_type(ctx.output_maybe(Finding, "a"), Finding | None)
    assert_type(ctx.output_maybe(Finding, "a", iteration=2), Finding | None)
    assert_type(ctx.latest(Finding, "a"), Finding | None)
    assert_type(ctx.outputs(Finding), list[Finding])
    assert_type(ctx.latest_array("[]", Finding), list[Finding])
    assert_type(ctx.output(outputs.finding, "a"), BaseModel)
    assert_type(ctx.outputs("finding"), list[BaseModel])
    assert_type(ctx.iterations, Mapping[str, int])
    assert_type(use_ctx(), Context[object])


def test_a_context_of_a_model_is_one_of_object() -> None:
    ctx = Context(RunData("r"), outputs, ReviewInput(files=["a"]))
    wide: Context[object] = ctx
    assert_type(ctx.input.files, list[str])
    assert wide.run_id == "r"
    assert callable(typed_reads)


def test_checkers_refuse_what_the_components_refuse() -> None:
    """Each ignored line is an error in both checkers; strict mode reports an ignore that is not needed."""

    def wrong_input(ctx: Context[Finding]) -> Workflow:
        return Workflow("w")

    smithers(wrong_input)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    task = Task("a", output=Finding)
    try:
        task.id = "b"  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
    except AttributeError:
        assert task.id == "a"
