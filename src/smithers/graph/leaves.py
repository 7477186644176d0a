"""Leaves: what a leaf's element says about it, for `extract`. Every problem is an authoring error that names it."""

from __future__ import annotations

from pydantic import BaseModel

from smithers.components.composites import Subflow
from smithers.components.context import Context, rendering
from smithers.components.flow import Workflow
from smithers.components.gates import Approval, HumanTask
from smithers.components.placement import Placement
from smithers.components.task import Leaf, Task
from smithers.components.waits import Timer, WaitForEvent
from smithers.components.workflow import SmithersWorkflow
from smithers.errors import InvalidElement, SmithersError, TaskEmptyPrompt, UnknownOutputSchema, WorkflowRenderFailed
from smithers.graph.plan import LeafKind


def kind_of(element: Leaf) -> LeafKind:
    """What a leaf does. Raises `TaskEmptyPrompt` for an agent or a person without a prompt."""
    match element:
        case Task():
            if element.agent is not None:
                child = element.child
                if child is None or (isinstance(child, str) and not child.strip()):
                    raise TaskEmptyPrompt(f"{element!r} has an agent but no prompt", {"nodeId": element.id})
                if not isinstance(child, str) and not callable(child):
                    raise TaskEmptyPrompt(f"{element!r}: a prompt is a string or a function, not {child!r}")
                return LeafKind.AGENT
            return LeafKind.COMPUTE if callable(element.child) else LeafKind.STATIC
        case Approval():
            return LeafKind.APPROVAL
        case HumanTask():
            if not element.prompt.strip():
                raise TaskEmptyPrompt(f"{element!r} has no prompt", {"nodeId": element.id})
            return LeafKind.HUMAN
        case WaitForEvent():
            return LeafKind.EVENT
        case Timer():
            return LeafKind.TIMER
        case Subflow():
            return LeafKind.SUBFLOW
        case _:
            raise InvalidElement(f"{element!r} cannot stand here")


def placement_of(task: Task, kind: LeafKind, workflow: Workflow) -> Placement | None:
    """Where a task's function is computed, if not in this process. Raises `InvalidElement` for a task that asks for what
    only a function can have."""
    if kind is not LeafKind.COMPUTE:
        if task.executor in (None, "local") and task.resources is None:
            return None
        what = "an agent" if kind is LeafKind.AGENT else "a value"
        given = "resources" if task.executor in (None, "local") else f"executor {task.executor!r}"
        raise InvalidElement(f"{task!r} has {given}, but its work is {what}; only a function is computed elsewhere")
    executor = task.executor or workflow.executor or "local"
    if executor != "local":
        return Placement(executor, (workflow.resources or {}) if task.resources is None else task.resources)
    if task.resources is not None:
        raise InvalidElement(f"{task!r} has resources, but is computed in this process; it needs executor='ray'")
    return None


def depends_of(element: Leaf, prefix: str) -> tuple[str, ...]:
    """The ids that must be done before a leaf. Raises `InvalidElement` when it is among them itself."""
    ids = dict.fromkeys(element.depends_on)
    needs = element.needs or {}
    if isinstance(element, Task):
        ids.update(dict.fromkeys(needs.get(name, name) for name in element.deps or ()))
        if element.fork is not None:
            ids[element.fork] = None
    ids.update(dict.fromkeys(needs.values()))
    if element.id in ids:
        raise InvalidElement(f"{element!r} depends on itself")
    return tuple(prefix + id for id in ids)


def model_of(element: Leaf, schema: object) -> type[BaseModel]:
    """`schema` if it is a model. Raises `UnknownOutputSchema` naming the leaf otherwise."""
    if isinstance(schema, type) and issubclass(schema, BaseModel):
        return schema
    raise UnknownOutputSchema(f"{element!r}: output_schema must be a Pydantic model class, not {schema!r}")


def render_inline(element: Subflow, workflow: SmithersWorkflow, ctx: Context[object]) -> Workflow:
    """The tree of a workflow that is mounted inside another.

    Raises:
        WorkflowRenderFailed: its function raised something untyped; the cause is kept.
        InvalidElement: it returned something else than one `Workflow` element.
    """
    with rendering(ctx):
        try:
            tree = workflow.build(ctx)
        except SmithersError:
            raise
        except Exception as error:
            raise WorkflowRenderFailed(f"{element!r}: {workflow!r} raised {type(error).__name__}: {error}") from error
    if not isinstance(tree, Workflow):
        raise InvalidElement(f"{element!r}: the workflow must return one Workflow element, not {tree!r}")
    return tree
