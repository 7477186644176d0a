"""Composites: constructs with phases of their own. Saga, TryCatchFinally and Subflow."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from collections.abc import Sequence as Seq
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar, Literal, Self, cast

from smithers.components.checks import (
    checked_choice,
    checked_flag,
    checked_id,
    checked_mapping,
    checked_names,
    checked_scope_id,
    is_list,
    is_mapping,
    shown,
    snapshot,
)
from smithers.components.element import Children, Element, ElementType, flatten
from smithers.components.outputs import OutputLike
from smithers.components.task import Leaf, RetryPolicy
from smithers.components.workflow import SmithersWorkflow
from smithers.errors import DuplicateId, InvalidElement
from smithers.errors.base import storable


class SagaStep(Element):
    """One step of a Saga: an action (the children) and what undoes it.

    Args:
        compensation: exactly one element, run when a later step fails.
    """

    tag: ClassVar[str] = "smithers:saga-step"
    id: str = ""
    compensation: Element | None = None
    label: str | None = None

    def __init__(self, id: str, *, compensation: Element | None = None, label: str | None = None) -> None:
        d = vars(self)
        d["id"] = checked_id("SagaStep", id)
        given = cast(object, compensation)
        if given is not None and not isinstance(given, Element):
            raise InvalidElement(f"SagaStep {id!r}: compensation must be exactly one element, not {shown(given)}")
        d["compensation"] = given
        if label is not None:
            d["label"] = storable(str(label))


class Saga(Element):
    """Steps in order; when one fails, what the completed ones did is undone in reverse order.

    Args:
        steps: `[{id, action, compensation, label}]`; or give `SagaStep` children.
        on_failure: `compensate` undoes and goes on; `compensate-and-fail` undoes and fails the run; `fail` undoes
            nothing.
    """

    tag: ClassVar[str] = "smithers:saga"
    id: str = ""
    on_failure: str = "compensate"

    def __init__(
        self,
        id: str,
        *,
        steps: Seq[Mapping[str, object]] = (),
        on_failure: Literal["compensate", "compensate-and-fail", "fail"] = "compensate",
        skip_if: object = False,
    ) -> None:
        d = vars(self)
        d["id"] = checked_id("Saga", id)
        where = f"Saga {id!r}"
        d["on_failure"] = checked_choice(where, "on_failure", on_failure, ("compensate", "compensate-and-fail", "fail"))
        d["skip_if"] = checked_flag(where, "skip_if", skip_if)
        if not is_list(steps):
            raise InvalidElement(f"{where}: steps are a list of mappings {{id, action, compensation}}")
        d["children"] = _distinct(tuple(_step(where, step) for step in steps))

    def __getitem__(self, children: Children) -> Self:
        steps = flatten(self, children)
        for step in steps:
            if not isinstance(step, SagaStep):
                raise InvalidElement(f"Saga {self.id!r} holds SagaStep children only, not {step!r}")
        return self._replace(children=_distinct((*self.children, *steps)))


class TryCatchFinally(Element):
    """Runs `try_`; on its first failure `catch`; and `finally_` in every case.

    Args:
        try_: element(s) to try; in order.
        catch: element(s), or a function of the error object (`{code, message, nodeId, …}`) that returns them.
        catch_errors: error codes to catch; empty catches all.
        finally_: element(s) that run in every case.
    """

    tag: ClassVar[str] = "smithers:try-catch-finally"
    id: str = ""
    try_: tuple[Element, ...] = ()
    catch: tuple[Element, ...] | Callable[[Mapping[str, object]], object] = ()
    catch_errors: tuple[str, ...] = ()
    finally_: tuple[Element, ...] = ()

    def __init__(
        self,
        id: str,
        *,
        try_: Children,
        catch: Children | Callable[[Mapping[str, object]], object] = None,
        catch_errors: Iterable[str] = (),
        finally_: Children = None,
        skip_if: object = False,
    ) -> None:
        d = vars(self)
        d["id"] = checked_id("TryCatchFinally", id)
        d["try_"] = flatten(self, try_)
        is_function = callable(catch) and not isinstance(catch, (Element, ElementType))
        d["catch"] = catch if is_function else flatten(self, catch)
        d["catch_errors"] = checked_names(f"TryCatchFinally {id!r}", "catch_errors", catch_errors)
        d["finally_"] = flatten(self, finally_)
        d["skip_if"] = checked_flag(f"TryCatchFinally {id!r}", "skip_if", skip_if)

    def __getitem__(self, children: Children) -> Self:
        raise InvalidElement(f"{self!r} takes no children; give try_=…, catch=… and finally_=…")

    @property
    def has_catch(self) -> bool:
        """Whether there is anything to do on a failure."""
        return bool(self.catch)


class Subflow(Leaf):
    """Runs another workflow as a part of this one.

    Args:
        workflow: the workflow, or `{path, approved_root}` of its file.
        input: its input.
        output: takes the child's result (one row of its output table).
        mode: `child_run` makes a run of its own, `inline` mounts the child's tree here, its ids prefixed by this id.
    """

    tag: ClassVar[str] = "smithers:subflow"
    workflow: SmithersWorkflow | Mapping[str, object] = MappingProxyType({})
    input: object = None
    mode: str = "child_run"
    output_schema: type | None = None

    def __init__(
        self,
        id: str,
        *,
        workflow: SmithersWorkflow | Mapping[str, object] | str | Path,
        output: OutputLike | None = None,
        input: object = None,
        mode: Literal["child_run", "inline"] = "child_run",
        skip_if: object = False,
        timeout_ms: int | None = None,
        retries: int | None = None,
        retry_policy: RetryPolicy | Mapping[str, object] | None = None,
        continue_on_fail: bool = False,
        failure_policy: Literal["halt", "quarantine"] | None = None,
        priority: int | None = None,
        depends_on: Iterable[str] = (),
        needs: Mapping[str, str] | None = None,
        key: str | None = None,
        label: str | None = None,
        meta: Mapping[str, object] | None = None,
    ) -> None:
        where = self._leaf(
            id,
            output=output,
            key=key,
            label=label,
            meta=meta,
            skip_if=skip_if,
            depends_on=depends_on,
            needs=needs,
            timeout_ms=timeout_ms,
            continue_on_fail=continue_on_fail,
            failure_policy=failure_policy,
            priority=priority,
        )
        self._attempts(where, retries, retry_policy)
        d = vars(self)
        d["mode"] = checked_choice(where, "mode", mode, ("child_run", "inline"))
        if mode == "child_run":
            self._required(output, where)
        else:
            checked_scope_id("Subflow", id)  # it becomes a part of the ids inside, loops among them
        d["workflow"] = _workflow(where, workflow)
        d["input"] = snapshot(where, "input", input)

    def __getitem__(self, children: Children) -> Self:
        raise InvalidElement(f"{self!r} takes no children")


def _step(where: str, step: object) -> SagaStep:
    if isinstance(step, SagaStep):
        return step
    if not is_mapping(step):
        raise InvalidElement(f"{where}: each step is a mapping {{id, action, compensation}}, not {shown(step)}")
    unknown = [key for key in step if key not in ("id", "action", "compensation", "label")]
    if unknown:
        raise InvalidElement(f"{where}: a step has the unknown keys {', '.join(map(shown, unknown))}")
    if "action" not in step:
        raise InvalidElement(f"{where}: the step {shown(step.get('id'))} has no action")
    label = step.get("label")
    # SagaStep checks what it is given
    id, compensation = cast(str, step.get("id")), cast("Element | None", step.get("compensation"))
    return SagaStep(id, compensation=compensation, label=None if label is None else str(label))[step["action"]]


def _distinct(steps: tuple[Element, ...]) -> tuple[Element, ...]:
    seen: set[str | None] = set()
    for step in steps:
        if step.id in seen:
            raise DuplicateId("saga step", str(step.id))
        seen.add(step.id)
    return steps


def _workflow(where: str, workflow: object) -> SmithersWorkflow | Mapping[str, object]:
    if isinstance(workflow, SmithersWorkflow):
        return workflow
    if isinstance(workflow, (str, Path)):
        return {"path": str(workflow)}
    if not isinstance(workflow, Mapping):
        hint = "; decorate it with @smithers" if callable(workflow) else ""
        raise InvalidElement(
            f"{where}: workflow must be a workflow or {{path, approved_root}}, not {shown(workflow)}{hint}"
        )
    found = checked_mapping(where, "workflow", cast(object, workflow))
    unknown = found.keys() - {"path", "approved_root"}
    if unknown or not isinstance(found.get("path"), (str, Path)):
        raise InvalidElement(f"{where}: workflow is {{path, approved_root}}, not {shown(found)}")
    return found
