"""Settle: what an attempt came to goes into the step. Success, retry, quota, final failure, abort."""

from __future__ import annotations

from pydantic_core import to_json

from smithers.components.scope import Key
from smithers.engine import effects, guard
from smithers.engine.completions import Completion
from smithers.engine.retry import delay_ms, retries_of
from smithers.engine.state import RunState, failure_of
from smithers.errors import AgentQuotaExceeded, InvalidOutput, SmithersError, error_object, json_safe
from smithers.events import attempt_event, event
from smithers.graph.plan import LeafKind, LeafNode
from smithers.scheduler.scheduler import Scheduler
from smithers.scheduler.states import NodeState
from smithers.store.interface import AttemptChange

S = NodeState
WAITING_EVENTS = {
    S.WAITING_APPROVAL: "NodeWaitingApproval",
    S.WAITING_EVENT: "NodeWaitingEvent",
    S.WAITING_TIMER: "NodeWaitingTimer",
    S.WAITING_QUOTA: "NodeWaitingQuota",
}
QUOTA_WAIT_MS = 60_000
"""How long to wait for a used-up limit whose end is not known."""


class Settler:
    """Applies completions to a run."""

    def __init__(self, state: RunState) -> None:
        self._state = state
        self.scheduler: Scheduler

    def settle(self, done: Completion) -> None:
        """Write what an attempt came to into the step."""
        if done.parked is None and done.leaf.kind is LeafKind.SUBFLOW:
            self._state.disarm(done.leaf.key, "deadline")
        if done.leaf.element.side_effect is not None:
            effects.end(self._state, done)
        if done.unsafe_calls or done.effect_token is not None:
            guard.take_over(self._state, done)
        if done.files is not None:
            step = self._state.step
            at = (self._state.run_id, *done.leaf.key, done.attempt, step.frame_no, step.now_ms)
            self._state.row("checkpoint", *done.files.row(*at))
        if done.parked is not None:
            self._state.move(done.leaf, done.parked)
            self._state.attempt(self._change(done, done.parked.value, is_over=False))
            self._state.tell(WAITING_EVENTS[done.parked], done.leaf)
            self._waits(done.leaf)
        elif done.is_aborted:
            self._state.attempt(self._change(done, "cancelled", error=done.error))
            self._state.move(done.leaf, S.CANCELLED, attempt=done.attempt)
            self._state.tell("NodeCancelled", done.leaf, attempt=done.attempt, reason="aborted")
            self.scheduler.settled(done.leaf.key)
        elif done.error is not None:
            self._failed(done, done.error)
        else:
            self._finished(done)

    def _finished(self, done: Completion) -> None:
        state, leaf, key = self._state, done.leaf, done.leaf.key
        assert done.output is not None
        try:
            index = state.write_output(leaf, done.output, done.values)
        except InvalidOutput as error:
            self._failed(done, error)
            return
        state.attempt(self._change(done, "finished"))
        state.move(leaf, S.FINISHED, attempt=done.attempt, output=index)
        state.guarded.pop(key, None)
        state.step.events.append(
            attempt_event("NodeFinished", key[0], key[1], done.attempt)
            if done.measured is None
            else event("NodeFinished", *key, attempt=done.attempt, **done.measured)
        )
        if done.cache_row is not None:
            state.row("cache", *done.cache_row)
        self.scheduler.settled(key)

    def _failed(self, done: Completion, error: BaseException) -> None:
        state, leaf, key = self._state, done.leaf, done.leaf.key
        found = error_object(error)
        if isinstance(error, AgentQuotaExceeded):
            self._out_of_quota(done, error)
            return
        failures = state.failed[key] = state.failed.get(key, 0) + 1
        state.attempt(self._change(done, "failed", error=error))
        state.tell("NodeFailed", leaf, attempt=done.attempt, error=found)
        if failures <= retries_of(leaf) and _is_retryable(leaf, error):
            if key in self.scheduler.plan.leaves:
                self._retry(leaf, key, failures, done.attempt)
            else:  # not mounted any more, so nobody wants another attempt
                state.move(leaf, S.PENDING, attempt=done.attempt)
                state.tell("NodePending", leaf)
                self.scheduler.settled(key)
            return
        state.errors[key] = found
        state.move(leaf, S.FAILED, attempt=done.attempt)
        self.scheduler.failures[key] = failure_of(leaf, found)
        self.scheduler.settled(key)

    def _retry(self, leaf: LeafNode, key: Key, failures: int, attempt: int) -> None:
        state = self._state
        delay = delay_ms(leaf.element, failures, f"{state.run_id}:{key[0]}:{key[1]}:{attempt}")
        state.move(leaf, S.PENDING, attempt=attempt)
        state.tell("NodeRetrying", leaf, attempt=attempt + 1, delayMs=delay)
        self.scheduler.holds(leaf)
        if delay <= 0:
            self.scheduler.comes_again(key)
        else:
            state.held.add(key)
            state.arm(key, "retry", state.step.now_ms + delay)

    def _out_of_quota(self, done: Completion, error: AgentQuotaExceeded) -> None:
        state, leaf = self._state, done.leaf
        reset = error.details.get("quotaResetAtMs")
        due = reset if isinstance(reset, int) else state.step.now_ms + QUOTA_WAIT_MS
        state.attempt(self._change(done, "waiting-quota", error=error))
        state.move(leaf, S.WAITING_QUOTA, attempt=done.attempt)
        state.tell("NodeWaitingQuota", leaf, attempt=done.attempt, resetAtMs=due)
        state.arm(leaf.key, "quota", due)
        self._waits(leaf)

    def _waits(self, leaf: LeafNode) -> None:
        """The leaf's work waits for the world; if the leaf is not mounted any more, nobody waits for it."""
        self.scheduler.waits(leaf)
        if leaf.key not in self.scheduler.plan.leaves:
            self._state.disarm(leaf.key, "quota")
            self._state.move(leaf, S.CANCELLED)
            self._state.tell("NodeCancelled", leaf, reason="unmounted")

    def _change(
        self, done: Completion, to: str, *, error: BaseException | None = None, is_over: bool = True
    ) -> AttemptChange:
        return AttemptChange(
            done.leaf.key[0],
            done.leaf.key[1],
            done.attempt,
            to,
            done.started_at_ms,
            self._state.step.now_ms if is_over else None,
            None if error is None else to_json(error_object(error)).decode(),
            done.text,
            1 if done.is_cached else None,
            None if done.meta is None else _json(done.meta),
        )


def _json(meta: dict[str, object]) -> str:
    try:
        return to_json(meta, fallback=str).decode()
    except ValueError:  # half a surrogate pair in what an agent has said: say what can be said
        return to_json(json_safe(meta)).decode()


def _is_retryable(leaf: LeafNode, error: BaseException) -> bool:
    if isinstance(error, InvalidOutput) and leaf.kind is not LeafKind.AGENT:
        return False  # the same code gives the same shape again
    return error.is_retryable if isinstance(error, SmithersError) else True
