"""Locks: what a write job holds while it decides from what it has read. SQLite's jobs follow one another, so none is needed
there; PostgreSQL's run at once (`READ COMMITTED`), and each statement sees what was committed before it began.

A job that decides from a run's row, or leaves a wake-up for the run, locks the run first. Locks are taken from the top of a
family down: whoever waits for a run before the run, a run before those below it, so that no two jobs wait for each other.
Names (`lock_name`) come after runs. Because every wake-up of a run is written under its lock, their ids are in the order
of their commits, which `seen_wakeup` relies on.
"""

from __future__ import annotations

from typing import Final

from smithers.store.sql.session import Session, dialect_of

# NO KEY: rows that refer to the run by its id (its spec) may be written meanwhile
_LOCK: Final = "SELECT status FROM _smithers_runs WHERE run_id = ? FOR NO KEY UPDATE"

_WAITING: Final = """
WITH RECURSIVE above (run_id) AS (
    SELECT parent_run_id FROM _smithers_runs WHERE run_id = ?
    UNION ALL
    SELECT r.parent_run_id FROM _smithers_runs r JOIN above USING (run_id) WHERE r.status = 'continued'
)
SELECT run_id FROM above JOIN _smithers_runs USING (run_id) WHERE status <> 'continued'
"""

_NAME: Final = "SELECT pg_advisory_xact_lock(hashtextextended(?, 0))"


def lock_run(session: Session, run_id: str) -> None:
    """Have nobody else change a run's row until this job is committed; nothing if there is no such run."""
    if dialect_of(session) == "postgres":
        session.execute(_LOCK, (run_id,))


def lock_end(session: Session, run_id: str) -> None:
    """Lock a run that is about to end, and before it the run that is woken by that."""
    if dialect_of(session) == "postgres":
        lock_waiting(session, run_id)
        session.execute(_LOCK, (run_id,))


def lock_waiting(session: Session, run_id: str) -> None:
    """Lock the run that waits for the end of this one, if there is one."""
    if dialect_of(session) == "sqlite":
        return
    while (found := session.execute(_WAITING, (run_id,)).fetchone()) is not None:
        locked = session.execute(_LOCK, found).fetchone()
        if locked is not None and locked[0] != "continued":
            return
        # it was continued in this very moment: whoever waits is further up


def lock_name(session: Session, name: str) -> None:
    """Have one job at a time go on that locks this name, until it is committed."""
    if dialect_of(session) == "postgres":
        session.execute(_NAME, (name,))
