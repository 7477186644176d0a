"""Flow: how work is ordered. Workflow, Sequence, Parallel, MergeQueue, Branch, Loop, ContinueAsNew."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal, Self

from smithers.components.checks import (
    checked_choice,
    checked_count,
    checked_flag,
    checked_id,
    checked_scope_id,
    snapshot,
)
from smithers.components.element import Children, Element, flatten
from smithers.components.placement import checked_executor, checked_resources
from smithers.errors import InvalidElement
from smithers.errors.base import storable

FailurePolicy = Literal["halt", "quarantine"]


class Workflow(Element):
    """The root of every tree; its children run one after the other.

    Args:
        name: the workflow's name; must be the same in every render and on resume.
        cache: reuse the result of a task whose inputs have not changed, for every task that does not say otherwise.
        executor: where functions of tasks are computed that do not say otherwise: `local` or `ray`.
        resources: what each of them takes up there, unless it says otherwise.
    """

    tag: ClassVar[str] = "smithers:workflow"
    name: str = ""
    cache: bool = False
    executor: str | None = None
    resources: Mapping[str, float] | None = None

    def __init__(
        self,
        name: str,
        *,
        cache: bool = False,
        executor: Literal["local", "ray"] | None = None,
        resources: Mapping[str, float] | None = None,
    ) -> None:
        d = vars(self)
        d["name"] = checked_id("Workflow", name)
        if cache:
            d["cache"] = checked_flag(f"Workflow {name!r}", "cache", cache)
        if executor is not None:
            d["executor"] = checked_executor(f"Workflow {name!r}", executor)
        if resources is not None:
            d["resources"] = checked_resources(f"Workflow {name!r}", resources)

    def __repr__(self) -> str:
        return f"Workflow({self.name!r})"


class Sequence(Element):
    """Children run one after the other.

    Args:
        id: lets other tasks depend on the whole sequence.
        skip_if: mount nothing.
        failure_policy: `quarantine` lets a failed leaf fail alone; inherited by everything inside.
    """

    tag: ClassVar[str] = "smithers:sequence"
    failure_policy: FailurePolicy | None = None
    label: str | None = None

    def __init__(
        self,
        id: str | None = None,
        *,
        key: str | None = None,
        label: str | None = None,
        failure_policy: FailurePolicy | None = None,
        skip_if: bool = False,
    ) -> None:
        _container(self, id, key, label, failure_policy, skip_if)


class Parallel(Element):
    """Children run at the same time; done when all are.

    Args:
        max_concurrency: at most so many running leaves of this (innermost) group; None is unlimited.
        subtree_concurrency: at most so many children with work begun and not ended; None is unlimited.
        priority: higher goes first; inherited by everything inside.
    """

    tag: ClassVar[str] = "smithers:parallel"
    failure_policy: FailurePolicy | None = None
    label: str | None = None
    max_concurrency: int | None = None
    subtree_concurrency: int | None = None
    priority: int | None = None

    def __init__(
        self,
        id: str | None = None,
        *,
        max_concurrency: int | None = None,
        subtree_concurrency: int | None = None,
        priority: int | None = None,
        key: str | None = None,
        label: str | None = None,
        failure_policy: FailurePolicy | None = None,
        skip_if: bool = False,
    ) -> None:
        _container(self, id, key, label, failure_policy, skip_if)
        d = vars(self)
        name = repr(self)
        if max_concurrency is not None and checked_count(name, "max_concurrency", max_concurrency) > 0:
            d["max_concurrency"] = max_concurrency  # zero and below mean unlimited, as in the contract
        if subtree_concurrency is not None:
            d["subtree_concurrency"] = checked_count(name, "subtree_concurrency", subtree_concurrency, least=1)
        if priority is not None:
            d["priority"] = checked_count(name, "priority", priority)


class MergeQueue(Parallel):
    """A Parallel that lets one leaf at a time through, before other work: for landing changes."""

    tag: ClassVar[str] = "smithers:merge-queue"

    def __init__(
        self,
        id: str | None = None,
        *,
        max_concurrency: int = 1,
        priority: int = 1000,
        key: str | None = None,
        label: str | None = None,
        failure_policy: FailurePolicy | None = None,
        skip_if: bool = False,
    ) -> None:
        super().__init__(
            id,
            max_concurrency=checked_count("MergeQueue", "max_concurrency", max_concurrency, least=1),
            priority=priority,
            key=key,
            label=label,
            failure_policy=failure_policy,
            skip_if=skip_if,
        )


class Branch(Element):
    """Mounts `then` when the condition holds, else `else_`. Takes no children.

    Args:
        if_: the condition, evaluated by the workflow function at every render.
        then: element(s) to mount when it holds.
        else_: element(s) to mount when it does not.
    """

    tag: ClassVar[str] = "smithers:branch"
    if_: bool = False
    then: tuple[Element, ...] = ()
    else_: tuple[Element, ...] = ()

    def __init__(
        self,
        *,
        if_: object,
        then: Children,
        else_: Children = None,
        id: str | None = None,
        key: str | None = None,
        skip_if: bool = False,
    ) -> None:
        _container(self, id, key, None, None, skip_if)
        d = vars(self)
        d["if_"] = checked_flag(repr(self), "if_", if_)
        d["then"] = flatten(self, then)
        d["else_"] = flatten(self, else_)

    def __getitem__(self, children: Children) -> Self:
        raise InvalidElement("Branch takes no children; give its arms as then=… and else_=…")


class Loop(Element):
    """Repeats its children, in order, until a condition holds.

    Args:
        id: names the loop; its iterations are `ctx.iterations[id]`.
        until: ends the loop. A plain value that the workflow function computes at every render; looked at before the
            first iteration and at the end of each, never in the middle of one.
        max_iterations: most iterations, at least 1.
        on_max_reached: `return-last` goes on with the last iteration's results, `fail` fails the run.
        continue_as_new_every: hand over to a new run after so many iterations, so that a run's history stays short.
    """

    tag: ClassVar[str] = "smithers:ralph"
    id: str = ""
    until: bool = False
    max_iterations: int = 5
    on_max_reached: str = "return-last"
    continue_as_new_every: int | None = None
    label: str | None = None
    failure_policy: FailurePolicy | None = None

    def __init__(
        self,
        id: str,
        *,
        until: object = False,
        max_iterations: int = 5,
        on_max_reached: Literal["return-last", "fail"] = "return-last",
        continue_as_new_every: int | None = None,
        key: str | None = None,
        label: str | None = None,
        failure_policy: FailurePolicy | None = None,
        skip_if: bool = False,
    ) -> None:
        _container(self, checked_scope_id("Loop", id), key, label, failure_policy, skip_if)
        where = f"Loop {id!r}"
        d = vars(self)
        d["until"] = checked_flag(where, "until", until)
        d["max_iterations"] = checked_count(where, "max_iterations", max_iterations, least=1)
        d["on_max_reached"] = checked_choice(where, "on_max_reached", on_max_reached, ("return-last", "fail"))
        if continue_as_new_every is not None:
            d["continue_as_new_every"] = checked_count(where, "continue_as_new_every", continue_as_new_every, least=1)


class ContinueAsNew(Element):
    """Ends this run when it is reached and goes on as a new run of the same workflow and input.

    Args:
        state: what the new run finds as `ctx.continuation`; JSON, at most 10 MiB.
        when: mount nothing unless true.
        carry: also carry these outputs' rows to the new run (by default only `state` is carried).
    """

    tag: ClassVar[str] = "smithers:continue-as-new"
    state: object = None
    carry: tuple[object, ...] = ()

    def __init__(
        self, state: object = None, *, when: bool = True, carry: tuple[object, ...] | list[object] = ()
    ) -> None:
        d = vars(self)
        d["skip_if"] = not checked_flag("ContinueAsNew", "when", when)
        d["state"] = state if d["skip_if"] else snapshot("ContinueAsNew", "state", state)
        if isinstance(carry, str):
            raise InvalidElement(f"ContinueAsNew: carry must be a list of outputs, not the string {carry!r}")
        if carry:
            d["carry"] = tuple(carry)

    def __getitem__(self, children: Children) -> Self:
        raise InvalidElement("ContinueAsNew takes no children")


def continue_as_new(state: object = None) -> ContinueAsNew:
    """`ContinueAsNew(state)` as a function."""
    return ContinueAsNew(state)


def _container(
    element: Element, id: str | None, key: str | None, label: str | None, policy: str | None, skip_if: object
) -> None:
    d = vars(element)
    name = type(element).__name__
    if id is not None:
        d["id"] = checked_id(name, id)
    if key is not None:
        d["key"] = str(key)
    if label is not None:
        d["label"] = storable(str(label))
    if policy is not None:
        d["failure_policy"] = checked_choice(repr(element), "failure_policy", policy, ("halt", "quarantine"))
    if skip_if:
        d["skip_if"] = checked_flag(repr(element), "skip_if", skip_if)
