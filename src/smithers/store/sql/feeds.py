"""Feeds: what somebody asks who follows the logs of all runs: which have grown, and what they have gained."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from smithers.events import EventRow
from smithers.store.sql import reads, wakeups
from smithers.store.sql.lineage import TERMINAL
from smithers.store.sql.session import Session

_EVENT = ", ".join(EventRow._fields)
_LIVE = "('running', 'waiting-approval', 'waiting-event', 'waiting-timer', 'waiting-quota', 'paused')"
_ENDED_AGAIN = """
SELECT run_id, next_seq, finished_at_ms FROM _smithers_runs WHERE finished_at_ms >= ? AND epoch > 1
AND coalesce(runtime_owner_id, '') NOT LIKE 'mirror:%' ORDER BY finished_at_ms DESC LIMIT ?
"""
"""A run that had ended before has been claimed since, so its epoch is not the first; most runs have no other."""


class Head(NamedTuple):
    """How far a run's log goes, and whether the run has ended."""

    next_seq: int
    has_ended: bool


class Page(NamedTuple):
    """A part of a log.

    Attributes:
        first: the number that was read from.
        head: as of the same moment.
    """

    first: int
    rows: list[EventRow]
    head: Head


class Growth(NamedTuple):
    """What a look at all runs gave.

    Attributes:
        heads: runs that were looked at; the others have nothing new as far as is known.
        gone: runs that were asked for and are not there any more.
        elsewhere: runs that other processes drive.
        newest_ms: when the newest run was made.
        wakeup: the cursor to read wake-ups on from.
        newest_end_ms: when the newest end was of a run that somebody had taken over.
    """

    heads: dict[str, Head]
    gone: list[str]
    elsewhere: list[str]
    newest_ms: int
    wakeup: int
    newest_end_ms: int = 0


def live_heads(connection: Session) -> dict[str, int]:
    """How far the logs of all runs go that have not ended."""
    rows = connection.execute(f"SELECT run_id, next_seq FROM _smithers_runs WHERE status IN {_LIVE}")
    return {str(run_id): int(next_seq) for run_id, next_seq in rows}


def growth(
    connection: Session,
    *,
    owner: str,
    since_ms: int,
    wakeup: int,
    ask: Iterable[str],
    known: Mapping[str, int] | None,
    limit: int,
    ended_since_ms: int | None = None,
) -> Growth:
    """Which logs may have grown.

    Runs that another process drives, that were made since a moment, that were woken, and that are asked for; with
    `ended_since_ms` also those that were taken over, by a resume for example, and have ended since that moment; with
    `known` also every run whose log goes further than it says.
    """
    heads: dict[str, Head] = {}
    rows = connection.execute(
        "SELECT run_id, next_seq FROM _smithers_runs WHERE status = 'running' "
        "AND (runtime_owner_id IS NULL OR (runtime_owner_id <> ? AND runtime_owner_id NOT LIKE 'mirror:%')) "
        "ORDER BY created_at_ms DESC, run_id DESC LIMIT ?",
        (owner, limit),
    )
    for run_id, next_seq in rows:
        heads[str(run_id)] = Head(int(next_seq), False)
    elsewhere = list(heads)
    newest = since_ms
    rows = connection.execute(
        "SELECT run_id, next_seq, status, created_at_ms FROM _smithers_runs WHERE created_at_ms >= ? "
        "AND coalesce(runtime_owner_id, '') NOT LIKE 'mirror:%' ORDER BY created_at_ms DESC, run_id DESC LIMIT ?",
        (since_ms, limit),
    )
    for run_id, next_seq, status, created_ms in rows:
        heads[str(run_id)] = Head(int(next_seq), status in TERMINAL)
        newest = max(newest, int(created_ms))
    newest_end = ended_since_ms or 0
    if ended_since_ms is not None:
        rows = connection.execute(_ENDED_AGAIN, (ended_since_ms, limit))
        for run_id, next_seq, ended_ms in rows:
            heads[str(run_id)] = Head(int(next_seq), True)
            newest_end = max(newest_end, int(ended_ms))
    woken = wakeups.read_on(connection, wakeup)
    wanted = {*ask, *woken.run_ids}
    if known is not None:
        live = live_heads(connection)
        heads |= {run_id: Head(n, False) for run_id, n in live.items() if n > known.get(run_id, -1)}
        wanted |= known.keys() - live.keys()
    gone: list[str] = []
    for run_id in wanted - heads.keys():
        found = _head(connection, run_id)
        if found is None:
            gone.append(run_id)
        else:
            heads[run_id] = found
    return Growth(heads, gone, elsewhere, newest, woken.cursor, newest_end)


def log_pages(
    connection: Session, cursors: Mapping[str, int | None], since_ms: int, limit: int
) -> dict[str, Page | None]:
    """The next part of each log; None for a run that is not there. A cursor of None is the first event since a moment."""
    found: dict[str, Page | None] = {}
    for run_id, cursor in cursors.items():
        head = _head(connection, run_id)
        if head is None:
            found[run_id] = None
            continue
        first = _first_since(connection, run_id, since_ms) if cursor is None else cursor
        rows = reads.events(connection, run_id, first - 1, limit) if head.next_seq > first else []
        found[run_id] = Page(first, rows, head)
    return found


def last_event(connection: Session, run_id: str, types: tuple[str, ...]) -> EventRow | None:
    """A run's newest event of these types."""
    marks = ", ".join("?" for _ in types)
    row = connection.execute(
        f"SELECT {_EVENT} FROM _smithers_events WHERE run_id = ? AND type IN ({marks}) ORDER BY seq DESC LIMIT 1",
        (run_id, *types),
    ).fetchone()
    return None if row is None else EventRow(*row)


def _head(connection: Session, run_id: str) -> Head | None:
    row = connection.execute("SELECT next_seq, status FROM _smithers_runs WHERE run_id = ?", (run_id,)).fetchone()
    return None if row is None else Head(int(row[0]), row[1] in TERMINAL)


def _first_since(connection: Session, run_id: str, moment_ms: int) -> int:
    row = connection.execute(
        "SELECT seq FROM _smithers_events WHERE run_id = ? AND timestamp_ms < ? ORDER BY seq DESC LIMIT 1",
        (run_id, moment_ms),
    ).fetchone()
    return 0 if row is None else int(row[0]) + 1
