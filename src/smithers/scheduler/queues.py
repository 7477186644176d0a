"""Ready queues: leaves that could start, in order of priority and document, held to the caps of their groups.

A leaf that finds no room in its group waits in that group's own heap and comes back when room is given back, so taking
costs the logarithm of what is ready, however many leaves wait for a full group.
"""

from __future__ import annotations

from heapq import heappop, heappush

from smithers.graph.plan import LeafKind, LeafNode, ParNode, Region

_Heap = list[tuple[int, int, LeafNode]]


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
        self._by_group: dict[ParNode, _Heap] = {}
        self._by_subtree: dict[ParNode, dict[int, list[LeafNode]]] = {}
        self.running = 0

    @property
    def has_ready(self) -> bool:
        """Whether something waits for room."""
        return bool(self._work or self._agents or any(self._by_group.values()) or any(self._by_subtree.values()))

    @property
    def has_agents(self) -> bool:
        """Whether an agent waits for room."""
        return bool(self._agents)

    def push(self, leaf: LeafNode) -> None:
        """A leaf is ready."""
        heappush(self._agents if leaf.kind is LeafKind.AGENT else self._work, (-leaf.priority, leaf.ordinal, leaf))

    def take(self, agent_room: int) -> list[LeafNode]:
        """The leaves that have room, best first; they hold it from here on."""
        found: list[LeafNode] = []
        work, agents = self._work, self._agents
        while (work or (agents and agent_room > 0)) and (self._limit is None or self.running < self._limit):
            source = work if work and not (agents and agent_room > 0 and agents[0] < work[0]) else agents
            leaf = heappop(source)[2]
            if leaf.region.chain_halted() or leaf.in_slot:
                continue
            group = leaf.group
            if group is not None and group.limit is not None and group.running >= group.limit:
                heappush(self._by_group.setdefault(group, []), (-leaf.priority, leaf.ordinal, leaf))
                continue
            if leaf.subtree is not None and not self._enter_subtree(leaf, *leaf.subtree):
                continue
            self.enter(leaf)
            agent_room -= source is agents
            found.append(leaf)
        return found

    def enter(self, leaf: LeafNode) -> None:
        """The leaf takes room."""
        leaf.in_slot = True
        self.running += 1
        if leaf.group is not None:
            leaf.group.running += 1
        if leaf.subtree is not None:
            leaf.subtree[0].active.add(leaf.subtree[1])
        region: Region | None = leaf.region
        while region is not None:
            region.running += 1
            region = region.parent

    def leave(self, leaf: LeafNode) -> list[Region]:
        """The leaf gives its room back. Returns the halted regions in which nothing runs any more."""
        leaf.in_slot = False
        self.running -= 1
        group = leaf.group
        if group is not None:
            group.running -= 1
            queue = self._by_group.get(group)
            if queue:
                self.push(heappop(queue)[2])
        drained: list[Region] = []
        region: Region | None = leaf.region
        while region is not None:
            region.running -= 1
            if region.halted and region.running == 0:
                drained.append(region)
            region = region.parent
        return drained

    def subtree_done(self, par: ParNode, index: int) -> None:
        """A child of a group with `subtree_concurrency` is complete: let the next one begin."""
        if par.subtree_limit is None:
            return
        par.active.discard(index)
        queue = self._by_subtree.get(par)
        if queue:
            first = min(queue)
            for leaf in queue.pop(first):
                self.push(leaf)

    def _enter_subtree(self, leaf: LeafNode, par: ParNode, index: int) -> bool:
        if index in par.active or par.subtree_limit is None or len(par.active) < par.subtree_limit:
            return True
        self._by_subtree.setdefault(par, {}).setdefault(index, []).append(leaf)
        return False
