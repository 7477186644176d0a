"""Delta: how one tree differs from another, as operations. Pure; costs the trees.

For a stored frame's changes to a tree that is there already, which cost what they touch, see `patch.py`.
"""

from __future__ import annotations

from smithers.gateway.devtools.ops import AddNode, Op, RemoveNode, ReplaceRoot, UpdateProps, UpdateTask
from smithers.gateway.devtools.tree import Node, Tree
from smithers.graph.delta import rising


def diff(old: Tree, new: Tree) -> list[Op]:
    """Operations that turn `old` into `new`. Nodes are told apart by id; one that has another parent goes and comes."""
    if old.root.id != new.root.id:
        return [ReplaceRoot(new.root)]
    gone: list[Op] = []
    come: list[Op] = []
    changed: list[Op] = []
    todo = [(old.root, new.root)]
    while todo:
        before, after = todo.pop()
        changed += _content(before, after)
        pairs, lost, found = _children(before, after)
        todo += reversed(pairs)
        gone += [RemoveNode(node.id) for node in lost]
        come += [AddNode(after.id, index, node) for index, node in found]
    return gone + come + changed


def _content(before: Node, after: Node) -> list[Op]:
    for node in (before, after):
        if node.props_text is None:
            node.refresh()
    found: list[Op] = []
    if before.props_text != after.props_text:
        found.append(UpdateProps(after.id, after.props_text or "{}"))
    if before.task_text != after.task_text:
        found.append(UpdateTask(after.id, after.task_text))
    return found


def _children(before: Node, after: Node) -> tuple[list[tuple[Node, Node]], list[Node], list[tuple[int, Node]]]:
    """The children that stay (as many as can without changing places), those that go, and those that come, by index."""
    old = list(before.nodes)
    new = list(after.nodes)
    places = {node.id: place for place, node in enumerate(old)}
    there = [(places[node.id], index) for index, node in enumerate(new) if node.id in places]
    kept = rising(there)
    stay_old = {place for place, _ in kept}
    stay_new = {index for _, index in kept}
    pairs = [(old[place], new[index]) for place, index in kept]
    lost = [node for place, node in enumerate(old) if place not in stay_old]
    found = [(index, node) for index, node in enumerate(new) if index not in stay_new]
    return pairs, lost, found
