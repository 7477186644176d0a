"""The one thread of a process that writes: takes everything waiting, commits it together, answers everybody.

All jobs of a batch share one transaction and one commit; a job that raises is undone alone. Statements whose rows nobody
reads are not waited for (`link.py`), so a batch costs a round trip for each answer that a job looks at, and one for the
commit. The price is that an error may show only after later jobs have run; then nothing of the batch is kept, and its
jobs run again one by one, each in a transaction of its own. A job must therefore bear being run again.

Other processes write at the same time. A batch holds the rows that its jobs have changed until it commits, so two batches
may wait for each other: a batch of several gives up after `BATCH_LOCK_MS` and goes on one by one, which holds little.

A lost connection is made anew. Unless the commit was under way, nothing had been written then, and the jobs run again; if
it was, the receipt tells whether it came through (`receipts.py`). Only if the server stays away are the jobs told that
the outcome is not known.

A commit is told to everybody by a notification in a transaction of its own right after it: inside, it would make the
commits of all processes wait for each other's disk, because PostgreSQL holds one lock from a notification to the end of
its commit. A process that dies between the two delays others by no more than the pause between the looks that they take
in any case (`notify.py`).
"""

from __future__ import annotations

import logging
import queue
import random
import threading
import time
import traceback
from collections.abc import Callable

from smithers.errors import OutcomeUnknown, StorageError, StorageUnreachable
from smithers.store.postgres.errors import REPEATABLE, STALE_PLANS, state_of
from smithers.store.postgres.link import Answer, Link
from smithers.store.postgres.notify import NOTIFY
from smithers.store.postgres.receipts import Receipts
from smithers.store.postgres.session import PostgresSession
from smithers.store.sql.session import Session
from smithers.store.writing import MAX_BATCH, TIME_BOX_S, GroupWriter, Settled, Waiting, again, settleable

log = logging.getLogger(__name__)

BATCH_LOCK_MS = 50
"""How long a batch of several jobs waits for a row that somebody else holds."""

TRIES = 6
"""How often a job is run alone before its error is final."""

RECONNECT_S = 5.0
"""How long jobs wait for the server to come back."""

FIRST_PAUSE_S = 0.05
"""How soon the server is looked for again; then less and less often."""
_BATCH_LOCK = f"SET LOCAL lock_timeout = {BATCH_LOCK_MS}"


class _NotAlone(Exception):
    """A job of a batch is to be undone, and others have written before it in the same transaction."""


class Writer(GroupWriter[Session]):
    """Runs jobs on one connection. `connect` makes it, and a new one whenever it is lost."""

    def __init__(self, connect: Callable[[], Link], name: str) -> None:
        super().__init__(name)
        self._connect = connect
        self._receipts = Receipts()
        self._link: Link | None = self._new_link()
        self._is_dirty = False
        """Whether the connection may be inside a transaction."""
        self._is_committing = False
        self._is_ending = False
        self._closing = threading.Event()
        self._thread.start()

    def close(self) -> None:
        """See `GroupWriter.close`."""
        self._closing.set()
        super().close()

    def _close_connection(self) -> None:
        if self._link is not None:
            if not self._is_dirty:
                self._receipts.leave(self._link)
            self._link.close()

    def _batch(self, entry: Waiting[Session]) -> bool:
        taken = [entry]
        try:
            link = self._connected()
        except StorageError as exc:
            self._settle([(each, None, again(exc)) for each in [entry, *self._waiting()]])
            return True
        settled: list[Settled[Session]]
        try:
            settled = self._group(link, taken)
        except Exception as exc:  # a mistake of ours: this thread must outlive it
            log.exception("a batch of writes failed in an unforeseen way")
            self._link = None
            link.close()
            settled = [(each, None, _unknown(exc)) for each in taken]
        self._settle(settled)
        self._tell()
        return not self._is_ending

    def _group(self, link: Link, taken: list[Waiting[Session]]) -> list[Settled[Session]]:
        """Run this job, and those that come meanwhile, which are added to it: together if possible."""
        settled: list[Settled[Session]] = []
        try:
            try:
                self._together(link, taken, settled, saves=False)
            except _NotAlone:
                settled.clear()
                self._together(self._connected(), taken, settled, saves=True)
        except Exception as exc:
            traceback.clear_frames(exc.__traceback__)
            if not (link.is_lost and self._is_committing):
                return [self._alone(each) for each in taken]
            match self._was_committed():
                case True:
                    return settled
                case False:
                    return [self._alone(each) for each in taken]
                case None:
                    return [(each, None, _unknown(exc)) for each in taken]
        return settled

    def _together(
        self, link: Link, taken: list[Waiting[Session]], settled: list[Settled[Session]], *, saves: bool
    ) -> None:
        """One transaction, which fills `settled`. After a database's error nothing of it is kept.

        Most batches have nothing to undo, so at first there are no savepoints, and jobs are taken from the queue as they
        come. With `saves` it is for these jobs only, each of which can be undone alone. Raises `_NotAlone` if that turns
        out to be necessary.
        """
        session, stop_at = PostgresSession(link), time.monotonic() + TIME_BOX_S
        held = self._begin(session)
        if saves:
            session.execute(_BATCH_LOCK)
        entry: Waiting[Session] | None = taken[0]
        while entry is not None:
            if saves:
                session.execute("SAVEPOINT job")
            before = link.sent
            result, error = _run(link, session, entry)
            if error is not None:
                link.read_all()
                if link.last_change > before:
                    if saves:
                        session.execute("ROLLBACK TO job")
                    elif len(taken) == 1:
                        settled.append((entry, None, error))
                        session.execute("ROLLBACK")
                        self._finish(link)
                        return
                    else:
                        raise _NotAlone
            if saves:
                session.execute("RELEASE job")
            settled.append((entry, result, error))
            if saves:
                entry = taken[len(settled)] if len(settled) < len(taken) else None
            else:
                entry = self._next(taken, stop_at)
                if entry is not None and len(taken) == 2:
                    session.execute(_BATCH_LOCK)
        held.fetchall()
        self._commit(session)

    def _next(self, taken: list[Waiting[Session]], stop_at: float) -> Waiting[Session] | None:
        """The next job that waits, added to these, if there is one and the batch may still grow."""
        if len(taken) >= MAX_BATCH or time.monotonic() >= stop_at:
            return None
        try:
            entry = self._queue.get_nowait()
        except queue.Empty:
            return None
        if entry is None:
            self._is_ending = True
        else:
            taken.append(entry)
        return entry

    def _alone(self, entry: Waiting[Session]) -> Settled[Session]:
        """A job in a transaction of its own, again while that may help."""
        settled: list[Settled[Session]] = []
        for attempt in range(1, TRIES + 1):
            try:
                link = self._connected()
            except StorageError as exc:
                return entry, None, again(exc)
            try:
                return self._once(link, entry, settled)
            except StorageError as exc:
                traceback.clear_frames(exc.__traceback__)
                if link.is_lost and self._is_committing:
                    was_committed = self._was_committed()
                    if was_committed:
                        return settled[-1]
                    if was_committed is None:
                        return entry, None, _unknown(exc)
                may_help = link.is_lost or state_of(exc) in REPEATABLE or state_of(exc) in STALE_PLANS
                if not may_help or attempt == TRIES:
                    return entry, None, again(exc)
                self._closing.wait(random.uniform(0, FIRST_PAUSE_S) * attempt)  # whoever is in the way may do the same
        raise AssertionError("unreachable")

    def _once(self, link: Link, entry: Waiting[Session], settled: list[Settled[Session]]) -> Settled[Session]:
        session = PostgresSession(link)
        self._begin(session)
        result, error = _run(link, session, entry)
        settled.append((entry, result, error))
        if error is None:
            link.read_all()
            self._commit(session)
        else:
            session.execute("ROLLBACK")
            self._finish(link)
        return settled[-1]

    def _begin(self, session: PostgresSession) -> Answer:
        self._is_dirty, self._is_committing = True, False
        return self._receipts.hold(session)

    def _commit(self, session: PostgresSession) -> None:
        self._receipts.note(session)
        self._is_committing = True
        session.execute("COMMIT")
        self._finish(session.link)

    def _was_committed(self) -> bool | None:
        """Whether what was being committed when the connection was lost has been; None if there is no telling."""
        for _ in range(TRIES):
            try:
                link = self._connected()
                self._is_dirty = True
                found = self._receipts.was_committed(link)
                self._is_dirty = False
                return found
            except StorageError as exc:
                log.debug("the outcome of a commit was asked for in vain", extra={"error": type(exc).__name__})
        return None

    def _finish(self, link: Link) -> None:
        link.sync()
        link.read_all()
        self._is_dirty = False

    def _connected(self) -> Link:
        """The connection, outside a transaction. Raises `StorageUnreachable` and other `StorageError`s."""
        link = self._link
        if link is not None and self._is_dirty and not _undo(link):
            link.close()
            self._link = link = None
        self._is_dirty = False
        if link is not None:
            return link
        give_up_at, pause = time.monotonic() + RECONNECT_S, FIRST_PAUSE_S
        while True:
            try:
                self._link = self._new_link()
                return self._link
            except StorageUnreachable:
                if time.monotonic() + pause >= give_up_at or self._closing.is_set():
                    raise
            self._closing.wait(pause)
            pause = min(pause * 2, 1.0)

    def _new_link(self) -> Link:
        link = self._connect()
        try:
            self._receipts.enter(link)
        except BaseException:
            link.close()
            raise
        return link

    def _tell(self) -> None:
        link = self._link
        if link is None or link.is_lost or not link.is_news:
            return
        link.is_news = False
        try:
            link.hint(NOTIFY)
        except StorageError:  # the next job finds out
            log.debug("a commit was not told to others", exc_info=True)


def _run(link: Link, session: Session, entry: Waiting[Session]) -> tuple[object, BaseException | None]:
    """A job's result, or its own error. Raises the database's."""
    result: object = None
    error: BaseException | None = None
    try:
        result = entry.job(session)
    except BaseException as exc:
        traceback.clear_frames(exc.__traceback__)
        error = settleable(exc)
    if link.failure is not None:  # whatever the job made of it
        raise again(link.failure)
    return result, error


def _undo(link: Link) -> bool:
    """Bring a connection out of its transaction, whatever an error has left of it. Whether that worked."""
    try:
        is_stale = link.failure is not None and state_of(link.failure) in STALE_PLANS
        link.recover()
        PostgresSession(link).execute("ROLLBACK")
        link.sync()
        link.read_all()
        if is_stale:
            link.forget_plans()
    except StorageError:
        return False
    return True


def _unknown(cause: BaseException) -> StorageError:
    error = OutcomeUnknown(
        "the connection to the database was lost during a commit: what was asked for was written wholly or not at all"
    )
    error.__cause__ = cause
    return error
