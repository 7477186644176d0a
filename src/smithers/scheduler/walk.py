"""Walk: how a scheduler moves through its plan. Reaching nodes, completion going up, failure regions.

Everything here is a function of the plan and the node states, never of the order in time in which leaves settled: a new
walker over the same states comes to the same place. What the engine calls lives in `scheduler`.
"""

from __future__ import annotations

from collections.abc import Container, Mapping

from smithers.components.scope import Key, LoopState
from smithers.graph.plan import (
    ContinueNode,
    Failure,
    LeafNode,
    LoopNode,
    ParNode,
    Plan,
    PlanNode,
    Region,
    SagaNode,
    SeqNode,
    TryNode,
    nodes_below,
)
from smithers.scheduler.dependencies import Dependencies
from smithers.scheduler.queues import ReadyQueues
from smithers.scheduler.states import NodeState


class Walker:
    """The place of a run in its plan; see `Scheduler`."""

    def __init__(
        self,
        plan: Plan,
        states: Mapping[Key, NodeState],
        failures: dict[Key, Failure],
        begun: Container[Key],
        guarded: Container[Key],
        limit: int | None,
    ) -> None:
        self.plan = plan
        self.states = states
        self.failures = failures
        self.begun = begun
        self.guarded = guarded
        self.waiting: dict[Key, LeafNode] = {}
        self.held: dict[Key, LeafNode] = {}
        self.queues = ReadyQueues(limit)
        self.arrivals: list[LeafNode] = []
        """Reached leaves that need no room: waits, gates, skips, and what may have to be asked about."""
        self.abandoned: list[LeafNode] = []
        """Waiting or held leaves whose region has failed; the engine cancels them."""
        self.loops_at_end: list[LoopNode] = []
        """Loops on which `advance_loops` has to decide. Until then no region's failure is handled."""
        self.caught: dict[str, Failure] = {}
        """Failures for which a function catch has to be rendered, by the id of its TryCatchFinally."""
        self._loops_ended: list[tuple[LoopNode, LoopState]] = []
        self._continuations: list[ContinueNode | LoopNode] = []
        self._catching: dict[str, TryNode] = {}
        self._drained: list[Region] = []
        self._dependencies = Dependencies(states)

    # ── reaching nodes ─────────────────────────────────────────────────────────────────────────────────────────────

    def _activate(self, node: PlanNode) -> bool:
        """Reach a node; True when it is complete at once."""
        match node:
            case LeafNode():
                done = self._reach(node)
            case SeqNode():
                done = self._run_sequence(node)
            case ParNode():
                node.remaining = len(node.children)
                for child in node.children:
                    if self._activate(child):
                        node.remaining -= 1
                done = node.remaining == 0
            case LoopNode():
                done = self._enter_loop(node)
            case TryNode():
                done = self._enter_arm(node, "try")
            case SagaNode():
                done = self._run_saga(node)
            case _:
                assert isinstance(node, ContinueNode)
                self._continuations.append(node)
                done = False
        if done:
            self._mark_complete(node)
        return done

    def _run_sequence(self, seq: SeqNode) -> bool:
        children = seq.children
        while seq.cursor < len(children):
            if not self._activate(children[seq.cursor]):
                return False
            seq.cursor += 1
        return True

    def _run_arm(self, arm: SeqNode) -> bool:
        """Go on in a loop's body, an arm, an action or a compensation. It ends when nothing inside waits any more."""
        if self._run_sequence(arm):
            arm.is_complete = True
        return arm.is_done

    def _enter_loop(self, loop: LoopNode) -> bool:
        if loop.has_ended:
            return True
        if loop.iteration == 0 and loop.element.until and not self._has_begun(loop):
            self._loops_ended.append((loop, LoopState(0, True)))
            return True
        if self._run_arm(loop.body):
            self.loops_at_end.append(loop)
        return False

    def _has_begun(self, loop: LoopNode) -> bool:
        return any(self._is_trace(node) for node in nodes_below(loop.body))

    def _is_trace(self, node: PlanNode) -> bool:
        """Whether the states show that work around here has begun."""
        if isinstance(node, LoopNode):
            return node.has_ended or node.iteration > 0
        if not isinstance(node, LeafNode):
            return False
        if node.key in self.held or node.key in self.begun:  # what has begun once is pending between its attempts
            return True
        return self.states.get(node.key, NodeState.PENDING) is not NodeState.PENDING

    def _reach(self, leaf: LeafNode) -> bool:
        """Reach a leaf; True when it is complete at once."""
        leaf.is_armed = True
        state = self.states.get(leaf.key, NodeState.PENDING)
        if state is NodeState.FINISHED or state is NodeState.SKIPPED:
            return True
        if state is NodeState.FAILED:
            if leaf.is_tolerated:
                return True
            self._fail(leaf.region, self._failure(leaf), leaf.ordinal)
            return False
        if leaf.in_slot or leaf.key in self.waiting or leaf.key in self.held:
            if leaf.may_be_passed:
                self._open(leaf)
            return leaf.is_passed
        if leaf.depends and self._dependencies.block(leaf):
            return False
        self._arrive(leaf)
        if self._was_passed(leaf):
            self._open(leaf)
        return leaf.is_passed

    def _was_passed(self, leaf: LeafNode) -> bool:
        """Whether what comes after a leaf went on before, while it waited: that stays reached, with its failures. So it was if
        the wait was given up since, or if its gate was opened and the work behind it is to be done again."""
        return leaf.may_be_passed and (
            self.states.get(leaf.key) is NodeState.CANCELLED or (not leaf.kind.is_wait and leaf.key in self.guarded)
        )

    def _arrive(self, leaf: LeafNode) -> None:
        needs_no_room = leaf.kind.is_wait or leaf.needs_gate or leaf.element.skip_if or leaf.key in self.guarded
        if needs_no_room or (leaf.depends and self._dependencies.is_tainted(leaf)):
            self.arrivals.append(leaf)
        else:
            self.queues.push(leaf)

    # ── leaves that are passed over while they wait ────────────────────────────────────────────────────────────────

    def _pass_over(self, leaf: LeafNode) -> None:
        """Let what comes after a waiting leaf go on, if it allows that."""
        if leaf.may_be_passed and leaf.is_armed and not leaf.is_passed and not leaf.is_complete:
            self._open(leaf)
            self._complete(leaf)

    def _open(self, leaf: LeafNode) -> None:
        leaf.is_passed = True
        leaf.open_waits = 1
        node = leaf.parent
        while node is not None:
            node.open_waits += 1
            node = None if _is_arm(node) else node.parent

    def _close(self, leaf: LeafNode) -> None:
        """A leaf that was passed over has settled: what waited for it to be done goes on."""
        leaf.is_passed = False
        node: PlanNode | None = leaf
        while node is not None:
            node.open_waits -= 1
            is_end = _is_arm(node)
            if node.is_done:
                self._mark_done(node)
                above = self._ascend(node) if is_end else None
                if above is not None:
                    self._complete(above)
            node = None if is_end else node.parent

    # ── completion going up ────────────────────────────────────────────────────────────────────────────────────────

    def _mark_complete(self, node: PlanNode) -> None:
        node.is_complete = True
        if node.open_waits == 0:
            self._mark_done(node)

    def _mark_done(self, node: PlanNode) -> None:
        if isinstance(node.parent, ParNode):
            self.queues.subtree_done(node.parent, node.index)
        if not isinstance(node, LeafNode):  # leaves are released by their state, when they settle
            self._release(node)

    def _release(self, node: PlanNode) -> None:
        for leaf in self._dependencies.release(node):
            self._arrive(leaf)
            if self._was_passed(leaf):
                self._pass_over(leaf)

    def _complete(self, node: PlanNode) -> None:
        """A node is complete: let its ancestors go on."""
        above: PlanNode | None = node
        while above is not None:
            self._mark_complete(above)
            above = self._ascend(above)

    def _ascend(self, node: PlanNode) -> PlanNode | None:
        """Let the parent of a complete node go on. Returns the parent if that completes it."""
        parent = node.parent
        done = False
        match parent:
            case ParNode():
                parent.remaining -= 1
                done = parent.remaining == 0
            case SeqNode():
                parent.cursor = node.index + 1
                done = self._run_sequence(parent)
            case LoopNode() if node.is_done:
                self.loops_at_end.append(parent)
            case TryNode() if node.is_done:
                done = self._leave_arm(parent)
            case SagaNode() if node.is_done and parent.undo is None:
                parent.cursor = node.index + 1
                done = self._run_saga(parent)
            case SagaNode() if node.is_done and parent.undo is not None:
                done = self._undo_saga(parent, parent.undo - 1)
            case _:
                pass
        return parent if done else None

    # ── failures ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _failure(self, leaf: LeafNode) -> Failure:
        return self.failures.get(leaf.key) or Failure("SESSION_ERROR", f"task {leaf.key[0]!r} failed", leaf)

    def _fail(self, region: Region, failure: Failure, rank: int) -> None:
        if region.halted:
            if rank < region.rank and not region.is_handled:
                region.failure, region.rank = failure, rank
            return
        region.halted, region.failure, region.rank = True, failure, rank
        for source in (self.waiting, self.held):
            for key, leaf in list(source.items()):
                if leaf.region.is_inside(region):
                    del source[key]
                    self.abandoned.append(leaf)
        for id, node in list(self._catching.items()):
            if node.regions["try"].is_inside(region):
                del self._catching[id], self.caught[id]
        if region.running == 0:
            self._drained.append(region)

    def _work_off(self) -> None:
        """React to regions that have failed and in which nothing runs any more, the innermost first."""
        while self._drained and not self.loops_at_end:  # a loop at its end may fail too, and come first
            region = max(self._drained, key=lambda r: r.depth)
            self._drained.remove(region)
            if region.is_handled or region.running or region.failure is None or region.owner is None:
                continue
            region.is_handled = True
            if isinstance(region.owner, TryNode):
                done = self._arm_failed(region.owner, region.part, region.failure)
            else:
                done = self._saga_failed(region.owner, region.part, region.failure)
            if done:
                self._complete(region.owner)

    # TryCatchFinally: try → (catch) → finally

    def _enter_arm(self, node: TryNode, part: str) -> bool:
        node.phase = part
        arm = node.arms[part]
        return (arm is None or self._run_arm(arm)) and self._leave_arm(node)

    def _leave_arm(self, node: TryNode) -> bool:
        """An arm is complete; True when the whole construct is."""
        if node.regions[node.phase].halted:
            return False
        if node.phase != "finally":
            if node.phase == "catch":
                node.failure = None
            return self._enter_arm(node, "finally")
        if node.failure is not None:
            self._end_badly(node, node.regions["try"], node.failure)
        return node.failure is None

    def _arm_failed(self, node: TryNode, part: str, failure: Failure) -> bool:
        if part == "finally":
            self._end_badly(node, node.regions["try"], failure)
            return False
        node.failure = failure
        element, codes = node.element, node.element.catch_errors
        if part == "try" and element.has_catch and (not codes or failure.code in codes or failure.root.code in codes):
            if node.arms["catch"] is not None:
                return self._enter_arm(node, "catch")
            outer = node.regions["try"].parent
            if node.id is not None and outer is not None and not outer.chain_halted():
                self.caught[node.id], self._catching[node.id] = failure, node
            return False
        return self._enter_arm(node, "finally")

    # Saga: actions forward, compensations backward

    def _run_saga(self, saga: SagaNode) -> bool:
        while saga.cursor < len(saga.actions):
            if not self._run_arm(saga.actions[saga.cursor]):
                return False
            saga.cursor += 1
        return True

    def _saga_failed(self, saga: SagaNode, part: str, failure: Failure) -> bool:
        if part == "compensation":
            self._end_badly(saga, saga.region, failure)
            return False
        saga.failure = failure
        if saga.element.on_failure == "fail":
            self._end_badly(saga, saga.region, failure)
            return False
        return self._undo_saga(saga, saga.cursor - 1)

    def _undo_saga(self, saga: SagaNode, step: int) -> bool:
        """Undo from `step` backwards; True when the saga is complete with all undone."""
        while step >= 0:
            saga.undo = step
            undo = saga.compensations[step]
            if undo is not None and not self._run_arm(undo):
                return False
            step -= 1
        saga.undo = -1
        if saga.element.on_failure == "compensate":
            return True
        assert saga.failure is not None
        self._end_badly(saga, saga.region, saga.failure)
        return False

    def _end_badly(self, node: TryNode | SagaNode, inner: Region, cause: Failure) -> None:
        kind = "TryCatchFinally" if isinstance(node, TryNode) else "Saga"
        assert inner.parent is not None
        self._fail(inner.parent, Failure("SCHEDULER_ERROR", f"{kind} {node.id} failed", cause=cause), node.ordinal)


def _is_arm(node: PlanNode) -> bool:
    return isinstance(node.parent, (LoopNode, TryNode, SagaNode))
