"""Audit: the record of rewinds and of tries, which also limits how often somebody may."""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

from smithers.errors import TravelRateLimited
from smithers.store.sql.locks import lock_run
from smithers.store.sql.session import Session

Result = Literal["in_progress", "success", "failed", "partial"]

WINDOW_MS: Final = 60 * 60 * 1000
MOST: Final = 10
"""As many rewinds of one run may one caller begin within the window."""
REFUSED: Final = -1
"""In place of the frame that was left, for a try that was refused before anything was done."""


class AuditRow(NamedTuple):
    """A stored rewind, or a try."""

    id: int
    run_id: str
    from_frame_no: int
    to_frame_no: int
    caller: str
    timestamp_ms: int
    result: str
    duration_ms: int | None


_ROW: Final = ", ".join(AuditRow._fields)


def begin(connection: Session, run_id: str, from_frame: int, to_frame: int, caller: str, now_ms: int) -> int:
    """Note that a rewind begins; the row's id. Raises `TravelRateLimited`."""
    lock_run(connection, run_id)
    row = connection.execute(
        "SELECT count(*), min(timestamp_ms) FROM _smithers_time_travel_audit "
        "WHERE run_id = ? AND caller = ? AND timestamp_ms > ? AND from_frame_no >= 0",
        (run_id, caller, now_ms - WINDOW_MS),
    ).fetchone()
    if row is not None and row[0] >= MOST:
        raise TravelRateLimited(
            f"run {run_id!r} was taken back {MOST} times by this caller within the last hour",
            {"runId": run_id, "limit": MOST, "retryAtMs": int(row[1]) + WINDOW_MS},
        )
    return note(connection, run_id, from_frame, to_frame, caller, now_ms, "in_progress", None)


def note(
    connection: Session,
    run_id: str,
    from_frame: int,
    to_frame: int,
    caller: str,
    now_ms: int,
    result: Result,
    duration_ms: int | None,
) -> int:
    """Add a row to the record; its id."""
    row = connection.execute(
        "INSERT INTO _smithers_time_travel_audit (run_id, from_frame_no, to_frame_no, caller, timestamp_ms, result, "
        "duration_ms) VALUES (?, ?, ?, ?, ?, ?, ?) RETURNING id",
        (run_id, from_frame, to_frame, caller, now_ms, result, duration_ms),
    ).fetchone()
    assert row is not None
    return int(row[0])


def close(connection: Session, id: int, result: Result, duration_ms: int) -> None:
    """Note how a rewind has ended."""
    connection.execute(
        "UPDATE _smithers_time_travel_audit SET result = ?, duration_ms = ? WHERE id = ?", (result, duration_ms, id)
    )


def interrupted(connection: Session, now_ms: int) -> list[AuditRow]:
    """Rewinds that have not ended and that nobody is at any more, oldest first."""
    rows = connection.execute(
        f"SELECT {_ROW} FROM _smithers_time_travel_audit a WHERE result = 'in_progress' AND NOT EXISTS (SELECT 1 FROM "
        "_smithers_rewind_leases l WHERE l.run_id = a.run_id AND l.expires_at_ms > ?) ORDER BY id",
        (now_ms,),
    )
    return [AuditRow(*row) for row in rows]


def next_expiry(connection: Session) -> int | None:
    """When the first hold of a rewind that has not ended runs out; None if there is no such rewind."""
    row = connection.execute(
        "SELECT min(coalesce(l.expires_at_ms, 0)) FROM _smithers_time_travel_audit a LEFT JOIN _smithers_rewind_leases l "
        "ON l.run_id = a.run_id WHERE a.result = 'in_progress'"
    ).fetchone()
    return None if row is None or row[0] is None else int(row[0])


def rows(connection: Session, run_id: str) -> list[AuditRow]:
    """The record of a run, oldest first."""
    found = connection.execute(
        f"SELECT {_ROW} FROM _smithers_time_travel_audit WHERE run_id = ? ORDER BY id", (run_id,)
    )
    return [AuditRow(*row) for row in found]
