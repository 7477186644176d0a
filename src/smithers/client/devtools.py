"""DevTools: a run's tree as a gateway streams it, and how its events are put together. Pure; both clients share it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, cast

from smithers.client.errors import GatewayConnectionLost
from smithers.client.frames import stream_body
from smithers.jsons import int_of, list_of, object_of, text_of

Node = dict[str, object]
"""A node as the wire has it: `id`, `type`, `name`, `props`, `task`, `children`, `depth`."""

_NO_FRAME: Final = -1


@dataclass(frozen=True, slots=True)
class DevToolsEvent:
    """How a run's tree has changed.

    Attributes:
        seq: the frame; give it as `after_seq` to go on from there.
        kind: `snapshot` or `delta`.
        body: the snapshot or delta, as the wire has it.
    """

    seq: int
    kind: str
    body: dict[str, object]


class DevToolsTree:
    """A run's tree, kept up to date by the events of a stream.

    Attributes:
        root: the tree; None before the first event. It changes with each event.
        seq: the frame that it is of; -1 before the first event.
    """

    def __init__(self) -> None:
        self.root: Node | None = None
        self.seq = _NO_FRAME
        self._nodes: dict[int, Node] = {}
        self._parents: dict[int, int] = {}

    def take(self, event: DevToolsEvent) -> None:
        """Take an event over. Raises `ValueError` for a delta that does not follow what was taken before."""
        if event.kind == "snapshot":
            self._plant(object_of(event.body.get("root")))
        else:
            if event.body.get("baseSeq") != self.seq or self.root is None:
                raise ValueError(f"a delta of frame {event.body.get('baseSeq')} came at frame {self.seq}")
            for op in list_of(event.body.get("ops")):
                self._apply(object_of(op))
        self.seq = event.seq

    def node(self, id: int) -> Node | None:
        """A node by its id."""
        return self._nodes.get(id)

    def tasks(self) -> Iterator[dict[str, object]]:
        """The `task` of each node that has one."""
        return (cast("dict[str, object]", node["task"]) for node in self._nodes.values() if "task" in node)

    def _apply(self, op: Mapping[str, object]) -> None:
        id = int_of(op.get("id")) or 0
        match op.get("op"):
            case "addNode":
                node, parent = object_of(op.get("node")), int_of(op.get("parentId")) or 0
                _children(self._at(parent)).insert(int_of(op.get("index")) or 0, node)
                self._enter(node, parent)
            case "removeNode":
                node = self._at(id)
                _children(self._at(self._parents[id])).remove(node)
                self._forget(node)
            case "updateProps":
                self._at(id)["props"] = object_of(op.get("props"))
            case "updateTask" if "task" in op:
                self._at(id)["task"] = object_of(op.get("task"))
            case "updateTask":
                self._at(id).pop("task", None)
            case "replaceRoot":
                self._plant(object_of(op.get("node")))
            case unknown:
                raise ValueError(f"{unknown!r} is no operation that this client knows")

    def _at(self, id: int) -> Node:
        found = self._nodes.get(id)
        if found is None:
            raise ValueError(f"a delta names node {id}, which is not there")
        return found

    def _plant(self, root: Node) -> None:
        self.root = root
        self._nodes.clear()
        self._parents.clear()
        self._enter(root, None)

    def _enter(self, node: Node, parent: int | None) -> None:
        id = int_of(node.get("id")) or 0
        self._nodes[id] = node
        if parent is not None:
            self._parents[id] = parent
        for child in _children(node):
            self._enter(object_of(child), id)

    def _forget(self, node: Node) -> None:
        id = int_of(node.get("id")) or 0
        self._nodes.pop(id, None)
        self._parents.pop(id, None)
        for child in _children(node):
            self._forget(object_of(child))


def _children(node: Node) -> list[object]:
    return list_of(node.get("children"))


def devtools_event_of(frame: Mapping[str, object], stream_id: str) -> DevToolsEvent | None:
    """The event of a stream in a frame, if there is one. Raises `GatewayConnectionLost` when the stream was given up."""
    body = stream_body(frame, stream_id)
    if body is None:
        return None
    if frame.get("event") == "devtools.error":
        raise GatewayConnectionLost(f"the gateway gave the stream up: {body.get('error')}")
    event = object_of(body.get("event"))
    kind = text_of(event.get("kind")) or ""
    found = object_of(event.get(kind))
    seq = int_of(found.get("seq"))
    return None if seq is None else DevToolsEvent(seq, kind, found)
