"""Frames: keeps the rendered tree of each step whose tree differs from the last one, as a keyframe or a delta."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from smithers.components.element import Element
from smithers.components.flow import Workflow
from smithers.components.task import Leaf, Task
from smithers.engine.agent_summaries import AgentSummaries
from smithers.engine.retry import default_retries
from smithers.graph.plan import LeafKind, LeafNode, LoopNode, Plan
from smithers.graph.tree import FrameTree, TreeNode, prop_text

if TYPE_CHECKING:
    from smithers.engine.state import RunState


_SHOWN = (
    "label",
    "max_concurrency",
    "subtree_concurrency",
    "priority",
    "failure_policy",
    "on_failure",
    "path",
    "branch",
    "base_branch",
)


class FrameKeeper:
    """Writes a run's frames. After a restart the first one is a keyframe again."""

    def __init__(self, state: RunState) -> None:
        self._state = state
        self._last: FrameTree | None = None
        self._since_keyframe = 0
        self._agents = AgentSummaries()

    def keep(self, tree: Workflow, plan: Plan, reason: str) -> None:
        """Add the rendered tree to the step, if it is another one than before."""
        from smithers.graph.frames import encode_frame

        frame = FrameTree.of(render_tree(tree, plan, self._agents))
        if self._last is not None and frame.hash == self._last.hash:
            return
        encoding, payload = encode_frame(self._last, frame, self._since_keyframe)
        self._since_keyframe = 0 if encoding == "keyframe" else self._since_keyframe + 1
        self._last = frame
        step = self._state.step
        # two renders in one step (a loop that advances) leave one frame: the one that was acted upon
        step.rows = [row for row in step.rows if row[0] != "frame"]
        if any(e.type == "FrameCommitted" for e in step.events):
            encoding, payload = encode_frame(None, frame, 0)
            self._since_keyframe = 0
            step.events = [e for e in step.events if e.type != "FrameCommitted"]
        self._state.row("frame", step.run_id, step.frame_no, step.now_ms, encoding, payload, frame.hash, reason)
        self._state.tell("FrameCommitted", None, frameNo=step.frame_no, xmlHash=frame.hash, trigger={"reason": reason})


def render_tree(tree: Workflow, plan: Plan, agents: AgentSummaries | None = None) -> TreeNode:
    """The canonical tree of a plan, as frames and `graph` show it."""
    known = agents or AgentSummaries()
    children = tuple(_node(child, known) for child in plan.root.children)
    return TreeNode("smithers:workflow", (("name", tree.name),), children)


def _node(node: object, agents: AgentSummaries) -> TreeNode:
    if isinstance(node, LeafNode):
        return _leaf(node, agents)
    element = getattr(node, "element", None)
    if isinstance(node, LoopNode):
        props = {"id": node.id, "iteration": node.iteration, **_props(element, ("max_iterations", "until"))}
        return TreeNode.of("smithers:ralph", _texts(props), *(_node(child, agents) for child in node.body.children))
    children = getattr(node, "children", None)
    if children is None:
        parts = [
            *(arm for arm in getattr(node, "arms", {}).values() if arm is not None),
            *getattr(node, "actions", ()),
            *(c for c in getattr(node, "compensations", ()) if c is not None),
        ]
        children = parts
    tag = element.tag if isinstance(element, Element) else "smithers:sequence"
    props = _props(element, _SHOWN)
    if isinstance(getattr(node, "id", None), str):
        props["id"] = getattr(node, "id")  # noqa: B009 - the scoped id, where the element has the plain one
    return TreeNode.of(tag, _texts(props), *(_node(child, agents) for child in children))


def _leaf(leaf: LeafNode, agents: AgentSummaries) -> TreeNode:
    element = leaf.element
    props: list[tuple[str, str]] = []  # in the order of the names, which is how a TreeNode has them
    if leaf.kind is LeafKind.AGENT and isinstance(element, Task) and (summary := agents.of(element)) is not None:
        props.append(("agentSummary", summary))
    if leaf.depends:  # by whichever property: depends_on, needs, deps or fork
        props.append(("dependsOn", ",".join(leaf.depends)))
    props.append(("id", leaf.key[0]))
    if leaf.key[1]:
        props.append(("iteration", str(leaf.key[1])))
    props.append(("kind", str(leaf.kind)))
    if element.label is not None:
        props.append(("label", element.label))
    if leaf.output is not None:
        props.append(("output", leaf.output.key))
    if element.retries is not None and element.retries != default_retries(leaf.kind):
        props.append(("retries", str(element.retries)))
    if element.skip_if:
        props.append(("skipIf", "true"))
    children: tuple[str, ...] = ()
    if isinstance(element, Task) and isinstance(element.child, str):
        children = (element.child,)
    return TreeNode(element.tag, tuple(props), children)


def _props(element: object, names: tuple[str, ...]) -> dict[str, object]:
    if not isinstance(element, Element) or isinstance(element, Leaf):
        return {}
    own = vars(element)
    return {_camel(name): own[name] for name in names if own.get(name) is not None}


def _texts(props: Mapping[str, object]) -> dict[str, str]:
    found = {name: prop_text(value) for name, value in props.items()}
    return {name: text for name, text in found.items() if text is not None}


def _camel(name: str) -> str:
    head, *rest = name.rstrip("_").split("_")
    return head + "".join(part.capitalize() for part in rest)
