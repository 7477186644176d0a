"""Completions: what an attempt came to: a row that fits its output, an error, or a halt."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ValidationError

from smithers.components.workflow import first_problem, issues
from smithers.errors import InvalidOutput, TaskAborted
from smithers.graph.plan import LeafNode
from smithers.records import dataclass
from smithers.scheduler.states import NodeState
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


def finish(done: Completion, table: TableDef, value: object) -> None:
    """Validate and encode a result. Raises `InvalidOutput`."""
    leaf = done.leaf
    row = validate(leaf, value)
    done.output = row
    done.values = table.encode(row)


def validate(leaf: LeafNode, value: object) -> BaseModel:
    """A value as a row of the leaf's output. Raises `InvalidOutput` naming the field."""
    assert leaf.output is not None
    assert leaf.schema is not None
    try:
        if type(value) is not leaf.schema and inspect.isawaitable(value):
            raise InvalidOutput(
                f"{leaf.element!r} returned something to be awaited; make its function async",
                {"nodeId": leaf.key[0], "failure_retryable": False},
            )
        row = leaf.schema.model_validate(value)
        if leaf.schema is not leaf.output.model:
            row = leaf.output.model.model_validate(row.model_dump())
        return row
    except ValidationError as error:
        raise InvalidOutput(
            f"{leaf.element!r}: result does not fit {leaf.output!r}: {first_problem(error)}",
            {"nodeId": leaf.key[0], "issues": issues(error)},
        ) from error


def abort_error(reason: str) -> TaskAborted:
    """What an attempt that was stopped from outside is stored with."""
    return TaskAborted(f"stopped: {reason}")
