"""Progress: what a run's events add up to, for showing it. Pure; reads the wire form of events.

Words for a single event are here too, so that `up`, `logs` and `supervise` tell of the same thing alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from pathlib import Path

from smithers.cli.arguments import as_list, as_object
from smithers.cli.output import duration, shortened
from smithers.records import dataclass

Wire = Mapping[str, object]

_STATES = {
    "NodePending": "pending",
    "NodeStarted": "in-progress",
    "NodeFinished": "finished",
    "NodeFailed": "failed",
    "NodeSkipped": "skipped",
    "NodeCancelled": "cancelled",
    "NodeRetrying": "retrying",
    "NodeWaitingApproval": "waiting-approval",
    "NodeWaitingEvent": "waiting-event",
    "NodeWaitingTimer": "waiting-timer",
    "NodeWaitingQuota": "waiting-quota",
}
ENDED = frozenset({"finished", "failed", "skipped", "cancelled"})


@dataclass(slots=True)
class TaskView:
    """One node as it is shown. Times are in milliseconds since the epoch."""

    node_id: str
    iteration: int
    state: str = "pending"
    attempt: int = 0
    started_at_ms: int | None = None
    ended_at_ms: int | None = None
    tokens: int = 0
    note: str = ""

    @property
    def name(self) -> str:
        """The node's id, with the iteration where there is one."""
        return node_name(self.node_id, self.iteration)

    def took_ms(self, now_ms: int) -> int | None:
        """How long the node has been, or was, at work; None if it has not begun."""
        if self.started_at_ms is None:
            return None
        return (self.ended_at_ms or now_ms) - self.started_at_ms


@dataclass(slots=True)
class RunView:
    """A run as it is shown."""

    status: str = "running"
    started_at_ms: int | None = None
    last_at_ms: int = 0
    tasks: dict[tuple[str, int], TaskView] = field(default_factory=dict[tuple[str, int], TaskView])

    def apply(self, event: Wire) -> None:
        """Take in the next event."""
        kind, now = str(event["type"]), _int(event.get("timestampMs"))
        if kind == "RunStatusChanged":
            self.status = str(event.get("status"))
        if self.started_at_ms is None:
            self.started_at_ms = now
        self.last_at_ms = max(self.last_at_ms, now)
        node_id = event.get("nodeId")
        if not isinstance(node_id, str):
            return
        key = (node_id, _int(event.get("iteration")))
        task = self.tasks.get(key)
        if task is None:
            task = self.tasks[key] = TaskView(*key)
        if kind == "TokenUsageReported":
            task.tokens += _int(event.get("inputTokens")) + _int(event.get("outputTokens"))
        elif kind in _STATES:
            self._move(task, _STATES[kind], event, now)

    def _move(self, task: TaskView, state: str, event: Wire, now: int) -> None:
        task.state = state
        task.note = reason(event)
        if state == "pending":
            task.started_at_ms = task.ended_at_ms = None
        elif state in ENDED:
            task.ended_at_ms = now
        else:
            task.ended_at_ms = None
            if state == "in-progress" or task.started_at_ms is None:
                task.started_at_ms = now
        if state == "in-progress":
            task.attempt = _int(event.get("attempt"))

    @property
    def in_flight(self) -> list[str]:
        """Names of the tasks at work."""
        return [task.name for task in self.tasks.values() if task.state == "in-progress"]

    @property
    def tokens(self) -> int:
        """All tokens used."""
        return sum(task.tokens for task in self.tasks.values())

    def summary(self) -> str:
        """The states of all tasks, counted: `3 finished, 1 in-progress, 2 pending`."""
        counts: dict[str, int] = {}
        for task in self.tasks.values():
            counts[task.state] = counts.get(task.state, 0) + 1
        order = ["finished", "in-progress", "retrying", "failed", "pending"]
        known = [state for state in order if state in counts] + [state for state in counts if state not in order]
        return ", ".join(f"{counts[state]} {state}" for state in known)


def node_name(node_id: str, iteration: int) -> str:
    """How a node is called in text."""
    return f"{node_id} #{iteration}" if iteration else node_id


def reason(event: Wire) -> str:
    """Why an event came, if it tells."""
    if error := as_object(event.get("error")):
        text = f"{error.get('summary') or error.get('message')} [{error.get('code') or error.get('name')}]"
        cause = as_object(error.get("cause"))
        why = str(cause.get("summary") or cause.get("message"))
        return f"{text}: {why}" if cause and why not in text else text
    match event.get("type"):
        case "NodeRetrying":
            return f"attempt {event.get('attempt')} in {duration(_int(event.get('delayMs')))}"
        case "NodeWaitingEvent":
            about = f" ({event['correlationId']})" if event.get("correlationId") else ""
            if event.get("signalName") is None:
                return "something outside of this run"
            return f"signal {event.get('signalName')}{about}"
        case "NodeWaitingApproval":
            return str(as_object(event.get("request")).get("title") or "")
        case "NodeWaitingTimer":
            return f"for {duration(_int(event.get('firesAtMs')) - _int(event.get('timestampMs')))}"
        case _:
            return str(event.get("reason") or "")


_WORDS = {
    "RunStarted": "run started",
    "RunFinished": "run finished",
    "RunFailed": "run failed",
    "RunCancelled": "run cancelled",
    "RunContinuedAsNew": "run continued as",
    "RunAutoResumed": "run resumed by itself",
    "RunAutoResumeSkipped": "run cannot be resumed by itself",
    "NodeStarted": "started",
    "NodeFinished": "finished",
    "NodeFailed": "failed",
    "NodeSkipped": "skipped",
    "NodeCancelled": "cancelled",
    "NodeRetrying": "will be tried again",
    "NodeWaitingApproval": "waits for approval",
    "NodeWaitingEvent": "waits for",
    "NodeWaitingTimer": "waits",
    "NodeWaitingQuota": "waits for its provider's quota",
    "ToolCallStarted": "calls",
    "ToolCallFinished": "called",
    "ApprovalGranted": "approved",
    "ApprovalAutoApproved": "approved by itself",
    "ApprovalDenied": "denied",
    "SignalReceived": "signal received:",
    "TimerFired": "timer fired",
    "TimeTravelJumped": "run taken back",
    "TimeTravelStarted": "to be taken back",
    "RetryTaskStarted": "to be done again",
    "RunForked": "forked from",
    "EffectRevertFinished": "effect undone",
    "EffectRevertFailed": "effect not undone",
    "SideEffectBoundaryCrossed": "effects outside stand",
    "WorkflowReloadDetected": "workflow source changed",
    "WorkflowReloaded": "workflow reloaded",
    "WorkflowReloadFailed": "workflow not reloaded",
    "WorkflowReloadUnsafe": "workflow not reloaded",
    "WorkflowPatchRecorded": "workflow patch recorded:",
}


def words(event: Wire) -> str | None:
    """One line about an event for a person; None for events that do not belong into a run's story."""
    kind = str(event["type"])
    node_id = event.get("nodeId")
    name = node_name(node_id, _int(event.get("iteration"))) if isinstance(node_id, str) else ""
    if kind == "RunStatusChanged":
        status = str(event.get("status"))
        return f"run {status}" if status == "paused" or status.startswith("waiting-") else None
    if kind == "NodeOutput":
        return f"{name} | {shortened(str(event.get('text', '')), 400)}" if str(event.get("text", "")).strip() else None
    told = _WORDS.get(kind)
    if told is None:
        return None
    extra = reason(event)
    match kind:
        case "NodeStarted" if _int(event.get("attempt")) > 1:
            extra = f"attempt {event.get('attempt')}"
        case "RunContinuedAsNew":
            extra = str(event.get("newRunId"))
        case "SignalReceived":
            extra = str(event.get("signalName"))
        case "WorkflowPatchRecorded":
            extra = str(event.get("patchId"))
        case "WorkflowReloadDetected" | "WorkflowReloaded":
            extra = ", ".join(Path(str(file)).name for file in as_list(event.get("changedFiles")))
        case "TimeTravelJumped":
            extra = f"from frame {event.get('fromFrameNo')} to {event.get('toFrameNo')}"
        case "RunForked":
            extra = f"{event.get('parentRunId')} at frame {event.get('parentFrameNo')}"
        case "EffectRevertFinished":
            extra = str(event.get("toolName"))
        case "EffectRevertFailed":
            extra = f"{event.get('toolName')}: {event.get('error')}"
        case "SideEffectBoundaryCrossed":
            found = as_list(
                as_object(event.get("report")).get("blocking" if not event.get("warningOnly") else "warnings")
            )
            extra = ", ".join(dict.fromkeys(str(as_object(effect).get("toolName")) for effect in found))
        case "ToolCallStarted":
            extra = str(event.get("toolName"))
        case "ToolCallFinished":
            extra = f"{event.get('toolName')}: {event.get('status')}"
        case "RunFinished" if _int(event.get("failedChildren")):
            extra = f"{event.get('failedChildren')} tolerated failures"
        case _:
            pass
    joint = " " if told.endswith((":", "as", "for", "from", "back", "waits", "calls", "called")) else ": "
    return shortened(f"{name} {told}".strip() + (f"{joint}{extra}" if extra else ""), 500)


def _int(value: object) -> int:
    return value if isinstance(value, int) else 0
