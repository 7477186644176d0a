"""Schedules: rows, claims by compare-and-set, and the moments at which each has fired. What a pattern means is known in
`control/crons.py`."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from smithers.store.interface import SqlValue
from smithers.store.sql.locks import lock_name
from smithers.store.sql.session import Session

TARGET = "gateway:"
"""What the `workflow_path` of a schedule begins with whose workflow a gateway has registered; its key follows."""


class CronRow(NamedTuple):
    """A stored schedule."""

    cron_id: str
    pattern: str
    workflow_path: str
    enabled: int
    created_at_ms: int
    last_run_at_ms: int | None
    next_run_at_ms: int | None
    error_json: str | None
    time_zone: str | None
    missed: str
    owner_key: str | None

    @property
    def workflow(self) -> str:
        """The key of the workflow that it starts."""
        return self.workflow_path.removeprefix(TARGET)


class FireRow(NamedTuple):
    """A moment of a schedule. `outcome` is `claimed`, then `started` or `failed`; or `missed`."""

    cron_id: str
    fire_at_ms: int
    claimed_at_ms: int
    outcome: str
    run_id: str | None
    error_json: str | None


_CRON = ", ".join(CronRow._fields)
_C_CRON = ", ".join(f"c.{name}" for name in CronRow._fields)
_WIDTH = len(CronRow._fields)
_FIRE = ", ".join(FireRow._fields)
_F_FIRE = ", ".join(f"f.{name}" for name in FireRow._fields)


def put(connection: Session, row: CronRow) -> CronRow:
    """Store a schedule, or replace one but for its creation time, its last run and its owner. The row as it is stored."""
    lock(connection, row.cron_id)
    connection.execute(
        f"INSERT INTO _smithers_cron ({_CRON}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) "
        "ON CONFLICT (cron_id) DO UPDATE SET pattern = excluded.pattern, workflow_path = excluded.workflow_path, "
        "enabled = excluded.enabled, next_run_at_ms = excluded.next_run_at_ms, error_json = excluded.error_json, "
        "time_zone = excluded.time_zone, missed = excluded.missed",
        row,
    )
    stored = get(connection, row.cron_id)
    assert stored is not None
    return stored


def get(connection: Session, cron_id: str) -> CronRow | None:
    """One schedule."""
    row = connection.execute(f"SELECT {_CRON} FROM _smithers_cron WHERE cron_id = ?", (cron_id,)).fetchone()
    return None if row is None else CronRow(*row)


def lock(connection: Session, cron_id: str) -> None:
    """Have no other job store or replace this schedule until this one is committed."""
    lock_name(connection, f"cron:{cron_id}")


def crons(connection: Session, workflow: str | None, limit: int) -> list[CronRow]:
    """Schedules, oldest first; of one workflow if given."""
    text, parameters = f"SELECT {_CRON} FROM _smithers_cron", list[SqlValue]()
    if workflow is not None:
        text += " WHERE workflow_path = ?"
        parameters.append(TARGET + workflow)
    rows = connection.execute(text + " ORDER BY created_at_ms, cron_id LIMIT ?", (*parameters, limit))
    return [CronRow(*row) for row in rows]


def delete(connection: Session, cron_id: str) -> bool:
    """Forget a schedule and when it fired. Whether there was one."""
    connection.execute("DELETE FROM _smithers_cron_fires WHERE cron_id = ?", (cron_id,))
    row = connection.execute("DELETE FROM _smithers_cron WHERE cron_id = ? RETURNING 1", (cron_id,)).fetchone()
    return row is not None


# ── firing ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def due(connection: Session, workflow: str, now_ms: int, limit: int) -> list[CronRow]:
    """Enabled schedules of a workflow whose moment has come, or is not known; earliest first."""
    rows = connection.execute(
        f"SELECT {_CRON} FROM _smithers_cron WHERE enabled = 1 AND workflow_path = ? "
        "AND (next_run_at_ms IS NULL OR next_run_at_ms <= ?) ORDER BY next_run_at_ms NULLS FIRST, cron_id LIMIT ?",
        (TARGET + workflow, now_ms, limit),
    )
    return [CronRow(*row) for row in rows]


def next_due(connection: Session, workflows: Collection[str]) -> int | None:
    """The earliest moment that an enabled schedule of these workflows waits for."""
    found: list[int] = []
    for workflow in workflows:
        row = connection.execute(
            "SELECT min(next_run_at_ms) FROM _smithers_cron WHERE enabled = 1 AND workflow_path = ?",
            (TARGET + workflow,),
        ).fetchone()
        if row is not None and row[0] is not None:
            found.append(int(row[0]))
    return min(found, default=None)


def move(
    connection: Session, row: CronRow, next_ms: int | None, *, last_run_at_ms: int | None, error_json: str | None
) -> bool:
    """Set what comes next of a schedule that is still as it was read; one without a next moment is disabled. False if it
    is not, because another process was faster or somebody changed it."""
    moved = connection.execute(
        "UPDATE _smithers_cron SET next_run_at_ms = ?, enabled = CASE WHEN ? = 1 THEN 1 ELSE 0 END, "
        "last_run_at_ms = coalesce(?, last_run_at_ms), error_json = ? "
        "WHERE cron_id = ? AND enabled = 1 AND pattern = ? AND next_run_at_ms IS NOT DISTINCT FROM ? RETURNING 1",
        (next_ms, int(next_ms is not None), last_run_at_ms, error_json, row.cron_id, row.pattern, row.next_run_at_ms),
    ).fetchone()
    return moved is not None


def begin(connection: Session, cron_id: str, fire_at_ms: int, now_ms: int, outcome: str) -> bool:
    """Note a moment of a schedule. False if it was noted before."""
    row = connection.execute(
        f"INSERT INTO _smithers_cron_fires ({_FIRE}) VALUES (?, ?, ?, ?, NULL, NULL) ON CONFLICT DO NOTHING RETURNING 1",
        (cron_id, fire_at_ms, now_ms, outcome),
    ).fetchone()
    return row is not None


def stale(connection: Session, workflow: str, before_ms: int) -> bool:
    """Whether `reclaim` would find something."""
    row = connection.execute(
        "SELECT 1 FROM _smithers_cron_fires f CROSS JOIN _smithers_cron c "
        "WHERE c.cron_id = f.cron_id AND f.outcome = 'claimed' AND f.claimed_at_ms <= ? AND c.workflow_path = ? LIMIT 1",
        (before_ms, TARGET + workflow),
    ).fetchone()
    return row is not None


def reclaim(connection: Session, workflow: str, before_ms: int, now_ms: int, limit: int) -> list[tuple[CronRow, int]]:
    """Moments of a workflow's schedules that somebody claimed before a time and never settled: claimed again."""
    rows = list(
        connection.execute(
            f"SELECT {_C_CRON}, f.fire_at_ms, f.claimed_at_ms FROM _smithers_cron_fires f "
            "CROSS JOIN _smithers_cron c WHERE c.cron_id = f.cron_id "
            "AND f.outcome = 'claimed' AND f.claimed_at_ms <= ? AND c.workflow_path = ? ORDER BY f.claimed_at_ms LIMIT ?",
            (before_ms, TARGET + workflow, limit),
        )
    )
    found: list[tuple[CronRow, int]] = []
    for row in rows:
        cron = CronRow(*row[:_WIDTH])
        fire_at, claimed_at = row[_WIDTH:]
        mine = connection.execute(
            "UPDATE _smithers_cron_fires SET claimed_at_ms = ? "
            "WHERE cron_id = ? AND fire_at_ms = ? AND outcome = 'claimed' AND claimed_at_ms = ? RETURNING fire_at_ms",
            (now_ms, cron.cron_id, fire_at, claimed_at),
        ).fetchone()
        if mine is not None:
            found.append((cron, int(mine[0])))
    return found


def settle(
    connection: Session, cron_id: str, fire_at_ms: int, outcome: str, run_id: str | None, error_json: str | None
) -> None:
    """Note what a claimed moment has come to."""
    connection.execute(
        "UPDATE _smithers_cron_fires SET outcome = ?, run_id = ?, error_json = ? WHERE cron_id = ? AND fire_at_ms = ?",
        (outcome, run_id, error_json, cron_id, fire_at_ms),
    )


def record(
    connection: Session, cron_id: str, next_ms: int | None, last_run_at_ms: int, fire: FireRow | None
) -> CronRow | None:
    """Note a run that somebody started by hand: the last run, what comes next, and no error. None if there is no such
    schedule."""
    row = connection.execute(
        "UPDATE _smithers_cron SET last_run_at_ms = ?, next_run_at_ms = ?, error_json = NULL WHERE cron_id = ? "
        f"RETURNING {_CRON}",
        (last_run_at_ms, next_ms, cron_id),
    ).fetchone()
    if row is not None and fire is not None:
        connection.execute(
            f"INSERT INTO _smithers_cron_fires ({_FIRE}) VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING", fire
        )
    return None if row is None else CronRow(*row)


def fail(connection: Session, cron_id: str, expected_ms: int | None, retry_ms: int, error_json: str) -> None:
    """Have a schedule try again at a moment, and show why; only the error if somebody has changed it meanwhile."""
    connection.execute(
        "UPDATE _smithers_cron SET error_json = ?, "
        "next_run_at_ms = CASE WHEN next_run_at_ms IS NOT DISTINCT FROM ? THEN ? ELSE next_run_at_ms END "
        "WHERE cron_id = ? AND enabled = 1",
        (error_json, expected_ms, retry_ms, cron_id),
    )


def fires(connection: Session, cron_id: str, limit: int) -> list[FireRow]:
    """The moments at which a schedule has fired, newest first."""
    rows = connection.execute(
        f"SELECT {_F_FIRE} FROM _smithers_cron_fires f WHERE cron_id = ? ORDER BY fire_at_ms DESC LIMIT ?",
        (cron_id, limit),
    )
    return [FireRow(*row) for row in rows]


def trim(connection: Session, cron_id: str, keep: int) -> None:
    """Forget all but the newest moments of a schedule that are settled."""
    connection.execute(
        "DELETE FROM _smithers_cron_fires WHERE cron_id = ? AND outcome <> 'claimed' AND fire_at_ms < "
        "(SELECT fire_at_ms FROM _smithers_cron_fires WHERE cron_id = ? ORDER BY fire_at_ms DESC LIMIT 1 OFFSET ?)",
        (cron_id, cron_id, keep - 1),
    )
