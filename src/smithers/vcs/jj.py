"""Jujutsu: where a workspace of `jj` keeps its objects. They are a git store, so checkpoints go there as git's commits do,
and `jj` itself is not needed. It knows nothing of them, and does not collect what a ref names.
"""

from __future__ import annotations

from pathlib import Path


def git_store(top: Path) -> Path | None:
    """The git directory behind the workspace at `top`; None if it is none, or has another kind of store."""
    marker = top / ".jj" / "repo"
    try:
        repo = marker if marker.is_dir() else _pointed(marker)
        if repo is None:
            return None
        store = repo / "store"
        if not (store / "git_target").is_file():
            return None
        target = (store / (store / "git_target").read_text(encoding="utf-8").strip()).resolve()
    except (OSError, UnicodeError):
        return None
    return target if (target / "objects").is_dir() else None


def _pointed(marker: Path) -> Path | None:
    """The repository that a further workspace belongs to: its `repo` is a file that names it."""
    if not marker.is_file():
        return None
    return (marker.parent / marker.read_text(encoding="utf-8").strip()).resolve()
