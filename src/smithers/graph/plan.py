"""Plan: a rendered tree, compiled once for scheduling.

A plan belongs to the scheduler that it is given to: beside what the author wrote (which never changes) its nodes hold
the scheduler's place in them (`cursor`, `remaining`, `is_complete`, `halted`, …). `extract` makes plans,
`smithers.scheduler` moves through them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import field
from enum import StrEnum
from typing import TypeAlias

from pydantic import BaseModel

from smithers.components.composites import Saga, TryCatchFinally
from smithers.components.element import Element
from smithers.components.flow import ContinueAsNew, Loop
from smithers.components.outputs import Output
from smithers.components.placement import Placement
from smithers.components.scope import Key, LoopState
from smithers.components.task import Leaf
from smithers.components.worktree import Worktree
from smithers.records import dataclass


class LeafKind(StrEnum):
    """What a leaf does when it is reached."""

    __hash__ = str.__hash__  # an enum's own is a Python function

    AGENT = "agent"
    COMPUTE = "compute"
    STATIC = "static"
    APPROVAL = "approval"
    HUMAN = "human"
    EVENT = "event"
    TIMER = "timer"
    SUBFLOW = "subflow"

    @property
    def is_wait(self) -> bool:
        """Whether it waits for the world instead of working."""
        return self in _WAITS


_WAITS = frozenset({LeafKind.APPROVAL, LeafKind.HUMAN, LeafKind.EVENT, LeafKind.TIMER})


class Region:
    """A part of the tree whose failures are handled together: the run, a try arm, a saga's action, …

    After the first failure inside it nothing new starts (`halted`); once nothing runs any more, its owner reacts
    (`is_handled`). Of several failures until then the first in document order counts (`rank`), not the first in time:
    so what happens next is a function of the node states, the same after a crash.
    """

    __slots__ = ("depth", "failure", "halted", "is_handled", "owner", "parent", "part", "rank", "running")

    def __init__(self, owner: TryNode | SagaNode | None, part: str, parent: Region | None) -> None:
        self.owner = owner
        self.part = part
        self.parent = parent
        self.depth: int = 0 if parent is None else parent.depth + 1
        self.halted = False
        self.is_handled = False
        self.running = 0
        self.failure: Failure | None = None
        self.rank = 0

    def is_inside(self, outer: Region) -> bool:
        """Whether this region is `outer` or a part of it."""
        region: Region | None = self
        while region is not None:
            if region is outer:
                return True
            region = region.parent
        return False

    def chain_halted(self) -> bool:
        """Whether this region or one around it has seen a failure, so that nothing new starts here."""
        region: Region | None = self
        while region is not None:
            if region.halted:
                return True
            region = region.parent
        return False


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a region failed: a leaf, or a construct that ended badly.

    `code` is the error's wire code; `leaf` is set where a leaf failed; `cause` is the failure inside a saga or try.
    """

    code: str
    summary: str
    leaf: LeafNode | None = None
    cause: Failure | None = None

    @property
    def root(self) -> Failure:
        """The failure at the bottom: what actually went wrong first."""
        return self if self.cause is None else self.cause.root


class PlanNode:
    """Base of all plan nodes."""

    __slots__ = ("id", "index", "is_complete", "open_waits", "ordinal", "parent")

    def __init__(self, parent: PlanNode | None, index: int, id: str | None, ordinal: int = 0) -> None:
        self.parent = parent
        self.index = index
        self.id = id
        self.ordinal = ordinal
        """Place in document order, where it matters: of a leaf, from 1; of others, their first leaf's."""
        self.is_complete = False
        """Whether what comes after it may go on."""
        self.open_waits = 0
        """How many leaves inside were passed over while they wait (`wait_async`) and have not settled."""

    @property
    def is_done(self) -> bool:
        """Whether it is complete and nothing inside waits any more."""
        return self.is_complete and self.open_waits == 0


class SeqNode(PlanNode):
    """Children one after the other: Workflow, Sequence, a loop's body, an arm."""

    __slots__ = ("children", "cursor", "element")

    def __init__(self, parent: PlanNode | None, index: int, id: str | None, element: Element | None) -> None:
        super().__init__(parent, index, id)
        self.element = element
        self.children: list[PlanNode] = []
        self.cursor = 0


class ParNode(PlanNode):
    """Children at the same time, with the caps of their group."""

    __slots__ = ("active", "children", "element", "limit", "remaining", "running", "subtree_limit")

    def __init__(
        self,
        parent: PlanNode | None,
        index: int,
        id: str | None,
        element: Element,
        limit: int | None,
        subtree_limit: int | None,
    ) -> None:
        super().__init__(parent, index, id)
        self.element = element
        self.children: list[PlanNode] = []
        self.limit = limit
        self.subtree_limit = subtree_limit
        self.running = 0
        self.remaining = 0
        self.active: set[int] = set()
        """Indexes of children that count against `subtree_limit`."""


class LoopNode(PlanNode):
    """A loop at its current iteration."""

    __slots__ = ("body", "element", "has_ended", "iteration", "logical_id", "region")

    def __init__(
        self, parent: PlanNode | None, index: int, scoped_id: str, element: Loop, state: LoopState, region: Region
    ) -> None:
        super().__init__(parent, index, scoped_id)
        self.has_ended = state.done
        self.region = region
        self.element = element
        self.logical_id = element.id
        self.iteration = state.iteration
        self.body = SeqNode(self, 0, None, None)


class TryNode(PlanNode):
    """TryCatchFinally: `phase` is the arm that it is in."""

    __slots__ = ("arms", "element", "failure", "phase", "regions")

    def __init__(self, parent: PlanNode | None, index: int, id: str, element: TryCatchFinally) -> None:
        super().__init__(parent, index, id)
        self.element = element
        self.arms: dict[str, SeqNode | None] = {}
        self.regions: dict[str, Region] = {}
        self.phase = "try"
        self.failure: Failure | None = None
        """The failure that still has to go up once `finally` has run."""


class SagaNode(PlanNode):
    """Saga: actions forward, then compensations backward after a failure."""

    __slots__ = ("actions", "compensations", "cursor", "element", "failure", "region", "undo", "undo_region")

    def __init__(self, parent: PlanNode | None, index: int, id: str, element: Saga) -> None:
        super().__init__(parent, index, id)
        self.element = element
        self.actions: list[SeqNode] = []
        self.compensations: list[SeqNode | None] = []
        self.cursor = 0
        self.undo: int | None = None
        """Index of the step that is being undone; None while going forward."""
        self.region: Region
        self.undo_region: Region
        self.failure: Failure | None = None


class ContinueNode(PlanNode):
    """ContinueAsNew: reached, it ends the run."""

    __slots__ = ("element", "region")

    def __init__(self, parent: PlanNode | None, index: int, element: ContinueAsNew, region: Region) -> None:
        super().__init__(parent, index, None)
        self.element = element
        self.region = region


class LeafNode(PlanNode):
    """Something that finishes by itself: a task, an approval, a wait, a timer, a subflow."""

    __slots__ = (
        "dep_targets",
        "depends",
        "element",
        "group",
        "in_slot",
        "is_armed",
        "is_passed",
        "is_quarantined",
        "key",
        "kind",
        "logical_id",
        "loops",
        "output",
        "placement",
        "priority",
        "region",
        "schema",
        "subtree",
        "unmet",
        "worktree",
    )

    def __init__(
        self,
        parent: PlanNode | None,
        index: int,
        key: Key,
        logical_id: str,
        element: Leaf,
        kind: LeafKind,
        ordinal: int,
    ) -> None:
        super().__init__(parent, index, key[0], ordinal)
        self.key = key
        self.logical_id = logical_id
        self.element = element
        self.kind = kind
        self.output: Output[BaseModel] | None = None
        self.schema: type[BaseModel] | None = None
        self.priority = 0
        self.is_quarantined = False
        self.group: ParNode | None = None
        self.subtree: tuple[ParNode, int] | None = None
        self.region: Region
        self.loops: tuple[LoopNode, ...] = ()
        self.depends: tuple[str, ...] = ()
        """Logical ids that must be done before."""
        self.dep_targets: list[PlanNode | None] = []
        """The nodes that `depends` resolves to; None where no such node is mounted."""
        self.unmet = 0
        self.in_slot = False
        """Whether it counts as running in its groups and regions."""
        self.is_armed = False
        """Whether it has been reached and handed to the scheduler's queues."""
        self.is_passed = False
        """Whether what comes after it went on while it waits (`wait_async`)."""
        self.worktree: Worktree | None = None
        """The innermost one that it is in."""
        self.placement: Placement | None = None
        """Where its function is computed; None: in this process."""

    @property
    def innermost_loop(self) -> LoopNode | None:
        """The loop whose iteration is this leaf's."""
        return self.loops[-1] if self.loops else None

    @property
    def needs_gate(self) -> bool:
        """Whether a person must agree before it runs."""
        return bool(getattr(self.element, "needs_approval", False))

    @property
    def is_tolerated(self) -> bool:
        """Whether its failure counts as done."""
        return self.element.continue_on_fail or self.is_quarantined

    @property
    def may_be_passed(self) -> bool:
        """Whether what comes after it goes on while it waits for the world or for its gate."""
        return self.element.wait_async and (self.kind.is_wait or self.needs_gate)

    def __repr__(self) -> str:
        return f"<{self.kind} {self.key[0]}::{self.key[1]}>"


Container: TypeAlias = SeqNode | ParNode | LoopNode | TryNode | SagaNode


@dataclass(slots=True)
class Plan:
    """One compiled render."""

    name: str
    root: SeqNode
    region: Region
    leaves: dict[Key, LeafNode] = field(default_factory=dict[Key, LeafNode])
    """All leaves, in document order; also those of arms and compensations that have not been entered."""
    homes: dict[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    """Logical node id to the logical ids of its loops, outermost first."""
    loops: list[LoopNode] = field(default_factory=list[LoopNode])
    cache_by_default: bool = False
    has_mounted: bool = False
    """Whether other workflows are mounted in it, with outputs of their own."""
    worktrees: list[tuple[str | None, str]] = field(default_factory=list[tuple[str | None, str]])
    """Mounted ones: logical id, if they have one, and path."""


def nodes_below(node: PlanNode) -> Iterator[PlanNode]:
    """The node and everything inside it, in no particular order."""
    todo = [node]
    while todo:
        found = todo.pop()
        yield found
        if isinstance(found, (SeqNode, ParNode)):
            todo += found.children
        elif isinstance(found, LoopNode):
            todo.append(found.body)
        elif isinstance(found, TryNode):
            todo += [arm for arm in found.arms.values() if arm is not None]
        elif isinstance(found, SagaNode):
            todo += [*found.actions, *(undo for undo in found.compensations if undo is not None)]
