"""Waits: approvals, human tasks, events and timers, from the moment they are reached to what settles them.

Each is durable in the step that reaches it. What arrives from outside (decisions, answers, signals, due moments) is applied
here; applying twice changes nothing, because only a node that still waits is touched. How a wait is kept on record, and how it
ends there, is in `wait_records`.
"""

from __future__ import annotations

from collections.abc import Callable

from pydantic_core import from_json, to_json

from smithers.components.gates import Approval, AutoApprove, HumanTask
from smithers.components.rundata import SignalRow
from smithers.components.scope import Key
from smithers.components.task import Task
from smithers.components.waits import Timer, WaitForEvent
from smithers.engine import guard
from smithers.engine.requests import (
    REPLAY_UNSAFE,
    approval_request,
    decision_row,
    gate_request,
    human_request_id,
    replay_request,
    unsafe_to_repeat,
)
from smithers.engine.state import RunState
from smithers.engine.wait_records import WaitRecords
from smithers.errors import (
    ApprovalDenied,
    InvalidOutput,
    SmithersError,
    WaitTimeout,
    WorkflowRenderFailed,
    error_object,
)
from smithers.events import attempt_event
from smithers.graph.plan import LeafKind, LeafNode
from smithers.jsons import object_of
from smithers.scheduler.states import NodeState
from smithers.store.interface import TIMED_OUT, ApprovalRow, HumanRow, Inbox, StoredSignal

AUTO = "smithers:auto"
S = NodeState


class WaitDesk(WaitRecords):
    """Handles everything that a run waits for.

    Args:
        state: the run.
        check_history: starts looking up whether an approval with `AutoApprove(after=n)` needs nobody.
    """

    def __init__(self, state: RunState, check_history: Callable[[LeafNode, AutoApprove], None]) -> None:
        super().__init__(state)
        self._check_history = check_history
        self._offered = 0
        """So many signals have been offered to those who wait."""

    # ── reaching ───────────────────────────────────────────────────────────────────────────────────────────────────

    def arrive(self, leaf: LeafNode) -> None:
        """A leaf that waits has been reached."""
        element = leaf.element
        match leaf.kind:
            case LeafKind.APPROVAL:
                assert isinstance(element, Approval)
                self._ask(leaf, approval_request(element), element.auto_approve)
            case LeafKind.HUMAN:
                assert isinstance(element, HumanTask)
                self._ask_human(leaf, element)
            case LeafKind.EVENT:
                assert isinstance(element, WaitForEvent)
                self._await_event(leaf, element)
            case LeafKind.TIMER:
                assert isinstance(element, Timer)
                self._start_timer(leaf, element)
            case _:
                assert isinstance(element, Task)
                if guard.must_ask(self._state, leaf):
                    self._ask_again(leaf, element)
                else:
                    self._ask(leaf, gate_request(element), None)

    def _ask(self, leaf: LeafNode, request: dict[str, object], auto: AutoApprove | None) -> None:
        state, key = self._state, leaf.key
        decided = state.gates.get(key)
        if decided is not None and decided.status != "requested":
            self.decide(leaf, decided)
            return
        if auto is not None and _holds(auto) and auto.after <= 0:
            self._approve_by_itself(leaf, request, audit=auto.audit)
            return
        if decided is None:
            self._request(leaf, request)
            self._timeout(leaf)
        self._await_decision(leaf, request)
        if auto is not None and _holds(auto):
            self._check_history(leaf, auto)

    def _ask_again(self, leaf: LeafNode, element: Task) -> None:
        """Have a person agree to another attempt of work that may have done what must not be repeated. That takes as long as
        it takes: `timeout_ms` is the work's. Who has agreed to that has agreed to the work, so there is no other gate."""
        state = self._state
        calls = state.guarded[leaf.key]
        if element.unsafe_replay == "fail":
            self._fail(leaf, unsafe_to_repeat(leaf, calls.values()))
            return
        # whatever was asked before was about less
        state.step.asked_again += (leaf.key,)
        request = replay_request(element, calls.values(), guard.fingerprint(calls))
        self._request(leaf, request)
        self._await_decision(leaf, request)

    def _request(self, leaf: LeafNode, request: dict[str, object]) -> None:
        state, now = self._state, self._state.step.now_ms
        text = to_json(request).decode()
        row = ApprovalRow(state.run_id, *leaf.key, "requested", state.name, now, None, None, None, text, None, 0)
        state.row("approval", *row, state.step.frame_no, None)
        state.gates[leaf.key] = row

    def _await_decision(self, leaf: LeafNode, request: dict[str, object]) -> None:
        self._state.tell("ApprovalRequested", leaf, request=request)
        self._state.tell("NodeWaitingApproval", leaf, request=request, timeoutAtMs=self._timeout_at(leaf))
        self._wait(leaf, S.WAITING_APPROVAL)

    def _approve_by_itself(self, leaf: LeafNode, request: dict[str, object], *, audit: bool) -> None:
        state, key, now = self._state, leaf.key, self._state.step.now_ms
        row = ApprovalRow(
            state.run_id,
            *key,
            "approved",
            state.name,
            now,
            now,
            "auto-approved",
            AUTO,
            to_json(request).decode(),
            None,
            1,
        )
        if audit:
            state.row("approval", *row, state.step.frame_no, state.step.frame_no)
            state.tell("ApprovalAutoApproved", leaf)
        state.gates[key] = row
        self.decide(leaf, row)

    def approve_by_history(self, leaf: LeafNode) -> None:
        """Enough people have approved this before: do it now, if it still waits."""
        if self._state.nodes.get(leaf.key) is S.WAITING_APPROVAL:
            row = self._state.gates[leaf.key]
            self._approve_by_itself(leaf, from_json(row.request_json), audit=True)

    def _ask_human(self, leaf: LeafNode, element: HumanTask) -> None:
        state = self._state
        due = None if element.timeout_ms is None else state.step.now_ms + element.timeout_ms
        request = self._request_answer(leaf, element, due)
        self._timeout(leaf)
        self._await_decision(leaf, request)

    def _request_answer(self, leaf: LeafNode, element: HumanTask, timeout: int | None) -> dict[str, object]:
        """Have a person asked (again). Returns what is asked."""
        state = self._state
        schema = leaf.schema.model_json_schema() if leaf.schema is not None else None
        state.row(
            "human",
            human_request_id(state.run_id, leaf.key),
            state.run_id,
            *leaf.key,
            "json",
            element.prompt,
            to_json(schema).decode(),
            None,
            state.step.now_ms,
            timeout,
            state.step.frame_no,
        )
        return {"mode": "human", "title": element.label or element.id, "summary": element.prompt}

    def _await_event(self, leaf: LeafNode, element: WaitForEvent) -> None:
        state = self._state
        found = self._queued(element)
        if found is not None:
            self._take_signal(leaf, element, found)
            return
        meta = {
            "waitForEvent": {
                "signalName": element.event,
                "correlationId": element.correlation_id,
                "waitAsync": element.wait_async,
                "startedAtMs": state.step.now_ms,
                "timeoutMs": element.timeout_ms,
            }
        }
        number = self._attempt(leaf, S.WAITING_EVENT, meta=meta)
        self._timeout(leaf)
        state.tell(
            "NodeWaitingEvent",
            leaf,
            signalName=element.event,
            correlationId=element.correlation_id,
            timeoutAtMs=self._timeout_at(leaf),
        )
        self._wait(leaf, S.WAITING_EVENT, number)

    def _start_timer(self, leaf: LeafNode, element: Timer) -> None:
        state, now = self._state, self._state.step.now_ms
        if element.duration_ms is not None:
            due, kind = now + element.duration_ms, "duration"
        else:
            assert element.until is not None
            due, kind = int(element.until.timestamp() * 1000), "absolute"
        due = state.timers.get((leaf.key, "timer"), due)
        meta = {"timer": {"timerId": leaf.key[0], "timerType": kind, "createdAtMs": now, "firesAtMs": due}}
        number = self._attempt(leaf, S.WAITING_TIMER, meta=meta)
        state.tell("TimerCreated", leaf, timerId=leaf.key[0], firesAtMs=due, timerType=kind)
        state.tell("NodeWaitingTimer", leaf, firesAtMs=due)
        state.arm(leaf.key, "timer", due)
        self._wait(leaf, S.WAITING_TIMER, number)

    # ── what arrives ───────────────────────────────────────────────────────────────────────────────────────────────

    def take_in(self, inbox: Inbox) -> None:
        """Apply what others have written."""
        waiting = self.scheduler.waiting
        for row in inbox.approvals:
            leaf = waiting.get((row.node_id, row.iteration))
            if row.decided_by == TIMED_OUT:
                continue  # its timer is due as well, and says what is to be done
            if leaf is not None and self._state.nodes.get(leaf.key) is S.WAITING_APPROVAL:
                self._state.gates[leaf.key] = row
                self.decide(leaf, row)
        for human in inbox.humans:
            leaf = waiting.get((human.node_id, human.iteration))
            if leaf is not None and leaf.kind is LeafKind.HUMAN:
                self._answered(leaf, human)
        for signal in inbox.signals:
            self._keep(signal)
        self._offer_signals()

    def decide(self, leaf: LeafNode, row: ApprovalRow) -> None:
        """Apply a decision to the gate or approval that asked for it."""
        self._state.disarm(leaf.key, "timeout")
        if leaf.kind is not LeafKind.APPROVAL:
            self._decide_gate(leaf, row)
            return
        element = leaf.element
        assert isinstance(element, Approval)
        if row.status == "approved" or element.on_deny == "continue":
            try:
                self._finish(leaf, decision_row(element, row, leaf.schema), meta=None, is_by_name=True)
            except SmithersError as error:
                self._fail(leaf, error)
        elif element.on_deny == "skip":
            self._skip(leaf)
        else:
            self._fail(leaf, _denied(leaf, row))

    def _decide_gate(self, leaf: LeafNode, row: ApprovalRow) -> None:
        if row.status == "approved":
            if self._state.nodes.get(leaf.key) is not S.PENDING:
                self._state.move(leaf, S.PENDING)
                self._state.tell("NodePending", leaf)
            self.scheduler.resumes(leaf.key)
        else:
            self._fail(leaf, _denied(leaf, row))

    def _answered(self, leaf: LeafNode, row: HumanRow) -> None:
        state, key, element = self._state, leaf.key, leaf.element
        assert isinstance(element, HumanTask)
        try:
            self._finish(leaf, from_json(row.response_json or "null"), meta=None)
            state.disarm(key, "timeout")
        except InvalidOutput as error:  # judged when it was given; the model may have changed since
            tries = state.failed.get(key, 0) + 1
            if tries >= element.max_attempts:
                state.disarm(key, "timeout")
                self._fail(leaf, error)
                return
            self._attempt(leaf, S.FAILED, error=to_json(error_object(error)).decode())
            state.failed[key] = tries
            due = self._timeout_at(leaf)
            request = self._request_answer(leaf, element, due)
            state.tell("ApprovalRequested", leaf, request=request)
            state.tell("NodeWaitingApproval", leaf, request=request, timeoutAtMs=due)

    def _keep(self, signal: StoredSignal) -> None:
        state = self._state
        if signal.seq > state.last_signal:
            state.last_signal = signal.seq
            payload = from_json(signal.payload_json)
            name, correlation_id = signal.signal_name, signal.correlation_id
            state.data.add_signal(SignalRow(payload, name, correlation_id, signal.seq, signal.received_at_ms))

    def _offer_signals(self) -> None:
        """Give each signal that is new to this owner to the waits for it; what nobody waits for stays queued.

        New are also signals that were stored before this owner took the run over, while its waits were parked.
        """
        state = self._state
        new, self._offered = state.data.signals[self._offered :], len(state.data.signals)
        for row in new:
            where = (row.signal_name, row.correlation_id)
            if row.seq <= state.consumed.get(where, -1):
                continue
            for leaf in list(self.scheduler.waiting.values()):
                element = leaf.element
                if (
                    isinstance(element, WaitForEvent)
                    and (element.event, element.correlation_id) == where
                    and state.nodes.get(leaf.key) is S.WAITING_EVENT
                ):
                    self._take_signal(leaf, element, row)

    def _queued(self, element: WaitForEvent) -> SignalRow | None:
        """The first signal that matches and that no earlier wait has taken."""
        taken = self._state.consumed.get((element.event, element.correlation_id), -1)
        for row in self._state.data.signals:
            if row.seq > taken and (row.signal_name, row.correlation_id) == (element.event, element.correlation_id):
                return row
        return None

    def _take_signal(self, leaf: LeafNode, element: WaitForEvent, row: SignalRow) -> None:
        state = self._state
        where = (element.event, element.correlation_id)
        state.consumed[where] = max(row.seq, state.consumed.get(where, -1))
        state.disarm(leaf.key, "timeout")
        payload = {"kind": "signal", "payload": row.payload} if element.tagged else row.payload
        meta = {
            "waitForEvent": {
                "signalName": element.event,
                "correlationId": element.correlation_id,
                "waitAsync": element.wait_async,
                "timeoutMs": element.timeout_ms,
                "resolvedSignalSeq": row.seq,
                "receivedAtMs": row.received_at_ms,
            }
        }
        try:
            self._finish(leaf, payload, meta=meta)
        except SmithersError as error:
            self._fail(leaf, error, meta=meta)

    def due(self, key: Key, kind: str, moment: int) -> None:
        """A timer or a wait's timeout is due, since `moment`."""
        leaf = self.scheduler.waiting.get(key)
        if leaf is None:
            return
        state = self._state
        if kind == "timer":
            fired = state.step.now_ms
            late = fired - moment
            state.tell("TimerFired", leaf, timerId=key[0], firesAtMs=moment, firedAtMs=fired, delayMs=late)
            self._attempt(leaf, S.FINISHED)
            state.move(leaf, S.FINISHED, attempt=1)
            state.step.events.append(attempt_event("NodeFinished", *key, 1))
            self.scheduler.settled(key)
            return
        element = leaf.element
        if leaf.kind is LeafKind.HUMAN:
            state.row("human_closed", "expired", state.step.frame_no, human_request_id(state.run_id, key))
        elif state.nodes.get(key) is S.WAITING_APPROVAL:
            state.row("approval_closed", state.step.now_ms, TIMED_OUT, state.step.frame_no, state.run_id, *key)
        if isinstance(element, WaitForEvent) and element.on_timeout == "skip":
            self._skip(leaf)
        elif isinstance(element, WaitForEvent) and element.on_timeout == "continue":
            try:
                self._finish(leaf, {"kind": "timeout"}, meta=None)
            except SmithersError as error:
                self._fail(leaf, error)
        else:
            in_vain = WaitTimeout(
                f"{element!r} waited {element.timeout_ms} ms in vain",
                {"nodeId": key[0], "iteration": key[1], "timeoutMs": element.timeout_ms},
            )
            self._fail(leaf, in_vain)


def _holds(auto: AutoApprove) -> bool:
    try:
        revert = auto.revert_on() if callable(auto.revert_on) else auto.revert_on
        condition = auto.condition() if callable(auto.condition) else auto.condition
        return not revert and (condition is None or bool(condition))
    except Exception as error:
        raise WorkflowRenderFailed(f"a condition of auto_approve raised {type(error).__name__}") from error


def _denied(leaf: LeafNode, row: ApprovalRow) -> ApprovalDenied:
    by = f" by {row.decided_by}" if row.decided_by else ""
    note = f": {row.note}" if row.note else ""
    details: dict[str, object] = {"nodeId": leaf.key[0], "decidedBy": row.decided_by}
    what = "was denied"
    if (kind := object_of(from_json(row.request_json)).get("kind")) == REPLAY_UNSAFE:
        details["kind"] = kind
        what = "was denied another attempt"
    return ApprovalDenied(f"{leaf.element!r} {what}{by}{note}", details)
