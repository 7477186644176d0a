"""The oracle: what may start and how a run ends, worked out from scratch by one full walk over a plan.

Reads what the author wrote and the states, nothing of the scheduler's place in the plan. Slow and obvious on purpose.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from smithers.components.scope import Key, LoopState
from smithers.graph.plan import (
    ContinueNode,
    LeafKind,
    LeafNode,
    LoopNode,
    ParNode,
    Plan,
    PlanNode,
    SagaNode,
    SeqNode,
    TryNode,
)
from smithers.scheduler.states import NodeState

S = NodeState


@dataclass(frozen=True)
class Fault:
    """A failure: where it stands in the document, the codes from the outside in, the leaf that failed first."""

    rank: int
    codes: tuple[str, ...]
    leaf: Key | None


@dataclass
class Walk:
    """What one part of the tree comes to."""

    complete: bool = True
    """What comes after it may go on."""
    done: bool = True
    """Nothing inside is open any more."""
    pending: list[LeafNode] = field(default_factory=list[LeafNode])
    faults: list[Fault] = field(default_factory=list[Fault])
    continuations: list[ContinueNode | LoopNode] = field(default_factory=list[ContinueNode | LoopNode])
    caught: list[str] = field(default_factory=list[str])

    def add(self, other: Walk) -> None:
        self.complete &= other.complete
        self.done &= other.done
        self.pending += other.pending
        self.faults += other.faults
        self.continuations += other.continuations
        self.caught += other.caught


def open_walk() -> Walk:
    return Walk(complete=False, done=False)


@dataclass(frozen=True)
class Answer:
    """What the oracle says."""

    arrivals: frozenset[Key]
    work: tuple[Key, ...]
    outcome: tuple[object, ...] | None
    caught: frozenset[str]


class Oracle:
    """One question about a plan over node states."""

    def __init__(
        self,
        plan: Plan,
        states: Mapping[Key, NodeState],
        codes: Mapping[Key, str],
        *,
        live: Iterable[Key],
        held: Iterable[Key],
        approved: Iterable[Key],
        begun: Iterable[Key],
        guarded: Iterable[Key],
        loops: Mapping[str, LoopState],
        limit: int | None,
    ) -> None:
        self.plan, self.states, self.codes, self.loops, self.limit = plan, states, codes, loops, limit
        self.live, self.held, self.approved, self.guarded = set(live), set(held), set(approved), set(guarded)
        self.begun = set(begun)
        self.done: set[PlanNode] = set()

    def answer(self, agent_room: int) -> Answer:
        root = self.walk(self.plan.root)
        running = [key for key in self.live if self.states[key] is S.IN_PROGRESS]
        if root.faults or root.continuations:
            caught = [] if root.faults else root.caught  # nothing is rendered any more in a run that has failed
            return Answer(frozenset(), (), None if running else self._end(root), frozenset(caught))
        free = [leaf for leaf in root.pending if not self.missing(leaf)]
        arrivals = [leaf for leaf in free if self.needs_no_room(leaf)]
        ready = sorted((leaf for leaf in free if leaf not in arrivals), key=lambda leaf: (-leaf.priority, leaf.ordinal))
        work = self.start(ready, agent_room)
        could_move = running or arrivals or root.caught or self.start(ready, len(ready), unlimited=True)
        waits = [key for key in (self.live | self.held) if key in self.plan.leaves]
        blocked = tuple(sorted((leaf.key, self.missing(leaf)) for leaf in root.pending if self.missing(leaf)))
        outcome: tuple[object, ...] | None = None
        if not could_move and not waits:
            outcome = ("finished",) if root.done else ("deadlocked", blocked)
        return Answer(
            frozenset(leaf.key for leaf in arrivals),
            tuple(leaf.key for leaf in work),
            outcome,
            frozenset(root.caught),
        )

    def _end(self, root: Walk) -> tuple[object, ...]:
        if root.faults:
            first = min(root.faults, key=lambda fault: fault.rank)
            return ("failed", first.codes, first.leaf)
        return ("continued", min(root.continuations, key=lambda node: node.ordinal).ordinal)

    # ── leaves ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def state(self, leaf: LeafNode) -> NodeState:
        return self.states.get(leaf.key, S.PENDING)

    def leaf(self, leaf: LeafNode) -> Walk:
        state = self.state(leaf)
        tolerated = leaf.element.continue_on_fail or leaf.is_quarantined
        if state in (S.FINISHED, S.SKIPPED) or (state is S.FAILED and tolerated):
            return Walk()
        walk = open_walk()
        if state is S.FAILED:
            walk.faults.append(Fault(leaf.ordinal, (self.codes[leaf.key],), leaf.key))
            return walk
        asked = leaf.key in self.live or leaf.key in self.held
        if not asked:
            walk.pending.append(leaf)
        is_gate = leaf.kind.is_wait or leaf.needs_gate
        was_asked = asked or leaf.key in self.approved or leaf.key in self.guarded or state is S.CANCELLED
        walk.complete = leaf.element.wait_async and is_gate and was_asked
        return walk

    def needs_no_room(self, leaf: LeafNode) -> bool:
        if leaf.element.skip_if or self.tainted(leaf) or leaf.kind.is_wait:
            return True
        return (leaf.needs_gate or leaf.key in self.guarded) and leaf.key not in self.approved

    def missing(self, leaf: LeafNode) -> tuple[str, ...]:
        pairs = zip(leaf.depends, leaf.dep_targets, strict=True)
        return tuple(id for id, target in pairs if target is None or not self.met(target))

    def met(self, target: PlanNode) -> bool:
        if not isinstance(target, LeafNode):
            return target in self.done
        return self.leaf(target).done

    def tainted(self, leaf: LeafNode) -> bool:
        return any(isinstance(target, LeafNode) and self.taints(target) for target in leaf.dep_targets)

    def taints(self, leaf: LeafNode) -> bool:
        if self.state(leaf) is S.FAILED:
            return leaf.is_quarantined and not leaf.element.continue_on_fail
        if self.state(leaf) is not S.SKIPPED or leaf.element.skip_if:
            return False
        return (leaf.kind is LeafKind.APPROVAL and getattr(leaf.element, "on_deny", "") == "skip") or self.tainted(leaf)

    # ── caps ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def has_worked(self, leaf: LeafNode) -> bool:
        state = self.state(leaf)
        if leaf.kind.is_wait:
            return False
        if state in (S.IN_PROGRESS, S.FINISHED, S.FAILED) or leaf.key in self.held:
            return True
        return leaf.key in self.live and (leaf.kind is LeafKind.SUBFLOW or state is S.WAITING_QUOTA)

    def start(self, ready: list[LeafNode], agent_room: int, *, unlimited: bool = False) -> list[LeafNode]:
        leaves = self.plan.leaves.values()
        running = sum(self.states[key] is S.IN_PROGRESS for key in self.live)
        groups = [leaf.group for leaf in leaves if leaf.group is not None and self.state(leaf) is S.IN_PROGRESS]
        begun = {leaf.subtree for leaf in leaves if leaf.subtree is not None and self.has_worked(leaf)}
        active = {(par, index) for par, index in begun if par.children[index] not in self.done}
        started: list[LeafNode] = []
        for leaf in ready:
            if self.limit is not None and running >= self.limit and not unlimited:
                break
            if leaf.kind is LeafKind.AGENT and agent_room <= 0:
                continue
            if leaf.group is not None and leaf.group.limit is not None and groups.count(leaf.group) >= leaf.group.limit:
                continue
            if leaf.subtree is not None and leaf.subtree not in active:
                par = leaf.subtree[0]
                if par.subtree_limit is not None and sum(p is par for p, _ in active) >= par.subtree_limit:
                    continue
                active.add(leaf.subtree)
            if leaf.group is not None:
                groups.append(leaf.group)
            running += 1
            agent_room -= leaf.kind is LeafKind.AGENT
            started.append(leaf)
        return started

    # ── containers ─────────────────────────────────────────────────────────────────────────────────────────────────

    def walk(self, node: PlanNode) -> Walk:
        if isinstance(node, LeafNode):
            walk = self.leaf(node)
        elif isinstance(node, SeqNode):
            walk = self.in_order(node)
        elif isinstance(node, ParNode):
            walk = Walk()
            for child in node.children:
                walk.add(self.walk(child))
        elif isinstance(node, LoopNode):
            walk = self.loop(node)
        elif isinstance(node, TryNode):
            walk = self.attempt(node)
        elif isinstance(node, SagaNode):
            walk = self.saga(node)
        else:
            assert isinstance(node, ContinueNode)
            walk = open_walk()
            walk.continuations.append(node)
        if walk.done:
            self.done.add(node)
        return walk

    def in_order(self, seq: SeqNode) -> Walk:
        walk = Walk()
        for child in seq.children:
            walk.add(self.walk(child))
            if not walk.complete:
                break
        return walk

    def loop(self, loop: LoopNode) -> Walk:
        element = loop.element
        has_ended = self.loops.get(loop.id or "", LoopState()).done
        if has_ended or (loop.iteration == 0 and element.until and not self.has_begun(loop)):
            return Walk()
        walk = self.walk(loop.body)
        at_end, walk.complete, walk.done = walk.done, False, False
        every = element.continue_as_new_every
        is_last = loop.iteration + 1 >= element.max_iterations
        if at_end and not element.until:
            if is_last and element.on_max_reached == "fail":
                walk.faults.append(Fault(loop.ordinal, ("RALPH_MAX_REACHED",), None))
            elif not is_last and every is not None and (loop.iteration + 1) % every == 0:
                walk.continuations.append(loop)
        return walk

    def has_begun(self, loop: LoopNode) -> bool:
        inner = [node for node in below(loop) if node is not loop]
        return any(isinstance(n, LoopNode) and (n.has_ended or n.iteration > 0) for n in inner) or any(
            isinstance(n, LeafNode) and (self.state(n) is not S.PENDING or n.key in self.begun) for n in inner
        )

    def part(self, arm: SeqNode) -> tuple[Walk, Fault | None]:
        """A region: the walk, without anything to start once there is a fault, and the fault once all has drained."""
        walk = self.walk(arm)
        if not walk.faults:
            return walk, None
        fault = min(walk.faults, key=lambda fault: fault.rank)
        busy = any(isinstance(leaf, LeafNode) and self.state(leaf) is S.IN_PROGRESS for leaf in below(arm))
        return open_walk(), None if busy else fault

    def attempt(self, node: TryNode) -> Walk:
        arm = node.arms["try"]
        assert arm is not None
        walk, fault = self.part(arm)
        if fault is not None:
            wanted = node.element.catch_errors
            if node.element.has_catch and (not wanted or {fault.codes[0], fault.codes[-1]} & set(wanted)):
                catch = node.arms["catch"]
                if catch is None:
                    walk = open_walk()
                    walk.caught.append(node.id or "")
                    return walk
                walk, fault = self.part(catch)
        if fault is None and not walk.done:
            walk.complete = False
            return walk
        last = node.arms["finally"]
        if last is not None:
            walk, broken = self.part(last)
            fault = broken or fault
            if broken is None and not walk.done:
                walk.complete = False
                return walk
        return Walk() if fault is None else self.fails(node, fault)

    def saga(self, saga: SagaNode) -> Walk:
        for step, action in enumerate(saga.actions):
            walk, fault = self.part(action)
            if fault is not None:
                return self.fails(saga, fault) if saga.element.on_failure == "fail" else self.undo(saga, step, fault)
            if not walk.done:
                walk.complete = False
                return walk
        return Walk()

    def undo(self, saga: SagaNode, failed: int, fault: Fault) -> Walk:
        for step in reversed(range(failed)):
            undo = saga.compensations[step]
            if undo is None:
                continue
            walk, broken = self.part(undo)
            if broken is not None:
                return self.fails(saga, broken)
            if not walk.done:
                walk.complete = False
                return walk
        return Walk() if saga.element.on_failure == "compensate" else self.fails(saga, fault)

    def fails(self, node: TryNode | SagaNode, fault: Fault) -> Walk:
        walk = open_walk()
        walk.faults.append(Fault(node.ordinal, ("SCHEDULER_ERROR", *fault.codes), fault.leaf))
        return walk


def below(node: PlanNode) -> Iterator[PlanNode]:
    yield node
    inner: list[PlanNode | None] = []
    if isinstance(node, (SeqNode, ParNode)):
        inner += node.children
    elif isinstance(node, LoopNode):
        inner.append(node.body)
    elif isinstance(node, TryNode):
        inner += node.arms.values()
    elif isinstance(node, SagaNode):
        inner += [*node.actions, *node.compensations]
    for child in inner:
        if child is not None:
            yield from below(child)
