"""Completions: what an attempt came to: a row that fits its output, an error, or a halt."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, RootModel, ValidationError

from smithers.components.workflow import first_problem, issues
from smithers.errors import InvalidOutput, TaskAborted
from smithers.graph.plan import LeafNode
from smithers.records import dataclass
from smithers.scheduler.states import NodeState
from smithers.store.calls import UnsafeCall
from smithers.store.columns import TableDef
from smithers.store.interface import SqlValue

if TYPE_CHECKING:
    from smithers.engine.workspaces import Stored


@dataclass(slots=True)
class Completion:
    """What an attempt came to."""

    leaf: LeafNode
    attempt: int
    started_at_ms: int
    output: BaseModel | None = None
    values: tuple[SqlValue, ...] = ()
    error: BaseException | None = None
    is_aborted: bool = False
    """Stopped from outside (cancel, shutdown): costs no retry."""
    is_over: bool = False
    """Whether the work has ended, or is not waited for any more."""
    is_cached: bool = False
    measured: dict[str, object] | None = None
    """What metrics count of it, told with its end."""
    parked: NodeState | None = None
    """A subflow that waits: the state that its node takes."""
    text: str | None = None
    meta: dict[str, object] | None = None
    cache_row: tuple[SqlValue, ...] | None = None
    root_dir: Path | None = None
    """The worktree that it works in, if it is in one."""
    is_touching: bool = False
    """Whether it has changed files, as far as its tools tell."""
    files: Stored | None = None
    """What it has left of them."""
    effect_token: str | None = None
    """What the journal knows the task's own effect by, if it may have one."""
    unsafe_calls: dict[str, UnsafeCall] | None = None
    """What its tools have done that must not be repeated unasked, by token."""


def finish(done: Completion, table: TableDef, value: object, *, is_by_name: bool = False) -> None:
    """Validate and encode a result, as `validate` does. Raises `InvalidOutput`."""
    leaf = done.leaf
    row = validate(leaf, value, is_by_name=is_by_name)
    done.output = row
    done.values = table.encode(row)


def validate(leaf: LeafNode, value: object, *, is_by_name: bool = False) -> BaseModel:
    """A value as a row of the leaf's output. Raises `InvalidOutput` naming the field.

    Args:
        is_by_name: it was made here and has fields by their names, whatever the model has others call them.
    """
    assert leaf.output is not None
    assert leaf.schema is not None
    try:
        if type(value) is not leaf.schema and inspect.isawaitable(value):
            raise InvalidOutput(
                f"{leaf.element!r} returned something to be awaited; make its function async",
                {"nodeId": leaf.key[0], "failure_retryable": False},
            )
        row = leaf.schema.model_validate(value, by_name=True if is_by_name else None)
        if leaf.schema is not leaf.output.model:
            row = leaf.output.model.model_validate(held_by(row), by_name=True)
        return row
    except ValidationError as error:
        raise InvalidOutput(
            f"{leaf.element!r}: result does not fit {leaf.output!r}: {first_problem(error)}",
            {"nodeId": leaf.key[0], "issues": issues(error)},
        ) from error


def held_by(row: BaseModel) -> object:
    """What a row holds, by the names of its fields: also what is left out of dumps, and nothing that is computed."""
    if isinstance(row, RootModel):
        root: object = row.model_dump(by_alias=False, round_trip=True)
        return root
    values = {name: row.__dict__[name] for name in type(row).model_fields if name in row.__dict__}
    if type(row).__pydantic_decorators__.model_serializers:  # a dump's shape is the author's, not that of the fields
        return values
    return values | row.model_dump(by_alias=False, round_trip=True)


def abort_error(reason: str) -> TaskAborted:
    """What an attempt that was stopped from outside is stored with."""
    return TaskAborted(f"stopped: {reason}")
