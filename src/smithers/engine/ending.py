"""Ending: how a run's end or halt is written, and what its caller gets of it."""

from __future__ import annotations

from pydantic import BaseModel
from pydantic_core import to_json

from smithers.components.element import Element
from smithers.components.scope import state_key
from smithers.engine.continuation import next_run
from smithers.engine.result import RunResult, failure_error
from smithers.engine.state import RunState
from smithers.engine.waits import WaitDesk
from smithers.engine.work import Work
from smithers.errors import DependencyDeadlock, SmithersError, error_object
from smithers.graph.arms import arms_by_id
from smithers.graph.plan import LoopNode
from smithers.records import dataclass
from smithers.scheduler.scheduler import Continued, Deadlocked, Failed, Finished, Outcome
from smithers.scheduler.states import NodeState, RunStatus
from smithers.store.interface import NewRun, StatusChange

S = NodeState


@dataclass(frozen=True, slots=True)
class Ending:
    """How a run ends or halts."""

    status: RunStatus
    error: dict[str, object] | None = None
    successor: NewRun | None = None
    hands_on_signals: bool = False
    """Whether signals that nobody has taken go on to the successor: a loop that hands over does not know that it does."""


def ending_of(state: RunState, outcome: Outcome, now_ms: int, tree: Element) -> Ending:
    """The end that an outcome means, of a run with this tree. Raises `DependencyDeadlock`."""
    match outcome:
        case Finished():
            return Ending(RunStatus.FINISHED)
        case Failed(failure):
            return Ending(RunStatus.FAILED, failure_error(failure, state.errors))
        case Continued(node):
            heir = next_run(state, node, now_ms)
            return Ending(RunStatus.CONTINUED, successor=heir, hands_on_signals=isinstance(node, LoopNode))
        case Deadlocked(waiting):
            missing = {state_key(key): list(ids) for key, ids in waiting.items()}
            arms = arms_by_id(tree)
            listed = "; ".join(
                f"{key} waits for {', '.join(f'{id} (in {arms[id]})' if id in arms else id for id in ids)}"
                for key, ids in list(missing.items())[:5]
            )
            raise DependencyDeadlock(f"nothing can go on: {listed}", {"waiting": missing})


def broken(error: SmithersError) -> Ending:
    """The end of a run whose workflow is wrong."""
    return Ending(RunStatus.FAILED, error_object(error))


def parking_status(state: RunState, now_ms: int) -> RunStatus | None:
    """The status to park with, if a run in which nothing runs waits for the world; None if its moment has come."""
    waiting = {state.nodes[key] for key in state.live}
    for status in (S.WAITING_APPROVAL, S.WAITING_EVENT, S.WAITING_TIMER, S.WAITING_QUOTA):
        if status in waiting:
            due = state.next_due()
            return RunStatus(status.value) if due is None or due > now_ms else None
    return None


def write_ending(state: RunState, ending: Ending, desk: WaitDesk, work: Work) -> None:
    """Write a run's end or halt into the step."""
    status = ending.status
    error = None
    if status.is_terminal:
        for key in sorted(state.live | state.held):
            if state.nodes[key] is not S.IN_PROGRESS:
                desk.abandon(key, "run-ended")
        if state.timers:
            state.row("timers_done", state.run_id)
    if status is RunStatus.FINISHED:
        keys = tolerated(state)
        state.tell("RunFinished", None, failedChildren=len(keys) or None, failedChildKeys=list(keys) or None)
    elif status is RunStatus.FAILED:
        error = to_json(ending.error).decode()
        state.tell("RunFailed", None, error=ending.error)
    elif status is RunStatus.CONTINUED:
        assert ending.successor is not None
        state.step.successor = ending.successor
        if ending.hands_on_signals:
            state.step.signals_on = state.untaken_signals(), state.last_signal
        size = len(ending.successor.config_json)
        state.tell("RunContinuedAsNew", None, newRunId=ending.successor.run_id, iteration=0, carriedStateSize=size)
    elif status is RunStatus.RUNNING:
        work.hand_back()
    else:
        state.step.seen_wakeup = state.last_wakeup
    state.tell("RunStatusChanged", None, status=status.value)
    state.step.status = StatusChange(status.value, status.is_terminal, error)


def tolerated(state: RunState) -> tuple[str, ...]:
    """The failures that a run has lived with, as `node_id::iteration`."""
    return tuple(state_key(key) for key in state.errors if state.nodes.get(key) is S.FAILED)


def result_of(state: RunState, ending: Ending) -> RunResult:
    """What the caller gets."""
    is_finished = ending.status is RunStatus.FINISHED
    output: list[BaseModel] | None = None
    if is_finished and "output" in state.workflow.outputs:
        output = [row.payload for row in state.data.rows.get("output", {}).values()]
    next_run_id = None if ending.successor is None else ending.successor.run_id
    failed = tolerated(state) if is_finished else ()
    return RunResult(state.run_id, ending.status, output, ending.error, next_run_id, failed)
