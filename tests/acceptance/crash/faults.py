"""Where a process dies or is stopped. Nothing in the product knows of this: a child process wraps its own store before it uses it."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

import apsw

from smithers.store.sql import control
from smithers.store.sql.session import Session
from smithers.store.sql.store import SqlStore

T = TypeVar("T")


class Point(StrEnum):
    """A moment in the life of a write."""

    BEFORE = "before"
    """The write has not been handed in."""
    WRITTEN = "written"
    """All its statements have been executed, but nothing is committed."""
    COMMITTED = "committed"
    """SQLite has just committed; nobody has been told."""
    ANSWERED = "answered"
    """The answer has reached the event loop; who asked has not gone on."""


def die(*_: object) -> bool:
    """End this process as the kernel would end it: at once, no handler, no clean-up."""
    os.kill(os.getpid(), signal.SIGKILL)
    return False


def die_in(seconds: float) -> None:
    """Die at that moment, whatever is being done."""
    timer = threading.Timer(seconds, die)
    timer.daemon = True
    timer.start()


def stop_before(store: SqlStore, nth: int, announce: Path) -> None:
    """Stop this process (SIGSTOP) when it is about to hand in the `nth` write; say so in a pipe first."""

    def stop() -> None:
        say(announce, "stopping")
        os.kill(os.getpid(), signal.SIGSTOP)

    _at(store, nth, stop)


def stop_within(store: SqlStore, nth: int, announce: Path) -> None:
    """Stop this process inside the transaction of the `nth` write, where it holds SQLite's write lock."""

    def within(session: Session) -> None:
        connection = _driver(session)

        def stop() -> bool:
            connection.set_commit_hook(None)
            say(announce, "stopping")
            os.kill(os.getpid(), signal.SIGSTOP)
            return False

        connection.set_commit_hook(stop)

    _at(store, nth, lambda: None, within)


def _driver(session: Session) -> apsw.Connection:
    assert isinstance(session, apsw.Connection)
    return session


def say(pipe: Path, line: str) -> None:
    """Write a line into a named pipe that somebody reads."""
    descriptor = os.open(pipe, os.O_WRONLY)
    os.write(descriptor, line.encode() + b"\n")
    os.close(descriptor)


def die_at(store: SqlStore, point: Point, nth: int) -> None:
    """Die around the `nth` write of this process (from 1): steps, launches, claims, decisions, signals, cancels."""
    match point:
        case Point.BEFORE:
            _at(store, nth, die)
        case Point.WRITTEN:
            _at(store, nth, lambda: None, lambda session: _driver(session).set_commit_hook(die))
        case Point.COMMITTED:
            _at(store, nth, lambda: None, lambda session: _driver(session).set_wal_hook(die_after_commit), die)
        case Point.ANSWERED:
            _at(store, nth, lambda: None, after=die)


def _at(
    store: SqlStore,
    nth: int,
    before: Callable[[], object],
    within: Callable[[Session], object] = lambda _: None,
    after: Callable[[], object] = lambda: None,
) -> None:
    """Do something around the `nth` write. Heartbeats, which come when they come, are not counted."""
    write = store.awrite
    count = 0

    async def counted(job: Callable[[Session], T]) -> T:
        nonlocal count
        count += 1
        if count != nth:
            return await write(job)
        before()

        def watched(connection: Session) -> T:
            within(connection)
            return job(connection)

        result = await write(watched)
        after()
        return result

    async def heartbeat(owner: str, now_ms: int) -> set[str]:
        return await write(lambda connection: control.heartbeat(connection, owner, now_ms))

    store.awrite = counted
    store.heartbeat = heartbeat  # type: ignore[method-assign]


def die_after_commit(_connection: Session, _database: str, _pages: int) -> int:
    """SQLite calls this once a transaction is in the log and its lock is given back."""
    die()
    return 0
