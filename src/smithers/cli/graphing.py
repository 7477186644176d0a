"""`graph`: the tree of a workflow file, or of a run with its nodes' states. Nothing is executed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from smithers.cli.arguments import read_object
from smithers.cli.common import Common, open_control
from smithers.cli.options import Option
from smithers.cli.output import Output, printable, shortened
from smithers.cli.progress import node_name
from smithers.errors import InvalidInput

if TYPE_CHECKING:
    from smithers.control.preview import Preview
    from smithers.graph.tree import TreeNode

States = dict[tuple[str, int], str]


async def graph(
    target: str,
    /,
    *,
    input: Annotated[str | None, Option("--input", "-i", takes_dashes=True)] = None,
    format: Literal["text", "json", "jsonl", "mermaid"] = "text",
    db: Annotated[str | None, Option(help="The database; else $SMITHERS_DB, else the nearest smithers.db.")] = None,
    debug: Annotated[bool, Option(help="Show the traceback of an unexpected error.", is_switch=True)] = False,
) -> int:
    """Draw the tree of a workflow, or of a run as far as it has come.

    Parameters
    ----------
    target
        A workflow's file, or a run's id.
    input
        For a file: the input, as up takes it.
    format
        text, json, or mermaid.
    """
    common = Common(db=db, format="text" if format == "mermaid" else format, debug=debug)
    states: States = {}
    if is_file(target):
        from smithers.control.preview import preview
        from smithers.engine.loading import load_workflow

        found = preview(load_workflow(target), None if input is None else read_object(input, "--input"))
    elif input is not None:
        raise InvalidInput(f"--input: {target!r} is no file; a run has its own input")
    else:
        found, states = await _of_run(common, target)
    _write(common.output, found, states, is_mermaid=format == "mermaid")
    return 0


def is_file(target: str) -> bool:
    """Whether a workflow's file is meant, and not a run. A file that is there wins."""
    return Path(target).is_file() or target.endswith(".py")


async def _of_run(common: Common, run_id: str) -> tuple[Preview, States]:
    from smithers.cli.stored import workflow_of
    from smithers.control.preview import preview_run

    with open_control(common) as control:
        report = await control.inspect(run_id)
        workflow = await workflow_of(control, run_id)
        found = await preview_run(control.store, run_id, workflow)
    return found, {(node.node_id, node.iteration): node.state for node in report.nodes}


def _write(out: Output, found: Preview, states: States, *, is_mermaid: bool) -> None:
    if is_mermaid:
        for line in mermaid(found.tree, states):
            out.line(line)
    elif out.is_text:
        out.line(out.style(_name(found.tree), "bold"))
        for branch, node in branches(found.tree):
            state = _state(node, states)
            shown = "" if state is None else f"  {out.state(state)}"
            out.line(f"{branch}{_name(node)}{shown}{out.style(_about(node), 'dim')}")
    else:
        from smithers.graph.tree import canonical

        tasks = [
            {"nodeId": key[0], "iteration": key[1], "kind": leaf.kind.value, "state": states.get(key)}
            for key, leaf in found.plan.leaves.items()
        ]
        out.document({"name": found.plan.name, "tree": json.loads(canonical(found.tree)), "tasks": tasks})


def branches(root: TreeNode, lead: str = "") -> Iterator[tuple[str, TreeNode]]:
    """Every element below `root` with the lines that lead to it."""
    children = [child for child in root.children if not isinstance(child, str)]
    for number, child in enumerate(children):
        is_last = number == len(children) - 1
        yield lead + ("└─ " if is_last else "├─ "), child
        yield from branches(child, lead + ("   " if is_last else "│  "))


def mermaid(root: TreeNode, states: States) -> Iterator[str]:
    """The tree as a Mermaid flowchart."""
    yield "flowchart TD"
    numbers = 0

    def walk(node: TreeNode, parent: int | None) -> Iterator[str]:
        nonlocal numbers
        number, numbers = numbers, numbers + 1
        state = _state(node, states)
        label = _name(node) + ("" if state is None else f": {state}")
        quoted = label.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;").replace(">", "&gt;")
        yield f'  n{number}["{quoted}"]' if _key(node) is not None else f'  n{number}(["{quoted}"])'
        if parent is not None:
            yield f"  n{parent} --> n{number}"
        for child in node.children:
            if not isinstance(child, str):
                yield from walk(child, number)

    yield from walk(root, None)


def _key(node: TreeNode) -> tuple[str, int] | None:
    """The node that an element is, if it is a leaf."""
    props = dict(node.props)
    if "kind" not in props or "id" not in props:
        return None
    return props["id"], int(props.get("iteration", "0"))


def _state(node: TreeNode, states: States) -> str | None:
    key = _key(node)
    return None if key is None else states.get(key)


_NAMES = {"ralph": "loop"}


def _name(node: TreeNode) -> str:
    props, key = dict(node.props), _key(node)
    if key is not None:
        return printable(node_name(*key))
    kind = node.tag.removeprefix("smithers:")
    name = props.get("name") or props.get("id") or props.get("label") or ""
    return printable(f"{_NAMES.get(kind, kind)} {name}".strip())


def _about(node: TreeNode) -> str:
    props = dict(node.props)
    told: list[str] = []
    if _key(node) is not None:
        told.append(props["kind"])
        told += [f"→ {props['output']}"] if "output" in props else []
        told += [f"after {props['dependsOn']}"] if "dependsOn" in props else []
        told += ["skipped"] if props.get("skipIf") == "true" else []
    else:
        told += [f"at most {props['maxConcurrency']} at once"] if "maxConcurrency" in props else []
        told += [f"iteration {props['iteration']}"] if "iteration" in props else []
        told += [f"of at most {props['maxIterations']}"] if "maxIterations" in props else []
    return f"  {shortened(', '.join(told), 80)}" if told else ""
