"""Operations: what a delta is made of, and how it is written. They apply in order."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

from smithers.gateway.devtools.tree import Node, json_of
from smithers.records import dataclass


@dataclass(frozen=True, slots=True)
class AddNode:
    """A node with all that is below it, as the child of this index."""

    parent_id: int
    index: int
    node: Node


@dataclass(frozen=True, slots=True)
class RemoveNode:
    """A node and all that is below it are gone."""

    id: int


@dataclass(frozen=True, slots=True)
class UpdateProps:
    """A node's properties, all of them, as JSON."""

    id: int
    props: str


@dataclass(frozen=True, slots=True)
class UpdateTask:
    """A node's task, all of it, as JSON; None if it has none any more."""

    id: int
    task: str | None


@dataclass(frozen=True, slots=True)
class ReplaceRoot:
    """Another root, with all that is below it."""

    node: Node


Op: TypeAlias = AddNode | RemoveNode | UpdateProps | UpdateTask | ReplaceRoot


def ops_json(ops: Iterable[Op]) -> str:
    """The operations as a JSON array. To be called before their nodes change again."""
    return f"[{','.join([_op_json(op) for op in ops])}]"


def _op_json(op: Op) -> str:
    match op:
        case AddNode():
            head = f'{{"op":"addNode","parentId":{op.parent_id},"index":{op.index}'
            return f'{head},"node":{json_of(op.node)}}}'
        case RemoveNode():
            return f'{{"op":"removeNode","id":{op.id}}}'
        case UpdateProps():
            return f'{{"op":"updateProps","id":{op.id},"props":{op.props}}}'
        case UpdateTask():
            task = "" if op.task is None else f',"task":{op.task}'
            return f'{{"op":"updateTask","id":{op.id}{task}}}'
        case ReplaceRoot():
            return f'{{"op":"replaceRoot","node":{json_of(op.node)}}}'


def updates(node: Node) -> list[Op]:
    """What clients have to be told of a node whose properties or task may have changed."""
    has_props, has_task = node.refresh()
    found: list[Op] = []
    if has_props:
        found.append(UpdateProps(node.id, node.props_text or "{}"))
    if has_task:
        found.append(UpdateTask(node.id, node.task_text))
    return found
