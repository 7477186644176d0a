"""Worktrees: those that runs have made, and removing what nobody needs any more."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from pathlib import Path

from smithers.control.control import Control
from smithers.errors import VcsError
from smithers.scheduler.states import RunStatus
from smithers.store.sql import checkpoints as rows
from smithers.vcs import worktrees as trees


@dataclass(frozen=True, slots=True)
class Worktree:
    """A worktree that a run has made. `unsaved` says what would be lost with it, None if nothing would."""

    path: str
    launch_root: str
    branch: str | None
    run_id: str
    run_status: str
    created_at_ms: int
    unsaved: str | None


async def worktrees(control: Control, *, run_id: str | None = None) -> list[Worktree]:
    """Worktrees that are still there, oldest first; of one run if it is given. Those that are gone are noted as such."""
    stored = await control.store.aread(lambda c: rows.worktrees(c, run_id))
    found: list[Worktree] = []
    for row, status in stored:
        is_there, reason = await asyncio.to_thread(_look, Path(row.cwd))
        if not is_there:
            await _gone(control, row.cwd)
            continue
        root = row.launch_root or row.cwd
        found.append(Worktree(row.cwd, root, row.branch, row.run_id, status, row.created_at_ms, reason))
    return found


async def prune(
    control: Control,
    *,
    run_id: str | None = None,
    older_than_ms: int = 0,
    is_forced: bool = False,
    is_dry: bool = False,
) -> list[Worktree]:
    """Remove worktrees that no run works in any more, but for those that hold unsaved work. All that were looked at;
    those with `unsaved` were kept.

    Args:
        older_than_ms: only those that were made longer ago, in milliseconds.
        is_forced: also those that hold unsaved work.
        is_dry: remove nothing.
    """
    now = control.clock.now_ms()
    every = await worktrees(control)
    busy = {tree.path for tree in every if not RunStatus(tree.run_status).is_terminal}
    done: dict[str, Worktree] = {}
    for tree in every:
        is_meant = run_id in (None, tree.run_id) and tree.created_at_ms <= now - older_than_ms
        if not is_meant or tree.path in busy or tree.path in done:
            continue
        if is_forced:
            tree = replace(tree, unsaved=None)
        if tree.unsaved is None and not is_dry:
            reason = await asyncio.to_thread(_remove, tree, is_forced)
            if reason is None:
                await _gone(control, tree.path)
            else:
                tree = replace(tree, unsaved=reason)
        done[tree.path] = tree
    return list(done.values())


async def _gone(control: Control, path: str) -> None:
    now = control.clock.now_ms()
    await control.store.awrite(lambda c: rows.worktree_removed(c, path, now))


def _look(path: Path) -> tuple[bool, str | None]:
    if not path.is_dir():
        return False, None
    try:
        return True, trees.unsaved(path)
    except VcsError as error:
        return True, error.summary


def _remove(tree: Worktree, is_forced: bool) -> str | None:
    try:
        return trees.remove(Path(tree.launch_root), Path(tree.path), is_forced=is_forced)
    except VcsError as error:
        return error.summary
