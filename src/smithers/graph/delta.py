"""Differences of trees: compare two, apply the difference, write it as JSON and read it back.

An operation names a place by its path in the tree's JSON form (`tree.py`), such as `["children", 1, "props", "state"]`.
Operations apply in order; each path is meant at the moment its operation applies. How a frame is stored with them is
`frames.py`'s.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from typing import Final, TypeAlias, cast

from smithers.errors import InvalidElement, StorageCorrupt, StorageError
from smithers.graph.tree import (
    MAX_DEPTH,
    TreeNode,
    canonical,
    child_from_json,
    load_json,
    quote,
    well_formed,
)
from smithers.records import dataclass

VERSION: Final = 1

Path: TypeAlias = tuple[str | int, ...]
Child: TypeAlias = TreeNode | str
_ID_SEARCH_DEPTH: Final = 4


@dataclass(frozen=True, slots=True)
class Set:
    """Put a value in a place: a property, a text, a node, or (empty path) the whole tree, None being the empty one."""

    path: Path
    value: Child | None


@dataclass(frozen=True, slots=True)
class Insert:
    """Put a node before the child at this index; the index may be one past the last."""

    path: Path
    value: Child


@dataclass(frozen=True, slots=True)
class Remove:
    """Take a property or a child away."""

    path: Path


Op: TypeAlias = Set | Insert | Remove


# ── comparing ──────────────────────────────────────────────────────────────────────────────────────────────────────


def diff(prev: TreeNode | None, next: TreeNode | None) -> list[Op]:
    """Operations that turn `prev` into `next`. Near-linear in the nodes that are not shared between the two.

    Children are paired by id, so a child put in or taken out costs one operation wherever it stands. Raises
    InvalidElement for trees nested too deeply.
    """
    ops: list[Op] = []
    if prev is next:
        return ops
    if prev is None or next is None or not _alike(prev, next):
        ops.append(Set((), next))
    else:
        _diff_node(prev, next, [], ops)
    return ops


def _diff_node(old: TreeNode, new: TreeNode, path: list[str | int], ops: list[Op]) -> None:
    """Compare two nodes of one tag. `path` is the caller's; it is changed and put back."""
    if len(path) > 2 * MAX_DEPTH:
        raise InvalidElement(f"the tree is nested deeper than {MAX_DEPTH} levels", {"tag": new.tag})
    if old.props != new.props:
        before, after = dict(old.props), dict(new.props)
        ops.extend(Remove((*path, "props", name)) for name in before if name not in after)
        ops.extend(Set((*path, "props", name), text) for name, text in after.items() if before.get(name) != text)
    if old.children is not new.children:
        _diff_children(old.children, new.children, path, ops)


def _diff_children(old: Sequence[Child], new: Sequence[Child], path: list[str | int], ops: list[Op]) -> None:
    """Works from the last child to the first, so that indexes on the left are still those of the old list."""
    old_end, new_end = len(old), len(new)
    shorter = min(old_end, new_end)
    start = 0
    changed: list[int] = []
    while start < shorter and _same_place(old[start], new[start]):
        if not _same_leaf(old[start], new[start]):
            changed.append(start)
        start += 1
    while old_end > start and new_end > start and _same_place(old[old_end - 1], new[new_end - 1]):
        old_end -= 1
        new_end -= 1
    path.append("children")
    for i in range(len(old) - 1, old_end - 1, -1):
        if not _same_leaf(old[i], new[i - old_end + new_end]):
            _diff_pair(old[i], new[i - old_end + new_end], i, path, ops)
    right, right_new = old_end, new_end
    for at, at_new in reversed(_anchors(old, new, range(start, old_end), range(start, new_end))):
        _diff_gap(old, new, range(at + 1, right), range(at_new + 1, right_new), path, ops)
        _diff_pair(old[at], new[at_new], at, path, ops)
        right, right_new = at, at_new
    _diff_gap(old, new, range(start, right), range(start, right_new), path, ops)
    for i in reversed(changed):
        _diff_pair(old[i], new[i], i, path, ops)
    path.pop()


def _diff_gap(
    old: Sequence[Child], new: Sequence[Child], gap: range, new_gap: range, path: list[str | int], ops: list[Op]
) -> None:
    """Between two pairs nothing matches by id: pair what is there by position, then insert or remove the rest."""
    paired = min(len(gap), len(new_gap))
    for i in reversed(gap[paired:]):
        ops.append(Remove((*path, i)))
    for i in reversed(new_gap[paired:]):
        ops.append(Insert((*path, gap.stop), new[i]))
    for i, i_new in zip(reversed(gap[:paired]), reversed(new_gap[:paired]), strict=True):
        _diff_pair(old[i], new[i_new], i, path, ops)


def _diff_pair(old: Child, new: Child, index: int, path: list[str | int], ops: list[Op]) -> None:
    if old is new:
        return
    if isinstance(old, str) and isinstance(new, str):
        if old != new:
            ops.append(Set((*path, index, "text"), new))
    elif isinstance(old, TreeNode) and isinstance(new, TreeNode) and _alike(old, new):
        path.append(index)
        _diff_node(old, new, path, ops)
        path.pop()
    else:
        ops.append(Set((*path, index), new))


def _anchors(old: Sequence[Child], new: Sequence[Child], span: range, new_span: range) -> list[tuple[int, int]]:
    """The most pairs (old index, new index) with equal keys that rise on both sides."""
    if not span or not new_span:
        return []
    places: defaultdict[object, deque[int]] = defaultdict(deque)
    for i in span:
        places[_key(old[i])].append(i)
    pairs: list[tuple[int, int]] = []
    for i_new in new_span:
        queue = places.get(_key(new[i_new]))
        if queue:
            pairs.append((queue.popleft(), i_new))
    return rising(pairs)


def rising(pairs: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The most of these pairs, in their order, whose first members rise (patience sorting)."""
    ends: list[int] = []
    piles: list[int] = []
    before: list[int] = []
    for position, (i, _) in enumerate(pairs):
        pile = bisect_left(ends, i)
        before.append(piles[pile - 1] if pile else -1)
        if pile == len(ends):
            ends.append(i)
            piles.append(position)
        else:
            ends[pile] = i
            piles[pile] = position
    kept: list[tuple[int, int]] = []
    position = piles[-1] if piles else -1
    while position >= 0:
        kept.append(pairs[position])
        position = before[position]
    kept.reverse()
    return kept


def _same_place(old: Child, new: Child) -> bool:
    return old is new or _same_leaf(old, new) or _key(old) == _key(new)


def _same_leaf(old: Child, new: Child) -> bool:
    """Whether two children are equal, as far as a glance can tell: most tasks hold one text and did not change."""
    if old is new:
        return True
    if isinstance(old, str) or isinstance(new, str):
        return old == new
    if old.props != new.props or old.tag != new.tag or len(old.children) > 1 or len(new.children) > 1:
        return False
    # No nodes in the comparison, so it does not recurse.
    has_nodes = any(isinstance(child, TreeNode) for child in old.children + new.children)
    return not has_nodes and old.children == new.children


def _alike(old: TreeNode, new: TreeNode) -> bool:
    """Whether one node can have become the other. If not, replacing it whole says more with less."""
    return old.tag == new.tag and (old.props == new.props or _own_id(old) == _own_id(new))


def _key(child: Child) -> object:
    """What a child is known by among its siblings: a text by itself, an element by tag and id.

    An element without an id is known by the first id below it, so that a list of unnamed pipelines can grow anywhere.
    """
    if isinstance(child, str):
        return child
    inner = child
    for depth in range(_ID_SEARCH_DEPTH):
        own = _own_id(inner)
        if own is not None:
            return child.tag, depth, own
        first = inner.children[0] if inner.children else None
        if not isinstance(first, TreeNode):
            break
        inner = first
    return child.tag, -1, None


def _own_id(node: TreeNode) -> str | None:
    for name, text in node.props:  # sorted, so an id is met before a key
        if name == "id" or name == "key":
            return text
    return None


# ── applying ───────────────────────────────────────────────────────────────────────────────────────────────────────


class _Draft:
    """A node being changed. Only nodes on a touched path become drafts; all others stay shared with the old tree."""

    __slots__ = ("children", "props", "tag")

    def __init__(self, node: TreeNode) -> None:
        self.tag = node.tag
        self.props = dict(node.props)
        self.children: list[TreeNode | str | _Draft] = list(node.children)

    def freeze(self) -> TreeNode:
        children = tuple(child.freeze() if isinstance(child, _Draft) else child for child in self.children)
        return TreeNode(self.tag, tuple(sorted(self.props.items())), children)


def apply(prev_tree: TreeNode | None, ops: Iterable[Op]) -> TreeNode | None:
    """The tree after these operations. Untouched subtrees are shared with `prev_tree`.

    Raises StorageCorrupt for a path that leads nowhere.
    """
    root: TreeNode | _Draft | None = prev_tree
    for op in ops:
        if op.path:
            if isinstance(root, TreeNode):
                root = _Draft(root)
            if root is None:
                raise _nowhere(op)
            _apply_one(root, op)
        elif isinstance(op, Set) and not isinstance(op.value, str):
            root = op.value
        else:
            raise _nowhere(op)
    return root.freeze() if isinstance(root, _Draft) else root


def _apply_one(root: _Draft, op: Op) -> None:
    path, node, position = op.path, root, 0
    while len(path) - position > 2:
        if path[position] != "children" or not isinstance(path[position + 1], int):
            break
        index = _index(path[position + 1], len(node.children), op)
        child = node.children[index]
        if isinstance(child, str):
            if isinstance(op, Set) and isinstance(op.value, str) and path[position + 2 :] == ("text",):
                node.children[index] = op.value
                return
            raise _nowhere(op)
        if isinstance(child, TreeNode):
            child = node.children[index] = _Draft(child)
        node, position = child, position + 2
    match path[position:]:
        case ("props", str(name)):
            _apply_prop(node, name, op)
        case ("children", last):
            _apply_child(node, last, op)
        case _:
            raise _nowhere(op)


def _apply_prop(node: _Draft, name: str, op: Op) -> None:
    if isinstance(op, Set) and isinstance(op.value, str):
        node.props[name] = op.value
    elif isinstance(op, Remove) and name in node.props:
        del node.props[name]
    else:
        raise _nowhere(op)


def _apply_child(node: _Draft, last: str | int, op: Op) -> None:
    size = len(node.children)
    match op:
        case Set():
            if op.value is None:
                raise _nowhere(op)
            node.children[_index(last, size, op)] = op.value
        case Insert(value=value):
            node.children.insert(_index(last, size + 1, op), value)
        case Remove():
            del node.children[_index(last, size, op)]


def _index(key: str | int, size: int, op: Op) -> int:
    if isinstance(key, int) and 0 <= key < size:
        return key
    raise _nowhere(op)


def _nowhere(op: Op) -> StorageCorrupt:
    name = type(op).__name__.lower()
    return StorageCorrupt(f"a stored frame's {name} operation does not fit the frame before", {"path": list(op.path)})


# ── operations as JSON ─────────────────────────────────────────────────────────────────────────────────────────────


def encode_ops(ops: Iterable[Op]) -> str:
    """The operations as compact JSON: `{"version":1,"ops":[…]}`."""
    return well_formed(f'{{"version":{VERSION},"ops":[{",".join([_op_json(op) for op in ops])}]}}')


def _op_json(op: Op) -> str:
    path = ",".join([quote(key) if isinstance(key, str) else str(key) for key in op.path])
    match op:
        case Remove():
            return f'{{"op":"remove","path":[{path}]}}'
        case Set(value=str() as text) if not _is_node_path(op.path):
            return f'{{"op":"set","path":[{path}],"value":{quote(text)}}}'
        case Set(value=value):
            return f'{{"op":"set","path":[{path}],"value":{canonical(value)}}}'
        case Insert(value=value):
            return f'{{"op":"insert","path":[{path}],"value":{canonical(value)}}}'


def _is_node_path(path: Path) -> bool:
    """Whether a value there is a node. Strings elsewhere are properties and texts."""
    return not path or isinstance(path[-1], int)


def decode_ops(text: str) -> list[Op]:
    """Read operations back; `nodeId` beside an operation is for display and is dropped.

    Raises StorageError for another version, StorageCorrupt for anything that is not a list of operations.
    """
    value = load_json(text)
    if not isinstance(value, dict):
        raise StorageCorrupt("a stored frame's delta is not an object")
    found = cast("dict[str, object]", value)
    version, ops = found.get("version"), found.get("ops")
    if isinstance(version, bool) or version != VERSION:
        raise StorageError("a stored frame's delta has a version that this program does not know")
    if found.keys() != {"version", "ops"} or not isinstance(ops, list):
        raise StorageCorrupt("a stored frame's delta has no list of operations")
    return [_op_from_json(op) for op in cast("list[object]", ops)]


def _op_from_json(value: object) -> Op:
    if isinstance(value, dict):
        found = cast("dict[str, object]", value)
        keys = found.keys() - {"nodeId"}
        path = _path_from_json(found.get("path"))
        match found.get("op"):
            case "remove" if keys == {"op", "path"}:
                return Remove(path)
            case "insert" if keys == {"op", "path", "value"} and path:
                return Insert(path, child_from_json(found["value"], len(path) // 2))
            case "set" if keys == {"op", "path", "value"}:
                return Set(path, _set_value(path, found["value"]))
            case _:
                pass
    raise StorageCorrupt("a stored frame's delta holds something that is not an operation")


def _set_value(path: Path, value: object) -> Child | None:
    if value is None and not path:
        return None
    if _is_node_path(path):
        # The node at an even path of 2n keys has n elements around it.
        return child_from_json(value, len(path) // 2)
    if isinstance(value, str):
        return value
    raise StorageCorrupt("a stored frame's delta sets a property to something that is not a string")


def _path_from_json(value: object) -> Path:
    if isinstance(value, list):
        keys = cast("list[object]", value)
        if len(keys) <= 2 * MAX_DEPTH + 2:
            path = tuple(key for key in keys if isinstance(key, (str, int)) and not isinstance(key, bool))
            if len(path) == len(keys):
                return path
    raise StorageCorrupt("a stored frame's delta holds a path that is not a list of keys and indexes")
