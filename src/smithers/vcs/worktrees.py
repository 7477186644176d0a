"""Worktrees: further working trees of a repository, for tasks that must not get in each other's way.

Making one may be cut off anywhere and begun again. Nothing of the repository's configuration runs: no hook, no filter.
"""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from smithers.errors import VcsError, WorktreeCreateFailed
from smithers.vcs.checkpoints import open_repository, take_tree
from smithers.vcs.git import Scratch, of_repository
from smithers.vcs.repository import Repository, find_repository, head_commit, require_repository

log = logging.getLogger(__name__)
MAIN: Final = "main"


@dataclass(frozen=True, slots=True)
class Listed:
    """A working tree that a repository knows: its branch is None where none is checked out."""

    path: Path
    commit: str | None
    branch: str | None


def ensure(root: Path, path: Path, branch: str | None, base: str, *, may_move: bool) -> str | None:
    """Have a working tree at `path`; the commit that it is at.

    Args:
        root: a folder of the repository.
        branch: checked out there; made from `base` if there is none of that name. None: no branch.
        base: what a new one begins with: a branch, tag or commit. Where there is no `main`, what is checked out in
            `root` stands for it.
        may_move: whether one that is there already, with nothing of its own in it, is brought up to `base`.

    Raises:
        WorktreeCreateFailed: it cannot be made; says why.
    """
    path = path.absolute()
    try:
        repository = require_repository(root)
        if repository.kind != "git":
            raise VcsError("worktrees of a jj workspace need a git repository beside it (jj git init --colocate)")
        start = _commit_of(repository, base)
        found = _existing(repository, path)
        if found is None:
            _add(repository, path, branch, start)
            found = _existing(repository, path)
            assert found is not None
        if not (found.git_dir / "index").exists():
            _fill(found, head_commit(found))
        elif may_move:
            _bring_up(found, start)
        return head_commit(found)
    except (VcsError, OSError) as error:
        details = {"worktreePath": str(path), "vcsType": "git"} | ({"branch": branch} if branch else {})
        why = error.summary if isinstance(error, VcsError) else error
        raise WorktreeCreateFailed(f"no worktree at {str(path)!r}: {why}", details) from error


def listed(root: Path) -> list[Listed]:
    """All working trees of the repository of a folder. Raises `VcsError`."""
    repository = require_repository(root)
    _, text = of_repository(repository, "worktree", "list", "--porcelain", "-z")
    found: list[Listed] = []
    for block in text.split("\0\0"):
        facts = {line.partition(" ")[0]: line.partition(" ")[2] for line in block.split("\0") if line}
        if "worktree" in facts:
            branch = facts.get("branch")
            name = None if branch is None else branch.removeprefix("refs/heads/")
            found.append(Listed(Path(facts["worktree"]), facts.get("HEAD"), name))
    return found


def unsaved(path: Path) -> str | None:
    """Why a working tree may not be removed: what would be lost with it; None if nothing would. Raises `VcsError`."""
    repository = open_repository(path)
    head = head_commit(repository)
    if head is None:
        return "it has no commit"
    with Scratch(repository) as scratch:
        committed = scratch.git("rev-parse", f"{head}^{{tree}}").decode().strip()
    if take_tree(repository, repository.top) != committed:
        return "it has changes that are not committed"
    _, text = of_repository(
        repository, "for-each-ref", "--count=1", "--contains", head, "refs/heads", "refs/remotes", "refs/tags"
    )
    return None if text.strip() else "it has commits that no branch has"


def remove(root: Path, path: Path, *, is_forced: bool = False) -> str | None:
    """Remove a working tree; its branch stays. Why not, if it was kept; None if it is gone.

    Args:
        root: a folder of the repository, outside of it.
        is_forced: remove it whatever it holds.

    Raises `VcsError`.
    """
    repository = require_repository(root)
    if find_worktree(repository, path) is None:
        _prune(repository)
        return None
    if not is_forced and (reason := unsaved(path)) is not None:
        return reason
    of_repository(repository, "worktree", "unlock", str(path), fails=False)
    of_repository(repository, "worktree", "remove", "--force", str(path))
    return None


def find_worktree(repository: Repository, path: Path) -> Repository | None:
    """The added working tree at `path` exactly, if it is one of this repository."""
    found = find_repository(path) if path.is_dir() else None
    is_it = found is not None and found.top == path.resolve() and found.git_dir != found.common_dir
    return found if found is not None and is_it and found.common_dir == repository.common_dir else None


def _existing(repository: Repository, path: Path) -> Repository | None:
    found = find_worktree(repository, path)
    if found is None and path.is_dir() and any(path.iterdir()):
        raise VcsError("there is something else at that path")
    return found


def _commit_of(repository: Repository, base: str) -> str:
    for name in (base, "HEAD") if base == MAIN else (base,):
        code, text = of_repository(
            repository, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}", fails=False
        )
        if code == 0:
            return text.strip()
    raise VcsError(f"there is no branch, tag or commit {base!r} to begin with")


def _add(repository: Repository, path: Path, branch: str | None, start: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    _prune(repository)
    what = ["--detach", str(path), start]
    if branch is not None:
        of_repository(repository, "check-ref-format", "--branch", branch)
        known, _ = of_repository(repository, "show-ref", "--verify", "--quiet", f"refs/heads/{branch}", fails=False)
        for other in listed(repository.top) if known == 0 else []:
            if other.branch == branch and other.path.is_dir() and other.path.resolve() != path.resolve():
                raise VcsError(f"the branch {branch!r} is checked out at {str(other.path)!r}")
        what = [str(path), branch] if known == 0 else ["-b", branch, str(path), start]
    # twice: also where an earlier try was cut off and has left the path locked
    of_repository(repository, "worktree", "add", "--force", "--force", "--no-checkout", *what)


def _prune(repository: Repository) -> None:
    of_repository(repository, "worktree", "prune", fails=False)


def _fill(tree: Repository, commit: str | None) -> None:
    """Write the files of a working tree that has none yet."""
    if commit is None:
        return
    temporary = tree.git_dir / "index.smithers"
    temporary.unlink(missing_ok=True)
    with Scratch(open_repository(tree.top), index=temporary) as scratch:
        scratch.git("read-tree", "--reset", "-u", commit)
    temporary.replace(tree.git_dir / "index")  # only now: an index means that all files are there


def _bring_up(tree: Repository, start: str) -> None:
    """Have a working tree that nobody has worked in begin where `start` is by now."""
    head = head_commit(tree)
    if head is None or head == start or unsaved(tree.top) not in (None, "it has commits that no branch has"):
        return
    code, _ = of_repository(tree, "merge-base", "--is-ancestor", head, start, fails=False)
    if code:
        return  # it has commits of its own
    of_repository(tree, "update-ref", "HEAD", start, head)
    copy = tree.git_dir / "index.smithers"
    shutil.copy2(tree.git_dir / "index", copy)
    with Scratch(open_repository(tree.top), index=copy) as scratch:
        scratch.git("read-tree", "-m", "-u", head, start)
    copy.replace(tree.git_dir / "index")
    log.info("worktree brought up to its base", extra={"path": str(tree.top)})
