"""Scopes: how ids are told apart inside loops.

A task in one loop keeps its id; the loop's iteration distinguishes its rows. In nested loops the iterations of all
enclosing loops but the innermost become a suffix: `draft@@outer=2`, `x@@a=1,b=0`. A loop nested in another gets the
same kind of suffix, so its counter starts anew for each outer iteration.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

Key: TypeAlias = tuple[str, int]
"""What identifies a node durably within a run: (node id with suffix, iteration)."""


class LoopState(NamedTuple):
    """Where a loop is: its current iteration from 0, and whether it has ended."""

    iteration: int = 0
    done: bool = False


def suffix_of(outer: tuple[tuple[str, int], ...]) -> str:
    """The suffix for enclosing (loop id, iteration) pairs, outermost first; empty for none."""
    return "@@" + ",".join(f"{loop}={iteration}" for loop, iteration in outer) if outer else ""


def logical_id(node_id: str) -> str:
    """The id as the author wrote it."""
    cut = node_id.find("@@")
    return node_id if cut < 0 else node_id[:cut]


def loops_of_suffix(node_id: str) -> tuple[str, ...]:
    """The logical ids of the loops named in a node id's suffix, outermost first."""
    cut = node_id.find("@@")
    if cut < 0:
        return ()
    return tuple(part.rsplit("=", 1)[0] for part in node_id[cut + 2 :].split(","))


def state_key(key: Key) -> str:
    """The form in which keys are shown and stored in lists: `node_id::iteration`."""
    return f"{key[0]}::{key[1]}"
