"""Reading: trees and what is new of them, from the store. All of it runs on the reader's thread: large ones take a while.

The structure is that of the frame: the newest stored tree up to its number. States, attempts and agents are as they are now.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from pydantic_core import to_json

from smithers.components.scope import Key
from smithers.control.run_lists import run_state
from smithers.errors import FrameOutOfRange
from smithers.gateway.devtools.live import Change, LiveTree
from smithers.gateway.devtools.tree import Rows, Tree
from smithers.graph.frames import decode_frame, frame_ops
from smithers.graph.tree import TreeNode
from smithers.records import dataclass
from smithers.store.interface import RunRow
from smithers.store.pause import collection_paused
from smithers.store.sql import devtools, reads
from smithers.store.sql.session import Session

PAGE: Final = 100
"""How many frames are read at once."""


@dataclass(frozen=True, slots=True)
class Taken:
    """A run's tree, made for whoever asked."""

    live: LiveTree
    state: str


@dataclass(frozen=True, slots=True)
class News:
    """What there is beyond what is known of a run.

    Attributes:
        newest: the run's newest frame.
        changes: the frames that were stored since, in order; with a full page there may be more.
        rows: what is stored of the tasks that were asked for.
        state: the run's derived state, as JSON.
        is_broken: whether the frame that is known is not there any more, or is another one.
    """

    newest: int
    changes: list[Change]
    rows: Rows
    state: str
    is_broken: bool


def take(connection: Session, run_id: str, frame_no: int | None, now_ms: int) -> Taken:
    """The tree as of a frame; of the newest for None. Raises `RunNotFound`, `FrameOutOfRange`, `StorageCorrupt`."""
    run = reads.run(connection, run_id)
    if frame_no is not None and frame_no > run.frame_no:
        raise FrameOutOfRange(f"run {run_id!r} has no frame {frame_no}; its newest is {run.frame_no}")
    seq = run.frame_no if frame_no is None else frame_no
    chain = devtools.chain(connection, run_id, seq)
    found: TreeNode | None = None
    for row in chain:
        found = decode_frame(row.encoding, row.tree, found)
    tree = Tree(found)
    tree.fill(devtools.tasks(connection, run_id, tree.keys))
    at, tree_hash = (chain[-1].frame_no, chain[-1].tree_hash) if chain else (-1, "")
    return Taken(LiveTree(run_id, tree, seq, at, tree_hash), _state(connection, run, now_ms))


def snapshot(connection: Session, run_id: str, frame_no: int | None, now_ms: int) -> str:
    """What `getDevToolsSnapshot` answers. Raises as `take`."""
    with collection_paused():
        taken = take(connection, run_id, frame_no, now_ms)
        return taken.live.snapshot(taken.state)


def news(connection: Session, run_id: str, at: tuple[int, str], keys: Collection[Key], now_ms: int) -> News:
    """What there is beyond a stored frame, known by its number (-1 for none) and hash. Raises `RunNotFound`."""
    run = reads.run(connection, run_id)
    changes, is_broken = changes_from(connection, run_id, at, run.frame_no)
    rows = devtools.tasks(connection, run_id, keys) if keys else {}
    return News(run.frame_no, changes, rows, _state(connection, run, now_ms), is_broken)


def changes_from(connection: Session, run_id: str, at: tuple[int, str], last: int) -> tuple[list[Change], bool]:
    """The next page of stored frames after one, up to a number, and whether that one is not as it was."""
    frame_no = at[0]
    rows = devtools.frames_from(connection, run_id, max(frame_no, 0), last, PAGE + 1)
    if frame_no >= 0:
        if not rows or (rows[0].frame_no, rows[0].tree_hash) != at:
            return [], True
        rows = rows[1:]
    return [Change(row.frame_no, row.tree_hash, frame_ops(row.encoding, row.tree)) for row in rows[:PAGE]], False


def _state(connection: Session, run: RunRow, now_ms: int) -> str:
    return to_json(run_state(connection, run, now_ms)).decode()
