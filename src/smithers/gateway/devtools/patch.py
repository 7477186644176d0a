"""Patch: takes a stored frame's changes over into a tree, and says what they mean to clients. Costs what they touch.

A stored change names places, clients name nodes. So the changes are made first, noting which nodes have gone and come; then
those are numbered, and told: what goes before what comes, so that a node that moves is never there twice.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from smithers.components.scope import Key
from smithers.errors import StorageCorrupt
from smithers.gateway.devtools.ids import named_path, unnamed_path
from smithers.gateway.devtools.ops import AddNode, Op, RemoveNode, updates
from smithers.gateway.devtools.tree import UNNUMBERED, Node, Rows, Tree, key_of, planted
from smithers.graph import delta as stored
from smithers.graph.tree import TreeNode

_FEW: Final = 8
_IDENTITY: Final = frozenset({"id", "key", "kind", "name"})


class BeginAnew(Exception):
    """The changes cannot be told node by node: the tree has to be made anew. It is not to be used any more."""


class Patch:
    """A stored frame's changes to a tree, which they are made to at once; `finish` says what they mean.

    Raises:
        BeginAnew.
        StorageCorrupt: they do not fit the tree.
    """

    def __init__(self, tree: Tree, changes: Iterable[stored.Op]) -> None:
        self._tree = tree
        self._gone: list[Op] = []
        self._come: dict[Node, None] = {}
        """Roots of what has come; without numbers until the end."""
        self._changed: dict[Node, None] = {}
        self._recount: dict[Node, None] = {}
        """Parents among whose unnamed children one has gone or come."""
        self._rowless: list[Node] = []
        """Tasks that are new, or at another iteration."""
        if tree.has_collisions:
            raise BeginAnew
        for change in changes:
            self._make(change)

    @property
    def keys(self) -> set[Key]:
        """The tasks whose rows `finish` needs."""
        return {node.key for node in self._rowless if node.key is not None}

    def finish(self, rows: Rows) -> list[Op]:
        """Number what has come, and say what has happened. Raises `BeginAnew`."""
        for node in self._rowless:
            node.row = None if node.key is None else rows.get(node.key)
        for node in sorted(self._recount, key=lambda node: node.depth):
            if node.id != UNNUMBERED:
                self._count_anew(node)
        by_parent: dict[Node, list[Node]] = {}
        for child in self._come:
            if child.parent is not None and child.parent.id != UNNUMBERED:
                by_parent.setdefault(child.parent, []).append(child)
        for parent, children in by_parent.items():
            for child in children:
                if (path := named_path(child.tag, child.props, parent.path)) is not None:
                    child.path = path
                if not self._tree.number(child):
                    raise BeginAnew
        ops = self._gone
        for parent, children in by_parent.items():
            ops += [AddNode(parent.id, index, child) for index, child in _indexes(parent, children)]
        for node in self._changed:
            if node.id != UNNUMBERED:
                found = updates(node)
                ops += [] if self._has_come(node) else found
        return ops

    # ── making the changes ─────────────────────────────────────────────────────────────────────────────────────────

    def _make(self, change: stored.Op) -> None:
        path = change.path
        if not path:
            raise BeginAnew
        node, position = self._tree.root, 0
        while len(path) - position > 2 and path[position] == "children":
            child = _child(node, path[position + 1], change)
            if isinstance(child, str):
                break
            node, position = child, position + 2
        match path[position:]:
            case ("props", str(name)):
                self._set_prop(node, name, change)
            case ("children", int(index)):
                self._set_child(node, index, change)
            case ("children", int(index), "text") if isinstance(change, stored.Set) and isinstance(change.value, str):
                node.children[index] = change.value
                self._changed[node] = None
            case _:
                raise _misfit(change)

    def _set_prop(self, node: Node, name: str, change: stored.Op) -> None:
        if name in _IDENTITY:
            raise BeginAnew  # it is another node now
        match change:
            case stored.Set(value=str(text)):
                node.props[name] = text
            case stored.Remove() if name in node.props:
                del node.props[name]
            case _:
                raise _misfit(change)
        self._changed[node] = None
        if name == "iteration":
            node.key = key_of(node.props)
            self._rowless.append(node)

    def _set_child(self, node: Node, index: int, change: stored.Op) -> None:
        if not 0 <= index < len(node.children) + isinstance(change, stored.Insert):
            raise _misfit(change)
        match change:
            case stored.Insert(value=value):
                node.children.insert(index, self._arrived(node, value))
            case stored.Remove():
                self._left(node, node.children.pop(index))
            case stored.Set(value=value):
                if value is None:
                    raise _misfit(change)
                self._left(node, node.children[index])
                node.children[index] = self._arrived(node, value)

    def _left(self, parent: Node, child: Node | str) -> None:
        if isinstance(child, str):
            parent.texts -= 1
            self._changed[parent] = None
            return
        if not child.is_named:
            self._recount[parent] = None
        if child.id == UNNUMBERED:
            self._come.pop(child, None)
            return
        self._gone.append(RemoveNode(child.id))
        self._tree.forget(child)

    def _arrived(self, parent: Node, value: TreeNode | str) -> Node | str:
        if isinstance(value, str):
            parent.texts += 1
            self._changed[parent] = None
            return value
        child = planted(value, parent)
        self._rowless += child.below()
        if parent.id != UNNUMBERED:
            self._come[child] = None
            if not child.is_named:
                self._recount[parent] = None
        return child

    # ── what they mean ─────────────────────────────────────────────────────────────────────────────────────────────

    def _count_anew(self, parent: Node) -> None:
        """Where an unnamed child has gone or come, those of its type after it have other numbers: they go and come too."""
        ordinals: dict[str, int] = {}
        for child in parent.nodes:
            if child.is_named:
                continue
            ordinal = ordinals.get(child.tag, 0)
            ordinals[child.tag] = ordinal + 1
            path = unnamed_path(child.tag, parent.path, ordinal)
            if child.id != UNNUMBERED and path != child.path:
                self._gone.append(RemoveNode(child.id))
                self._tree.forget(child)
                self._come[child] = None
            child.path = path

    def _has_come(self, node: Node) -> bool:
        """Whether clients are told of it as a whole."""
        at: Node | None = node
        while at is not None and at not in self._come:
            at = at.parent
        return at is not None


def _indexes(parent: Node, children: list[Node]) -> list[tuple[int, Node]]:
    """Where new children stand among the nodes of their parent, in that order."""
    if len(children) <= _FEW and not parent.texts:
        return sorted(((parent.children.index(child), child) for child in children), key=lambda found: found[0])
    new = set(children)
    return [(index, node) for index, node in enumerate(parent.nodes) if node in new]


def _child(node: Node, index: str | int, change: stored.Op) -> Node | str:
    if isinstance(index, int) and 0 <= index < len(node.children):
        return node.children[index]
    raise _misfit(change)


def _misfit(change: stored.Op) -> StorageCorrupt:
    name = type(change).__name__.lower()
    return StorageCorrupt(
        f"a stored frame's {name} operation does not fit the frame before", {"path": list(change.path)}
    )
