"""Tree: a run's tree as DevTools show it, in memory: nodes by id and by task, each with its JSON text kept.

A tree changes in place, so that a change costs what it touches. `delta.py` says how two trees differ, `patch.py` takes a
stored frame's changes over; what a node shows is made in `content.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from smithers.components.scope import Key
from smithers.gateway.devtools.content import props_text, task_text, type_of
from smithers.gateway.devtools.ids import BASIS, hashed, name_of, named_path, number_of, unnamed_path
from smithers.graph.tree import TreeNode, quote
from smithers.store.sql.devtools import TaskRow

Rows = Mapping[Key, TaskRow]
"""What is stored of tasks, by node id and iteration."""

UNNUMBERED: Final = -1
ROOT: Final = "smithers:workflow"
_EMPTY_NAME: Final = "(empty)"


class Node:
    """A node; `children` has texts among the nodes, as the stored tree has them.

    Attributes:
        id: what clients know it by; `UNNUMBERED` while it is not in a tree.
        key: the task that it is, by node id and iteration; None for a container.
        path: the hash that the ids below it go on from.
        row: what is stored of the task, if it is one and has been seen.
        texts: how many of the children are texts.
        props_text, task_text: as clients know them, JSON; None before they were asked for, `task_text` also for none.
    """

    __slots__ = (
        "_head",
        "children",
        "depth",
        "id",
        "key",
        "parent",
        "path",
        "props",
        "props_text",
        "row",
        "tag",
        "task_text",
        "texts",
    )

    def __init__(self, tag: str, props: dict[str, str], parent: Node | None) -> None:
        self.tag = tag
        self.props = props
        self.parent = parent
        self.depth: int = 0 if parent is None else parent.depth + 1
        self.children: list[Node | str] = []
        self.texts = 0
        self.id = UNNUMBERED
        self.key = key_of(props)
        self.path = BASIS
        self.row: TaskRow | None = None
        self.props_text: str | None = None
        self.task_text: str | None = None
        self._head: str | None = None

    @property
    def is_named(self) -> bool:
        """Whether its id is independent of its neighbours."""
        return name_of(self.tag, self.props) is not None

    @property
    def name(self) -> str:
        """What it is called; part of what it is, so it never changes."""
        if self.id == 0:
            return _EMPTY_NAME
        found = self.props.get("name") if self.tag == ROOT else self.props.get("id") or self.props.get("key")
        return found.partition("@@")[0] if found else type_of(self.tag)

    @property
    def nodes(self) -> Iterator[Node]:
        """The children that are nodes."""
        return (child for child in self.children if isinstance(child, Node))

    def below(self) -> Iterator[Node]:
        """The node and all nodes below it, parents first."""
        todo = [self]
        while todo:
            node = todo.pop()
            yield node
            todo += [child for child in reversed(node.children) if isinstance(child, Node)]

    def refresh(self) -> tuple[bool, bool]:
        """Take over what it shows now. Whether its properties, and whether its task, are others than clients know."""
        before = self.props_text, self.task_text
        self.props_text = props_text(self.tag, self.props, self.row)
        self.task_text = task_text(self.props, self.children, self.row)
        self._head = None
        return self.props_text != before[0], self.task_text != before[1]

    def renumber(self, id: int) -> None:
        """Go by another id."""
        self.id = id
        self._head = None

    def write(self, out: list[str]) -> None:
        """Append the pieces of its JSON text, with all that is below it."""
        if self._head is None:
            self._head = self._make_head()
        out.append(self._head)
        separator = ""
        for child in self.children:
            if isinstance(child, Node):
                if separator:
                    out.append(separator)
                separator = ","
                child.write(out)
        out.append("]}")

    def _make_head(self) -> str:
        if self.props_text is None:
            self.refresh()
        task = "" if self.task_text is None else f',"task":{self.task_text}'
        return (
            f'{{"id":{self.id},"type":"{type_of(self.tag)}","name":{quote(self.name)},"props":{self.props_text}{task},'
            f'"depth":{self.depth},"children":['
        )


def key_of(props: Mapping[str, str]) -> Key | None:
    """The task that a stored node with these properties stands for; None for a container."""
    if "kind" not in props:
        return None
    iteration = props.get("iteration")
    return props.get("id", ""), 0 if iteration is None else int(iteration) if iteration.isdecimal() else 0


class Tree:
    """A run's tree. Its nodes have different ids, all of them in `by_id`.

    Args:
        root: as a frame has it; None before the first.
        rows: what is stored of its tasks; may be given later, see `fill`.
    """

    def __init__(self, root: TreeNode | None, rows: Rows | None = None) -> None:
        self.by_id: dict[int, Node] = {}
        self.by_task: dict[str, Node] = {}
        self.has_collisions = False
        """Whether two nodes would have had the same id: the later of them, in document order, has another then."""
        if root is None:
            self.root = Node(ROOT, {}, None)
            self.root.id = 0
            self.by_id[0] = self.root
            return
        self.root = planted(root, None)
        self.root.path = hashed(f"/{root.tag}")
        self._number(self.root)
        if rows:
            self.fill(rows)

    def _number(self, root: Node) -> None:
        todo = [root]
        while todo:
            node = todo.pop()
            number = number_of(node.path)
            while number == 0 or number in self.by_id:
                self.has_collisions = True
                node.path = hashed("+", node.path)
                number = number_of(node.path)
            node.renumber(number)
            self._enter(node)
            set_paths(node)
            todo += [child for child in reversed(node.children) if isinstance(child, Node)]

    def number(self, root: Node) -> bool:
        """Number a subtree whose root has its path, and take it in. False if two nodes have the same id: begin anew."""
        for node in root.below():  # parents first, and each sets its children's paths before they come
            node.renumber(number_of(node.path))
            if node.id == 0 or node.id in self.by_id:
                return False
            self._enter(node)
            set_paths(node)
        return True

    @property
    def keys(self) -> list[Key]:
        """The tasks in the tree."""
        return [node.key for node in self.by_task.values() if node.key is not None]

    def fill(self, rows: Rows) -> None:
        """Show what is stored of tasks, before anybody has seen the tree."""
        for node in self.by_task.values():
            if node.key is not None:
                node.row = rows.get(node.key)

    def forget(self, root: Node) -> None:
        """A subtree is not in the tree any more."""
        for node in root.below():
            if self.by_id.get(node.id) is node:
                del self.by_id[node.id]
            key = node.key
            if key is not None and self.by_task.get(key[0]) is node:
                del self.by_task[key[0]]
            node.id = UNNUMBERED

    def _enter(self, node: Node) -> None:
        self.by_id[node.id] = node
        key = node.key
        if key is not None:
            self.by_task[key[0]] = node

    def task(self, key: Key) -> Node | None:
        """The node of a task, if this iteration of it is in the tree."""
        found = self.by_task.get(key[0])
        return found if found is not None and found.key == key else None

    def json(self) -> str:
        """The root as clients get it."""
        return json_of(self.root)


def json_of(node: Node) -> str:
    """A node with all that is below it, as clients get it."""
    out: list[str] = []
    node.write(out)
    return "".join(out)


def planted(found: TreeNode, parent: Node | None) -> Node:
    """A stored node with all that is below it, not numbered yet."""
    node = Node(found.tag, dict(found.props), parent)
    for child in found.children:
        if isinstance(child, str):
            node.texts += 1
            node.children.append(child)
        else:
            node.children.append(planted(child, node))
    return node


def set_paths(parent: Node) -> None:
    """Give the children of a node their paths."""
    ordinals: dict[str, int] = {}
    for child in parent.nodes:
        path = named_path(child.tag, child.props, parent.path)
        if path is None:
            ordinal = ordinals.get(child.tag, 0)
            ordinals[child.tag] = ordinal + 1
            path = unnamed_path(child.tag, parent.path, ordinal)
        child.path = path
