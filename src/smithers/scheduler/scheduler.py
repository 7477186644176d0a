"""Scheduler: moves through a plan as leaves settle, and says what may start.

Cost per settled leaf is the depth of the tree plus what it makes ready, never the size of the tree: sequences have a
cursor, parallel groups a counter, dependencies a list of who waits. A new render makes a new plan and a new scheduler
over the same node states; `tests/` holds this one to a slow full walk.

The engine calls `advance_loops` and then `take` for what may start, says what became of it with `waits`, `holds`,
`resumes`, `comes_again`, `returns` and `settled`, and asks `outcome` when nothing is left. The walking itself and failure
regions live in `walk`, queues and caps in `queues`, dependencies in `dependencies`.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping

from smithers.components.scope import Key, LoopState
from smithers.graph.plan import ContinueNode, Failure, LeafKind, LeafNode, LoopNode, Plan, nodes_below
from smithers.scheduler.outcomes import Continued, Deadlocked, Failed, Finished, Outcome
from smithers.scheduler.states import NodeState
from smithers.scheduler.walk import Walker

__all__ = ["Continued", "Deadlocked", "Failed", "Finished", "Outcome", "Scheduler"]


class Scheduler(Walker):
    """The state of one plan.

    Args:
        plan: a fresh plan; the scheduler takes it over.
        states: the states of all nodes that have any; read here, written by the engine.
        failures: what failed nodes failed with, by key.
        live: keys in progress or waiting, mounted or not.
        held: keys that wait for their next attempt's moment.
        begun: keys that have been at work, or whose gate was opened, whatever they are now.
        guarded: keys that are not done again before the engine has looked whether they may be.
        limit: at most so many running leaves in the run; None is unlimited.
    """

    def __init__(
        self,
        plan: Plan,
        states: Mapping[Key, NodeState],
        failures: dict[Key, Failure],
        *,
        live: Iterable[Key] = (),
        held: Iterable[Key] = (),
        begun: Container[Key] = (),
        guarded: Container[Key] = (),
        limit: int | None = None,
    ) -> None:
        super().__init__(plan, states, failures, begun, guarded, limit)
        self._strays: set[Key] = set()
        for key in held:
            leaf = plan.leaves.get(key)
            if leaf is not None:
                self.held[key] = leaf
        for key in live:
            self._adopt(key)
        for leaf in plan.leaves.values():
            if leaf.subtree is not None and self._has_worked(leaf):
                self.queues.begin(leaf)
        self._activate(plan.root)
        self._work_off()

    # ── what the engine asks ───────────────────────────────────────────────────────────────────────────────────────

    @property
    def continuation(self) -> ContinueNode | LoopNode | None:
        """What hands this run over to a new one: nothing starts any more. The first in document order."""
        if not self._continuations:
            return None
        reached = [node for node in self._continuations if not node.region.chain_halted()]
        return min(reached, key=lambda node: node.ordinal, default=None)

    def take(self, agent_room: int) -> list[LeafNode]:
        """Leaves to handle now: waits, gates and skips without room, then work as far as the caps allow.

        Work leaves hold their room from here on, until `waits`, `holds`, `returns` or `settled`. At most `agent_room`
        agents.
        """
        if self.plan.region.halted or self.continuation is not None:
            return []
        if not self.arrivals:
            return self.queues.take(agent_room)
        found, self.arrivals = self.arrivals, []
        return [leaf for leaf in found if not leaf.region.chain_halted()] + self.queues.take(agent_room)

    def outcome(self) -> Outcome | None:
        """How the run ends, once nothing runs; None while there is something to do or to wait for."""
        if self.queues.running or any(not loop.region.chain_halted() for loop in self.loops_at_end):
            return None
        if self.plan.region.failure is not None:
            return Failed(self.plan.region.failure)
        node = self.continuation
        if node is not None:
            return Continued(node)
        if self.waiting or self.held or self.caught or self.queues.has_ready:
            return None
        if any(not leaf.region.chain_halted() for leaf in self.arrivals):
            return None
        if self.plan.root.is_done:
            return Finished()
        blocked = (leaf for leaf in self._dependencies.blocked if not leaf.region.chain_halted())
        return Deadlocked({leaf.key: self._dependencies.missing(leaf) for leaf in blocked})

    def advance_loops(self) -> list[tuple[LoopNode, LoopState]]:
        """Decide on the loops whose iteration has ended; to be called with a plan that is rendered from all results.

        Returns what to store. A state that is not done needs a new render; done ones have already gone on here. A loop
        at its `continue_as_new_every` threshold stays where it is and becomes the `continuation`.
        """
        if not self.loops_at_end and not self._loops_ended:
            return []
        changes: list[tuple[LoopNode, LoopState]] = []
        while self.loops_at_end:
            loops, self.loops_at_end = sorted(self.loops_at_end, key=lambda loop: loop.ordinal), []
            for loop in loops:
                state = self._decide(loop)
                if state is not None:
                    changes.append((loop, state))
                    if state.done:
                        self._complete(loop)
            self._work_off()
        ended, self._loops_ended = self._loops_ended, []
        return ended + changes

    def is_tainted(self, leaf: LeafNode) -> bool:
        """Whether something that the leaf depends on failed alone or was denied with `skip`: it is skipped too."""
        return self._dependencies.is_tainted(leaf)

    # ── what the engine tells ──────────────────────────────────────────────────────────────────────────────────────

    def waits(self, leaf: LeafNode) -> None:
        """The leaf now waits for the world; it gives its room back."""
        mine = self._give_back(leaf)
        if mine is not None and mine.region.chain_halted():
            self.abandoned.append(mine)
        elif mine is not None:
            self.waiting[mine.key] = mine
            self._pass_over(mine)
        self._work_off()

    def holds(self, leaf: LeafNode) -> None:
        """The leaf waits for the moment of its next attempt; it gives its room back."""
        mine = self._give_back(leaf)
        if mine is not None and mine.region.chain_halted():
            self.abandoned.append(mine)
        elif mine is not None:
            self.held[mine.key] = mine
        self._work_off()

    def resumes(self, key: Key) -> None:
        """A held or waiting leaf may go on: its gate is approved, its child has ended."""
        self._go_on(key, self.queues.push)

    def comes_again(self, key: Key) -> None:
        """A held or waiting leaf is to go on: its backoff is over, its quota back. A guarded one arrives first."""
        self._go_on(key, self.arrivals.append if key in self.guarded else self.queues.push)

    def _go_on(self, key: Key, to: Callable[[LeafNode], None]) -> None:
        self.held.pop(key, None)
        self.waiting.pop(key, None)
        leaf = self.plan.leaves.get(key)
        if leaf is not None and leaf.is_armed and not leaf.region.chain_halted():
            self._pass_over(leaf)
            self._clear_child(leaf)
            to(leaf)
            self._work_off()

    def returns(self, leaf: LeafNode) -> None:
        """A taken leaf was not started after all; it gives its room back and stays ready."""
        mine = self._give_back(leaf)
        if mine is not None and mine.is_armed:
            self._clear_child(mine)
            self.queues.push(mine)
        self._work_off()

    def settled(self, key: Key) -> None:
        """The leaf has reached a terminal state, which `states` (and `failures`) already show."""
        self.held.pop(key, None)
        self.waiting.pop(key, None)
        self._forget(key)
        leaf = self.plan.leaves.get(key)
        if leaf is None:
            return
        self._leave(leaf)
        state = self.states[key]
        if leaf.subtree is not None and self._has_worked(leaf):
            self.queues.begin(leaf)
        if state is NodeState.FAILED and not leaf.is_tolerated:
            if leaf.is_armed:
                self._fail(leaf.region, self._failure(leaf), leaf.ordinal)
        elif state is not NodeState.CANCELLED:
            self._release(leaf)
            if leaf.is_passed:
                self._close(leaf)
            elif leaf.is_armed and not leaf.is_complete:
                self._complete(leaf)
        self._work_off()

    # ── taking over ────────────────────────────────────────────────────────────────────────────────────────────────

    def _adopt(self, key: Key) -> None:
        """Take over a leaf that was in progress or waiting before this plan was made."""
        leaf = self.plan.leaves.get(key)
        if self.states[key] is not NodeState.IN_PROGRESS:
            if leaf is not None:  # what is not mounted any more is not waited for
                self.waiting[key] = leaf
        elif leaf is not None:
            self.queues.enter(leaf)
        else:  # it runs on, and takes room of the run only
            self._strays.add(key)
            self.queues.running += 1

    def _forget(self, key: Key) -> None:
        """A leaf that is not mounted any more does not run any more."""
        if key in self._strays:
            self._strays.remove(key)
            self.queues.running -= 1

    def _give_back(self, leaf: LeafNode) -> LeafNode | None:
        """This plan's node for a leaf that may be of an earlier plan, without its room; None if it is not mounted."""
        self._forget(leaf.key)
        mine = self.plan.leaves.get(leaf.key)
        if mine is not None:
            self._leave(mine)
        return mine

    def _leave(self, leaf: LeafNode) -> None:
        if leaf.in_slot:
            self._drained += self.queues.leave(leaf)

    def _clear_child(self, leaf: LeafNode) -> None:
        """A leaf is pending again: its child of a capped group has not begun if no other state there says so."""
        if leaf.subtree is not None:
            par, index = leaf.subtree
            inside = (node for node in nodes_below(par.children[index]) if isinstance(node, LeafNode))
            if not any(other.in_slot or self._has_worked(other) for other in inside):
                self.queues.subtree_done(par, index)

    def _has_worked(self, leaf: LeafNode) -> bool:
        """Whether the leaf has used room, as far as its state tells: then its child of a capped group has begun."""
        if leaf.kind.is_wait:
            return False
        state = self.states.get(leaf.key)
        if state is NodeState.FINISHED or state is NodeState.FAILED or leaf.key in self.held:
            return True
        return leaf.key in self.waiting and (leaf.kind is LeafKind.SUBFLOW or state is NodeState.WAITING_QUOTA)

    def _decide(self, loop: LoopNode) -> LoopState | None:
        """What becomes of a loop at the end of an iteration; None when it stays there."""
        element, following = loop.element, loop.iteration + 1
        is_last = following >= element.max_iterations
        if is_last and not element.until and element.on_max_reached == "fail":
            summary = f"loop {loop.id!r} used up its {element.max_iterations} iterations"
            self._fail(loop.region, Failure("RALPH_MAX_REACHED", summary), loop.ordinal)
            return None
        if loop.region.chain_halted():
            return None
        if element.until or is_last:
            return LoopState(loop.iteration, True)
        if element.continue_as_new_every is not None and following % element.continue_as_new_every == 0:
            self._continuations.append(loop)
            return None
        return LoopState(following, False)
