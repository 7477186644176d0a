"""What a run came to, and how failures become error objects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field

from pydantic import BaseModel

from smithers.components.scope import Key
from smithers.errors import DOCS
from smithers.graph.plan import Failure
from smithers.records import dataclass
from smithers.scheduler.states import RunStatus


@dataclass(frozen=True, slots=True)
class RunResult:
    """How `run_workflow` ended. A parked run (`waiting-…`, `paused`) is a normal result.

    Attributes:
        output: the rows of the output registered under the key `output`, for a finished run of a workflow that has one.
        error: the error object of a failed run; what blocks a parked one.
        next_run_id: the run that goes on from here, when this one was continued.
        failed_child_keys: tolerated failures of a finished run, as `node_id::iteration`.
    """

    run_id: str
    status: RunStatus
    output: list[BaseModel] | None = None
    error: dict[str, object] | None = None
    next_run_id: str | None = None
    failed_child_keys: tuple[str, ...] = field(default_factory=tuple)

    @property
    def failed_children(self) -> int:
        """How many failures were tolerated."""
        return len(self.failed_child_keys)


def failure_error(failure: Failure, errors: Mapping[Key, dict[str, object]]) -> dict[str, object]:
    """The error object of a run that ended with a failure: what ended it, with the task's own error as cause."""
    leaf = failure.leaf
    if leaf is None:
        name, code, summary = "SchedulerError", failure.code, failure.summary
        details: dict[str, object] = {}
        cause = None if failure.cause is None else failure_error(failure.cause, errors)
    else:
        name, code, summary = "TaskFailed", "SESSION_ERROR", f"Task failed: {leaf.key[0]}"
        details = {"nodeId": leaf.key[0], "iteration": leaf.key[1]}
        cause = errors.get(leaf.key)
    url = f"{DOCS}#{code.lower()}"
    found: dict[str, object] = {
        "name": name,
        "code": code,
        "message": f"{summary} See {url}",
        "summary": summary,
        "docsUrl": url,
    }
    if details:
        found["details"] = details
    if cause is not None:
        found["cause"] = cause
    return found
