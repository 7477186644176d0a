"""What tests of DevTools share: a client that applies deltas in the most obvious way, and random trees."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from typing import Any

from hypothesis import strategies as st
from tests.unit.gateway.contract import schema_of

from smithers.graph.tree import TreeNode
from smithers.store.sql.devtools import TaskRow

Json = dict[str, Any]
Rows = Mapping[tuple[str, int], TaskRow]


class Viewer:
    """A client of a stream: holds every event to the contract, and keeps the tree that they make."""

    def __init__(self) -> None:
        self.root: Json | None = None
        self.seq = -1
        self.kinds: list[str] = []
        self.seqs: list[int] = []

    def take(self, event: Json) -> None:
        """Apply an event."""
        assert event["version"] == 1
        self.kinds.append(event["kind"])
        if event["kind"] == "snapshot":
            snapshot = event["snapshot"]
            assert snapshot["seq"] == snapshot["frameNo"]
            self.root, self.seq = copy.deepcopy(snapshot["root"]), snapshot["seq"]
        else:
            delta = event["delta"]
            assert delta["baseSeq"] == self.seq, (delta["baseSeq"], self.seq)
            assert delta["seq"] > self.seq
            assert self.root is not None
            self.root, self.seq = applied(self.root, delta["ops"]), delta["seq"]
        assert self.root is not None
        self.seqs.append(self.seq)
        check_tree(self.root)


def applied(root: Json, ops: list[Json]) -> Json:
    """The tree after these operations. Looks everything up by walking; fails for whatever is not there, or twice."""
    for op in ops:
        match op["op"]:
            case "addNode":
                parent = node_of(root, op["parentId"])
                assert 0 <= op["index"] <= len(parent["children"])
                for new in walk(op["node"]):
                    assert new["id"] not in {node["id"] for node in walk(root)}, "a node came twice"
                parent["children"].insert(op["index"], copy.deepcopy(op["node"]))
            case "removeNode":
                assert op["id"] != root["id"], "the root is never removed"
                (parent,) = [n for n in walk(root) if op["id"] in {child["id"] for child in n["children"]}]
                parent["children"] = [child for child in parent["children"] if child["id"] != op["id"]]
            case "updateProps":
                node_of(root, op["id"])["props"] = op["props"]
            case "updateTask":
                node = node_of(root, op["id"])
                node.pop("task", None)
                if "task" in op:
                    node["task"] = op["task"]
            case "replaceRoot":
                root = copy.deepcopy(op["node"])
            case _:
                raise AssertionError(op)
    return root


def walk(node: Json) -> Iterator[Json]:
    """A node and all below it."""
    yield node
    for child in node["children"]:
        yield from walk(child)


def node_of(root: Json, id: int) -> Json:
    (found,) = [node for node in walk(root) if node["id"] == id]
    return found


def check_tree(root: Json) -> None:
    """What holds for every tree: ids are unique and of 31 bits, depths are those of the tree."""
    ids = [node["id"] for node in walk(root)]
    assert len(set(ids)) == len(ids)
    assert all(0 <= id < 2**31 for id in ids)
    todo = [(root, 0)]
    while todo:
        node, depth = todo.pop()
        assert node["depth"] == depth
        todo += [(child, depth + 1) for child in node["children"]]


def hold_snapshot(snapshot: Json) -> None:
    """Hold a snapshot to the contract."""
    schema = schema_of("$defs", "DevToolsSnapshot")
    assert schema is not None
    schema(snapshot)


def loaded(text: str) -> Any:
    return json.loads(text)


# ── random trees ───────────────────────────────────────────────────────────────────────────────────────────────────

LEAVES = ("smithers:task", "smithers:approval", "smithers:timer")
CONTAINERS = ("smithers:sequence", "smithers:parallel", "smithers:ralph")
KINDS = {
    "smithers:task": ("agent", "compute", "static"),
    "smithers:approval": ("approval",),
    "smithers:timer": ("timer",),
}
STATES = ("pending", "in-progress", "finished", "failed")


@st.composite
def _leaf(draw: st.DrawFn) -> TreeNode:
    tag = draw(st.sampled_from(LEAVES))
    props = {"id": draw(st.sampled_from("abcdefghij")) + tag[9], "kind": draw(st.sampled_from(KINDS[tag]))}
    iteration = draw(st.integers(0, 2))
    if iteration:
        props["iteration"] = str(iteration)
    if draw(st.booleans()):
        props["label"] = draw(st.sampled_from(("one", "two", "drei ü")))
    texts = draw(st.lists(st.sampled_from(("do this", "do that")), max_size=1))
    return TreeNode.of(tag, props, *texts)


NAMES: tuple[dict[str, str], ...] = (
    {},
    {},
    {"id": "p"},
    {"id": "q"},
    {"id": "q@@o=1"},
    {"key": "k"},
    {"maxConcurrency": "2"},
)


def _container(children: st.SearchStrategy[TreeNode]) -> st.SearchStrategy[TreeNode]:
    def made(tag: str, props: dict[str, str], below: list[TreeNode | str]) -> TreeNode:
        return TreeNode.of(tag, props, *below)

    below = st.lists(children | st.just("text"), max_size=5)
    return st.builds(made, st.sampled_from(CONTAINERS), st.sampled_from(NAMES), below)


def _without_twins(node: TreeNode, seen: set[str]) -> TreeNode:
    """The engine refuses trees in which two tasks have one id."""
    children: list[TreeNode | str] = []
    for child in node.children:
        if isinstance(child, TreeNode):
            props = dict(child.props)
            if "kind" in props:
                if props["id"] in seen:
                    continue
                seen.add(props["id"])
            child = _without_twins(child, seen)
        children.append(child)
    return TreeNode(node.tag, node.props, tuple(children))


def trees() -> st.SearchStrategy[TreeNode]:
    """Trees of a few nodes each, which have much in common."""

    def made(children: list[TreeNode]) -> TreeNode:
        return _without_twins(TreeNode.of("smithers:workflow", {"name": "w"}, *children), set())

    return st.builds(made, st.lists(st.recursive(_leaf(), _container, max_leaves=12), max_size=5))


@st.composite
def rows(draw: st.DrawFn) -> Rows:
    """What is stored of some tasks."""
    found: dict[tuple[str, int], TaskRow] = {}
    for id in draw(st.lists(st.sampled_from([f"{c}{t[9]}" for c in "abcdefghij" for t in LEAVES]), unique=True)):
        for iteration in range(draw(st.integers(1, 3))):
            state = draw(st.sampled_from(STATES))
            meta = draw(st.sampled_from((None, '{"prompt":"ask","agentId":"x","agentEngine":"e","agentModel":null}')))
            found[(id, iteration)] = TaskRow(id, iteration, state, draw(st.none() | st.just(1)), "note", None, meta)
    return found
