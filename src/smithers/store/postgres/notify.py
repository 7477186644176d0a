"""Tells callbacks that somebody has committed to the database: a connection that listens, in a thread of its own.

What was committed is not said: a callback wakes readers, which read from where they were. So a notification may be lost
without harm: the callbacks are called as well after every new connection, and every `SAFETY_S` seconds in any case.
Commits close together share a call.
"""

from __future__ import annotations

import logging
import select
import socket
import threading
import time
from collections.abc import Callable
from typing import Final

import psycopg

from smithers.errors import StorageError
from smithers.store.sql.session import Row

log = logging.getLogger(__name__)

CHANNEL: Final = "smithers"

NOTIFY: Final = b"SELECT set_config('synchronous_commit', 'off', true), pg_notify('smithers', '')"
"""Says that there is something new. It is a transaction that nobody needs to survive, so it does not wait for the disk."""

SAFETY_S = 3.0
"""The longest time without a call."""

REST_S = 0.004
"""Pause after each call, which bounds the cost of busy writers."""

_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 5.0


class ListenThread(threading.Thread):
    """Waits for notifications, and calls back."""

    def __init__(self, name: str, connect: Callable[[], psycopg.Connection[Row]], changed: Callable[[], None]) -> None:
        super().__init__(name=f"smithers-watch {name}", daemon=True)
        self._connect = connect
        self._changed = changed
        self._stopping = threading.Event()
        self._closing = threading.Lock()
        self._connection: psycopg.Connection[Row] | None = self._listen()  # before the thread: no commit falls between
        self._ear, self._bell = socket.socketpair()

    def stop(self) -> None:
        """End the thread. Waits for it, unless called by a callback."""
        if not self.is_alive():  # a forked child's copy, whose connection is still the parent's
            return
        self._stopping.set()
        with self._closing:  # the thread may be closing its ends this moment
            if self._bell.fileno() >= 0:
                self._bell.send(b".")
        if threading.current_thread() is not self:
            self.join()

    def run(self) -> None:
        try:
            pause = _FIRST_PAUSE_S
            while not self._stopping.is_set():
                try:
                    if self._connection is None:
                        self._connection = self._listen()
                        pause = _FIRST_PAUSE_S
                        self._changed()  # whatever was said meanwhile was not heard
                    self._hear(self._connection)
                except (psycopg.Error, StorageError) as exc:
                    log.warning("the database's notifications were cut off", extra={"error": type(exc).__name__})
                    self._hang_up()
                    self._stopping.wait(pause)
                    pause = min(pause * 2, _LONGEST_PAUSE_S)
        finally:
            self._hang_up()
            with self._closing:
                self._ear.close()
                self._bell.close()

    def _listen(self) -> psycopg.Connection[Row]:
        connection = self._connect()
        try:
            connection.execute(f"LISTEN {CHANNEL}".encode())
        except BaseException:
            connection.close()
            raise
        return connection

    def _hear(self, connection: psycopg.Connection[Row]) -> None:
        poll = select.poll()
        poll.register(connection.fileno(), select.POLLIN)
        poll.register(self._ear, select.POLLIN)
        called_at = time.monotonic()
        while not self._stopping.is_set():
            left = called_at + SAFETY_S - time.monotonic()
            ready = poll.poll(max(0.0, left) * 1000)
            if self._stopping.is_set():
                return
            if ready and not _was_told(connection):
                continue
            self._changed()
            called_at = time.monotonic()
            if ready:
                self._stopping.wait(REST_S)

    def _hang_up(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _was_told(connection: psycopg.Connection[Row]) -> bool:
    """Take in what the server has sent. Whether a notification was among it."""
    connection.pgconn.consume_input()
    was_told = False
    while connection.pgconn.notifies() is not None:
        was_told = True
    return was_told
