"""Diffs: what tasks and runs have changed in the files of their folders, as `DiffBundle`s, from the checkpoints of the run.

Going back to a checkpoint is `checkpoints.py`'s; how the states of two runs differ is `travel/diffing.py`'s.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Final, NamedTuple

from pydantic_core import from_json, to_json

from smithers.control.control import Control
from smithers.errors import AttemptNotFinished, AttemptNotFound, DiffTooLarge, NodeNotFound, RunActive, VcsError
from smithers.scheduler.states import RunStatus
from smithers.store.sql import branching, reads, run_pages
from smithers.store.sql import checkpoints as rows
from smithers.store.sql.checkpoints import CheckpointRow, WorkspaceRow
from smithers.vcs.bundles import MAX_BYTES, Oversized, Patch, patches_between, wire_bundle
from smithers.vcs.repository import Repository

Wire = dict[str, object]
MULTIPLE: Final = "multiple"
"""Stands for the commit where there are several."""


class _Asked(NamedTuple):
    """What a node's difference is made from."""

    row: CheckpointRow
    base: str
    place: WorkspaceRow
    cached: str | None


async def node_diff(control: Control, run_id: str, node_id: str, iteration: int = 0) -> Wire:
    """What a node's newest attempt has changed, as a `DiffBundle`: since the attempt before it, else since the newest
    checkpoint before it in that folder, else since the run came to the folder. Paths are relative to the folder.

    Raises:
        RunNotFound, NodeNotFound, AttemptNotFound.
        AttemptNotFinished: the attempt is under way, or there is no checkpoint because it changed no files by tools.
        VcsError: there is none because there could be none; says why, and the way out.
        DiffTooLarge: it has more than 50 MiB.
    """
    asked = await control.store.aread(lambda c: _asked(c, run_id, node_id, iteration))
    row, base = asked.row, asked.base
    assert row.commit_id is not None
    if asked.cached is not None:
        found: Wire = from_json(asked.cached)
        return found
    patches = await asyncio.to_thread(_patches, asked.place, base, row.commit_id)
    if isinstance(patches, Oversized):
        details: Wire = {"sizeBytes": patches.size, "maxBytes": MAX_BYTES, "baseRef": base, "targetRef": row.commit_id}
        raise DiffTooLarge(
            f"the difference has {patches.size:,} bytes, more than the {MAX_BYTES:,} that are sent; see it with "
            f"`git diff {base[:12]} {row.commit_id[:12]}` in {row.cwd}",
            details,
        )
    bundle = wire_bundle(row.position, base, patches)
    key = (run_id, node_id, iteration, base, row.commit_id)
    text = to_json(bundle).decode()
    await control.store.awrite(lambda c: rows.cache_diff(c, key, text, control.clock.now_ms()))
    return bundle


def _asked(c: reads.Session, run_id: str, node_id: str, iteration: int) -> _Asked:
    reads.run(c, run_id)
    details: Wire = {"runId": run_id, "nodeId": node_id, "iteration": iteration}
    attempts = run_pages.attempts_of_node(c, run_id, node_id, iteration, limit=1)
    if not attempts:
        if not run_pages.has_node(c, run_id, node_id):
            raise NodeNotFound(f"run {run_id!r} has no node {node_id!r}", details)
        raise AttemptNotFound(f"node {node_id!r} has no attempt in iteration {iteration}", details)
    attempt = attempts[0]
    details["attempt"] = attempt.attempt
    if attempt.finished_at_ms is None:
        raise AttemptNotFinished(f"attempt {attempt.attempt} of {node_id!r} is still {attempt.state}", details)
    row = rows.attempt_checkpoint(c, run_id, node_id, iteration, attempt.attempt)
    if row is None:
        maker = _maker(c, run_id, attempt.frame_no)
        why = (
            "it used no tool that changes files"
            if maker == run_id
            else f"it was made in run {maker!r}, which has what there is of it"
        )
        raise AttemptNotFinished(f"attempt {attempt.attempt} of {node_id!r} has no checkpoint: {why}", details)
    if row.commit_id is None:
        raise VcsError(f"the files of {node_id!r} are not stored: {row.problem}", details)
    base, place = rows.base_of(c, row), rows.workspace(c, run_id, row.cwd)
    if base is None or place is None:
        raise VcsError(f"there is nothing stored that {node_id!r} could be compared with", details)
    return _Asked(row, base, place, rows.cached_diff(c, run_id, node_id, iteration, base, row.commit_id))


def _maker(c: reads.Session, run_id: str, began: int) -> str:
    """The run that made an attempt which began in this frame: a fork has attempts of the run that it was made of."""
    branch = branching.branch_of(c, run_id)
    while branch is not None and began <= branch.parent_frame_no:
        run_id = branch.parent_run_id
        branch = branching.branch_of(c, run_id)
    return run_id


async def run_diff(control: Control, run_id: str) -> Wire:
    """What a run that has ended has changed in all, as a `DiffBundle`, or `{status: "oversized", …}` above 50 MiB. Of
    several folders, paths in all but the first begin with what the folder is called.

    Raises:
        RunNotFound.
        RunActive: it has not ended.
        VcsError: nothing is stored of its files; says why.
    """

    def query(c: reads.Session) -> tuple[bool, bool, list[WorkspaceRow], list[CheckpointRow]]:
        is_over = RunStatus(reads.run(c, run_id).status).is_terminal
        return is_over, bool(reads.attempts(c, run_id)), rows.workspaces(c, run_id), rows.checkpoints(c, run_id)

    is_over, has_attempts, places, found = await control.store.aread(query)
    if not is_over:
        raise RunActive(f"run {run_id!r} has not ended; what a node has changed can be seen already", {"runId": run_id})
    if not has_attempts:
        return wire_bundle(0, next((p.base_ref for p in places if p.base_ref), ""), [])
    newest = {row.cwd: row for row in found if row.source == rows.ATTEMPT}
    if not newest:
        raise VcsError(
            f"no task of run {run_id!r} used a tool that changes files, so there is nothing to compare",
            {"runId": run_id},
        )
    spans: list[tuple[WorkspaceRow, str, str]] = []
    for place in places:
        last = newest.get(place.cwd)
        if last is None:
            continue
        if place.base_ref is None or last.commit_id is None:
            raise VcsError(
                f"the files of run {run_id!r} are not stored: {last.problem or place.problem}", {"runId": run_id}
            )
        spans.append((place, place.base_ref, last.commit_id))
    bundle, size = await asyncio.to_thread(_all_patches, spans)
    bases, ends = {base for _, base, _ in spans}, {end for _, _, end in spans}
    base_ref = bases.pop() if len(bases) == 1 else MULTIPLE
    if size > MAX_BYTES:
        end = ends.pop() if len(ends) == 1 else MULTIPLE
        return {
            "status": "oversized",
            "baseRef": base_ref,
            "terminalRef": end,
            "sizeBytes": size,
            "maxBytes": MAX_BYTES,
        }
    return wire_bundle(max(row.position for row in newest.values()), base_ref, bundle)


def _all_patches(spans: list[tuple[WorkspaceRow, str, str]]) -> tuple[list[Patch], int]:
    """The patches of all folders, and how large they are, as far as one looks once they are too large."""
    found: list[Patch] = []
    size = 0
    for place, base, end in spans:
        below = "" if place is spans[0][0] else _name_of(place.cwd, spans[0][0].cwd) + "/"
        patches = _patches(place, base, end, below)
        if isinstance(patches, Oversized):
            return [], size + patches.size
        found += patches
        size += sum(len(to_json(patch.wire())) for patch in patches)
    return found, size


def _name_of(folder: str, first: str) -> str:
    """What a folder is called beside the first: where it is within that, else its own name."""
    found = os.path.relpath(folder, first)
    return Path(folder).name if found.startswith("..") else found


def _patches(place: WorkspaceRow, base: str, end: str, below: str = "") -> list[Patch] | Oversized:
    return patches_between(repository_of(place, end), Path(place.cwd), base, end, below=below)


def repository_of(place: WorkspaceRow, commit: str) -> Repository:
    """The repository that a folder's checkpoints are in. Raises `VcsError` if it is not on this machine."""
    if place.vcs_root is None or place.git_dir is None:
        raise VcsError(f"the files of {place.cwd!r} are not stored: {place.problem}", {"path": place.cwd})
    git_dir = Path(place.git_dir)
    if not (git_dir / "objects").is_dir():
        raise VcsError(
            f"the repository at {place.git_dir!r} is not on this machine; ask where the run's tasks have worked",
            {"path": place.git_dir},
        )
    top = Path(place.vcs_root)
    return Repository("jj" if place.vcs_type == "jj" else "git", top, git_dir, git_dir, len(commit))
