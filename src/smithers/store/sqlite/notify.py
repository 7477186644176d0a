"""Tells callbacks that another connection or process has committed to the database file.

On Linux a thread sleeps until the kernel reports a write to the WAL; elsewhere it looks every 25 ms. What was committed
is not said: a callback wakes readers, which read from where they were.

A report comes before its commit: the pages are written first, synced, and only then made visible through shared memory,
which the kernel does not report. So after a report the thread looks again after 1, 2, 4, … ms. It sees a commit late by
no more than the sync took, and it never depends on a report for longer than a second.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import select
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import apsw

log = logging.getLogger(__name__)

FIRST_LOOK_S = 0.001
"""From a report to the first look."""

LISTEN_FROM_S = 0.008
"""The shortest pause that a report may end."""

REST_S = 0.006
"""Pause after each change, which bounds the cost of a busy writer."""

LOOK_EVERY_S = 0.025
"""How often to look where the kernel does not report writes."""

SAFETY_S = 1.0
"""The longest sleep: a report that was lost delays a wake-up by no more."""

_IN_MODIFY = 0x2
_IN_NONBLOCK = 0o4000
_IN_CLOEXEC = 0o2000000


class WatchThread(threading.Thread):
    """Compares the database's version with the last one seen, whenever there may be a new one."""

    def __init__(self, path: Path, connection: apsw.Connection, changed: Callable[[], None]) -> None:
        super().__init__(name=f"smithers-watch {path.name}", daemon=True)
        self._connection = connection
        self._changed = changed
        self._stopping = threading.Event()
        self._closing = threading.Lock()
        self._wal = _WalEvents.open(f"{path}-wal")
        # After the kernel watch and before the thread: no commit falls between.
        self._version = self._read_version()

    def stop(self) -> None:
        """End the thread. Waits for it, unless called by a callback."""
        if not self.is_alive():  # a forked child's copy, whose descriptors are still the parent's
            return
        self._stopping.set()
        with self._closing:  # the thread may be closing its descriptors this moment
            if self._wal is not None:
                self._wal.wake()
        if threading.current_thread() is not self:
            self.join()

    def run(self) -> None:
        try:
            pause = SAFETY_S
            while not self._stopping.is_set():
                pause = self._sleep(pause)
                if self._has_changed():
                    self._changed()
                    pause = REST_S
                else:
                    pause = min(pause * 2, SAFETY_S)
        finally:
            with self._closing:
                if self._wal is not None:
                    self._wal.close()
                self._wal = None
            self._connection.close(True)

    def _sleep(self, pause: float) -> float:
        """Sleep for `pause` seconds, or until shortly after a report; returns how long the last sleep was.

        Short pauses are deaf, so that a writer that writes without end cannot keep us awake.
        """
        if self._wal is None:
            self._stopping.wait(LOOK_EVERY_S)
            return LOOK_EVERY_S
        if pause < LISTEN_FROM_S:
            self._stopping.wait(pause)
        elif self._wal.wait(pause) and not self._stopping.is_set():
            time.sleep(FIRST_LOOK_S)
            return FIRST_LOOK_S
        return pause

    def _has_changed(self) -> bool:
        try:
            version = self._read_version()
        except apsw.Error:  # locked while another process recovers the WAL, or the disk failed: look again later
            log.warning("the database's version could not be read", exc_info=True)
            return False
        changed, self._version = version != self._version, version
        return changed

    def _read_version(self) -> int:
        return int(str(self._connection.execute("PRAGMA data_version").get))


class _WalEvents:
    """The kernel's reports of writes to one file, and a way to end the wait for them."""

    def __init__(self, inotify: int) -> None:
        self._inotify = inotify
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._poll = select.poll()
        self._poll.register(self._inotify, select.POLLIN)
        self._poll.register(self._wake, select.POLLIN)

    @classmethod
    def open(cls, path: str) -> _WalEvents | None:
        """None where the kernel cannot do it (not Linux, no watches left).

        The WAL exists while any connection is open, is reset in place, and is removed by the last one to close, so
        watching the file itself is enough.
        """
        if sys.platform != "linux":
            return None
        libc = ctypes.CDLL(None, use_errno=True)
        inotify: int = libc.inotify_init1(_IN_NONBLOCK | _IN_CLOEXEC)
        if inotify < 0:
            return None
        if libc.inotify_add_watch(inotify, os.fsencode(path), _IN_MODIFY) < 0:
            os.close(inotify)
            return None
        return cls(inotify)

    def wait(self, timeout_s: float) -> bool:
        """Whether there was a write, after at most `timeout_s` seconds."""
        ready = self._poll.poll(timeout_s * 1000)
        is_written = any(fd == self._inotify for fd, _ in ready)
        if is_written:
            with contextlib.suppress(BlockingIOError):
                while len(os.read(self._inotify, 65_536)) >= 65_000:
                    pass
        return is_written

    def wake(self) -> None:
        """End a `wait` now, from any thread."""
        os.eventfd_write(self._wake, 1)

    def close(self) -> None:
        """Give the descriptors back."""
        os.close(self._inotify)
        os.close(self._wake)
