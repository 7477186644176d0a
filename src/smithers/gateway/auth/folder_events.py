"""Folder events: the kernel's reports that files of a folder have come, gone or changed their names. Linux only."""

from __future__ import annotations

import asyncio
import ctypes
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

_NONBLOCK: Final = os.O_NONBLOCK
_CLOEXEC: Final = os.O_CLOEXEC if hasattr(os, "O_CLOEXEC") else 0
# moved from, moved to, created, deleted, written and closed, the folder itself deleted, moved
_ANYTHING: Final = 0x40 | 0x80 | 0x100 | 0x200 | 0x8 | 0x400 | 0x800


def watch_folder(folder: Path, changed: Callable[[], None]) -> Callable[[], None] | None:
    """Call back in the running event loop after changes in a folder. Returns how to end that; None where it cannot be had:
    the folder is not there, another system, no watches left.
    """
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None, use_errno=True)
    handle: int = libc.inotify_init1(_NONBLOCK | _CLOEXEC)
    if handle < 0:
        return None
    if libc.inotify_add_watch(handle, os.fsencode(folder), _ANYTHING) < 0:
        os.close(handle)
        return None
    loop = asyncio.get_running_loop()

    def readable() -> None:
        with suppress(BlockingIOError):
            while len(os.read(handle, 65_536)) >= 65_000:
                pass
        changed()

    loop.add_reader(handle, readable)

    def end() -> None:
        loop.remove_reader(handle)
        os.close(handle)

    return end
