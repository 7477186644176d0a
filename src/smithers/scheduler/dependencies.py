"""Dependencies: which leaves wait for which nodes, and which are skipped with what they depend on."""

from __future__ import annotations

from collections.abc import Mapping

from smithers.components.gates import Approval
from smithers.components.scope import Key
from smithers.graph.plan import LeafNode, PlanNode
from smithers.scheduler.states import NodeState


class Dependencies:
    """Who waits for whom, of one scheduler. A leaf is judged by its state, a container by whether it is done."""

    __slots__ = ("_dependants", "_states", "_tainting", "blocked")

    def __init__(self, states: Mapping[Key, NodeState]) -> None:
        self._states = states
        self._dependants: dict[PlanNode, list[LeafNode]] = {}
        self._tainting: set[LeafNode] = set()  # skipped for good, so that long chains are looked at once
        self.blocked: dict[LeafNode, None] = {}
        """Reached leaves that miss something."""

    def block(self, leaf: LeafNode) -> bool:
        """Whether a reached leaf misses something; `release` gives it back when it does not any more."""
        leaf.unmet = 0
        for target in leaf.dep_targets:
            if not self.is_met(target):
                leaf.unmet += 1
                if target is not None:
                    self._dependants.setdefault(target, []).append(leaf)
        if leaf.unmet:
            self.blocked[leaf] = None
        return leaf.unmet > 0

    def release(self, node: PlanNode) -> list[LeafNode]:
        """`node` is done. Returns the leaves that miss nothing any more."""
        free: list[LeafNode] = []
        for leaf in self._dependants.pop(node, ()):
            leaf.unmet -= 1
            if leaf.unmet == 0:
                del self.blocked[leaf]
                free.append(leaf)
        return free

    def is_met(self, target: PlanNode | None) -> bool:
        """Whether what a reference means is done; None is an id that is not mounted."""
        if target is None:
            return False
        if not isinstance(target, LeafNode):
            return target.is_done
        state = self._states.get(target.key)
        if state is NodeState.FAILED:
            return target.is_tolerated
        return state is NodeState.FINISHED or state is NodeState.SKIPPED

    def missing(self, leaf: LeafNode) -> tuple[str, ...]:
        """The ids that a leaf misses."""
        pairs = zip(leaf.depends, leaf.dep_targets, strict=True)
        return tuple(id for id, target in pairs if not self.is_met(target))

    def is_tainted(self, leaf: LeafNode) -> bool:
        """Whether something that the leaf depends on failed alone or was denied with `skip`: it is skipped too."""
        seen: set[PlanNode] = set()
        for target in leaf.dep_targets:
            if isinstance(target, LeafNode) and self._taints(target, seen):
                self._tainting.add(target)
                return True
        return False

    def _taints(self, leaf: LeafNode, seen: set[PlanNode]) -> bool:
        todo = [leaf]
        while todo:
            found = todo.pop()
            state = self._states.get(found.key)
            if found in self._tainting:
                return True
            if state is NodeState.FAILED and found.is_quarantined and not found.element.continue_on_fail:
                return True
            if state is not NodeState.SKIPPED or found.element.skip_if or found in seen:
                continue
            if isinstance(found.element, Approval) and found.element.on_deny == "skip":
                return True
            seen.add(found)
            todo += [target for target in found.dep_targets if isinstance(target, LeafNode)]
        return False
