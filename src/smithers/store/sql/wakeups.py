"""Wake-ups: rows that whoever writes for a run without owning it leaves behind; and which parked runs can go on.

Owners and hosts read on from a cursor. In SQLite, where writes follow one another, it is the last id. PostgreSQL's ids may
become visible out of order, so there each row carries its transaction, and the cursor is the oldest one that was still open:
what is read from there has everything that was not visible before, and some rows twice.

All hosts hear of a wake-up. Each looks which runs can go on, and takes those that it knows (`take`) before it loads them:
one statement, which skips what somebody else has locked. What is taken is marked by a heartbeat, which a run without an
owner does not have otherwise, and is left alone by others for `HOLD_MS`. Nothing but time depends on that: that only one
host can drive a run is the claim's business.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from smithers.store.sql import statements as sql
from smithers.store.sql.locks import lock_waiting
from smithers.store.sql.session import SILENT, Dialect, Rows, Session, dialect_of

HOLD_MS: Final = 4_000
"""How long a run that was taken is left to who took it. If that one dies before it claims the run, others take it then."""


class Woken(NamedTuple):
    """Runs that were woken, each once, in order; and the cursor to read on from."""

    run_ids: list[str]
    cursor: int


_READ: Final[dict[Dialect, str]] = {
    "sqlite": "SELECT id, run_id FROM _smithers_wakeups WHERE id > ? ORDER BY id",
    # rows of later transactions than the newest come from another server, of which this database is a copy
    "postgres": """
        SELECT s.oldest, w.run_id FROM (
            SELECT pg_snapshot_xmin(taken)::text::bigint AS oldest, pg_snapshot_xmax(taken)::text::bigint AS newest
            FROM (SELECT pg_current_snapshot() AS taken) t
        ) s LEFT JOIN _smithers_wakeups w ON w.tx >= ? AND w.tx < s.newest ORDER BY w.id
    """,
}

_CURSOR: Final[dict[Dialect, str]] = {
    "sqlite": "SELECT coalesce(max(id), 0) FROM _smithers_wakeups",
    "postgres": "SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint",
}

MOVED: Final = """
SELECT r.run_id, r.heartbeat_at_ms FROM _smithers_runs r
WHERE r.run_id IN (SELECT run_id FROM _smithers_wakeups) AND r.runtime_owner_id IS NULL
  AND (r.status LIKE 'waiting-%' OR r.status = 'running') AND NOT (r.status = 'waiting-quota' AND r.frame_no = 0)
  AND EXISTS (SELECT 1 FROM _smithers_wakeups w WHERE w.run_id = r.run_id AND w.id > r.seen_wakeup)
"""
"""Runs without an owner, parked or given up, for which something has arrived since; those that wait for room are in
`queue`. And when they were taken."""

DUE: Final = """
SELECT r.run_id, r.heartbeat_at_ms FROM _smithers_runs r
WHERE r.run_id IN (SELECT run_id FROM _smithers_timers WHERE due_at_ms <= ?) AND r.runtime_owner_id IS NULL
  AND r.status LIKE 'waiting-%'
"""
"""Parked runs whose moment has come. And when they were taken."""

_TAKE: Final = f"""
UPDATE {SILENT} _smithers_runs SET heartbeat_at_ms = ? WHERE run_id IN (
    SELECT r.run_id FROM _smithers_runs r
    WHERE r.run_id IN ({{marks}}) AND r.runtime_owner_id IS NULL AND (r.status LIKE 'waiting-%' OR r.status = 'running')
      AND (r.heartbeat_at_ms IS NULL OR r.heartbeat_at_ms <= ? OR r.heartbeat_at_ms >= ?)
      AND (EXISTS (SELECT 1 FROM _smithers_wakeups w WHERE w.run_id = r.run_id AND w.id > r.seen_wakeup)
           OR EXISTS (SELECT 1 FROM _smithers_timers t WHERE t.run_id = r.run_id AND t.due_at_ms <= ?))
    {{lock}}
) RETURNING run_id
"""
_SKIP: Final[dict[Dialect, str]] = {"sqlite": "", "postgres": "FOR NO KEY UPDATE SKIP LOCKED"}

_LEAVE: Final = f"""
UPDATE {SILENT} _smithers_runs SET heartbeat_at_ms = NULL
WHERE run_id IN ({{marks}}) AND runtime_owner_id IS NULL AND heartbeat_at_ms = ?
"""


_PARENT: Final = """
WITH RECURSIVE above (run_id, is_subflow) AS (
    SELECT parent_run_id, CASE WHEN run_id LIKE parent_run_id || ':child:%' THEN 1 ELSE 0 END
    FROM _smithers_runs WHERE run_id = ? AND parent_run_id IS NOT NULL
    UNION ALL
    SELECT r.parent_run_id, CASE WHEN r.run_id LIKE r.parent_run_id || ':child:%' THEN 1 ELSE above.is_subflow END
    FROM _smithers_runs r JOIN above ON r.run_id = above.run_id WHERE r.status = 'continued' AND r.parent_run_id IS NOT NULL
)
SELECT r.run_id, r.runtime_owner_id IS NULL AND EXISTS (
    SELECT 1 FROM _smithers_wakeups w WHERE w.run_id = r.run_id AND w.id > r.seen_wakeup
) FROM above JOIN _smithers_runs r ON r.run_id = above.run_id
WHERE above.is_subflow = 1 AND (r.status = 'running' OR r.status LIKE 'waiting-%')
"""
"""The live run that a subflow's run, also a continued one, belongs to; and whether it is going to be looked at anyway."""


def parent_of_subflow(connection: Session, run_id: str) -> str | None:
    """The live run whose subflow a run is."""
    row = connection.execute(_PARENT, (run_id,)).fetchone()
    return None if row is None else str(row[0])


def wake_parent(connection: Session, run_id: str) -> None:
    """Wake the live run whose subflow a run is."""
    lock_waiting(connection, run_id)
    row = connection.execute(_PARENT, (run_id,)).fetchone()
    if row is not None and not row[1]:
        connection.execute(sql.WAKEUP, (row[0],))


def read_on(connection: Session, cursor: int) -> Woken:
    """What was woken since a cursor; on PostgreSQL perhaps also shortly before. All of it is in one statement."""
    rows = connection.execute(_READ[dialect_of(connection)], (cursor,)).fetchall()
    run_ids = [str(run_id) for _, run_id in rows if run_id is not None]
    return Woken(list(dict.fromkeys(run_ids)), int(rows[-1][0]) if rows else cursor)


def cursor_now(connection: Session) -> int:
    """The cursor from which only later wake-ups are read."""
    return int(connection.execute(_CURSOR[dialect_of(connection)]).fetchall()[0][0])


class Holds:
    """Which runs are taken, at a moment."""

    def __init__(self, now_ms: int) -> None:
        self._now_ms = now_ms
        self.are_met = False
        """Whether there was a run that is."""

    def has(self, taken_at_ms: int | None) -> bool:
        """Whether a run without an owner is taken by somebody, if it was taken then."""
        is_taken = taken_at_ms is not None and abs(self._now_ms - taken_at_ms) < HOLD_MS
        self.are_met |= is_taken
        return is_taken


def take(connection: Session, run_ids: Sequence[str], now_ms: int) -> set[str]:
    """Have these runs left to us for a moment, as far as they can still go on and nobody else has taken them."""
    if not run_ids:
        return set()
    text = _TAKE.format(marks=", ".join("?" for _ in run_ids), lock=_SKIP[dialect_of(connection)])
    rows = connection.execute(text, (now_ms, *run_ids, now_ms - HOLD_MS, now_ms + HOLD_MS, now_ms))
    return {str(run_id) for (run_id,) in rows.fetchall()}


def leave(connection: Session, run_ids: Sequence[str], taken_at_ms: int) -> None:
    """Leave runs that were taken, and not claimed, to others."""
    text = _LEAVE.format(marks=", ".join("?" for _ in run_ids))
    connection.execute(text, (*run_ids, taken_at_ms)).fetchall()


def next_due(connection: Session, after_ms: int = 0) -> int | None:
    """The earliest moment after this one that any parked run waits for."""
    row = connection.execute(
        "SELECT t.due_at_ms FROM _smithers_timers t JOIN _smithers_runs r USING (run_id) "
        "WHERE t.due_at_ms > ? AND r.runtime_owner_id IS NULL AND r.status LIKE 'waiting-%' ORDER BY t.due_at_ms LIMIT 1",
        (after_ms,),
    ).fetchone()
    return None if row is None else int(row[0])


def due_runs(
    connection: Session, now_ms: int, limit: int, is_wanted: Callable[[str], bool], holds: Holds | None = None
) -> list[str]:
    """Parked runs whose moment has come: the first so many that are wanted and not taken."""
    return _first(connection.execute(DUE, (now_ms,)), limit, is_wanted, holds)


def moved_runs(
    connection: Session, limit: int, is_wanted: Callable[[str], bool], holds: Holds | None = None
) -> list[str]:
    """Runs without an owner for which something has arrived since: the first so many that are wanted and not taken."""
    return _first(connection.execute(MOVED), limit, is_wanted, holds)


def _first(rows: Rows, limit: int, is_wanted: Callable[[str], bool], holds: Holds | None) -> list[str]:
    found: list[str] = []
    for run_id, taken_at_ms in rows:
        if is_wanted(run_id) and not (holds is not None and holds.has(taken_at_ms)):
            found.append(run_id)
            if len(found) >= limit:
                break
    return found
