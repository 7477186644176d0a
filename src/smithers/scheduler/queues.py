"""Ready queues: leaves that could start, in order of priority and document, held to the caps of their groups.

A leaf that finds no room in its group waits in that group's own heap, and the best one comes back when room is given
back, so taking costs the logarithm of what is ready, however many leaves wait for a full group. It always holds: where
a group has room and leaves wait in its heap, the best of them (of each kind, work and agents) is in the main heaps.
"""

from __future__ import annotations

from heapq import heappop, heappush

from smithers.graph.plan import LeafKind, LeafNode, ParNode, Region

_Heap = list[tuple[int, int, LeafNode]]


class _Parked:
    """Ready leaves that wait for room in one group, best first."""

    __slots__ = ("_agents", "_inside", "_work", "by_index")

    def __init__(self) -> None:
        self._work: _Heap = []
        self._agents: _Heap = []
        self._inside: set[LeafNode] = set()
        self.by_index: dict[int, list[LeafNode]] = {}
        """By the child that they are in, where children are counted; may name leaves that have left."""

    def push(self, leaf: LeafNode) -> None:
        self._inside.add(leaf)
        heappush(self._agents if leaf.kind is LeafKind.AGENT else self._work, _rank(leaf))

    def pop(self, *, agent: bool) -> LeafNode | None:
        heap = self._agents if agent else self._work
        while heap:
            leaf = heappop(heap)[2]
            if leaf in self._inside:  # it may have left with its child
                self._inside.remove(leaf)
                return leaf
        return None

    def pop_child(self, index: int) -> list[LeafNode]:
        """All that are in this child."""
        leaves = [leaf for leaf in self.by_index.pop(index, ()) if leaf in self._inside]
        self._inside.difference_update(leaves)
        return leaves


class ReadyQueues:
    """What is ready and what runs, of one scheduler.

    Args:
        limit: at most so many running leaves in the run; None is unlimited.
    """

    __slots__ = ("_agents", "_by_group", "_by_subtree", "_limit", "_work", "running")

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self._work: _Heap = []
        self._agents: _Heap = []
        self._by_group: dict[ParNode, _Parked] = {}
        self._by_subtree: dict[ParNode, _Parked] = {}
        self.running = 0

    @property
    def has_ready(self) -> bool:
        """Whether something could start that waits for the run's or the agents' room only."""
        return self._has_startable(self._work) or self._has_startable(self._agents)

    @property
    def has_agents(self) -> bool:
        """Whether an agent could start that waits for the run's or the agents' room only."""
        return self._has_startable(self._agents)

    def push(self, leaf: LeafNode) -> None:
        """A leaf is ready."""
        heappush(self._agents if leaf.kind is LeafKind.AGENT else self._work, _rank(leaf))

    def take(self, agent_room: int) -> list[LeafNode]:
        """The leaves that have room, best first; they hold it from here on."""
        found: list[LeafNode] = []
        work, agents = self._work, self._agents
        while self._limit is None or self.running < self._limit:
            has_agent = agent_room > 0 and self._has_startable(agents)
            if self._has_startable(work):
                source = agents if has_agent and agents[0] < work[0] else work
            elif has_agent:
                source = agents
            else:
                break
            leaf = heappop(source)[2]
            self.enter(leaf)
            self._bring_next(leaf)
            agent_room -= source is agents
            found.append(leaf)
        return found

    def enter(self, leaf: LeafNode) -> None:
        """The leaf takes room."""
        leaf.in_slot = True
        self.running += 1
        if leaf.group is not None:
            leaf.group.running += 1
        self.begin(leaf)
        region: Region | None = leaf.region
        while region is not None:
            region.running += 1
            region = region.parent

    def leave(self, leaf: LeafNode) -> list[Region]:
        """The leaf gives its room back. Returns the halted regions in which nothing runs any more."""
        leaf.in_slot = False
        self.running -= 1
        if leaf.group is not None:
            leaf.group.running -= 1
            self._bring(self._by_group.get(leaf.group))
        drained: list[Region] = []
        region: Region | None = leaf.region
        while region is not None:
            region.running -= 1
            if region.halted and region.running == 0:
                drained.append(region)
            region = region.parent
        return drained

    def begin(self, leaf: LeafNode) -> None:
        """The leaf's work has begun: from here on its child counts in a group with `subtree_concurrency`."""
        if leaf.subtree is None:
            return
        par, index = leaf.subtree
        if index in par.active or par.children[index].is_done:
            return
        par.active.add(index)
        parked = self._by_subtree.get(par)
        if parked is not None:
            for other in parked.pop_child(index):
                self.push(other)

    def subtree_done(self, par: ParNode, index: int) -> None:
        """A child of a group is done: let another one begin, where children are counted."""
        if index in par.active:
            par.active.remove(index)
            self._bring(self._by_subtree.get(par))

    # ── room ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def _has_startable(self, heap: _Heap) -> bool:
        """Whether the best leaf of `heap` may start, once those are out of the way that may not."""
        while heap:
            leaf = heap[0][2]
            if leaf.region.chain_halted() or leaf.in_slot:
                heappop(heap)
            elif _is_group_full(leaf.group):
                heappop(heap)
                assert leaf.group is not None
                self._by_group.setdefault(leaf.group, _Parked()).push(leaf)
            elif leaf.subtree is not None and _is_subtree_full(*leaf.subtree):
                heappop(heap)
                par, index = leaf.subtree
                parked = self._by_subtree.setdefault(par, _Parked())
                parked.push(leaf)
                parked.by_index.setdefault(index, []).append(leaf)
            else:
                return True
            self._bring_next(leaf)
        return False

    def _bring_next(self, leaf: LeafNode) -> None:
        """`leaf` has left a main heap: the next best of its kind takes its place, from where there is still room."""
        agent = leaf.kind is LeafKind.AGENT
        group = leaf.group
        if group in self._by_group and not _is_group_full(group):
            self._push_best(self._by_group[group], agent)
        if leaf.subtree is not None:
            par = leaf.subtree[0]
            if par in self._by_subtree and not _is_subtree_full(par, -1):
                self._push_best(self._by_subtree[par], agent)

    def _bring(self, parked: _Parked | None) -> None:
        if parked is not None:
            self._push_best(parked, False)
            self._push_best(parked, True)

    def _push_best(self, parked: _Parked, agent: bool) -> None:
        leaf = parked.pop(agent=agent)
        if leaf is not None:
            self.push(leaf)


def _rank(leaf: LeafNode) -> tuple[int, int, LeafNode]:
    return (-leaf.priority, leaf.ordinal, leaf)


def _is_group_full(group: ParNode | None) -> bool:
    return group is not None and group.limit is not None and group.running >= group.limit


def _is_subtree_full(par: ParNode, index: int) -> bool:
    return par.subtree_limit is not None and index not in par.active and len(par.active) >= par.subtree_limit
