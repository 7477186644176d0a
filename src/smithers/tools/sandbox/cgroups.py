"""Bounds the processes and memory of a command as a whole, where control groups can be made: mostly as root.

Root needs this: the kernel does not count its processes against `RLIMIT_NPROC`, not even inside a user namespace.
Both versions of the interface are known. Where none can be used, commands go without, and `probe.py` tells.
"""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from uuid import uuid4

_ROOT = Path("/sys/fs/cgroup")
_V2 = {"pids": "pids.max", "memory": "memory.max"}
_V1 = {"pids": "pids.max", "memory": "memory.limit_in_bytes"}
_TRIES = 40
_ABANDONED_S = 7200


@cache
def places(root: Path = _ROOT) -> Mapping[str, Path]:
    """The folders in which groups can be made, by what they can bound: `pids`, `memory`. Tried out once."""
    found: dict[str, Path] = {}
    for kind in _V2:
        for folder, names in ((root, _V2), (root / kind, _V1)):
            group = folder / f"smithers-{uuid4().hex[:12]}"
            try:
                group.mkdir()
            except OSError:
                continue
            with suppress(OSError):
                if (group / names[kind]).exists() and os.access(group / names[kind], os.W_OK):
                    found[kind] = folder
            with suppress(OSError):
                group.rmdir()
            if kind in found:
                break
    for folder in set(found.values()):
        _remove_abandoned(folder)
    return found


def _remove_abandoned(folder: Path) -> None:
    """Remove what killed processes left: older than any command can be, and empty, or the kernel would refuse."""
    for place in folder.glob("smithers-*"):
        with suppress(OSError):
            if time.time() - place.stat().st_mtime > _ABANDONED_S:
                place.rmdir()


@contextmanager
def group(pids: int, memory_bytes: int, root: Path = _ROOT) -> Generator[tuple[list[str], frozenset[str]]]:
    """Make groups for one command: the `cgroup.procs` files that it is to enter, and what they bound."""
    name = f"smithers-{os.getpid()}-{uuid4().hex[:12]}"
    wanted = {"pids": pids, "memory": memory_bytes}
    folders: dict[Path, None] = {}
    bounded: set[str] = set()
    try:
        for kind, folder in places(root).items():
            place = folder / name
            with suppress(OSError):
                place.mkdir(exist_ok=True)
                folders[place] = None
                (place / (_V2 if folder == root else _V1)[kind]).write_text(str(wanted[kind]))
                bounded.add(kind)
        yield [str(place / "cgroup.procs") for place in folders], frozenset(bounded)
    finally:
        for place in folders:
            _remove(place)


def _remove(place: Path) -> None:
    """The group is empty once the kernel has taken its last process down, a moment after the kill."""
    for _ in range(_TRIES):
        try:
            place.rmdir()
        except FileNotFoundError:
            return
        except OSError:
            time.sleep(0.005)
        else:
            return
