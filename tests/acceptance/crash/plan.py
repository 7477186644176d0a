"""How many times a process is killed, case by case. The cases hold themselves to these numbers, `test_plan` their sum."""

from __future__ import annotations

from typing import Final, NamedTuple

from tests.acceptance.crash.child import Role
from tests.acceptance.crash.faults import Point


class Sweep(NamedTuple):
    """A workflow is killed around every write in turn; a part of the writes is a case of its own, to share the work."""

    workflow: str
    role: Role
    point: Point
    part: int
    parts: int
    kills: int
    """At least so many."""

    def __str__(self) -> str:
        return f"{self.workflow}-{self.point.value}-{self.part}"


class Storm(NamedTuple):
    """A workflow is killed at random moments, until there were enough kills."""

    seed: int
    kills: int

    def __str__(self) -> str:
        return f"seed{self.seed}"


MIXED_WRITES: Final = 32
"""Fewer writes than an undisturbed run of `mixed` makes: 40 to 50, depending on what falls into one step."""
DOOMED_WRITES: Final = 7
PARTS: Final = 4

SWEEPS: Final = [
    *(
        Sweep("mixed", "play", point, part, PARTS, MIXED_WRITES // PARTS)
        for point in Point
        for part in range(1, PARTS + 1)
    ),
    *(Sweep("doomed", "cancel", point, 1, 1, DOOMED_WRITES) for point in Point),
]
DOUBLE_SWEEPS: Final = [Sweep("mixed", "play", point, 1, 6, 2 * (MIXED_WRITES // 6)) for point in Point]
"""The same, with a second kill in the process that recovers."""
STORMS: Final = [Storm(seed, 26) for seed in range(1, 13)]
LEAST: Final = 500
"""What continuous integration must make."""
