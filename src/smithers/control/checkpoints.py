"""Checkpoints: which states of their folders' files runs have stored, and going back to one.

What differs between them is `diffs.py`'s. Time travel takes `restorer(control)` as the function that puts folders back.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from smithers.control.control import Control
from smithers.control.diffs import repository_of
from smithers.errors import (
    AttemptNotFound,
    NodeNotFound,
    RunActive,
    RunNotFound,
    SmithersError,
    VcsError,
    error_object,
)
from smithers.events import EventDraft, event
from smithers.scheduler.states import RunStatus
from smithers.store.sql import checkpoints as rows
from smithers.store.sql import control as writes
from smithers.store.sql import reads, run_pages
from smithers.store.sql.checkpoints import CheckpointRow, WorkspaceRow
from smithers.vcs import checkpoints
from smithers.vcs.repository import Repository

log = logging.getLogger(__name__)
Attempt = tuple[str, int, int]
"""Node, iteration, attempt."""


@dataclass(frozen=True, slots=True)
class PutBack:
    """A folder that was put back: to which commit, which paths changed, and what holds the files that were there."""

    cwd: str
    commit: str
    changed: tuple[str, ...]
    safety: str | None


@dataclass(frozen=True, slots=True)
class _Goal:
    """A folder and what it is to be put back to, with the trees of it that are stored."""

    place: WorkspaceRow
    commit: str
    known: tuple[str, ...]


class Restorer:
    """Puts the folders of runs back; what time travel takes as `restore`.

    Args:
        is_forced: go on over files that no checkpoint holds; they are stored first.
    """

    def __init__(self, control: Control, *, is_forced: bool = False) -> None:
        self._control = control
        self._is_forced = is_forced
        self.done: list[PutBack] = []
        """What has been put back."""

    async def check(self, run_id: str, frame_no: int, attempt: Attempt | None = None, /) -> None:
        """Whether all folders can be put back, before anything is done that cannot be taken back. Raises as a call does."""
        goals = await self._control.store.aread(lambda c: _goals(c, run_id, frame_no, attempt, is_told=False))
        for goal in goals:
            await _put_back(self._control, run_id, goal, is_forced=self._is_forced, is_trial=True)

    async def __call__(self, run_id: str, frame_no: int, attempt: Attempt | None = None, /) -> int:
        """Put all folders of a run back to what they were right after a frame, or before an attempt (node, iteration,
        attempt) began; how many that were. A folder that has not changed since is left alone, and so is one under no
        version control.

        Raises:
            RunNotFound.
            WorkingTreeDirty: a folder holds files that no checkpoint holds.
            VcsError: it cannot be done.
        """
        goals = await self._control.store.aread(lambda c: _goals(c, run_id, frame_no, attempt))
        done = [await _put_back(self._control, run_id, goal, is_forced=self._is_forced) for goal in goals]
        self.done += done
        return len(done)


async def snapshots(control: Control, run_id: str, node_id: str | None = None) -> list[CheckpointRow]:
    """The checkpoints of a run, or of one of its nodes, in order. Raises `RunNotFound`."""

    def query(c: reads.Session) -> list[CheckpointRow]:
        reads.run(c, run_id)
        return rows.checkpoints(c, run_id, node_id)

    return await control.store.aread(query)


async def forget(control: Control, run_id: str) -> int:
    """Remove the checkpoints of a run that has ended, with the way back that they are, also those that a rewind has taken
    out of its history, and those of subflows' runs that are gone. Git frees their space in time. How many there were.

    Raises:
        RunNotFound.
        RunActive: it has not ended.
        VcsError: a repository cannot be changed; nothing goes back to what is left in it, and asking again removes it.
    """

    # what is made from now on stays; and no row ever names a commit that nothing keeps
    places = await control.store.aread(lambda c: _places_to_forget(c, run_id))
    held = await asyncio.to_thread(_held, places)

    def job(c: reads.Session) -> None:
        _places_to_forget(c, run_id)
        rows.forget_run(c, run_id)

    await control.store.awrite(job)
    return await asyncio.to_thread(_let_go, held)


def _places_to_forget(c: reads.Session, run_id: str) -> list[WorkspaceRow]:
    places = rows.workspaces_left(c, run_id)
    try:
        is_over = RunStatus(reads.run(c, run_id).status).is_terminal
    except RunNotFound:
        if all(place.run_id != run_id for place in places):
            raise
        is_over = True
    if not is_over:
        raise RunActive(f"run {run_id!r} has not ended, and may need its checkpoints", {"runId": run_id})
    return [*places, *rows.workspaces(c, run_id)]


def _held(places: Sequence[WorkspaceRow]) -> list[tuple[Repository, list[str]]]:
    """The refs of runs in the repositories of their folders, as far as they are on this machine."""
    runs: dict[str, dict[str, WorkspaceRow]] = {}
    for place in places:
        if place.git_dir is not None and Path(place.git_dir).is_dir():
            runs.setdefault(place.git_dir, {})[place.run_id] = place
    found: list[tuple[Repository, list[str]]] = []
    for by_run in runs.values():
        repository = repository_of(next(iter(by_run.values())), "")
        found.append((repository, checkpoints.refs_of(repository, *by_run)))
    return found


def _let_go(held: Sequence[tuple[Repository, list[str]]]) -> int:
    for repository, refs in held:
        if refs:
            checkpoints.forget(repository, refs)
    return sum(len(refs) for _, refs in held)


async def restore(
    control: Control,
    run_id: str,
    node_id: str,
    iteration: int = 0,
    *,
    attempt: int | None = None,
    is_forced: bool = False,
    is_told: bool = False,
) -> PutBack:
    """Put an attempt's folder back to what it was when the attempt ended. The run's own state stays as it is.

    Args:
        attempt: the newest that has a checkpoint by default.
        is_forced: go on over files that no checkpoint holds (they are stored first), and while the run is under way.
        is_told: write into the run's log that it was done.

    Raises:
        RunNotFound, NodeNotFound, AttemptNotFound: there is no such checkpoint.
        RunActive: the run is under way.
        WorkingTreeDirty, VcsError.
    """
    row, goal = await control.store.aread(lambda c: _goal_of(c, run_id, node_id, iteration, attempt, is_forced))
    at, number, pointer = (node_id, iteration), row.attempt, goal.commit
    if is_told:
        await _tell(control, run_id, event("RevertStarted", *at, attempt=number, jjPointer=pointer))
    try:
        done = await _put_back(control, run_id, goal, is_forced=is_forced)
    except SmithersError as error:
        if is_told:
            why = error_object(error)
            ended = event("RevertFinished", *at, attempt=number, jjPointer=pointer, success=False, error=why)
            await _tell(control, run_id, ended)
        raise
    if is_told:
        await _tell(control, run_id, event("RevertFinished", *at, attempt=number, jjPointer=pointer, success=True))
    return done


async def _tell(control: Control, run_id: str, told: EventDraft) -> None:
    await control.store.awrite(lambda c: writes.append_events(c, run_id, control.clock.now_ms(), [told]))


async def _put_back(control: Control, run_id: str, goal: _Goal, *, is_forced: bool, is_trial: bool = False) -> PutBack:
    ref = checkpoints.checkpoint_ref(run_id, "safety")
    folder = Path(goal.place.cwd)

    def work() -> checkpoints.Restored:
        repository = checkpoints.open_repository(folder, database=control.store.path)
        return checkpoints.restore(
            repository,
            folder,
            goal.commit,
            known=goal.known,
            is_forced=is_forced,
            safety_ref=ref,
            is_trial=is_trial,
        )

    done = await asyncio.to_thread(work)
    if done.safety is not None:
        kept, now = done.safety, control.clock.now_ms()
        await control.store.awrite(
            lambda c: rows.add_safety(
                c,
                CheckpointRow(
                    run_id,
                    "",
                    0,
                    0,
                    0,
                    0,
                    reads.run(c, run_id).frame_no,
                    goal.place.cwd,
                    kept.commit,
                    kept.tree,
                    None,
                    rows.SAFETY,
                    f"before going back to {goal.commit[:12]}",
                    now,
                ),
            )
        )
    return PutBack(goal.place.cwd, goal.commit, done.changed, None if done.safety is None else done.safety.commit)


def _goal_of(
    c: reads.Session, run_id: str, node_id: str, iteration: int, attempt: int | None, is_forced: bool
) -> tuple[CheckpointRow, _Goal]:
    run = reads.run(c, run_id)
    if run.runtime_owner_id is not None and not is_forced:
        raise RunActive(
            f"run {run_id!r} is under way, and its tasks may be working on these files; pause it, or force it",
            {"runId": run_id},
        )
    every = rows.checkpoints(c, run_id)
    mine = [row for row in every if (row.node_id, row.iteration) == (node_id, iteration)]
    details: dict[str, object] = {"runId": run_id, "nodeId": node_id, "iteration": iteration}
    if not mine and not run_pages.has_node(c, run_id, node_id):
        raise NodeNotFound(f"run {run_id!r} has no node {node_id!r}", details)
    found = next((row for row in reversed(mine) if attempt in (None, row.attempt)), None)
    if found is None:
        which = f"attempt {attempt}" if attempt is not None else f"iteration {iteration}"
        raise AttemptNotFound(f"{which} of {node_id!r} has no checkpoint", details)
    place = rows.workspace(c, run_id, found.cwd)
    if found.commit_id is None or place is None:
        raise VcsError(f"the files of {node_id!r} are not stored: {found.problem}", details)
    return found, _Goal(place, found.commit_id, _known(place, every))


def _goals(
    c: reads.Session, run_id: str, frame_no: int, attempt: Attempt | None, *, is_told: bool = True
) -> list[_Goal]:
    reads.run(c, run_id)
    every = rows.checkpoints(c, run_id)
    before = frame_no
    if attempt is not None:
        began = run_pages.attempts_of_node(c, run_id, attempt[0], attempt[1], attempt[2])
        if not began:
            raise AttemptNotFound(f"node {attempt[0]!r} has no attempt {attempt[2]} in iteration {attempt[1]}")
        before = _began(c, run_id, attempt)
    found: list[_Goal] = []
    for place in rows.workspaces(c, run_id):
        mine = [row for row in every if row.cwd == place.cwd and row.source == rows.ATTEMPT]
        earlier = [row for row in mine if row.frame_no <= before]
        if len(earlier) == len(mine) or place.removed_at_ms is not None:
            continue
        commit = earlier[-1].commit_id if earlier else place.base_ref
        if commit is None and all(row.commit_id is None for row in mine):
            if is_told:
                log.warning("files are not put back: %s", place.problem or mine[-1].problem, extra={"run_id": run_id})
            continue
        if commit is None:
            problem = earlier[-1].problem if earlier else place.problem
            raise VcsError(f"the files of {place.cwd!r} at that moment are not stored: {problem}", {"runId": run_id})
        found.append(_Goal(place, commit, _known(place, every)))
    return found


def _began(c: reads.Session, run_id: str, attempt: Attempt) -> int:
    """The frame in which an attempt began: what ended in it did so before."""
    row = c.execute(
        "SELECT frame_no FROM _smithers_attempts WHERE run_id = ? AND node_id = ? AND iteration = ? AND attempt = ?",
        (run_id, *attempt),
    ).fetchone()
    return 0 if row is None else int(row[0])


def _known(place: WorkspaceRow, every: Sequence[CheckpointRow]) -> tuple[str, ...]:
    """The trees of a folder that are stored, the newest last."""
    trees = (place.base_tree, *(row.tree_id for row in every if row.cwd == place.cwd))
    return tuple(tree for tree in trees if tree is not None)
