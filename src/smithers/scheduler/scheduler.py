"""Scheduler: moves through a plan as leaves settle, and says what may start.

Cost per settled leaf is the depth of the tree plus what it makes ready, never the size of the tree: sequences have a
cursor, parallel groups a counter, dependencies a list of who waits. A new render makes a new plan and a new scheduler over
the same node states; `tests/` holds this one to a slow full walk.

The engine calls `take` for what may start, says what became of it with `started`, `waits`, `held` and `settled`, and asks
`outcome` when nothing is left. Failure regions (try arms, sagas) live in `regions`, queues and caps in `queues`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from smithers.components.gates import Approval
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
)
from smithers.scheduler.queues import ReadyQueues
from smithers.scheduler.states import NodeState


@dataclass(frozen=True, slots=True)
class Finished:
    """Everything is done."""


@dataclass(frozen=True, slots=True)
class Failed:
    """A failure that nothing handles."""

    failure: Failure


@dataclass(frozen=True, slots=True)
class Continued:
    """A ContinueAsNew was reached, or a loop's threshold."""

    node: ContinueNode | LoopNode


@dataclass(frozen=True, slots=True)
class Deadlocked:
    """Leaves wait for each other or for ids that are not mounted: leaf to the ids that it misses."""

    waiting: Mapping[Key, tuple[str, ...]]


Outcome: TypeAlias = Finished | Failed | Continued | Deadlocked


class Scheduler:
    """The state of one plan.

    Args:
        plan: a fresh plan; the scheduler takes it over.
        states: the states of all nodes that have any; read here, written by the engine.
        failures: what failed nodes failed with, by key.
        live: keys in progress or waiting, mounted or not.
        held: keys that wait for their next attempt's moment.
        limit: at most so many running leaves in the run; None is unlimited.
    """

    def __init__(
        self,
        plan: Plan,
        states: Mapping[Key, NodeState],
        failures: Mapping[Key, Failure],
        *,
        live: Iterable[Key] = (),
        held: Iterable[Key] = (),
        limit: int | None = None,
    ) -> None:
        self.plan = plan
        self.states = states
        self.failures = failures
        self.waiting: dict[Key, LeafNode] = {}
        self.held: dict[Key, LeafNode | None] = dict.fromkeys(held)
        self.queues = ReadyQueues(limit)
        self.arrivals: list[LeafNode] = []
        """Reached leaves that need no room: waits, gates, skips."""
        self.abandoned: list[LeafNode] = []
        """Waiting or held leaves whose region has failed; the engine cancels them."""
        self.loops_at_end: list[LoopNode] = []
        self.loops_ended: list[tuple[LoopNode, LoopState]] = []
        """Loops whose end the engine has to store."""
        self.caught: dict[str, Failure] = {}
        """Failures for which a function catch has to be rendered, by the id of its TryCatchFinally."""
        self.continuation: ContinueNode | LoopNode | None = None
        self._dependants: dict[PlanNode, list[LeafNode]] = {}
        self._blocked: dict[LeafNode, None] = {}
        self._drained: list[Region] = []
        self._strays = 0
        for key in live:
            self._adopt(key)
        if self._activate(plan.root):
            self._complete(plan.root)
        self._work_off()

    # ── what the engine asks ───────────────────────────────────────────────────────────────────────────────────────

    def take(self, agent_room: int) -> list[LeafNode]:
        """Leaves to handle now: waits, gates and skips without room, then work as far as the caps allow.

        Work leaves hold their room from here on, until `waits`, `held` or `settled`. At most `agent_room` agents.
        """
        found, self.arrivals = self.arrivals, []
        found = [leaf for leaf in found if not leaf.region.chain_halted()]
        if self.continuation is None and not self.plan.region.halted:
            found += self.queues.take(agent_room)
        return found

    def outcome(self) -> Outcome | None:
        """How the run ends, once nothing runs; None while there is something to do or to wait for."""
        if self.queues.running or self._strays:
            return None
        if self.plan.region.halted and self.plan.region.failure is not None:
            return Failed(self.plan.region.failure)
        if self.continuation is not None:
            return Continued(self.continuation)
        if self.waiting or self.held or self.arrivals or self.queues.has_ready or self.loops_at_end or self.caught:
            return None
        if self.plan.root.is_complete:
            return Finished()
        return Deadlocked(
            {
                leaf.key: tuple(
                    id for id, target in zip(leaf.depends, leaf.dep_targets, strict=True) if not self._is_met(target)
                )
                for leaf in self._blocked
            }
        )

    def advance_loops(self) -> list[tuple[LoopNode, LoopState]]:
        """Decide on the loops whose iteration has ended; to be called with a plan that is rendered from all results.

        Returns what to store. A state that is not done needs a new render; done ones have already gone on here.
        """
        changes = self.loops_ended
        self.loops_ended = []
        while self.loops_at_end:
            loop = self.loops_at_end.pop()
            if loop.region.chain_halted():
                continue
            element = loop.element
            if element.until:
                changes.append((loop, LoopState(loop.iteration, True)))
                self._complete(loop)
            elif loop.iteration + 1 >= element.max_iterations:
                if element.on_max_reached == "fail":
                    code, text = "RALPH_MAX_REACHED", f"loop {loop.id!r} used up its {element.max_iterations} iterations"
                    self._fail(loop.region, Failure(code, text))
                else:
                    changes.append((loop, LoopState(loop.iteration, True)))
                    self._complete(loop)
            else:
                every = element.continue_as_new_every
                if every is not None and (loop.iteration + 1) % every == 0:
                    self.continuation = loop
                changes.append((loop, LoopState(loop.iteration + 1, False)))
            self._work_off()
        changes += self.loops_ended
        self.loops_ended = []
        return changes

    # ── what the engine tells ──────────────────────────────────────────────────────────────────────────────────────

    def waits(self, leaf: LeafNode) -> None:
        """The leaf now waits for the world; it gives its room back."""
        self._leave(leaf)
        self.waiting[leaf.key] = leaf
        if leaf.element.wait_async and leaf.is_armed and not leaf.is_complete:
            self._complete(leaf)
        self._work_off()

    def holds(self, leaf: LeafNode) -> None:
        """The leaf waits for the moment of its next attempt; it gives its room back."""
        self._leave(leaf)
        self.held[leaf.key] = leaf
        self._work_off()

    def resumes(self, key: Key) -> None:
        """A held or waiting leaf may go on: its backoff is over, its gate approved, its quota back."""
        self.held.pop(key, None)
        self.waiting.pop(key, None)
        leaf = self.plan.leaves.get(key)
        if leaf is not None and leaf.is_armed and not leaf.region.chain_halted():
            self.queues.push(leaf)

    def returns(self, leaf: LeafNode) -> None:
        """A taken leaf was not started after all; it gives its room back and stays ready."""
        self._leave(leaf)
        self.queues.push(leaf)

    def settled(self, key: Key) -> None:
        """The leaf has reached a terminal state, which `states` (and `failures`) already show."""
        leaf = self.plan.leaves.get(key)
        self.held.pop(key, None)
        self.waiting.pop(key, None)
        if leaf is None:
            self._strays = max(0, self._strays - 1)
            return
        self._leave(leaf)
        state = self.states[key]
        if state is NodeState.FAILED and not self._is_tolerated(leaf):
            self._fail(leaf.region, self._failure(leaf))
        elif state is not NodeState.CANCELLED:
            for waiter in self._dependants.pop(leaf, ()):
                self._dep_met(waiter)
            if leaf.is_armed and not leaf.is_complete:
                self._complete(leaf)
        self._work_off()

    # ── reaching nodes ─────────────────────────────────────────────────────────────────────────────────────────────

    def _activate(self, node: PlanNode) -> bool:
        """Reach a node; True when it is complete at once."""
        if isinstance(node, LeafNode):
            done = self._reach(node)
        elif isinstance(node, SeqNode):
            done = self._run_sequence(node)
        elif isinstance(node, ParNode):
            node.remaining = len(node.children)
            for child in node.children:
                if self._activate(child):
                    child.is_complete = True
                    node.remaining -= 1
            done = node.remaining == 0
        elif isinstance(node, LoopNode):
            done = self._enter_loop(node)
        elif isinstance(node, TryNode):
            done = self._enter_arm(node, "try")
        elif isinstance(node, SagaNode):
            done = self._run_saga(node)
        else:
            assert isinstance(node, ContinueNode)
            self.continuation = self.continuation or node
            done = False
        if done:
            self._mark_complete(node)
        return done

    def _run_sequence(self, seq: SeqNode) -> bool:
        children = seq.children
        while seq.cursor < len(children):
            if self.continuation is not None or not self._activate(children[seq.cursor]):
                return False
            seq.cursor += 1
        return True

    def _enter_loop(self, loop: LoopNode) -> bool:
        if loop.is_done:
            return True
        if loop.iteration == 0 and loop.element.until and not self._has_begun(loop):
            self.loops_ended.append((loop, LoopState(0, True)))
            return True
        if self._run_sequence(loop.body):
            loop.body.is_complete = True
            self.loops_at_end.append(loop)
        return False

    def _has_begun(self, loop: LoopNode) -> bool:
        return any(
            loop in leaf.loops and self.states.get(key, NodeState.PENDING) is not NodeState.PENDING
            for key, leaf in self.plan.leaves.items()
        )

    def _reach(self, leaf: LeafNode) -> bool:
        """Reach a leaf; True when it is complete at once."""
        leaf.is_armed = True
        state = self.states.get(leaf.key, NodeState.PENDING)
        if state is NodeState.FINISHED or state is NodeState.SKIPPED:
            return True
        if state is NodeState.FAILED:
            if self._is_tolerated(leaf):
                return True
            self._fail(leaf.region, self._failure(leaf))
            return False
        if leaf.key in self.waiting:
            return leaf.element.wait_async
        if leaf.in_slot:
            return False
        if leaf.key in self.held:
            self.held[leaf.key] = leaf
            return False
        if leaf.depends:
            leaf.unmet = 0
            for target in leaf.dep_targets:
                if not self._is_met(target):
                    leaf.unmet += 1
                    if target is not None:
                        self._dependants.setdefault(target, []).append(leaf)
            if leaf.unmet:
                self._blocked[leaf] = None
                return False
        self._arrive(leaf)
        return False

    def _arrive(self, leaf: LeafNode) -> None:
        if leaf.kind.is_wait or leaf.needs_gate or leaf.element.skip_if or self.is_tainted(leaf):
            self.arrivals.append(leaf)
        else:
            self.queues.push(leaf)

    def _adopt(self, key: Key) -> None:
        """Take over a leaf that was in progress or waiting before this plan was made."""
        leaf = self.plan.leaves.get(key)
        state = self.states[key]
        if leaf is None:
            self._strays += state is NodeState.IN_PROGRESS
        elif state is NodeState.IN_PROGRESS:
            self.queues.enter(leaf)
        else:
            self.waiting[key] = leaf

    def _leave(self, leaf: LeafNode) -> None:
        if leaf.in_slot:
            for region in self.queues.leave(leaf):
                self._drained.append(region)

    # ── completion going up ────────────────────────────────────────────────────────────────────────────────────────

    def _mark_complete(self, node: PlanNode) -> None:
        node.is_complete = True
        if not isinstance(node, LeafNode):
            for waiter in self._dependants.pop(node, ()):
                self._dep_met(waiter)

    def _complete(self, node: PlanNode) -> None:
        """A node is complete: let its ancestors go on."""
        while True:
            self._mark_complete(node)
            parent = node.parent
            if parent is None or parent.is_complete:
                return
            if isinstance(parent, ParNode):
                parent.remaining -= 1
                self.queues.subtree_done(parent, node.index)
                if parent.remaining:
                    return
            elif isinstance(parent, SeqNode):
                parent.cursor = node.index + 1
                if not self._run_sequence(parent):
                    return
            elif isinstance(parent, LoopNode):
                self.loops_at_end.append(parent)
                return
            elif isinstance(parent, TryNode):
                if not self._leave_arm(parent):
                    return
            elif isinstance(parent, SagaNode):
                parent.cursor = node.index + 1 if parent.undo is None else parent.cursor
                if not (self._run_saga(parent) if parent.undo is None else self._undo_saga(parent, parent.undo - 1)):
                    return
            node = parent

    # ── dependencies ───────────────────────────────────────────────────────────────────────────────────────────────

    def _is_met(self, target: PlanNode | None) -> bool:
        if target is None:
            return False
        if not isinstance(target, LeafNode):
            return target.is_complete
        state = self.states.get(target.key, NodeState.PENDING)
        if state is NodeState.FAILED:
            return self._is_tolerated(target)
        return state is NodeState.FINISHED or state is NodeState.SKIPPED

    def _dep_met(self, leaf: LeafNode) -> None:
        leaf.unmet -= 1
        if leaf.unmet == 0:
            self._blocked.pop(leaf, None)
            self._arrive(leaf)

    def is_tainted(self, leaf: LeafNode) -> bool:
        """Whether something that the leaf depends on failed alone or was denied with `skip`, so that it is skipped too."""
        return any(isinstance(t, LeafNode) and self._taints(t, set()) for t in leaf.dep_targets)

    def _taints(self, leaf: LeafNode, seen: set[LeafNode]) -> bool:
        state = self.states.get(leaf.key)
        if state is NodeState.FAILED:
            return leaf.is_quarantined and not leaf.element.continue_on_fail
        if state is not NodeState.SKIPPED or leaf.element.skip_if or leaf in seen:
            return False
        if isinstance(leaf.element, Approval) and leaf.element.on_deny == "skip":
            return True
        seen.add(leaf)
        return any(isinstance(t, LeafNode) and self._taints(t, seen) for t in leaf.dep_targets)

    # ── failures ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _is_tolerated(self, leaf: LeafNode) -> bool:
        return leaf.element.continue_on_fail or leaf.is_quarantined

    def _failure(self, leaf: LeafNode) -> Failure:
        return self.failures.get(leaf.key) or Failure("SESSION_ERROR", f"task {leaf.key[0]!r} failed", leaf)

    def _fail(self, region: Region, failure: Failure) -> None:
        if region.halted:
            return
        region.halted = True
        region.failure = failure
        for source in (self.waiting, self.held):
            for key, leaf in list(source.items()):
                if leaf is not None and _is_inside(leaf, region):
                    del source[key]
                    self.abandoned.append(leaf)
        if region.running == 0:
            self._drained.append(region)

    def _work_off(self) -> None:
        """React to regions that have failed and in which nothing runs any more."""
        while self._drained:
            region = self._drained.pop()
            if not region.halted or region.running or region.failure is None or region.owner is None:
                continue
            if region.parent is not None and region.parent.chain_halted():
                continue  # what is around has failed meanwhile: nothing here matters any more
            if isinstance(region.owner, TryNode):
                self._arm_failed(region.owner, region.part, region.failure)
            else:
                self._saga_failed(region.owner, region.part, region.failure)

    # TryCatchFinally: try → (catch) → finally

    def _enter_arm(self, node: TryNode, part: str) -> bool:
        node.phase = part
        arm = node.arms[part]
        if arm is None or self._run_sequence(arm):
            return self._leave_arm(node)
        return False

    def _leave_arm(self, node: TryNode) -> bool:
        """An arm is complete; True when the whole construct is."""
        if node.regions[node.phase].halted:
            return False
        if node.phase != "finally":
            if node.phase == "catch":
                node.failure = None
            return self._enter_arm(node, "finally")
        if node.failure is not None:
            self._end_try(node, node.failure)
        return node.failure is None

    def _end_try(self, node: TryNode, cause: Failure) -> None:
        outer = node.regions["try"].parent
        assert outer is not None
        self._fail(outer, Failure("SCHEDULER_ERROR", f"TryCatchFinally {node.id} failed", cause=cause))

    def _arm_failed(self, node: TryNode, part: str, failure: Failure) -> None:
        element = node.element
        if part == "try":
            node.failure = failure
            codes = element.catch_errors
            if element.has_catch and (not codes or failure.code in codes or failure.root.code in codes):
                if node.arms["catch"] is None:
                    self.caught[node.id or ""] = failure
                    return
                done = self._enter_arm(node, "catch")
            else:
                done = self._enter_arm(node, "finally")
        elif part == "catch":
            node.failure = failure
            done = self._enter_arm(node, "finally")
        else:
            self._end_try(node, failure)
            done = False
        if done:
            self._complete(node)

    # Saga: actions forward, compensations backward

    def _run_saga(self, saga: SagaNode) -> bool:
        while saga.cursor < len(saga.actions):
            if self.continuation is not None or not self._run_sequence(saga.actions[saga.cursor]):
                return False
            saga.cursor += 1
        return not saga.region.halted

    def _saga_failed(self, saga: SagaNode, part: str, failure: Failure) -> None:
        if part == "compensation":
            self._end_saga(saga, failure)
            return
        saga.failure = failure
        if saga.element.on_failure == "fail":
            self._end_saga(saga, failure)
        elif self._undo_saga(saga, saga.cursor - 1):
            self._complete(saga)

    def _undo_saga(self, saga: SagaNode, step: int) -> bool:
        """Undo from `step` backwards; True when the saga is complete with all undone."""
        while step >= 0:
            saga.undo = step
            undo = saga.compensations[step]
            if undo is not None and not undo.is_complete and not self._run_sequence(undo):
                return False
            step -= 1
        saga.undo = -1
        if saga.element.on_failure == "compensate":
            return True
        assert saga.failure is not None
        self._end_saga(saga, saga.failure)
        return False

    def _end_saga(self, saga: SagaNode, cause: Failure) -> None:
        outer = saga.region.parent
        assert outer is not None
        self._fail(outer, Failure("SCHEDULER_ERROR", f"Saga {saga.id} failed", cause=cause))


def _is_inside(leaf: LeafNode, region: Region) -> bool:
    inner: Region | None = leaf.region
    while inner is not None:
        if inner is region:
            return True
        inner = inner.parent
    return False
