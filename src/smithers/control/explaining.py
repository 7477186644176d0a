"""Explaining: why a run, or a node of it, is where it is: what it waits for, since when, and what could move it.

What a run waits for is found in `blockers.py`, what keeps a node from beginning in `obstacles.py`; the commands that move
something are the command line's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from pydantic_core import from_json

from smithers.control.blockers import MAX_EACH, Blocker, ended, error_text, run_blockers, run_standing
from smithers.control.control import Control
from smithers.control.obstacles import Key, Obstacle, leaves, obstacles
from smithers.errors import NodeNotFound
from smithers.graph.frames import decode_frame
from smithers.graph.tree import TreeNode
from smithers.jsons import int_of, object_of, text_of
from smithers.store.interface import FrameRow, NodeRow, RunRow
from smithers.store.sql import lineage, pages, reads, run_pages
from smithers.store.sql.lineage import TERMINAL


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """Where a run, or a node of it, stands, and why."""

    run: RunRow
    state: str
    node: NodeRow | None
    node_id: str | None
    iteration: int | None
    since_ms: int | None
    blockers: tuple[Blocker, ...]
    top_run_id: str
    """The run that has to be resumed for this one to go on: for that of a subflow the outermost above it."""
    more: int = 0
    """How many blockers are left out."""
    now_ms: int = 0

    def wire(self) -> dict[str, object]:
        """As it is sent."""
        return {
            "runId": self.run.run_id,
            "nodeId": self.node_id,
            "iteration": self.iteration,
            "status": self.run.status,
            "state": self.state,
            "sinceMs": self.since_ms,
            "blockers": [blocker.wire() for blocker in self.blockers],
            "more": self.more,
        }


async def why(control: Control, run_id: str, node_id: str | None = None, iteration: int | None = None) -> Diagnosis:
    """Why a run is where it is, or a node of it (its newest iteration if none is given).

    Raises:
        RunNotFound, NodeNotFound.
    """
    now = control.clock.now_ms()
    if node_id is None:
        return await control.store.aread(lambda c: of_run(c, run_id, now))
    return await control.store.aread(lambda c: of_node(c, run_id, node_id, iteration, now))


# ── runs ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def of_run(c: reads.Session, run_id: str, now: int) -> Diagnosis:
    """See `why`."""
    run = reads.run(c, run_id)
    found = run_blockers(c, run, now)
    state, since = run_standing(c, run, now)
    shown, more = _bounded(found)
    return Diagnosis(
        run=run,
        state=state,
        node=None,
        node_id=None,
        iteration=None,
        since_ms=since,
        blockers=shown,
        top_run_id=lineage.driven_by(c, run_id).run_id,
        more=more,
        now_ms=now,
    )


def _bounded(found: Sequence[Blocker]) -> tuple[tuple[Blocker, ...], int]:
    counts: dict[str, int] = {}
    kept: list[Blocker] = []
    for blocker in found:
        counts[blocker.kind] = counts.get(blocker.kind, 0) + 1
        if counts[blocker.kind] <= MAX_EACH:
            kept.append(blocker)
    return tuple(kept), len(found) - len(kept)


_OF_OTHERS: Final = ("ready", "failed", "decided")
"""What is said of a whole run, and says nothing about one of its nodes."""

# ── nodes ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def of_node(c: reads.Session, run_id: str, node_id: str, iteration: int | None, now: int) -> Diagnosis:
    """See `why`."""
    run = reads.run(c, run_id)
    nodes = {(n.node_id, n.iteration): n for n in reads.nodes(c, run_id)}
    tree = _newest_tree(pages.frame_rows(c, run_id, None))
    key = _key(nodes, tree, node_id, iteration)
    if key is None:
        at = "" if iteration is None else f" (iteration {iteration})"
        raise NodeNotFound(f"run {run_id!r} has no node {node_id!r}{at}", {"runId": run_id, "nodeId": node_id})
    node = nodes.get(key)
    everything = run_blockers(c, run, now)
    state = "pending" if node is None else node.state
    own = _own(c, run, tree, nodes, key, everything)
    own += _of_child(own, everything)
    if state not in ("finished", "skipped"):
        own += [
            b
            for b in everything
            if b.node_id is None and b.run_id == run_id and b not in own and b.kind not in _OF_OTHERS
        ]
    shown, more = _bounded(own)
    return Diagnosis(
        run=run, state=state, node=node, node_id=key[0], iteration=key[1], since_ms=_since(node, own), blockers=shown,
        top_run_id=lineage.driven_by(c, run_id).run_id, more=more, now_ms=now,
    )  # fmt: skip


def _own(
    c: reads.Session,
    run: RunRow,
    tree: TreeNode | None,
    nodes: Mapping[Key, NodeRow],
    key: Key,
    everything: Sequence[Blocker],
) -> list[Blocker]:
    """What a node itself waits for or has come to grief of."""
    own = [b for b in everything if b.run_id == run.run_id and (b.node_id, b.iteration) == key]
    if own:
        return own
    state = nodes[key].state if key in nodes else "pending"
    if state == "failed":
        return [b for b in ended(c, run) if b.node_id == key[0]] or _failed(c, run.run_id, key)
    if state in ("pending", "cancelled"):
        return ended(c, run) if run.status in TERMINAL else _held_up(c, run, tree, nodes, key, everything)
    return []


def _of_child(own: Sequence[Blocker], everything: Sequence[Blocker]) -> list[Blocker]:
    """What the run waits for that a node waits for."""
    child = next((text_of((b.details or {}).get("childRunId")) for b in own if b.kind == "child"), None)
    if child is None:
        return []
    return [b for b in everything if b.run_id == child or b.run_id.startswith(f"{child}:")]


def _since(node: NodeRow | None, own: Sequence[Blocker]) -> int | None:
    """Since when a node is where it is."""
    if node is None:
        return None
    if node.state == "pending":
        return node.updated_at_ms
    return next((b.since_ms for b in own if b.since_ms is not None), node.updated_at_ms)


def _newest_tree(rows: Iterable[FrameRow]) -> TreeNode | None:
    tree: TreeNode | None = None
    for row in rows:
        tree = decode_frame(row.encoding, row.tree, tree)
    return tree


def _key(nodes: Mapping[Key, NodeRow], tree: TreeNode | None, node_id: str, iteration: int | None) -> Key | None:
    known = {*nodes, *([key for key, _ in leaves(tree)] if tree is not None else ())}
    found = [key for key in known if key[0] == node_id and iteration in (None, key[1])]
    return max(found, key=lambda key: key[1], default=None)


def _failed(c: reads.Session, run_id: str, key: Key) -> list[Blocker]:
    for attempt in run_pages.attempts_of_node(c, run_id, *key, limit=1):
        error = object_of(from_json(attempt.error_json or "{}"))
        count = "1 attempt" if attempt.attempt == 1 else f"{attempt.attempt} attempts"
        return [
            Blocker(
                kind="failed",
                text=f"{key[0]} failed after {count}: {error_text(error)}",
                run_id=run_id,
                node_id=key[0],
                iteration=key[1],
                since_ms=attempt.finished_at_ms,
                details={"error": error, "attempts": attempt.attempt},
            )
        ]
    return []


def _held_up(
    c: reads.Session,
    run: RunRow,
    tree: TreeNode | None,
    nodes: Mapping[Key, NodeRow],
    key: Key,
    everything: Sequence[Blocker],
) -> list[Blocker]:
    """Why a node has not begun: what stands before it, each with what that waits for in turn."""
    states = {k: node.state for k, node in nodes.items()}
    found = None if tree is None else obstacles(tree, states, key)
    if found is None:
        text = "the workflow to mount it: the newest frame does not have it"
        return [Blocker(kind="order", text=text, run_id=run.run_id, node_id=key[0], iteration=key[1])]
    limit = int_of(_config(c, run.run_id).get("max_concurrency"))
    at_work = [k for k, state in states.items() if state == "in-progress"]
    if not found and limit is not None and len(at_work) >= limit:
        found = [Obstacle("room", tuple((k, "in-progress") for k in at_work), "run", limit)]
    blockers: list[Blocker] = []
    for obstacle in found:
        blockers.append(_as_blocker(run, key, obstacle))
        for other, _ in obstacle.nodes[:MAX_EACH]:
            blockers += [b for b in everything if b.run_id == run.run_id and (b.node_id, b.iteration) == other]
    if not blockers and run.status == "running":
        text = "its turn: nothing is in its way"
        blockers.append(Blocker(kind="ready", text=text, run_id=run.run_id, node_id=key[0], iteration=key[1]))
    return blockers


def _config(c: reads.Session, run_id: str) -> dict[str, object]:
    return object_of(from_json(reads.spec(c, run_id)[1]))


def _as_blocker(run: RunRow, key: Key, obstacle: Obstacle) -> Blocker:
    names = [f"{k[0]} ({state or 'not reached'})" for k, state in obstacle.nodes[:3]]
    listed = ", ".join(names) + (f" and {len(obstacle.nodes) - 3} more" if len(obstacle.nodes) > 3 else "")
    is_failed = any(state in ("failed", "cancelled") for _, state in obstacle.nodes)
    details: dict[str, object] = {
        "nodes": [{"nodeId": k[0], "iteration": k[1], "state": state} for k, state in obstacle.nodes[:MAX_EACH]]
    }
    match obstacle.kind:
        case "order":
            kind, text = "order", f"what stands before it: {listed}"
        case "dependency":
            kind, text = ("failed-dependency" if is_failed else "dependency"), f"what it depends on: {listed}"
        case "room":
            kind = "room"
            text = f"room in {obstacle.group}, where at most {obstacle.limit} may be at work: {listed}"
            details |= {"group": obstacle.group, "limit": obstacle.limit}
    return Blocker(kind=kind, text=text, run_id=run.run_id, node_id=key[0], iteration=key[1], details=details)
