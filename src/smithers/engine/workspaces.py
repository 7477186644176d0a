"""Workspaces: the folders that one run's tasks change files in. Stores those files before the first change and after each
attempt that made one, and makes the worktrees that tasks ask for.

A task that touches no files costs nothing here. Whatever version control cannot do is put on record as the reason why there
is no difference to be shown; it fails no task, but for a worktree that cannot be made.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from smithers.components.worktree import Worktree
from smithers.errors import SmithersError, VcsError
from smithers.store.interface import SqlValue
from smithers.store.sql import checkpoints as rows
from smithers.store.sql.checkpoints import WorkspaceRow
from smithers.store.sql.store import SqlStore
from smithers.vcs import checkpoints, worktrees
from smithers.vcs.repository import Repository, find_repository

log = logging.getLogger(__name__)


class Stored(NamedTuple):
    """The files of a folder after an attempt: the commit that holds them, or why there is none."""

    cwd: str
    commit: str | None
    tree: str | None
    problem: str | None

    def row(
        self, run_id: str, node_id: str, iteration: int, attempt: int, frame_no: int, now_ms: int
    ) -> tuple[SqlValue, ...]:
        """The parameters of the statement `checkpoint`."""
        key = (run_id, node_id, iteration, attempt, 1)
        return (*key, frame_no, self.cwd, self.commit, self.tree, self.problem, rows.ATTEMPT, None, now_ms, run_id)


class Workspaces:
    """The folders of one run.

    Args:
        root: where relative paths of worktrees begin: the folder that the run works in.
        is_storing: whether files are stored at all.
    """

    def __init__(
        self, store: SqlStore, run_id: str, root: Path, now_ms: Callable[[], int], *, is_storing: bool = True
    ) -> None:
        self._store = store
        self._run_id = run_id
        self._root = root
        self._now_ms = now_ms
        self._is_storing = is_storing
        self._lock = threading.Lock()
        self._known: dict[str, Repository | VcsError] = {}
        self._trees: dict[str, asyncio.Lock] = {}

    # ── files ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def begin(self, folder: Path) -> None:
        """Files of a folder are about to change: store them as they are, once in a run. Blocks; from any thread."""
        cwd = str(folder.resolve())
        if cwd in self._known:
            return
        with self._lock:
            if cwd not in self._known:
                self._known[cwd] = self._first(Path(cwd))

    def _first(self, folder: Path) -> Repository | VcsError:
        run_id, cwd = self._run_id, str(folder)
        try:
            found = self._store.read(lambda c: rows.workspace(c, run_id, cwd))
            base: checkpoints.Checkpoint | None = None
            place: Repository | VcsError
            try:
                if not self._is_storing:
                    raise VcsError("checkpoints are turned off here (SMITHERS_CHECKPOINTS)")
                place = checkpoints.open_repository(folder, database=self._store.path)
                if found is not None and found.base_ref is not None:
                    return place
                if found is None or found.git_dir is None:  # before there is a ref: who lets go of the run's looks here
                    self._note(_row(run_id, cwd, place, None, self._now_ms()))
                ref = checkpoints.checkpoint_ref(run_id, f"base-{cwd}")
                message = f"smithers: files before run {run_id}"
                base = checkpoints.take(place, folder, ref, message)
            except VcsError as error:
                place = error
                if self._is_storing:
                    self._warn("the files of this run are not stored", error, None)
            self._note(_row(run_id, cwd, place, base, self._now_ms()))
            return place
        except SmithersError as error:  # the database: what comes of it, the run's own steps will tell
            return VcsError(f"the folder could not be put on record: {error.summary}")

    def _note(self, row: WorkspaceRow) -> None:
        self._store.write(lambda c: rows.add_workspace(c, row))

    async def checkpoint(self, folder: Path, node_id: str, iteration: int, attempt: int) -> Stored | None:
        """Store a folder's files after an attempt that may have changed them. None if the attempt is to stop."""
        try:
            return await asyncio.to_thread(self._take, folder, node_id, iteration, attempt)
        except asyncio.CancelledError:
            return None  # its caller ends with this, and what the attempt came to stands

    def _take(self, folder: Path, node_id: str, iteration: int, attempt: int) -> Stored:
        self.begin(folder)
        cwd = str(folder.resolve())
        place = self._known[cwd]
        try:
            if isinstance(place, VcsError):
                raise place
            ref = checkpoints.checkpoint_ref(self._run_id, f"{node_id}-{iteration}-{attempt}")
            message = f"smithers: run {self._run_id}, {node_id}, iteration {iteration}, attempt {attempt}"
            found = checkpoints.take(place, Path(cwd), ref, message)
            return Stored(cwd, found.commit, found.tree, None)
        except VcsError as error:
            if error is not place:
                self._warn("the files of this attempt are not stored", error, node_id)
            return Stored(cwd, None, None, error.summary)
        except OSError as error:
            self._warn("the files of this attempt are not stored", error, node_id)
            return Stored(cwd, None, None, str(error))

    def _warn(self, text: str, error: Exception, node_id: str | None) -> None:
        log.warning("%s: %s", text, error, extra={"run_id": self._run_id, "node_id": node_id})

    # ── worktrees ──────────────────────────────────────────────────────────────────────────────────────────────────

    def path_of(self, path: str) -> Path:
        """Where a worktree's folder is."""
        return (self._root / path).absolute()

    async def worktree(self, element: Worktree) -> Path:
        """The folder of a worktree, made if it is not there. Raises `WorktreeCreateFailed`."""
        path = self.path_of(element.path)
        async with self._trees.setdefault(str(path), asyncio.Lock()):
            await asyncio.to_thread(self._make, element, path)
        return path.resolve()

    def _make(self, element: Worktree, path: Path) -> None:
        cwd = str(path.resolve())
        known = self._store.read(lambda c: rows.workspace(c, self._run_id, cwd))
        is_ours = known is not None and known.is_worktree == 1 and known.removed_at_ms is None
        worktrees.ensure(self._root, path, element.branch, element.base_branch, may_move=not is_ours)
        if is_ours:
            return
        row = WorkspaceRow(
            self._run_id,
            cwd,
            "git",
            None,
            None,
            None,
            None,
            None,
            1,
            element.branch,
            str(self._root),
            self._now_ms(),
            None,
        )
        self._store.write(lambda c: rows.add_worktree(c, row))

    def git_dir(self) -> Path | None:
        """The git directory of the repository that worktrees are made of, which programs in them may read.

        Found from the run's own folder, never from a worktree, whose `.git` file a task may have changed: it could name any
        folder. None where that folder is a worktree itself, or links elsewhere.
        """
        found = find_repository(self._root)
        if found is None or found.kind != "git":
            return None
        place = found.top / ".git"
        is_plain = place.is_dir() and not place.is_symlink() and found.common_dir == place.resolve()
        return place.resolve() if is_plain else None

    async def tidy(self) -> None:
        """The run has ended well: remove its worktrees, but for those that hold what nothing else does."""
        try:
            await asyncio.to_thread(self._tidy)
        except Exception as error:  # the run has succeeded, whatever becomes of its folders
            self._warn("worktrees are left behind", error, None)

    def _tidy(self) -> None:
        for row, _ in self._store.read(lambda c: rows.worktrees(c, self._run_id)):
            reason = self._remove(row.cwd)
            if reason is not None:
                log.info("worktree is kept: %s", reason, extra={"run_id": self._run_id, "path": row.cwd})

    def _remove(self, cwd: str) -> str | None:
        """Remove a worktree; why not, if it was kept."""
        if self._store.read(lambda c: rows.is_in_use(c, cwd, self._run_id)):
            return "another run works in it"
        try:
            reason = worktrees.remove(self._root, Path(cwd))
        except VcsError as error:
            return error.summary
        if reason is None:
            self._store.write(lambda c: rows.worktree_removed(c, cwd, self._now_ms()))
        return reason


def _row(
    run_id: str, cwd: str, place: Repository | VcsError, base: checkpoints.Checkpoint | None, now_ms: int
) -> WorkspaceRow:
    if isinstance(place, VcsError):
        return WorkspaceRow(run_id, cwd, None, None, None, None, None, place.summary, 0, None, None, now_ms, None)
    commit, tree = (None, None) if base is None else (base.commit, base.tree)
    facts = (place.kind, str(place.top), str(place.common_dir), commit, tree, None)
    return WorkspaceRow(run_id, cwd, *facts, 0, None, None, now_ms, None)
