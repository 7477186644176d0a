"""Outcomes: how a run ends, as far as the scheduler can tell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from smithers.components.scope import Key
from smithers.graph.plan import ContinueNode, Failure, LoopNode
from smithers.records import dataclass


@dataclass(frozen=True, slots=True)
class Finished:
    """Everything is done."""


@dataclass(frozen=True, slots=True)
class Failed:
    """A failure that nothing handles."""

    failure: Failure


@dataclass(frozen=True, slots=True)
class Continued:
    """A ContinueAsNew was reached, or a loop's threshold; the loop goes on at `node.iteration + 1` in the new run."""

    node: ContinueNode | LoopNode


@dataclass(frozen=True, slots=True)
class Deadlocked:
    """Leaves wait for each other or for ids that are not mounted: leaf to the ids that it misses."""

    waiting: Mapping[Key, tuple[str, ...]]


Outcome: TypeAlias = Finished | Failed | Continued | Deadlocked
