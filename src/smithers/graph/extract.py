"""Extract: from a rendered tree of elements to a plan. Pure.

Every authoring error is raised here, in `leaves`, or by the element itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from smithers.components.composites import Saga, SagaStep, Subflow, TryCatchFinally
from smithers.components.context import Context
from smithers.components.element import Element, flatten
from smithers.components.flow import Branch, ContinueAsNew, Loop, MergeQueue, Parallel, Sequence, Workflow
from smithers.components.gates import Approval
from smithers.components.outputs import Outputs
from smithers.components.rundata import RunData
from smithers.components.scope import LoopState, suffix_of
from smithers.components.task import Leaf, Task
from smithers.components.waits import Signal
from smithers.components.workflow import SmithersWorkflow
from smithers.components.worktree import Worktree
from smithers.errors import DuplicateId, InvalidElement
from smithers.graph.leaves import depends_of, kind_of, model_of, placement_of, render_inline
from smithers.graph.plan import (
    ContinueNode,
    LeafNode,
    LoopNode,
    ParNode,
    Plan,
    PlanNode,
    Region,
    SagaNode,
    SeqNode,
    TryNode,
)

_NAMED: Final = ("task", "loop", "saga", "try-catch-finally", "worktree")
"""Kinds of elements whose ids must be different among them."""
MAX_DEPTH: Final = 200
"""Deepest nesting of elements."""


class _Scope:
    """What a node inherits from its ancestors while the tree is walked."""

    __slots__ = (
        "ctx",
        "depends",
        "depth",
        "group",
        "loops",
        "outputs",
        "policy",
        "prefix",
        "priority",
        "region",
        "subtree",
        "suffix",
        "worktree",
    )

    def __init__(self, region: Region, ctx: Context[object], outputs: Outputs) -> None:
        self.ctx = ctx
        self.outputs = outputs
        self.region = region
        self.depth = 0
        self.group: ParNode | None = None
        self.subtree: tuple[ParNode, int] | None = None
        self.priority = 0
        self.policy: str | None = None
        self.loops: tuple[LoopNode, ...] = ()
        self.suffix = ""
        self.prefix = ""
        self.depends: tuple[str, ...] = ()
        """What everything here waits for, because an inline Subflow around it does."""
        self.worktree: Worktree | None = None

    def inside(self, element: Element) -> _Scope:
        new = _Scope(self.region, self.ctx, self.outputs)
        new.group, new.subtree, new.priority = self.group, self.subtree, self.priority
        new.policy, new.loops, new.suffix, new.prefix = self.policy, self.loops, self.suffix, self.prefix
        new.depends, new.worktree = self.depends, self.worktree
        new.depth = self.depth + 1
        if new.depth > MAX_DEPTH:
            raise InvalidElement(f"{element!r} is nested deeper than {MAX_DEPTH} levels")
        return new


def extract(tree: Workflow, ctx: Context[object], data: RunData, outputs: Outputs) -> Plan:
    """Compile a rendered tree.

    Raises the typed authoring errors: `DuplicateId`, `UnknownOutputSchema`, `TaskEmptyPrompt`, `InvalidElement`, …
    """
    return _Extractor(tree, ctx, data, outputs).plan


class _Extractor:
    def __init__(self, tree: Workflow, ctx: Context[object], data: RunData, outputs: Outputs) -> None:
        self._data = data
        self._tree = tree
        self._is_placed = tree.executor is not None
        self._ordinal = 0
        self._scoped: dict[tuple[LoopNode | None, str], PlanNode] = {}
        self._anywhere: dict[str, PlanNode] = {}
        self._home: dict[int, tuple[LoopNode, ...]] = {}
        self._names: dict[str, set[str]] = {kind: set() for kind in _NAMED}
        self._dependants: list[LeafNode] = []
        region = Region(None, "run", None)
        root = SeqNode(None, 0, None, tree)
        self.plan = Plan(tree.name, root, region, cache_by_default=tree.cache)
        self._fill(root, tree.children, _Scope(region, ctx, outputs))
        for leaf in self._dependants:
            leaf.dep_targets = [self._resolve(leaf, id) for id in leaf.depends]

    # ── walking ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _fill(self, parent: SeqNode | ParNode, children: tuple[Element, ...], scope: _Scope) -> None:
        into = parent.children
        leaf = self._leaf
        for child in children:
            if isinstance(child, Task):  # by far the most frequent child
                into.append(leaf(child, parent, len(into), scope))
                continue
            node = self._node(child, parent, len(into), scope)
            if node is not None:
                into.append(node)

    def _node(self, element: Element, parent: PlanNode, index: int, scope: _Scope) -> PlanNode | None:
        if isinstance(element, Leaf):
            return self._leaf_like(element, parent, index, scope)
        if element.skip_if:
            return None
        handler = _HANDLERS.get(type(element))
        if handler is None:
            if isinstance(element, Workflow):
                raise InvalidElement(f"{element!r} is inside a Workflow; there is exactly one per tree (use Subflow)")
            raise InvalidElement(f"{element!r} cannot stand here")
        return handler(self, element, parent, index, scope)

    def sequence(self, element: Element, parent: PlanNode, index: int, scope: _Scope) -> PlanNode:
        node = SeqNode(parent, index, element.id, element)
        inner = scope.inside(element)
        self._inherit(element, inner)
        self._name(element.id, node, scope)
        self._fill(node, element.children, inner)
        return node

    def parallel(self, element: Element, parent: PlanNode, index: int, scope: _Scope) -> PlanNode:
        assert isinstance(element, Parallel)
        node = ParNode(parent, index, element.id, element, element.max_concurrency, element.subtree_concurrency)
        inner = scope.inside(element)
        self._inherit(element, inner)
        self._name(element.id, node, scope)
        if element.max_concurrency is not None:
            inner.group = node
        if element.subtree_concurrency is None:
            self._fill(node, element.children, inner)
            return node
        for child in element.children:
            inner.subtree = (node, len(node.children))
            self._fill(node, (child,), inner)
        return node

    def worktree(self, element: Element, parent: PlanNode, index: int, scope: _Scope) -> PlanNode:
        assert isinstance(element, Worktree)
        node = ParNode(parent, index, element.id, element, None, None)
        inner = scope.inside(element)
        inner.worktree = element
        logical = None if element.id is None else scope.prefix + element.id
        if logical is not None:
            self._unique("worktree", logical)
        self.plan.worktrees.append((logical, element.path))
        self._name(element.id, node, scope)
        self._fill(node, element.children, inner)
        return node

    def branch(self, element: Element, parent: PlanNode, index: int, scope: _Scope) -> PlanNode:
        assert isinstance(element, Branch)
        node = SeqNode(parent, index, element.id, element)
        self._name(element.id, node, scope)
        self._fill(node, element.then if element.if_ else element.else_, scope.inside(element))
        return node

    def continue_(self, element: Element, parent: PlanNode, index: int, scope: _Scope) -> PlanNode:
        assert isinstance(element, ContinueAsNew)
        node = ContinueNode(parent, index, element, scope.region)
        node.ordinal = self._ordinal + 1
        return node

    def loop(self, element: Element, parent: PlanNode, index: int, scope: _Scope) -> PlanNode:
        assert isinstance(element, Loop)
        logical = scope.prefix + element.id
        self._unique("loop", logical)
        scoped_id = logical + scope.suffix
        state = self._data.loops.get(scoped_id, LoopState())
        node = LoopNode(parent, index, scoped_id, element, state, scope.region)
        node.logical_id = logical
        node.ordinal = self._ordinal + 1
        self.plan.loops.append(node)
        self._name(element.id, node, scope)
        inner = scope.inside(element)
        self._inherit(element, inner)
        inner.loops = (*scope.loops, node)
        inner.suffix = suffix_of(tuple((outer.logical_id, outer.iteration) for outer in inner.loops))
        self._fill(node.body, element.children, inner)
        return node

    def saga(self, element: Element, parent: PlanNode, index: int, scope: _Scope) -> PlanNode:
        assert isinstance(element, Saga)
        logical = scope.prefix + element.id
        self._unique("saga", logical)
        node = SagaNode(parent, index, logical + scope.suffix, element)
        node.ordinal = self._ordinal + 1
        node.region = Region(node, "action", scope.region)
        node.undo_region = Region(node, "compensation", scope.region)
        self._name(element.id, node, scope)
        for step in element.children:
            assert isinstance(step, SagaStep)
            inner = scope.inside(element)
            inner.region = node.region
            action = SeqNode(node, len(node.actions), None, step)
            self._fill(action, step.children, inner)
            node.actions.append(action)
            if step.compensation is None:
                node.compensations.append(None)
                continue
            inner.region = node.undo_region
            undo = SeqNode(node, len(node.compensations), None, step)
            self._fill(undo, (step.compensation,), inner)
            node.compensations.append(undo)
        return node

    def try_(self, element: Element, parent: PlanNode, index: int, scope: _Scope) -> PlanNode:
        assert isinstance(element, TryCatchFinally)
        logical = scope.prefix + element.id
        self._unique("try-catch-finally", logical)
        node = TryNode(parent, index, logical + scope.suffix, element)
        node.ordinal = self._ordinal + 1
        self._name(element.id, node, scope)
        catch = element.catch
        if callable(catch):
            error = scope.ctx.region_error(node.id or "")
            catch = () if error is None else flatten(element, catch(error))
            has_arm = error is not None
        else:
            has_arm = bool(catch)
        arms: list[tuple[str, tuple[Element, ...], bool]] = [
            ("try", element.try_, True),
            ("catch", catch, has_arm),
            ("finally", element.finally_, bool(element.finally_)),
        ]
        for part, children, is_there in arms:
            inner = scope.inside(element)
            inner.region = node.regions[part] = Region(node, part, scope.region)
            arm = SeqNode(node, 0, None, None) if is_there else None
            if arm is not None:
                self._fill(arm, children, inner)
            node.arms[part] = arm
        return node

    # ── leaves ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _leaf_like(self, element: Leaf, parent: PlanNode, index: int, scope: _Scope) -> PlanNode:
        if isinstance(element, Subflow) and element.mode == "inline" and not element.skip_if:
            return self._inline(element, parent, index, scope)
        children: tuple[Element, ...] = ()
        if isinstance(element, (Approval, Signal)):
            node = SeqNode(parent, index, None, None)
            leaf = self._leaf(element, node, 0, scope)
            node.children.append(leaf)
            if isinstance(element, Approval) and not element.children:
                leaf.parent, leaf.index = parent, index
                return leaf
            row = scope.ctx.row_at(*leaf.key, leaf.output.key) if leaf.output is not None else None
            if isinstance(element, Signal):
                children = () if row is None else element.mount(row)
            elif row is not None and getattr(row, "approved", True):
                children = element.children
            self._fill(node, children, scope.inside(element))
            return node
        return self._leaf(element, parent, index, scope)

    def _leaf(self, element: Leaf, parent: PlanNode, index: int, scope: _Scope) -> LeafNode:
        logical = scope.prefix + element.id if scope.prefix else element.id
        loops = scope.loops
        key = (logical, 0)
        if loops:
            suffix = suffix_of(tuple((loop.logical_id, loop.iteration) for loop in loops[:-1]))
            key = (logical + suffix, loops[-1].iteration)
        names = self._names["task"]
        if logical in names:
            raise DuplicateId("task", logical)
        names.add(logical)
        self._ordinal += 1
        leaf = LeafNode(parent, index, key, logical, element, kind_of(element), self._ordinal)
        leaf.region = scope.region
        leaf.group = scope.group
        leaf.subtree = scope.subtree
        leaf.priority = element.priority if element.priority is not None else scope.priority
        leaf.is_quarantined = (element.failure_policy or scope.policy) == "quarantine"
        leaf.loops = loops
        leaf.worktree = scope.worktree
        if element.output is not None:
            leaf.output = scope.outputs.resolve(element.output, repr(element))
            schema = getattr(element, "output_schema", None)
            leaf.schema = leaf.output.model if schema is None else model_of(element, schema)
        if isinstance(element, Task) and (self._is_placed or element.executor or element.resources is not None):
            leaf.placement = placement_of(element, leaf.kind, self._tree)
        if element.depends_on or element.needs or (isinstance(element, Task) and (element.deps or element.fork)):
            leaf.depends = depends_of(element, scope.prefix)
            if isinstance(element, Task):
                for name, output in (element.deps or {}).items():
                    scope.outputs.resolve(output, f"{element!r}: deps[{name!r}]")
        if scope.depends:
            leaf.depends += tuple(id for id in scope.depends if id not in leaf.depends)
        if leaf.depends:
            self._dependants.append(leaf)
        self._scoped[(leaf.innermost_loop, logical)] = leaf
        self._anywhere[logical] = leaf
        self.plan.leaves[key] = leaf
        self.plan.homes[logical] = tuple(loop.logical_id for loop in loops) if loops else ()
        return leaf

    def _inline(self, element: Subflow, parent: PlanNode, index: int, scope: _Scope) -> PlanNode:
        workflow = element.workflow
        if not isinstance(workflow, SmithersWorkflow):
            raise InvalidElement(f"{element!r}: mode 'inline' needs the workflow itself, not a file")
        prefix = f"{scope.prefix}{element.id}/"
        inner = scope.inside(element)
        value, _ = workflow.parse_input(element.input)
        ctx: Context[object] = Context(self._data, workflow.outputs, value, prefix=prefix, reads=scope.ctx.reads)
        tree = render_inline(element, workflow, ctx)
        node = SeqNode(parent, index, element.id, element)
        self._inherit(element, inner)
        inner.prefix, inner.ctx, inner.outputs = prefix, ctx, workflow.outputs
        self.plan.has_mounted = True
        inner.depends += tuple(id for id in depends_of(element, scope.prefix) if id not in inner.depends)
        self._name(element.id, node, scope)
        self._fill(node, tree.children, inner)
        return node

    # ── names ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def _inherit(self, element: Element, inner: _Scope) -> None:
        policy = getattr(element, "failure_policy", None)
        if policy is not None:
            inner.policy = policy
        priority = getattr(element, "priority", None)
        if priority is not None:
            inner.priority = priority

    def _name(self, id: str | None, node: PlanNode, scope: _Scope) -> None:
        if id is None:
            return
        logical = scope.prefix + id
        loop = scope.loops[-1] if scope.loops else None
        self._scoped.setdefault((loop, logical), node)
        self._anywhere.setdefault(logical, node)
        self._home[id_of(node)] = scope.loops

    def _unique(self, kind: str, id: str) -> None:
        if id in self._names[kind]:
            raise DuplicateId(kind, id)
        self._names[kind].add(id)

    def _resolve(self, leaf: LeafNode, id: str) -> PlanNode | None:
        """The node that a reference means: the same iteration's sibling first, then outward, then a loop elsewhere."""
        for loop in (*reversed(leaf.loops), None):
            found = self._scoped.get((loop, id))
            if found is not None:
                return found
        found = self._anywhere.get(id)
        if found is None:
            return None
        loops = found.loops if isinstance(found, LeafNode) else self._home.get(id_of(found), ())
        outside = [loop for loop in loops if loop not in leaf.loops]
        return outside[0] if outside else found


def id_of(node: PlanNode) -> int:
    """A dictionary key for a node that lives as long as the plan."""
    return id(node)


_Handler = Callable[[_Extractor, Element, PlanNode, int, _Scope], PlanNode]
_HANDLERS: dict[type[Element], _Handler] = {
    Sequence: _Extractor.sequence,
    Parallel: _Extractor.parallel,
    MergeQueue: _Extractor.parallel,
    Worktree: _Extractor.worktree,
    Branch: _Extractor.branch,
    Loop: _Extractor.loop,
    Saga: _Extractor.saga,
    TryCatchFinally: _Extractor.try_,
    ContinueAsNew: _Extractor.continue_,
}
