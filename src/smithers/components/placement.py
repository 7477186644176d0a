"""Placement: where a task's function is computed, and what it needs there."""

from __future__ import annotations

import math
from collections.abc import Mapping

from smithers.components.checks import checked_choice, checked_mapping, shown
from smithers.errors import InvalidElement
from smithers.records import dataclass

EXECUTORS = ("local", "ray")
"""Where a task's function can be computed: in this process, or on a worker of a Ray cluster."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a function is computed, if not in this process.

    Attributes:
        executor: one of `EXECUTORS` other than `local`.
        resources: what it takes up there while it runs: `num_cpus`, `num_gpus`, `memory` in bytes, or a name of the
            cluster's own.
    """

    executor: str
    resources: Mapping[str, float]


def checked_executor(element: str, value: object) -> str:
    """`value` if it names an executor. Raises `InvalidElement`."""
    return checked_choice(element, "executor", value, EXECUTORS)


def checked_resources(element: str, value: object) -> dict[str, float]:
    """`value` if it is a mapping of names to amounts. Raises `InvalidElement`."""
    found: dict[str, float] = {}
    for name, amount in checked_mapping(element, "resources", value).items():
        if isinstance(amount, bool) or not isinstance(amount, (int, float)) or not math.isfinite(amount) or amount < 0:
            raise InvalidElement(f"{element}: resources[{name!r}] must be a number of at least 0, not {shown(amount)}")
        found[name] = amount
    return found
