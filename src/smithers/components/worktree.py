"""Worktree: tasks inside it work in a git worktree of their own."""

from __future__ import annotations

import os
from typing import ClassVar

from smithers.components.checks import checked_flag, checked_id
from smithers.components.element import Element
from smithers.errors import InvalidElement, WorktreeEmptyPath
from smithers.errors.base import storable


class Worktree(Element):
    """Children run at the same time, in a git worktree: a folder with files of its own, so that they do not get in the way
    of other tasks. It is made when the first task in it starts, and removed after a successful run unless it holds work
    that is not committed to a branch. Of nested ones the innermost counts. In the sandbox of `bash` the folder is there,
    the repository is not.

    Args:
        path: the folder; a relative one begins at the run's root folder.
        branch: checked out there; made if there is none of this name. None: no branch.
        base_branch: what a new one begins with: a branch, tag or commit. Without a branch `main`, what is checked out in
            the root folder stands for it.
        id: names it for `ctx.worktree_path`.
    """

    tag: ClassVar[str] = "smithers:worktree"
    path: str = ""
    branch: str | None = None
    base_branch: str = "main"
    label: str | None = None

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        branch: str | None = None,
        base_branch: str = "main",
        id: str | None = None,
        key: str | None = None,
        label: str | None = None,
        skip_if: bool = False,
    ) -> None:
        d = vars(self)
        if not isinstance(path, (str, os.PathLike)):
            raise InvalidElement(f"Worktree: path must be a path, not {path!r}")
        d["path"] = os.fspath(path)
        if not d["path"].strip():
            raise WorktreeEmptyPath("a Worktree has an empty path; give it the folder that its tasks are to work in")
        if id is not None:
            d["id"] = checked_id("Worktree", id)
        if branch is not None:
            d["branch"] = _checked_name(self, "branch", branch)
        if base_branch != "main":
            d["base_branch"] = _checked_name(self, "base_branch", base_branch)
        if key is not None:
            d["key"] = str(key)
        if label is not None:
            d["label"] = storable(str(label))
        if skip_if:
            d["skip_if"] = checked_flag(repr(self), "skip_if", skip_if)

    def __repr__(self) -> str:
        return f"Worktree({self.path!r})"


def _checked_name(element: Worktree, name: str, value: object) -> str:
    if not isinstance(value, str) or not value.strip() or value.startswith("-") or not value.isprintable():
        raise InvalidElement(f"{element!r}: {name} must be the name of a branch, not {value!r}")
    return value
