"""Children: a subflow's own run. One child per node and iteration, resumed, never duplicated."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

from pydantic import BaseModel

from smithers.components.composites import Subflow
from smithers.components.scope import Key
from smithers.components.workflow import SmithersWorkflow
from smithers.engine.completions import Completion, abort_error, finish, held_by
from smithers.engine.leases import may_take_over
from smithers.engine.loading import load_workflow
from smithers.errors import (
    OwnershipError,
    RunAlreadyExists,
    RunNotActive,
    SmithersError,
    StorageError,
    TaskTimeout,
    WorkflowExecutionFailed,
)
from smithers.scheduler.states import NodeState, RunStatus
from smithers.store.sql import reads

if TYPE_CHECKING:
    from smithers.engine.driver import Driver
    from smithers.engine.engine import Engine, RunHandle
    from smithers.engine.result import RunResult


def child_run_id(parent: str, node_id: str, iteration: int) -> str:
    """The id of a subflow's run."""
    return f"{parent}:child:{node_id}:{iteration}"


async def run_child(driver: Driver, done: Completion, element: Subflow) -> None:
    """Run the child to its end or halt, and fill in `done`. Raises `TaskTimeout` when it is out of time."""
    engine, leaf, tools = driver.engine, done.leaf, driver.options.tools
    workflow = element.workflow
    if not isinstance(workflow, SmithersWorkflow):
        workflow = load_workflow(str(workflow.get("path")), approved_root=workflow.get("approved_root"))
    run_id = child_run_id(driver.state.run_id, *leaf.key)
    due = driver.state.timers.get((leaf.key, "deadline"))
    left = None if due is None else max(0, due - engine.clock.now_ms())
    _name_task(driver, leaf.key)
    try:
        handle = await driver.patiently(
            lambda: engine.launch(
                workflow,
                element.input,
                run_id=run_id,
                parent_run_id=driver.state.run_id,
                auth=driver.state.data.auth,
                root_dir=driver.options.root_dir if done.root_dir is None else str(done.root_dir),
                max_concurrency=driver.options.max_concurrency,
                allow_network=tools.allow_network,
                sandbox=tools.sandbox,
                max_output_bytes=tools.max_output_bytes,
                tool_timeout_ms=tools.timeout_ms,
            )
        )
    except RunAlreadyExists:
        if left == 0 and await _stop(engine, run_id):
            raise _late(done, element) from None
        try:
            is_retry, is_new = driver.state.failures_ever(leaf.key) > 0, driver.state.generation > 0
            handle = await driver.patiently(
                lambda: _existing(engine, run_id, workflow, is_retry=is_retry, is_new=is_new)
            )
        except OwnershipError:  # another process drives it; its end wakes this run
            done.parked = NodeState.WAITING_EVENT
            return
    try:
        async with asyncio.timeout(None if left is None else left / 1000):
            result = await asyncio.shield(handle.result)  # stopping this attempt must not break the child's driver
    except TimeoutError:
        await _stop(engine, run_id)
        raise _late(done, element) from None
    except OwnershipError:  # another process has taken it over; its end wakes this run
        done.parked = NodeState.WAITING_EVENT
        return
    except StorageError:  # it was given up, because the database was away; it has not failed, and goes on
        engine.care_for(run_id, workflow)
        done.parked = NodeState.WAITING_EVENT
        return
    if result.status is RunStatus.FINISHED:
        finish(done, driver.state.table(leaf), _unwrap(result), is_by_name=True)
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


def _late(done: Completion, element: Subflow) -> TaskTimeout:
    return TaskTimeout(
        f"{element!r} took longer than {element.timeout_ms} ms",
        {"nodeId": done.leaf.key[0], "attempt": done.attempt, "timeoutMs": element.timeout_ms},
    )


async def _stop(engine: Engine, run_id: str) -> bool:
    """Cancel a child that is out of time, as whatever it was continued. False if it has ended in the last moment."""
    row = await engine.run_row(run_id)
    if row.status == "continued":
        heir = await engine.store.aread(lambda c: reads.successor(c, run_id))
        return heir is not None and await _stop(engine, heir)
    now = engine.clock.now_ms()
    try:
        row = await engine.store.request_cancel(run_id, now, "parent")
    except RunNotActive:
        return False
    if row.status != "running" or may_take_over(row, now, engine.settings.lease_ms):
        fence = None if row.runtime_owner_id is None else (row.runtime_owner_id, row.epoch)
        await engine.store.finalize_cancel(run_id, now, fence)
    return True


def _name_task(driver: Driver, key: Key) -> None:
    """Have the child belong to this task's trace, if anybody traces. The calling asyncio task is this attempt's own."""
    if "smithers.observability.context" in sys.modules:
        from smithers.observability.context import current_run, name_launcher, task_traceparent

        if (run := current_run.get()) is not None and run.run_id == driver.state.run_id:
            name_launcher(task_traceparent(run, *key))


async def _existing(
    engine: Engine, run_id: str, workflow: SmithersWorkflow, *, is_retry: bool, is_new: bool
) -> RunHandle:
    """The child that an earlier attempt has started, as whatever it was continued. It goes on if it can: also after it was
    cancelled with its parent, or failed and this is another try.

    Args:
        is_new: the workflow's source was loaded anew since; the child takes it as its parent has.
    """
    row = await engine.run_row(run_id)
    while row.status == "continued":
        row = await engine.run_row(await engine.next_run_id(row.run_id))
    was_stopped = row.status == "cancelled" and row.cancel_request_source == "parent"
    if was_stopped or (row.status == "failed" and is_retry):
        return await engine.resume(row.run_id, workflow, accept_workflow_change=is_new)
    return await engine.attach(row.run_id, workflow, accept_workflow_change=is_new)


def _unwrap(result: RunResult) -> object:
    """None for no row, the row for one, the list for many."""
    rows: list[BaseModel] = result.output or []
    plain = [held_by(row) for row in rows]
    return plain[0] if len(plain) == 1 else (plain or None)


def _waiting_state(status: RunStatus) -> NodeState:
    return NodeState.WAITING_EVENT if status is RunStatus.PAUSED else NodeState(status.value)


def _code(result: RunResult) -> str | None:
    code = (result.error or {}).get("code")
    return None if code is None else str(code)
