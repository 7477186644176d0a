"""Children: a subflow's own run. One child per node and iteration, resumed, never duplicated."""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from pydantic import BaseModel

from smithers.components.composites import Subflow
from smithers.components.scope import Key
from smithers.components.workflow import SmithersWorkflow
from smithers.engine.attempts import Completion, abort_error, finish
from smithers.engine.loading import load_workflow
from smithers.errors import (
    OwnershipError,
    RunAlreadyExists,
    RunNotActive,
    SmithersError,
    TaskTimeout,
    WorkflowExecutionFailed,
)
from smithers.scheduler.states import NodeState, RunStatus

if TYPE_CHECKING:
    from smithers.engine.driver import Driver
    from smithers.engine.engine import Engine, RunHandle
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
    _name_task(driver, leaf.key)
    try:
        handle = await engine.launch(
            workflow,
            element.input,
            run_id=run_id,
            parent_run_id=driver.state.run_id,
            auth=driver.state.data.auth,
            root_dir=driver.options.root_dir,
            max_concurrency=driver.options.max_concurrency,
            allow_network=driver.options.allow_network,
            sandbox=driver.options.sandbox,
        )
    except RunAlreadyExists:
        try:
            handle = await _existing(engine, run_id, workflow, is_retry=driver.state.failed.get(leaf.key, 0) > 0)
        except OwnershipError:  # another process drives it; its end wakes this run
            done.parked = NodeState.WAITING_EVENT
            return
    limit = element.timeout_ms
    try:
        async with asyncio.timeout(None if limit is None else limit / 1000):
            result = await asyncio.shield(handle.result)  # stopping this attempt must not break the child's driver
    except TimeoutError:
        with suppress(RunNotActive):  # it has ended in the last moment
            await engine.store.request_cancel(run_id, engine.clock.now_ms(), "parent")
        raise TaskTimeout(
            f"{element!r} took longer than {limit} ms",
            {"nodeId": leaf.key[0], "attempt": done.attempt, "timeoutMs": limit},
        ) from None
    if result.status is RunStatus.FINISHED:
        finish(done, driver.state.table(leaf), _unwrap(result))
    elif result.status.is_parked:
        engine.care_for(result.run_id, workflow)  # it may have been continued as another run
        done.parked = _waiting_state(result.status)
    elif result.status is RunStatus.RUNNING:  # given up by an engine that closes; so is this run
        done.is_aborted = True
        done.error = abort_error("shutdown")
    else:
        error = SmithersError(str((result.error or {}).get("summary", result.status)), code=_code(result))
        raise WorkflowExecutionFailed(
            f"child run {run_id!r} {result.status}",
            {"status": result.status.value, "failure_retryable": result.status is RunStatus.FAILED},
        ) from error


def _name_task(driver: Driver, key: Key) -> None:
    """Have the child belong to this task's trace, if anybody traces. The calling asyncio task is this attempt's own."""
    if "smithers.observability.context" in sys.modules:
        from smithers.observability.context import current_run, name_launcher, task_traceparent

        if (run := current_run.get()) is not None and run.run_id == driver.state.run_id:
            name_launcher(task_traceparent(run, *key))


async def _existing(engine: Engine, run_id: str, workflow: SmithersWorkflow, *, is_retry: bool) -> RunHandle:
    """The child that an earlier attempt has started. It goes on if it can: also after it was cancelled with its parent,
    or failed and this is another try."""
    row = await engine.run_row(run_id)
    was_stopped = row.status == "cancelled" and row.cancel_request_source == "parent"
    if was_stopped or (row.status == "failed" and is_retry):
        return await engine.resume(run_id, workflow)
    return await engine.attach(run_id, workflow)


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
