"""Random workflows: descriptions that Hypothesis can shrink, and the elements that they stand for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from hypothesis import strategies as st
from tests.unit.scheduler.mini_engine import Out

from smithers.components.composites import Saga, SagaStep, Subflow, TryCatchFinally
from smithers.components.context import Context
from smithers.components.element import Element
from smithers.components.flow import Branch, ContinueAsNew, Loop, MergeQueue, Parallel, Sequence
from smithers.components.gates import Approval, HumanTask
from smithers.components.task import Task
from smithers.components.waits import Signal, Timer, WaitForEvent

FLAG_SETS = (
    ("continue_on_fail",),
    ("quarantine",),
    ("quarantine",),
    ("wait_async",),
    ("wait_async", "gate"),
    ("gate",),
    ("skip_if",),
    ("with_children",),
    ("with_children", "wait_async"),
    ("continue_on_fail", "gate"),
)

OnFailure = Literal["compensate", "compensate-and-fail", "fail"]
ON_FAILURE: tuple[OnFailure, ...] = ("compensate", "compensate-and-fail", "fail")
OnDeny = Literal["fail", "continue", "skip"]
ON_DENY: tuple[OnDeny, ...] = ("fail", "continue", "skip")


@dataclass(frozen=True)
class L:
    """A leaf. `depends` are distances: 1 is the element before it in the document, -1 the one after."""

    kind: str = "compute"
    flags: frozenset[str] = frozenset()
    priority: int | None = None
    depends: tuple[int, ...] = ()
    on_deny: OnDeny = "fail"


@dataclass(frozen=True)
class C:
    """A container; `options` are numbers that each kind reads in its own way."""

    kind: str
    children: tuple[Node, ...] = ()
    options: tuple[int, ...] = (0, 0, 0)


Node = L | C

leaves = st.builds(
    L,
    st.sampled_from(
        ["compute"] * 11
        + ["agent"] * 5
        + ["subflow"] * 2
        + ["approval", "event", "signal", "timer", "human", "continue"]
    ),
    st.sampled_from([*[frozenset[str]()] * 8, *map(frozenset, FLAG_SETS)]),
    st.sampled_from([None, None, None, -1, 0, 1]),
    st.sampled_from([(), (), (), (), (), (), (), (1,), (2,), (3,), (4,), (1, 3), (6,), (-2,)]),
    st.sampled_from(ON_DENY),
)


def _containers(inner: st.SearchStrategy[Node]) -> st.SearchStrategy[Node]:
    options = st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, 4))
    kinds = ["seq", "par", "par", "queue", "loop", "loop", "try", "try", "saga", "branch"]
    return st.builds(C, st.sampled_from(kinds), st.lists(inner, min_size=1, max_size=5).map(tuple), options)


nodes: st.SearchStrategy[Node] = st.recursive(leaves, _containers, max_leaves=12)
trees = st.builds(C, st.sampled_from(["seq", "par", "try"]), st.lists(nodes, min_size=2, max_size=6).map(tuple))


def build(tree: Node, ctx: Context[object]) -> list[Element]:
    """The elements of a description; ids are `n0`, `n1`, … in document order."""
    return _Builder(ctx).one(tree)


class _Builder:
    def __init__(self, ctx: Context[object]) -> None:
        self.ctx = ctx
        self.count = 0
        self.around: list[int] = []

    def one(self, node: Node) -> list[Element]:
        number = self.count
        self.count += 1
        if isinstance(node, L):
            return [self.leaf(node, number)]
        self.around.append(number)
        inner = [self.one(child) for child in node.children]
        self.around.pop()
        return [self.container(node, f"n{number}", inner)]

    def has_row(self, distance: int, number: int) -> bool:
        return self.ctx.latest(Out, f"n{max(0, number - distance)}") is not None

    def container(self, node: C, id: str, inner: list[list[Element]]) -> Element:
        first, second, third = node.options
        flat = [element for part in inner for element in part]
        half = len(inner) // 2
        number = int(id[1:])
        match node.kind:
            case "par":
                return Parallel(
                    id,
                    max_concurrency=first or None,
                    subtree_concurrency=second or None,
                    priority=1 if third == 1 else None,
                    failure_policy="quarantine" if third == 2 else None,
                )[flat]
            case "queue":
                return MergeQueue(id)[flat]
            case "loop":
                iteration = self.ctx.iterations.get(id, 0)
                until = iteration >= third if third < 3 else self.has_row(third - 6, number)
                return Loop(
                    id,
                    until=until,
                    max_iterations=1 + first % 3,
                    on_max_reached="fail" if second == 1 else "return-last",
                    continue_as_new_every=2 if second == 2 else None,
                )[flat]
            case "try":
                arms = [inner[i::3] for i in range(3)]
                catch = [element for part in arms[1] for element in part]
                return TryCatchFinally(
                    id,
                    try_=arms[0],
                    catch=(lambda _: catch) if first == 1 else catch,
                    catch_errors=["E"] if second == 1 else ["F"] if second == 2 else [],
                    finally_=arms[2],
                )
            case "saga":
                pairs = zip(inner[:half], inner[half:], strict=False)
                steps = [SagaStep(f"s{i}", compensation=Sequence()[undo])[do] for i, (do, undo) in enumerate(pairs)]
                return Saga(id, on_failure=ON_FAILURE[first % 3])[steps]
            case "branch":
                return Branch(id=id, if_=self.has_row(first - 2, number), then=inner[:half], else_=inner[half:])
            case _:
                return Sequence(id, failure_policy="quarantine" if first == 1 else None)[flat]

    def leaf(self, leaf: L, number: int) -> Element:
        id = f"n{number}"
        flags = leaf.flags
        policy: Literal["quarantine"] | None = "quarantine" if "quarantine" in flags else None
        wait_async, skip, tolerant = "wait_async" in flags, "skip_if" in flags, "continue_on_fail" in flags
        targets = [number - distance for distance in leaf.depends]
        depends = [f"n{target}" for target in targets if target not in self.around and target >= -1]
        match leaf.kind:
            case "approval":
                found = Approval(
                    id,
                    output=Out,
                    on_deny=leaf.on_deny,
                    skip_if=skip,
                    depends_on=depends,
                    wait_async=wait_async,
                    failure_policy=policy,
                    continue_on_fail=tolerant,
                )
                return found[Task(f"{id}-then", output=Out)[{}]] if "with_children" in flags else found
            case "event":
                return WaitForEvent(id, event="e", output=Out, skip_if=skip, depends_on=depends, wait_async=wait_async)
            case "signal":
                return Signal(id, schema=Out, skip_if=skip, wait_async=wait_async)[Task(f"{id}-then", output=Out)[{}]]
            case "timer":
                return Timer(id, duration="1s", skip_if=skip, depends_on=depends)
            case "human":
                return HumanTask(
                    id,
                    output=Out,
                    prompt="?",
                    skip_if=skip,
                    depends_on=depends,
                    wait_async=wait_async,
                    continue_on_fail=tolerant,
                )
            case "continue":
                return ContinueAsNew()
            case "subflow":
                return Subflow(
                    id, workflow="child.py", output=Out, skip_if=skip, depends_on=depends, priority=leaf.priority
                )
            case _:
                task = Task(
                    id,
                    output=Out,
                    agent="agent" if leaf.kind == "agent" else None,
                    skip_if=skip,
                    depends_on=depends,
                    wait_async=wait_async,
                    needs_approval="gate" in flags,
                    failure_policy=policy,
                    continue_on_fail=tolerant,
                    priority=leaf.priority,
                )
                return task["go" if leaf.kind == "agent" else {}]


def choices() -> st.SearchStrategy[Choices]:
    """What a history is decided by."""
    return st.builds(Choices, st.lists(st.integers(0, 255), min_size=1, max_size=60))


class Choices:
    """Numbers that are used one after the other, and again from the start."""

    def __init__(self, numbers: list[int]) -> None:
        self.numbers = numbers
        self._next = self._walk()

    def _walk(self) -> Iterator[int]:
        while True:
            yield from self.numbers

    def below(self, end: int) -> int:
        return next(self._next) % end

    def __repr__(self) -> str:
        return f"Choices({self.numbers})"
