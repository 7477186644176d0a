"""Diffing: what differs between two frames of a run, or between two runs: nodes, outputs, loops."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

from smithers.control.control import Control
from smithers.errors import NodeNotFound
from smithers.store.sql import history, reads
from smithers.store.sql.past_nodes import PastNode

Key = tuple[str, int]


@dataclass(frozen=True, slots=True)
class NodeDelta:
    """A node on both sides; a side is None where it is not there."""

    node_id: str
    iteration: int
    before: str | None
    after: str | None


@dataclass(frozen=True, slots=True)
class OutputDelta:
    """A node's output row on both sides; None where there is none."""

    node_id: str
    iteration: int
    table: str
    before: dict[str, object] | None
    after: dict[str, object] | None


@dataclass(frozen=True, slots=True)
class LoopDelta:
    """A loop's iteration on both sides; None where it has none."""

    loop_id: str
    before: int | None
    after: int | None


@dataclass(frozen=True, slots=True)
class StateDiff:
    """How the state on the right differs from the state on the left."""

    left_run_id: str
    left_frame_no: int
    right_run_id: str
    right_frame_no: int
    added: tuple[NodeDelta, ...]
    removed: tuple[NodeDelta, ...]
    changed: tuple[NodeDelta, ...]
    outputs: tuple[OutputDelta, ...]
    loops: tuple[LoopDelta, ...]
    keys: frozenset[Key]
    """The nodes that either side has, whether they differ or not."""

    @property
    def is_empty(self) -> bool:
        """Whether both are the same."""
        return not (self.added or self.removed or self.changed or self.outputs or self.loops)

    def of(self, node_id: str, iteration: int | None = None) -> StateDiff:
        """What of it is about one node, in one iteration or in all. Raises `NodeNotFound` if neither side has it."""
        wanted = {key for key in self.keys if key[0] == node_id and iteration in (None, key[1])}
        if not wanted:
            at = "" if iteration is None else f" (iteration {iteration})"
            raise NodeNotFound(
                f"neither frame {self.left_frame_no} of run {self.left_run_id!r} nor frame {self.right_frame_no} of run "
                f"{self.right_run_id!r} has a node {node_id!r}{at}",
                {"nodeId": node_id, "iteration": iteration},
            )

        def kept(deltas: tuple[NodeDelta, ...]) -> tuple[NodeDelta, ...]:
            return tuple(delta for delta in deltas if (delta.node_id, delta.iteration) in wanted)

        return replace(
            self,
            added=kept(self.added),
            removed=kept(self.removed),
            changed=kept(self.changed),
            outputs=tuple(delta for delta in self.outputs if (delta.node_id, delta.iteration) in wanted),
            loops=(),
            keys=frozenset(wanted),
        )

    def wire(self) -> dict[str, object]:
        """As it is sent."""
        return {
            "left": {"runId": self.left_run_id, "frameNo": self.left_frame_no},
            "right": {"runId": self.right_run_id, "frameNo": self.right_frame_no},
            "nodesAdded": [_node(delta) for delta in self.added],
            "nodesRemoved": [_node(delta) for delta in self.removed],
            "nodesChanged": [_node(delta) for delta in self.changed],
            "outputsChanged": [
                {
                    "nodeId": delta.node_id,
                    "iteration": delta.iteration,
                    "table": delta.table,
                    "before": delta.before,
                    "after": delta.after,
                }
                for delta in self.outputs
            ],
            "loopsChanged": [
                {"loopId": delta.loop_id, "before": delta.before, "after": delta.after} for delta in self.loops
            ],
        }


def _node(delta: NodeDelta) -> dict[str, object]:
    return {"nodeId": delta.node_id, "iteration": delta.iteration, "before": delta.before, "after": delta.after}


class _Side(NamedTuple):
    run_id: str
    frame_no: int
    nodes: dict[Key, PastNode]
    outputs: dict[Key, tuple[str, dict[str, object]]]
    loops: dict[str, int]


async def diff_frames(control: Control, run_id: str, left: int, right: int) -> StateDiff:
    """Two frames of a run. Raises `RunNotFound` or `FrameOutOfRange`."""
    return await control.store.aread(lambda c: _diff(_side(c, run_id, left), _side(c, run_id, right)))


async def diff_runs(left: tuple[Control, str], right: tuple[Control, str]) -> StateDiff:
    """The newest frames of two runs, which may live in two databases. Raises `RunNotFound`."""

    async def newest(control: Control, run_id: str) -> _Side:
        return await control.store.aread(lambda c: _side(c, run_id, reads.run(c, run_id).frame_no))

    return _diff(await newest(*left), await newest(*right))


def _side(connection: reads.Session, run_id: str, frame_no: int) -> _Side:
    state = history.state_at(connection, run_id, frame_no)
    nodes = {(node.node_id, node.iteration): node for node in state.nodes}
    loops = {loop.ralph_id: loop.iteration for loop in state.loops}
    outputs = history.outputs_at(connection, run_id, frame_no, state.nodes)
    return _Side(run_id, frame_no, nodes, outputs, loops)


def _diff(left: _Side, right: _Side) -> StateDiff:
    added = [NodeDelta(*key, None, right.nodes[key].state) for key in sorted(right.nodes.keys() - left.nodes.keys())]
    removed = [NodeDelta(*key, left.nodes[key].state, None) for key in sorted(left.nodes.keys() - right.nodes.keys())]
    both = sorted(left.nodes.keys() & right.nodes.keys())
    changed = [
        NodeDelta(*key, left.nodes[key].state, right.nodes[key].state)
        for key in both
        if left.nodes[key].state != right.nodes[key].state
    ]
    outputs: list[OutputDelta] = []
    for key in sorted(left.outputs.keys() | right.outputs.keys()):
        before, after = left.outputs.get(key), right.outputs.get(key)
        if before != after:
            table = (after or before or ("", {}))[0]
            outputs.append(OutputDelta(*key, table, before and before[1], after and after[1]))
    loops = [
        LoopDelta(id, left.loops.get(id), right.loops.get(id))
        for id in sorted(left.loops.keys() | right.loops.keys())
        if left.loops.get(id) != right.loops.get(id)
    ]
    return StateDiff(
        left.run_id,
        left.frame_no,
        right.run_id,
        right.frame_no,
        tuple(added),
        tuple(removed),
        tuple(changed),
        tuple(outputs),
        tuple(loops),
        frozenset(left.nodes.keys() | right.nodes.keys()),
    )
