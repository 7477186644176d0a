"""Workflows by path: what a host runs, loaded afresh whenever its source has changed, and only then."""

from __future__ import annotations

import asyncio
import os
import stat
import sys
import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from smithers.components.workflow import SmithersWorkflow
from smithers.engine.loading import load_workflow, source_files, source_hash
from smithers.errors import InvalidInput, RunNotResumable, WorkflowLoadFailed

SETTLED_NS = 2_000_000_000
"""A file that was changed less than this before it was looked at may change again without its time stamp showing it."""
MAX_KEPT = 256

Stamp = tuple[str, int, int, int]


@dataclass(frozen=True, slots=True)
class _Loaded:
    workflow: SmithersWorkflow
    hash: str | None
    stamps: tuple[Stamp, ...]
    looked_at_ns: int

    def is_current(self) -> bool:
        """Whether no file can have changed since it was looked at, judged without reading any."""
        return all(_stamp(stamp[0]) == stamp and stamp[1] < self.looked_at_ns - SETTLED_NS for stamp in self.stamps)


class WorkflowFiles:
    """Finds workflows by the paths that requests name.

    Args:
        root: the folder that they must be in, links resolved; None for anywhere, relative to the current folder.
    """

    def __init__(self, root: Path | None) -> None:
        self.root = None if root is None else root.resolve()
        self._loaded: dict[Path, _Loaded] = {}
        self._lock = asyncio.Lock()

    def find(self, path: str) -> Path:
        """The file that a path names. Raises `InvalidInput` (`WORKFLOW_PATH_OUTSIDE_ROOT`) or `WorkflowLoadFailed`."""
        if "\0" in path:
            raise InvalidInput("workflowPath holds a NUL character")
        named = path if self.root is None else os.path.join(self.root, path)  # noqa: PTH118 - half the cost of a Path's
        file, is_file = _resolved(named)
        if self.root is not None and not file.startswith(str(self.root).rstrip(os.sep) + os.sep):
            raise InvalidInput(
                "workflowPath is outside the root folder", {"workflowPath": path}, code="WORKFLOW_PATH_OUTSIDE_ROOT"
            )
        if is_file is None:
            try:
                is_file = stat.S_ISREG(Path(file).stat().st_mode)
            except (FileNotFoundError, NotADirectoryError):
                is_file = False
            except OSError as error:  # a name that is too long, links in a circle
                raise InvalidInput("workflowPath is not a usable path", {"workflowPath": path}) from error
        if not is_file:
            raise WorkflowLoadFailed("there is no workflow file at workflowPath", {"workflowPath": path})
        return Path(file)

    def stored(self, path: str) -> Path:
        """The file that a run has stored. Raises `RunNotResumable` for one that this host may not run."""
        file = Path(path).resolve()
        if self.root is not None and not file.is_relative_to(self.root):
            raise RunNotResumable(f"workflow {path} is outside the root folder", {"workflowPath": path})
        return file

    def work_dir(self, file: Path) -> Path:
        """The folder that a workflow's tasks work in: the root, else the file's own, outside any `.smithers`."""
        return _outside_smithers(file.parent) if self.root is None else self.root

    async def load(self, file: Path) -> tuple[SmithersWorkflow, str | None]:
        """A file's workflow and the hash of its source; imported afresh, in a thread, if any of its files has changed.

        Raises:
            WorkflowLoadFailed: it is not there, cannot be imported, or holds no single workflow.
        """
        found = self._loaded.get(file)
        if found is None or not found.is_current():
            async with self._lock:
                found = self._loaded.get(file)
                if found is None or not found.is_current():
                    found = await asyncio.to_thread(_load, file, found)
                    self._loaded.pop(file, None)
                    self._loaded[file] = found
                    if len(self._loaded) > MAX_KEPT:
                        del self._loaded[next(iter(self._loaded))]
        return found.workflow, found.hash


def _resolved(path: str) -> tuple[str, bool | None]:
    """A path with its links resolved, and whether it is a plain file; None where that is still to be found out.

    On Linux the kernel resolves it in one go, where Python would ask for each of the folders above.
    """
    if sys.platform == "linux":
        try:
            descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            return os.path.realpath(path), None
        try:
            return os.readlink(f"/proc/self/fd/{descriptor}"), stat.S_ISREG(os.fstat(descriptor).st_mode)  # noqa: PTH115
        except OSError:  # without /proc
            pass
        finally:
            os.close(descriptor)
    return os.path.realpath(path), None


def _load(file: Path, before: _Loaded | None) -> _Loaded:
    looked_at = time.time_ns()
    if not file.is_file():
        raise WorkflowLoadFailed("the workflow file is gone", {"path": str(file)})
    stamps = tuple(_stamp(str(file.parent / name)) for name in source_files(file))
    digest = source_hash(file)
    if before is not None and before.hash == digest:
        return _Loaded(before.workflow, digest, stamps, looked_at)
    return _Loaded(load_workflow(file), digest, stamps, looked_at)


@lru_cache(maxsize=MAX_KEPT)
def _outside_smithers(folder: Path) -> Path:
    for parent in (folder, *folder.parents):
        if parent.name == ".smithers":
            return parent.parent
    return folder


def _stamp(file: str) -> Stamp:
    try:
        found = os.stat(file)  # noqa: PTH116 - several a request, and half the cost of a Path's
    except OSError:
        return file, -1, -1, -1
    return file, found.st_mtime_ns, found.st_size, found.st_ino
