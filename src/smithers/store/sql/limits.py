"""Limits of queues and workflows: how many of their runs may be driven at once, how many may be started in a period.

A rate is held by the generic cell rate algorithm (ITU-T I.371): one moment a limit, up to which starts were given out. A
limit of N in a period lets N start at once, then one every period / N.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from smithers.store.sql.session import Session

OF_WORKFLOW: Final = "workflow:"
"""What the name of a workflow's limit begins with; any other name is a queue's."""


class Limit(NamedTuple):
    """A limit as it is stored; None does not hold anything back, a `concurrency` of 0 everything. A rate has both its numbers
    or neither."""

    name: str
    concurrency: int | None
    rate_count: int | None
    rate_period_ms: int | None
    arrival_ms: float = 0.0

    @property
    def is_pause(self) -> bool:
        """Whether nothing starts until somebody changes the limit."""
        return self.concurrency == 0

    def opens_at(self, now_ms: float) -> float:
        """The moment from which the rate lets another run start."""
        if self.rate_count is None or self.rate_period_ms is None:
            return 0.0
        return max(self.arrival_ms, now_ms) - self.rate_period_ms * (1 - 1 / self.rate_count)

    def after_start(self, now_ms: float) -> Limit:
        """The limit once another run was started."""
        if self.rate_count is None or self.rate_period_ms is None:
            return self
        return self._replace(arrival_ms=max(self.arrival_ms, now_ms) + self.rate_period_ms / self.rate_count)


_FIELDS: Final = ", ".join(Limit._fields)


def limits(connection: Session) -> dict[str, Limit]:
    """All limits by name."""
    rows = connection.execute(f"SELECT {_FIELDS} FROM _smithers_queue_limits ORDER BY name")
    return {str(row[0]): Limit(*row) for row in rows}


def is_limited(connection: Session, queue: str, workflow: str) -> bool:
    """Whether a run of this queue and workflow may have to wait for a limit."""
    rows = connection.execute(
        "SELECT 1 FROM _smithers_queue_limits WHERE name IN (?, ?) LIMIT 1", (queue, OF_WORKFLOW + workflow)
    )
    return bool(rows.fetchall())


def put(connection: Session, limit: Limit, now_ms: int) -> None:
    """Store a limit in place of an earlier one of that name; what its rate has given out counts on."""
    connection.execute(
        f"INSERT INTO _smithers_queue_limits ({_FIELDS}, updated_at_ms) VALUES (?, ?, ?, ?, ?, ?) "
        "ON CONFLICT (name) DO UPDATE SET concurrency = excluded.concurrency, rate_count = excluded.rate_count, "
        "rate_period_ms = excluded.rate_period_ms, updated_at_ms = excluded.updated_at_ms",
        (*limit, now_ms),
    ).fetchall()


def delete(connection: Session, name: str) -> bool:
    """Forget a limit. Whether there was one."""
    rows = connection.execute("DELETE FROM _smithers_queue_limits WHERE name = ? RETURNING 1", (name,)).fetchall()
    return bool(rows)


def note_starts(connection: Session, changed: Limit) -> None:
    """Store up to when a rate has given starts out."""
    connection.execute(
        "UPDATE _smithers_queue_limits SET arrival_ms = ? WHERE name = ?", (changed.arrival_ms, changed.name)
    ).fetchall()


_DRIVEN: Final = """
SELECT count(*) FROM _smithers_runs r JOIN _smithers_run_specs s ON s.run_id = r.run_id
WHERE r.status = 'running' AND r.runtime_owner_id IS NOT NULL AND s.{column} = ?
"""
_TAKEN: Final = """
SELECT count(*) FROM _smithers_queue q JOIN _smithers_runs r ON r.run_id = q.run_id
WHERE q.{column} = ? AND q.taken_until_ms > ? AND r.status = 'waiting-quota' AND r.frame_no = 0
"""


def in_use(connection: Session, name: str, now_ms: int) -> int:
    """How many runs of a queue or workflow are driven or about to be. Counts them: for names that have a limit."""
    workflow = name.removeprefix(OF_WORKFLOW)
    is_workflow = workflow != name
    driven = connection.execute(_DRIVEN.format(column="listed_as" if is_workflow else "queue"), (workflow,))
    taken = connection.execute(_TAKEN.format(column="workflow" if is_workflow else "queue"), (workflow, now_ms))
    return int(driven.fetchall()[0][0]) + int(taken.fetchall()[0][0])
