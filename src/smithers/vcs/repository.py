"""Repositories: which one a folder belongs to, and what it has checked out. Reads files, starts no process.

So asking costs a task nothing, and a folder under no version control is known as such without git being installed.
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from smithers.errors import VcsError
from smithers.vcs import jj

MAX_FILE: Final = 1 << 20
_HASH: Final = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_SHA256: Final = re.compile(r"^\s*objectformat\s*=\s*sha256\s*$", re.MULTILINE | re.IGNORECASE)
_MAX_LINKS: Final = 5


@dataclass(frozen=True, slots=True)
class Repository:
    """A working tree and where its history is kept.

    Attributes:
        top: the working tree's topmost folder.
        git_dir: what is this working tree's own; same as `common_dir`, but for an added working tree.
        common_dir: what all working trees of the repository share.
        hash_length: characters of an object's name: 40 or 64.
        excludes: the patterns of `info/exclude`.
        habits: how files are stored, as `(key, value)` of git's configuration; see `git.habits_of`.
    """

    kind: Literal["git", "jj"]
    top: Path
    git_dir: Path
    common_dir: Path
    hash_length: int = 40
    excludes: str = ""
    habits: tuple[tuple[str, str], ...] = ()

    def prefix(self, folder: Path) -> str:
        """The path of a folder within the working tree, with a slash at its end; empty for the top.

        Raises `VcsError` if it is not in it.
        """
        try:
            found = folder.resolve().relative_to(self.top).as_posix()
        except ValueError as error:
            raise VcsError(f"{str(folder)!r} is not inside of {str(self.top)!r}") from error
        return "" if found == "." else found + "/"


def find_repository(folder: Path) -> Repository | None:
    """The repository whose working tree a folder is in, the nearest one; None if there is none."""
    folder = folder.resolve()
    for top in (folder, *folder.parents):
        found = _at(top)
        if found is not None:
            return found
    return None


def require_repository(folder: Path) -> Repository:
    """The repository of a folder. Raises `VcsError` with the way out if there is none."""
    found = find_repository(folder)
    if found is None:
        raise VcsError(
            f"{str(folder)!r} is not in a git repository; run `git init` there, then the next run has diffs and "
            "checkpoints",
            {"path": str(folder)},
        )
    return found


def head_commit(repository: Repository) -> str | None:
    """The commit that is checked out; None if there is none yet, or files alone do not tell."""
    if repository.kind == "jj":
        return None
    return _resolve(repository, "HEAD", _MAX_LINKS)


def _at(top: Path) -> Repository | None:
    marker = top / ".git"
    git_dir = marker if marker.is_dir() else _linked(marker)
    if git_dir is not None and (git_dir / "HEAD").exists():
        common = _first_line(git_dir / "commondir")
        common_dir = git_dir if common is None else (git_dir / common).resolve()
        return _of("git", top, git_dir.resolve(), common_dir.resolve())
    store = jj.git_store(top)
    return None if store is None else _of("jj", top, store, store)


def _of(kind: Literal["git", "jj"], top: Path, git_dir: Path, common_dir: Path) -> Repository:
    config = _text(common_dir / "config") or ""
    length = 64 if _SHA256.search(config) else 40
    return Repository(kind, top, git_dir, common_dir, length, _text(common_dir / "info" / "exclude") or "")


def _linked(marker: Path) -> Path | None:
    """Where a `.git` file says that the git directory is."""
    line = _first_line(marker) if marker.is_file() else None
    if line is None or not line.startswith("gitdir:"):
        return None
    return (marker.parent / line.removeprefix("gitdir:").strip()).resolve()


def _resolve(repository: Repository, name: str, links: int) -> str | None:
    for folder in (repository.git_dir, repository.common_dir):
        line = _first_line(folder / name)
        if line is None:
            continue
        if line.startswith("ref:"):
            target = line.removeprefix("ref:").strip()
            is_name = target.startswith("refs/") and ".." not in target
            return _resolve(repository, target, links - 1) if links and is_name else None
        return line if _HASH.fullmatch(line) else None
    for line in (_text(repository.common_dir / "packed-refs") or "").splitlines():
        commit, _, ref = line.partition(" ")
        if ref == name and _HASH.fullmatch(commit):
            return commit
    return None


def _first_line(file: Path) -> str | None:
    text = _text(file)
    return None if text is None else text.partition("\n")[0].strip()


def _text(file: Path) -> str | None:
    """A regular file's text; nothing that another kind of file could have one wait for."""
    try:
        fd = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    with os.fdopen(fd, "rb") as stream:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return None
        return stream.read(MAX_FILE).decode("utf-8", "surrogateescape")
