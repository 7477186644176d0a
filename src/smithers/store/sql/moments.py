"""Moments: what time the database has. Where several machines share one, their runs go by its clock, not by theirs."""

from __future__ import annotations

import time
from typing import NamedTuple

from smithers.store.sql.session import Session


class ServerTime(NamedTuple):
    """What a PostgreSQL server's clock showed, and between which moments of this process's monotonic clock (seconds)."""

    now_ms: int
    asked_at: float
    answered_at: float


def server_time(connection: Session) -> ServerTime:
    """What time it is there. Only PostgreSQL has a clock of its own."""
    asked_at = time.monotonic()
    rows = connection.execute("SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint)").fetchall()
    return ServerTime(int(rows[0][0]), asked_at, time.monotonic())
