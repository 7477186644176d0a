"""Wait records: how a node that waits is kept on record while it does, and how that ends: with a row, skipped, failed,
or given up.

What is waited for, and what arrives, is in `waits`.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel
from pydantic_core import to_json

from smithers.components.scope import Key
from smithers.engine.completions import validate
from smithers.engine.requests import human_request_id
from smithers.engine.state import RunState, failure_of
from smithers.errors import InvalidOutput, SmithersError, error_object
from smithers.events import attempt_event
from smithers.graph.plan import LeafNode
from smithers.scheduler.scheduler import Scheduler
from smithers.scheduler.states import NodeState
from smithers.store.interface import AttemptChange, SqlValue

S = NodeState


class WaitRecords:
    """The waits of one run, as its steps write them. `WaitDesk` says what becomes of each.

    Attributes:
        scheduler: of the current plan; told of what begins and ends to wait.
    """

    def __init__(self, state: RunState) -> None:
        self._state = state
        self.scheduler: Scheduler

    # ── while it waits ─────────────────────────────────────────────────────────────────────────────────────────────

    def _wait(self, leaf: LeafNode, to: NodeState, attempt: int | None = None) -> None:
        self._state.move(leaf, to, attempt=attempt)
        self.scheduler.waits(leaf)

    def _timeout(self, leaf: LeafNode) -> None:
        if leaf.element.timeout_ms is not None:
            self._state.arm(leaf.key, "timeout", self._state.step.now_ms + leaf.element.timeout_ms)

    def _timeout_at(self, leaf: LeafNode) -> int | None:
        """When the patience with a wait runs out."""
        return self._state.timers.get((leaf.key, "timeout"))

    def _attempt(
        self, leaf: LeafNode, to: NodeState, *, meta: Mapping[str, object] | None = None, error: str | None = None
    ) -> int:
        """Waits keep their record in an attempt, as work does; only answers that do not fit take more than one."""
        now = self._state.step.now_ms
        number = self._number(leaf)
        ended = now if to.is_terminal else None
        text = None if meta is None else to_json(meta).decode()
        self._state.attempt(AttemptChange(*leaf.key, number, to.value, now, ended, error, None, None, text))
        return number

    def _number(self, leaf: LeafNode) -> int:
        """Of the attempt that keeps the record of a wait that is over; a gate's comes after those of the work behind it."""
        if leaf.kind.is_wait:
            return self._state.failures_ever(leaf.key) + 1
        return self._state.attempts.get(leaf.key, 0) + 1

    # ── the end ────────────────────────────────────────────────────────────────────────────────────────────────────

    def abandon(self, key: Key, reason: str) -> None:
        """A node that waits is not wanted any more: its part of the tree failed, or is not mounted any more."""
        state = self._state
        for kind in ("timer", "timeout", "retry", "quota", "deadline"):
            if (key, kind) in state.timers and kind == "timer":
                state.tell_of("TimerCancelled", key, timerId=key[0])
            state.disarm(key, kind)
        if state.nodes.get(key) is S.WAITING_APPROVAL:  # one of the two has it
            state.row("human_closed", "cancelled", state.step.frame_no, human_request_id(state.run_id, key))
            by = f"smithers:{reason}"
            state.row("approval_closed", state.step.now_ms, by, state.step.frame_no, state.run_id, *key)
            state.gates.pop(key, None)
        if state.nodes.get(key) not in (S.PENDING, S.WAITING_QUOTA):
            state.row("attempts_closed", state.step.now_ms, state.step.frame_no, state.run_id, *key)
        state.held.discard(key)
        state.move_key(key, S.CANCELLED)
        state.tell_of("NodeCancelled", key, reason=reason)

    def _finish(
        self, leaf: LeafNode, value: object, *, meta: Mapping[str, object] | None, is_by_name: bool = False
    ) -> None:
        state = self._state
        row, values = self._row_of(leaf, value, is_by_name=is_by_name)
        index = state.write_output(leaf, row, values)
        self._attempt(leaf, S.FINISHED, meta=meta)
        number = state.failures_ever(leaf.key) + 1
        state.move(leaf, S.FINISHED, attempt=number, output=index)
        state.step.events.append(attempt_event("NodeFinished", *leaf.key, number))
        self.scheduler.settled(leaf.key)

    def _row_of(self, leaf: LeafNode, value: object, *, is_by_name: bool) -> tuple[BaseModel, tuple[SqlValue, ...]]:
        """A value as the leaf's row and its columns, as `validate` takes it. Raises `InvalidOutput`."""
        try:
            row = validate(leaf, value, is_by_name=is_by_name)
            return row, self._state.table(leaf).encode(row)
        except SmithersError:
            raise
        except Exception as error:  # an author's validator may raise anything
            raise InvalidOutput(f"{leaf.element!r}: the row was refused with {type(error).__name__}") from error

    def _skip(self, leaf: LeafNode) -> None:
        self._state.move(leaf, S.SKIPPED)
        self._state.tell("NodeSkipped", leaf)
        self.scheduler.settled(leaf.key)

    def _fail(self, leaf: LeafNode, error: SmithersError, *, meta: Mapping[str, object] | None = None) -> None:
        state = self._state
        found = error_object(error)
        state.errors[leaf.key] = found
        number = self._attempt(leaf, S.FAILED, meta=meta, error=to_json(found).decode())
        state.move(leaf, S.FAILED, attempt=number)
        state.tell("NodeFailed", leaf, attempt=number, error=found)
        self.scheduler.failures[leaf.key] = failure_of(leaf, found)
        self.scheduler.settled(leaf.key)
