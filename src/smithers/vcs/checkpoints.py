"""Checkpoints: the files of a folder as a commit on a ref that nobody sees, and back.

Nothing of the user's branch, index or working tree is touched when one is made: it is put together in a private index,
which begins as a copy of the user's, so that only changed files are read. What `.gitignore` leaves out is left out. Files
are stored as they are: no filter runs (for Git LFS that means the content of a changed file, not its pointer).
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from smithers.errors import VcsError, WorkingTreeDirty
from smithers.vcs.git import Scratch, habits_of, of_repository
from smithers.vcs.repository import Repository, head_commit, require_repository

REFS: Final = "refs/smithers/"
MAX_BYTES: Final = 256 * 1024 * 1024
"""The most that changed files of one checkpoint may have together."""
SHOWN_PATHS: Final = 20
NAMED_PATHS: Final = 3
"""How many files the text of an error names; its details name more."""
_PLAIN: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_ATTEMPTS: Final = 2


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A stored state of a folder.

    Attributes:
        commit: the commit; its tree is that of the whole working tree, with the folder as it was.
        tree: the folder's own tree: equal ones mean equal files.
        ref: what keeps the commit, and no other one ever: the commit's name is at its end.
    """

    commit: str
    tree: str
    ref: str


@dataclass(frozen=True, slots=True)
class Restored:
    """What going back has done.

    Attributes:
        changed: the paths that were written or removed, relative to the folder.
        safety: the files as they were before, if no checkpoint had them.
    """

    commit: str
    changed: tuple[str, ...]
    safety: Checkpoint | None


def checkpoint_ref(run_id: str, name: str) -> str:
    """What the ref of a checkpoint of a run begins with. Checkpoints may share it: it is only there to be read."""
    return f"{REFS}{_slug(run_id)}/{_slug(name)}"


def open_repository(folder: Path, *, database: str | None = None) -> Repository:
    """The repository of a folder, with how it stores files. Starts a process.

    Args:
        database: where the run itself is stored: if that is a file in the working tree, it is no part of the work.

    Raises:
        VcsError: it is in none; says how to change that.
        VcsNotFound: git is not installed.
    """
    found = require_repository(folder)
    ours = "" if database is None or "://" in database else _patterns(found.top, Path(database))
    return replace(found, habits=habits_of(found.git_dir), excludes=found.excludes + ours)


def _patterns(top: Path, database: Path) -> str:
    """What has git pass over a database and the files beside it, as lines of an exclude file."""
    try:
        name = database.resolve().relative_to(top).as_posix()
    except ValueError:
        return ""
    escaped = re.sub(r"([\\*?\[ ])", r"\\\1", name)
    return "".join(f"\n/{escaped}{ending}" for ending in ("", "-wal", "-shm", "-journal")) + "\n"


def take(
    repository: Repository,
    folder: Path,
    ref: str,
    message: str,
    *,
    max_bytes: int = MAX_BYTES,
) -> Checkpoint:
    """Store the files of a folder as they are now. Safe beside other checkpoints and beside the user's own commands.

    Args:
        ref: what its ref begins with.
        message: of the commit.
        max_bytes: more than that in changed files is refused.

    Raises:
        VcsError: it cannot be done, and nothing has been.
        VcsNotFound: git is not installed.
    """
    with Scratch(repository) as scratch:
        prefix = repository.prefix(folder)
        _stage(scratch, prefix, max_bytes)
        tree, whole = _trees(scratch, prefix)
        return _keep(scratch, ref, tree, whole, message)


def restore(
    repository: Repository,
    folder: Path,
    commit: str,
    *,
    known: Sequence[str],
    is_forced: bool,
    safety_ref: str,
    is_trial: bool = False,
    max_bytes: int = MAX_BYTES,
) -> Restored:
    """Make the files of a folder what they were in a checkpoint. Ignored files stay, as do branch and index.

    Args:
        known: trees of the folder that checkpoints hold, the newest last.
        is_forced: go on although the files as they are now are in none of them; they are stored first.
        safety_ref: what the ref of that begins with.
        is_trial: only look whether it can be done.

    Raises:
        WorkingTreeDirty: the files as they are now are in no checkpoint; nothing was touched.
        VcsError: it cannot be done.
    """
    prefix = repository.prefix(folder)
    with Scratch(repository) as scratch:
        _stage(scratch, prefix, max_bytes)
        now, whole = _trees(scratch, prefix)
        goal = _goal(scratch, commit, prefix, whole)
        hidden = _in_the_way(scratch, whole, goal)
        if hidden:  # ignored now, but files of the checkpoint: they would be written over
            scratch.git("update-index", "-z", "--add", "--replace", "--stdin", paths=hidden)
            now, whole = _trees(scratch, prefix)
        changed = _changed(scratch, whole, goal, prefix)
        if not changed:
            return Restored(commit, (), None)
        is_kept = now in known
        if not is_kept and not is_forced:
            lost = _lost(scratch, now, changed, known)
            raise WorkingTreeDirty(
                f"files in {str(folder)!r} were changed since the run's last checkpoint, so going back would lose that: "
                f"{_listed(lost)}; commit or stash them, or force it: they are kept as a checkpoint then",
                {"path": str(folder), "changed": lost[:SHOWN_PATHS], "count": len(lost)},
            )
        if is_trial:
            return Restored(commit, tuple(changed), None)
        safety = None if is_kept else _keep(scratch, safety_ref, now, whole, "smithers: files before going back")
        # a file that was touched without a change would count as changed
        scratch.git("update-index", "-q", "--refresh", ok=(0, 1))
        # touches what differs between the two and nothing else, and refuses if a file of that has changed meanwhile
        scratch.git("read-tree", "-m", "-u", whole, goal)
    folder.mkdir(parents=True, exist_ok=True)  # git removes folders that become empty
    return Restored(commit, tuple(changed), safety)


def take_tree(repository: Repository, folder: Path, *, max_bytes: int = MAX_BYTES) -> str:
    """The tree of a folder's files as they are now, without a commit that keeps it. Raises `VcsError`."""
    with Scratch(repository) as scratch:
        prefix = repository.prefix(folder)
        _stage(scratch, prefix, max_bytes)
        return _trees(scratch, prefix)[0]


def refs_of(repository: Repository, *run_ids: str) -> list[str]:
    """What keeps the checkpoints of runs, also those that are on record no more. Raises `VcsError`."""
    prefixes = [f"{REFS}{_slug(run_id)}/" for run_id in run_ids]
    _, listed = of_repository(repository, "for-each-ref", "--format=%(refname)", *prefixes)
    return listed.split()


def forget(repository: Repository, refs: Iterable[str]) -> None:
    """Let go of checkpoints; git collects in time what nothing else names. Raises `VcsError`: all are still there."""
    asked = "".join(f"option no-deref\ndelete {ref}\n" for ref in refs)
    of_repository(repository, "update-ref", "--stdin", data=asked.encode("utf-8", "surrogateescape"))


# ── staging ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _stage(scratch: Scratch, prefix: str, max_bytes: int) -> None:
    """Bring the private index up to date with the files of a folder."""
    if not scratch.seed():
        _begin_anew(scratch)
    for attempt in range(_ATTEMPTS):  # files may come and go while they are looked at
        try:
            _stage_changes(scratch, prefix, max_bytes)
            return
        except VcsError as error:
            if attempt or error.details.get("sizeBytes") is not None:
                raise
            _begin_anew(scratch)  # a copied index may also be one that git cannot read here


def _begin_anew(scratch: Scratch) -> None:
    scratch.index.unlink(missing_ok=True)
    head = head_commit(scratch.repository)
    if head is not None:
        scratch.git("read-tree", head)


def _stage_changes(scratch: Scratch, prefix: str, max_bytes: int) -> None:
    within = ["--", prefix.rstrip("/")] if prefix else []
    listed = scratch.git("ls-files", "-z", "-m", "-o", "--exclude-standard", *within)
    present, gone, size = _sorted_out(scratch.top, {path for path in listed.split(b"\0") if path})
    if size > max_bytes:
        raise VcsError(
            f"changed files in {str(scratch.top / prefix)!r} have {size:,} bytes, more than a checkpoint takes "
            f"({max_bytes:,}); name large files that are no part of the work in .gitignore",
            {"sizeBytes": size, "maxBytes": max_bytes},
        )
    if gone:
        scratch.git("update-index", "-z", "--force-remove", "--stdin", paths=gone)
    if present:
        scratch.git("update-index", "-z", "--add", "--replace", "--stdin", paths=present)


def _sorted_out(top: Path, paths: Iterable[bytes]) -> tuple[list[bytes], list[bytes], int]:
    """Those that are files or links now, those that are not, and how large the files are together."""
    root = os.fsencode(top)
    real: dict[bytes, bool] = {b"": True}
    present, gone, size = list[bytes](), list[bytes](), 0
    for path in sorted(paths):
        if path.endswith(b"/"):
            continue  # a repository within this one, which is no part of it
        found = _stat(root, path, real)
        if found is None:
            gone.append(path)
        elif stat.S_ISDIR(found.st_mode):  # of a submodule, the commit that it is at is stored
            is_module = os.path.lexists(os.path.join(root, path, b".git"))  # noqa: PTH118 - bytes, as git gives them
            (present if is_module else gone).append(path)
        elif stat.S_ISLNK(found.st_mode) or _is_readable(root, path):
            present.append(path)
            size += found.st_size
    return present, gone, size


def _is_readable(root: bytes, path: bytes) -> bool:
    return os.access(os.path.join(root, path), os.R_OK)  # noqa: PTH118


def _stat(root: bytes, path: bytes, real: dict[bytes, bool]) -> os.stat_result | None:
    """What is at a path that no link leads through."""
    parent, _, _ = path.rpartition(b"/")
    if not _is_real(root, parent, real):
        return None
    try:
        found = os.lstat(os.path.join(root, path))  # noqa: PTH118
    except OSError:
        return None
    is_kept = stat.S_ISREG(found.st_mode) or stat.S_ISLNK(found.st_mode) or stat.S_ISDIR(found.st_mode)
    return found if is_kept else None


def _is_real(root: bytes, folder: bytes, real: dict[bytes, bool]) -> bool:
    known = real.get(folder)
    if known is None:
        parent, _, _ = folder.rpartition(b"/")
        found = _is_real(root, parent, real)
        if found:
            try:
                found = stat.S_ISDIR(os.lstat(os.path.join(root, folder)).st_mode)  # noqa: PTH118
            except OSError:
                found = False
        known = real[folder] = found
    return known


# ── trees and commits ──────────────────────────────────────────────────────────────────────────────────────────────


def _trees(scratch: Scratch, prefix: str) -> tuple[str, str]:
    """The tree of the folder, and that of the whole index."""
    try:
        whole = _line(scratch.git("write-tree", "--missing-ok"))
    except VcsError:
        unmerged = {line.partition(b"\t")[2] for line in scratch.git("ls-files", "-u", "-z").split(b"\0") if line}
        if not unmerged:
            raise
        present, gone, _ = _sorted_out(scratch.top, unmerged)
        scratch.git("update-index", "-z", "--force-remove", "--stdin", paths=gone)
        scratch.git("update-index", "-z", "--add", "--replace", "--stdin", paths=present)
        whole = _line(scratch.git("write-tree", "--missing-ok"))
    if not prefix:
        return whole, whole
    return _subtree(scratch, whole, prefix) or _empty_tree(scratch), whole


def _subtree(scratch: Scratch, of: str, prefix: str) -> str | None:
    if not prefix:
        return _line(scratch.git("rev-parse", "--verify", "--end-of-options", f"{of}^{{tree}}"))
    scratch.git("cat-file", "-e", of)
    found = scratch.git(
        "rev-parse", "--verify", "--quiet", "--end-of-options", f"{of}:{prefix.rstrip('/')}", ok=(0, 1, 128)
    )
    return _line(found) or None


def _empty_tree(scratch: Scratch) -> str:
    return _line(scratch.git("hash-object", "-t", "tree", "-w", "--stdin", paths=()))


def _keep(scratch: Scratch, ref: str, tree: str, whole: str, message: str) -> Checkpoint:
    head = head_commit(scratch.repository)
    parent = [] if head is None else ["-p", head]
    who = {f"GIT_{role}_{what}": value for role in ("AUTHOR", "COMMITTER") for what, value in _WHO}
    commit = _line(scratch.git("commit-tree", *parent, "-m", message, whole, environment=who))
    own = f"{ref}.{commit}"  # attempts are numbered anew after a rewind: what is kept for an earlier one stays
    of_repository(scratch.repository, "update-ref", "--no-deref", own, commit)
    return Checkpoint(commit, tree, own)


_WHO: Final = (("NAME", "smithers"), ("EMAIL", "smithers@localhost"))


def _goal(scratch: Scratch, commit: str, prefix: str, whole: str) -> str:
    """The tree that the whole working tree is to have: as it is now, with the folder as it was in the commit."""
    wanted = _subtree(scratch, commit, prefix)
    if not prefix:
        assert wanted is not None
        return wanted
    with Scratch(scratch.repository) as other:
        other.git("read-tree", whole)
        inside = [path for path in other.git("ls-files", "-z", "--", prefix.rstrip("/")).split(b"\0") if path]
        other.git("update-index", "-z", "--force-remove", "--stdin", paths=inside)
        if wanted is not None:
            other.git("read-tree", f"--prefix={prefix}", wanted)
        return _line(other.git("write-tree", "--missing-ok"))


def _in_the_way(scratch: Scratch, whole: str, goal: str) -> list[bytes]:
    """Files that the goal has and the index has not, and that are there all the same."""
    added = scratch.git("diff-tree", "-r", "-z", "--no-renames", "--diff-filter=A", "--name-only", whole, goal)
    present, _, _ = _sorted_out(scratch.top, {path for path in added.split(b"\0") if path})
    root = os.fsencode(scratch.top)
    return [path for path in present if not os.path.isdir(os.path.join(root, path))]  # noqa: PTH112, PTH118


def _changed(scratch: Scratch, whole: str, goal: str, prefix: str) -> list[str]:
    found = scratch.git("diff-tree", "-r", "-z", "--no-renames", "--name-only", whole, goal)
    names = [path.decode("utf-8", "backslashreplace") for path in found.split(b"\0") if path]
    return [name.removeprefix(prefix) for name in names]


def _lost(scratch: Scratch, now: str, changed: Sequence[str], known: Sequence[str]) -> Sequence[str]:
    """What of the paths that going back would change differs from the newest checkpoint; all of them, if there is none."""
    try:
        since = set(_changed(scratch, known[-1], now, "")) if known else set[str]()
    except VcsError:  # somebody has removed it
        return changed
    return [path for path in changed if path in since] or changed


def _listed(paths: Sequence[str]) -> str:
    more = len(paths) - NAMED_PATHS
    return ", ".join(paths[:NAMED_PATHS]) + (f" and {more} more" if more > 0 else "")


def _line(output: bytes) -> str:
    return output.decode().strip()


def _slug(text: str) -> str:
    """A name that a ref may have, different for every text."""
    if _PLAIN.fullmatch(text) and text == text.lower():
        return text
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]
    return re.sub(r"[^A-Za-z0-9_-]+", "_", text)[:40] + "." + digest
