"""Placement: which tasks are computed elsewhere, and the authoring errors of those that cannot be."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from pydantic import BaseModel

from smithers.components.context import Context
from smithers.components.flow import Workflow
from smithers.components.outputs import Outputs
from smithers.components.placement import Placement
from smithers.components.rundata import RunData
from smithers.components.task import Task
from smithers.errors import InvalidElement
from smithers.graph.extract import extract


class Out(BaseModel):
    n: int = 0


outputs = Outputs({"out": Out})


def placements(workflow: Workflow) -> dict[str, Placement | None]:
    """Where the tasks of a tree are computed."""
    data = RunData("run")
    plan = extract(workflow, Context(data, outputs, None), data, outputs)
    return {leaf.logical_id: leaf.placement for leaf in plan.leaves.values()}


def work() -> Out:
    return Out()


def test_a_task_says_where_its_function_is_computed_and_what_it_takes_there() -> None:
    resources = {"num_cpus": 2, "num_gpus": 0.5}
    tree = Workflow("w")[
        Task("ray", output=Out, executor="ray", resources=resources)[work],
        Task("local", output=Out, executor="local")[work],
        Task("plain", output=Out)[work],
    ]
    resources["num_cpus"] = 9
    wanted = {"num_cpus": 2, "num_gpus": 0.5}
    assert placements(tree) == {"ray": Placement("ray", wanted), "local": None, "plain": None}


def test_a_workflow_has_a_default_for_its_functions_and_for_nothing_else() -> None:
    tree = Workflow("w", executor="ray", resources={"num_cpus": 1})[
        Task("a", output=Out)[work],
        Task("b", output=Out, resources={"num_gpus": 1})[work],
        Task("here", output=Out, executor="local")[work],
        Task("agent", output=Out, agent=object())["Do it."],
        Task("value", output=Out)[{"n": 1}],
    ]
    assert placements(tree) == {
        "a": Placement("ray", {"num_cpus": 1}),
        "b": Placement("ray", {"num_gpus": 1}),
        "here": None,
        "agent": None,
        "value": None,
    }


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Task("t", output=Out, executor="ray", agent=object())["Do."], "executor 'ray'.* is an agent"),
        (lambda: Task("t", output=Out, executor="ray")[{"n": 1}], "its work is a value"),
        (lambda: Task("t", output=Out, resources={"num_cpus": 1})[{"n": 1}], "resources, but its work is a value"),
        (lambda: Task("t", output=Out, resources={"num_cpus": 1})[work], "needs executor='ray'"),
        (lambda: Task("t", output=Out, executor="moon")[work], "executor must be one of local, ray"),  # type: ignore[arg-type]
        (lambda: Task("t", output=Out, executor="ray", resources={"num_cpus": -1}), r"resources\['num_cpus'\]"),
        (lambda: Task("t", output=Out, executor="ray", resources={"num_gpus": True}), r"resources\['num_gpus'\]"),
        (lambda: Task("t", output=Out, executor="ray", resources={"memory": float("nan")}), r"resources\['memory'\]"),
    ],
)
def test_what_cannot_be_computed_elsewhere_is_refused_by_name(make: Callable[[], Task], said: str) -> None:
    with pytest.raises(InvalidElement, match=f"(?s)'t'.*{said}"):
        placements(Workflow("w")[make()])
