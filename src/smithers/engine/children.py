"""Children: a subflow's own run. One child per node and iteration, resumed, never duplicated."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel

from smithers.components.composites import Subflow
from smithers.components.workflow import SmithersWorkflow
from smithers.engine.attempts import Completion, finish
from smithers.engine.loading import load_workflow
from smithers.errors import RunAlreadyExists, SmithersError, WorkflowExecutionFailed
from smithers.scheduler.states import NodeState, RunStatus

if TYPE_CHECKING:
    from smithers.engine.driver import Driver
    from smithers.engine.result import RunResult


def child_run_id(parent: str, node_id: str, iteration: int) -> str:
    """The id of a subflow's run."""
    return f"{parent}:child:{node_id}:{iteration}"


async def run_child(driver: Driver, done: Completion, element: Subflow) -> None:
    """Run the child to its end or halt, and fill in `done`."""
    engine, leaf = driver.engine, done.leaf
    workflow = element.workflow
    if not isinstance(workflow, SmithersWorkflow):
        workflow = load_workflow(str(workflow.get("path")), approved_root=workflow.get("approved_root"))
    run_id = child_run_id(driver.state.run_id, *leaf.key)
    try:
        handle = await engine.launch(
            workflow,
            element.input,
            run_id=run_id,
            parent_run_id=driver.state.run_id,
            auth=driver.state.data.auth,
            root_dir=driver.options.root_dir,
            max_concurrency=driver.options.max_concurrency,
        )
    except RunAlreadyExists:
        handle = await engine.attach(run_id, workflow)
    result = await handle.result
    if result.status is RunStatus.FINISHED:
        finish(done, driver.state.table(leaf), _unwrap(result))
    elif result.status.is_parked:
        engine.care_for(run_id, workflow)
        done.parked = _waiting_state(result.status)
    else:
        error = SmithersError(str((result.error or {}).get("summary", result.status)), code=_code(result))
        raise WorkflowExecutionFailed(
            f"child run {run_id!r} {result.status}",
            {"status": result.status.value, "failure_retryable": result.status is RunStatus.FAILED},
        ) from error


def _unwrap(result: RunResult) -> object:
    """None for no row, the row for one, the list for many."""
    rows: list[BaseModel] = result.output or []
    plain = [row.model_dump() for row in rows]
    return plain[0] if len(plain) == 1 else (plain or None)


def _waiting_state(status: RunStatus) -> NodeState:
    return NodeState.WAITING_EVENT if status is RunStatus.PAUSED else NodeState(status.value)


def _code(result: RunResult) -> str | None:
    code = (result.error or {}).get("code")
    return None if code is None else str(code)
