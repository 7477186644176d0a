"""Obstacles: why a node that has not begun has not, from the frame that it is mounted in. Pure.

What a node that has begun waits for is told by `blockers.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, Literal

from smithers.components.scope import logical_id
from smithers.graph.tree import TreeNode

Key = tuple[str, int]
States = Mapping[Key, str]

_OVER: Final = frozenset({"finished", "skipped", "failed", "cancelled"})
_SIDE_BY_SIDE: Final = frozenset({"smithers:parallel", "smithers:merge-queue"})


@dataclass(frozen=True, slots=True)
class Obstacle:
    """What is in the way of a node: other nodes, which must end first or give room back.

    Attributes:
        kind: `order`: they stand before it; `dependency`: it names them; `room`: its group is full.
        nodes: with their states, None for one that has not been reached.
        group: the group that is full, in words.
        limit: how many may be under way in it.
    """

    kind: Literal["order", "dependency", "room"]
    nodes: tuple[tuple[Key, str | None], ...]
    group: str | None = None
    limit: int | None = None


def leaf_key(node: TreeNode) -> Key | None:
    """The node that an element is, if it is a leaf."""
    props = dict(node.props)
    if "kind" not in props or "id" not in props:
        return None
    return props["id"], int(props.get("iteration", "0"))


def leaves(node: TreeNode) -> Iterator[tuple[Key, TreeNode]]:
    """The leaves at or below an element, in document order."""
    key = leaf_key(node)
    if key is not None:
        yield key, node
    for child in node.children:
        if not isinstance(child, str):
            yield from leaves(child)


def path_to(root: TreeNode, key: Key) -> list[TreeNode] | None:
    """The elements from the root down to a leaf; None if it is not mounted."""
    if leaf_key(root) == key:
        return [root]
    for child in root.children:
        if not isinstance(child, str) and (below := path_to(child, key)) is not None:
            return [root, *below]
    return None


def obstacles(root: TreeNode, states: States, key: Key) -> list[Obstacle] | None:
    """What is in the way of a mounted leaf that has not begun, the outermost first; None if it is not mounted.

    What keeps the flow from reaching it comes first: while there is such a thing, nothing else matters.
    """
    path = path_to(root, key)
    if path is None:
        return None
    for parent, child in pairwise(path):
        if parent.tag not in _SIDE_BY_SIDE:
            before = _unfinished_before(parent, child, states)
            if before:
                return [Obstacle("order", before)]
    found: list[Obstacle] = []
    wanted = [id for id in dict(path[-1].props).get("dependsOn", "").split(",") if id]
    if wanted:
        missing = tuple(
            (other, states.get(other))
            for other, _ in leaves(root)
            if logical_id(other[0]) in wanted and states.get(other) not in ("finished", "skipped")
        )
        if missing:
            found.append(Obstacle("dependency", missing))
    if not found:
        found += [full for parent, child in pairwise(path) if (full := _full(parent, child, states))]
    return found


def _unfinished_before(parent: TreeNode, child: TreeNode, states: States) -> tuple[tuple[Key, str | None], ...]:
    """The leaves of the first earlier sibling that has not ended."""
    for sibling in parent.children:
        if sibling is child:
            break
        if isinstance(sibling, str):
            continue
        left = tuple((key, states.get(key)) for key, _ in leaves(sibling) if states.get(key) not in _OVER)
        if left:
            return left
    return ()


def _full(parent: TreeNode, child: TreeNode, states: States) -> Obstacle | None:
    """The group of this element, if it has no room for a leaf of this child."""
    props = dict(parent.props)
    limit = props.get("maxConcurrency") or ("1" if parent.tag == "smithers:merge-queue" else None)
    at_work = [key for key, _ in leaves(parent) if states.get(key) == "in-progress"]
    if limit is not None and limit.isdigit() and len(at_work) >= int(limit):
        return Obstacle("room", tuple((key, "in-progress") for key in at_work), _name(parent), int(limit))
    subtrees = props.get("subtreeConcurrency")
    if subtrees is not None and subtrees.isdigit():
        begun = [c for c in parent.children if not isinstance(c, str) and c is not child and _is_begun(c, states)]
        if len(begun) >= int(subtrees):
            inside = [(key, states.get(key)) for c in begun for key, _ in leaves(c) if states.get(key) not in _OVER]
            return Obstacle("room", tuple(inside), _name(parent), int(subtrees))
    return None


def _is_begun(node: TreeNode, states: States) -> bool:
    found = [states.get(key) for key, _ in leaves(node)]
    return any(s not in (None, "pending") for s in found) and any(s not in _OVER for s in found)


def _name(node: TreeNode) -> str:
    props = dict(node.props)
    kind = node.tag.removeprefix("smithers:")
    return f"{kind} {props.get('id') or props.get('label') or ''}".strip()
