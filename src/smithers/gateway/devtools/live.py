"""LiveTree: a run's tree that follows its stored frames, and the text of the events that tell of it. No I/O.

Sequence numbers are frame numbers: those of a run's steps. A step that leaves the tree as it was stores no frame, but moves
the number all the same.
"""

from __future__ import annotations

from typing import Final

from smithers.components.scope import Key
from smithers.gateway.devtools.delta import diff
from smithers.gateway.devtools.ops import Op, ops_json, updates
from smithers.gateway.devtools.patch import Patch
from smithers.gateway.devtools.tree import Rows, Tree
from smithers.gateway.frames import quoted
from smithers.graph import delta as stored
from smithers.graph.tree import TreeNode
from smithers.records import dataclass

VERSION: Final = 1
_SMALL: Final = 200
"""The text of a tree of so many nodes is made in no time."""


@dataclass(frozen=True, slots=True)
class Change:
    """A stored frame.

    Attributes:
        tree_hash: of the tree that comes of it.
        ops: what it changes; a keyframe sets the whole tree.
    """

    frame_no: int
    tree_hash: str
    ops: list[stored.Op]

    @property
    def weight(self) -> int:
        """About how many nodes it brings."""
        return sum(_size(op.value) for op in self.ops if isinstance(op, (stored.Set, stored.Insert)))


class LiveTree:
    """A run's tree as of a frame.

    Args:
        seq: the frame.
        frame_no, tree_hash: the stored frame that the tree is of: that one, or the newest before it.
    """

    def __init__(self, run_id: str, tree: Tree, seq: int, frame_no: int, tree_hash: str) -> None:
        self._run = quoted(run_id)
        self.tree = tree
        self.seq = seq
        self.frame_no = frame_no
        self.tree_hash = tree_hash
        self._bytes = 0
        """How long the last snapshot was."""

    def begin(self, change: Change) -> Turn:
        """Take the next frame over. The tree is of no use until the turn is finished. Raises as `Patch`."""
        return Turn(self, change)

    def update(self, rows: Rows) -> list[Op]:
        """Show what is stored of tasks; those that are not in the tree are left out."""
        found: list[Op] = []
        for key, row in rows.items():
            node = self.tree.task(key)
            if node is not None and node.row != row:
                node.row = row
                found += updates(node)
        return found

    def differing(self, rows: Rows) -> set[Key]:
        """The tasks in the tree that are shown otherwise than they are stored."""
        return {key for key, row in rows.items() if (node := self.tree.task(key)) is not None and node.row != row}

    def to(self, other: LiveTree) -> list[Op]:
        """What turns this tree into another one."""
        return diff(self.tree, other.tree)

    # ── texts ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def snapshot(self, state: str | None) -> str:
        """As `getDevToolsSnapshot` answers. `state` is the run's derived state as JSON."""
        more = "" if state is None else f',"runState":{state}'
        head = f'{{"version":{VERSION},"runId":{self._run},"frameNo":{self.seq},"seq":{self.seq},"root":'
        text = f"{head}{self.tree.json()}{more}}}"
        self._bytes = len(text)
        return text

    def snapshot_event(self, state: str | None) -> str:
        """A `snapshot` event of a stream."""
        return f'{{"version":{VERSION},"kind":"snapshot","snapshot":{self.snapshot(state)}}}'

    def delta_event(self, base: int, ops: list[Op]) -> str:
        """A `delta` event from one number to the one that the tree has."""
        delta = f'{{"version":{VERSION},"baseSeq":{base},"seq":{self.seq},"ops":{ops_json(ops)}}}'
        return f'{{"version":{VERSION},"kind":"delta","delta":{delta}}}'

    def may_be_smaller(self, delta: str) -> bool:
        """Whether a snapshot might be no longer than this delta, so that it is worth making one."""
        return len(self.tree.by_id) <= _SMALL or 2 * len(delta) >= self._bytes


class Turn:
    """A frame that is being taken over.

    Attributes:
        keys: the tasks whose rows `finish` needs.
    """

    def __init__(self, live: LiveTree, change: Change) -> None:
        self._live = live
        self._change = change
        self._next: Tree | Patch
        match change.ops:
            case [stored.Set(path=(), value=root)] if not isinstance(root, str):
                self._next = Tree(root)
                self.keys = set(self._next.keys)
            case ops:
                self._next = Patch(live.tree, ops)
                self.keys = self._next.keys

    def finish(self, rows: Rows) -> list[Op]:
        """What has changed, given what is stored of the tasks in `keys`. Raises `BeginAnew`."""
        live = self._live
        if isinstance(self._next, Tree):
            self._next.fill(rows)
            ops, live.tree = diff(live.tree, self._next), self._next
        else:
            ops = self._next.finish(rows)
        live.seq = live.frame_no = self._change.frame_no
        live.tree_hash = self._change.tree_hash
        return ops


def _size(value: TreeNode | str | None) -> int:
    count = 0
    todo = [value]
    while todo:
        node = todo.pop()
        count += 1
        if isinstance(node, TreeNode):
            todo += node.children
    return count
