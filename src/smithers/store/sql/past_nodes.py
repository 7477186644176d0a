"""Past nodes: what nodes were right after a frame, as far as their rows tell it by themselves. The rest is `past.py`'s.

Ten thousand of them are read for one frame, so one statement makes the rows as they are given out, of no more columns than
their readers use.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from operator import itemgetter
from typing import Final, NamedTuple, cast

from smithers.store.interface import NodeRow
from smithers.store.pause import collection_paused
from smithers.store.sql.session import Session

_TOLD: Final = """
SELECT node_id, iteration,
       CASE WHEN frame_no <= ? THEN state WHEN began_frame <= ? THEN '' ELSE 'pending' END,
       CASE WHEN frame_no <= ? THEN last_attempt END,
       CASE WHEN frame_no <= ? AND output_seq IS NOT NULL THEN output_table END
FROM _smithers_nodes WHERE run_id = ? AND created_frame <= ?
"""
UNTOLD: Final = ""
"""The state of a node that had begun and has changed since: its row does not tell."""


class PastNode(NamedTuple):
    """A node right after a frame."""

    node_id: str
    iteration: int
    state: str
    last_attempt: int | None
    output_table: str | None
    """Where its output is; None if it has none."""


state_of: Final = cast("Callable[[PastNode], str]", itemgetter(2))
_made: Final = cast("Callable[[Iterable[object]], PastNode]", partial(tuple.__new__, PastNode))  # pyright: ignore[reportUnknownMemberType]
"""A row that a statement gave whole, as `PastNode._make` has it, but without a call of Python's for each."""


def as_past(row: NodeRow) -> PastNode:
    """What of a node's row is told of the past."""
    table = None if row.output_seq is None else row.output_table
    return PastNode(row.node_id, row.iteration, row.state, row.last_attempt, table)


def told_by_rows(connection: Session, run_id: str, frame_no: int) -> list[PastNode]:
    """All nodes of a run right after a frame, in no particular order; of some the state is `UNTOLD`."""
    n = frame_no
    with collection_paused():
        return list(map(_made, connection.execute(_TOLD, (n, n, n, n, run_id, n))))
