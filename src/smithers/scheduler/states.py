"""Node and run states, and the one table of transitions. Nothing else decides whether a state may follow another."""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class NodeState(StrEnum):
    """State of a node (`run, node id, iteration`), as stored and sent."""

    __hash__ = str.__hash__  # an enum's own is a Python function, and states are looked up at every turn

    PENDING = "pending"
    IN_PROGRESS = "in-progress"
    FINISHED = "finished"
    FAILED = "failed"
    SKIPPED = "skipped"
    CANCELLED = "cancelled"
    WAITING_APPROVAL = "waiting-approval"
    WAITING_EVENT = "waiting-event"
    WAITING_TIMER = "waiting-timer"
    WAITING_QUOTA = "waiting-quota"

    @property
    def is_waiting(self) -> bool:
        """Whether the node waits for the world."""
        return self in WAITING

    @property
    def is_terminal(self) -> bool:
        """Whether the node has ended; a cancelled one may run again on resume."""
        return self in TERMINAL


class RunStatus(StrEnum):
    """Status of a run, as stored and sent."""

    RUNNING = "running"
    WAITING_APPROVAL = "waiting-approval"
    WAITING_EVENT = "waiting-event"
    WAITING_TIMER = "waiting-timer"
    WAITING_QUOTA = "waiting-quota"
    PAUSED = "paused"
    FINISHED = "finished"
    FAILED = "failed"
    CANCELLED = "cancelled"
    CONTINUED = "continued"

    @property
    def is_terminal(self) -> bool:
        """Whether the run has ended; failed and cancelled ones may be resumed."""
        return self in (RunStatus.FINISHED, RunStatus.FAILED, RunStatus.CANCELLED, RunStatus.CONTINUED)

    @property
    def is_parked(self) -> bool:
        """Whether the run waits without an owner."""
        return not self.is_terminal and self is not RunStatus.RUNNING


S = NodeState
WAITING: Final = frozenset({S.WAITING_APPROVAL, S.WAITING_EVENT, S.WAITING_TIMER, S.WAITING_QUOTA})
TERMINAL: Final = frozenset({S.FINISHED, S.FAILED, S.SKIPPED, S.CANCELLED})

TRANSITIONS: Final[dict[NodeState, frozenset[NodeState]]] = {
    S.PENDING: frozenset({S.IN_PROGRESS, S.FINISHED, S.SKIPPED, S.FAILED, S.CANCELLED, *WAITING}),
    S.IN_PROGRESS: frozenset({S.FINISHED, S.FAILED, S.PENDING, S.CANCELLED, *WAITING}),
    S.WAITING_APPROVAL: frozenset({S.PENDING, S.FINISHED, S.FAILED, S.SKIPPED, S.CANCELLED, S.IN_PROGRESS}),
    S.WAITING_EVENT: frozenset({S.PENDING, S.FINISHED, S.FAILED, S.SKIPPED, S.CANCELLED, S.IN_PROGRESS}),
    S.WAITING_TIMER: frozenset({S.PENDING, S.FINISHED, S.FAILED, S.CANCELLED, S.IN_PROGRESS}),
    S.WAITING_QUOTA: frozenset({S.PENDING, S.FAILED, S.CANCELLED, S.IN_PROGRESS}),
    # a node that was cancelled runs again when its run is resumed; the others only through time travel
    S.CANCELLED: frozenset({S.PENDING, S.IN_PROGRESS, S.SKIPPED, S.FINISHED, S.FAILED, *WAITING}),
    S.FAILED: frozenset({S.PENDING}),
    S.FINISHED: frozenset(),
    S.SKIPPED: frozenset(),
}


def may_follow(before: NodeState, after: NodeState) -> bool:
    """Whether a node in state `before` may go to `after`."""
    return after in TRANSITIONS[before]
