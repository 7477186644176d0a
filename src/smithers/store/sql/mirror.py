"""Mirror: a run of another database as rows of this one, so that lists show it. Nothing drives it here."""

from __future__ import annotations

import json
from typing import NamedTuple

from smithers.events import EventRow
from smithers.store.interface import ApprovalRow, NodeRow, RunRow, SqlValue
from smithers.store.sql import reads
from smithers.store.sql import statements as sql
from smithers.store.sql.locks import lock_run
from smithers.store.sql.session import Session

MIRROR_OF = "mirrorOf"
"""Where a mirrored run's configuration names the database that it lives in."""


class Snapshot(NamedTuple):
    """What a run has become since it was last mirrored, read in one transaction."""

    run: RunRow
    config_json: str
    listed: tuple[SqlValue, ...]
    """What lists go by: (workflow_key, listed_as, is_system, started_by_json)."""
    events: list[EventRow]
    nodes: list[NodeRow]
    approvals: list[ApprovalRow]


def snapshot(connection: Session, run_id: str, after: int, limit: int) -> Snapshot:
    """Read a run in its own database. Raises `RunNotFound`."""
    listed = connection.execute(
        "SELECT workflow_key, listed_as, is_system, started_by_json FROM _smithers_run_specs WHERE run_id = ?",
        (run_id,),
    ).fetchone()
    return Snapshot(
        reads.run(connection, run_id),
        reads.spec(connection, run_id)[1],
        listed or (None, "", 0, None),
        reads.events(connection, run_id, after, limit),
        reads.nodes(connection, run_id),
        reads.approvals(connection, run_id, only_open=False),
    )


def write(connection: Session, found: Snapshot, place: str, owner: str) -> None:
    """Bring a run's mirror up to date. May be repeated; a run that is at home here is left alone.

    Args:
        place: the database that the run lives in.
        owner: who to name as the owner of a live one.
    """
    run = found.run
    if not _write_run(connection, found, place, owner):
        return
    config = json.dumps({**json.loads(found.config_json), MIRROR_OF: place})
    connection.execute(_SPEC, (run.run_id, config, run.created_at_ms, *found.listed))
    connection.executemany(
        _EVENT,
        [
            (run.run_id, e.seq, e.timestamp_ms, e.frame_no, e.type, e.node_id, e.iteration, e.payload)
            for e in found.events
        ],
    )
    connection.executemany(sql.NODE, [_node(run.run_id, node) for node in found.nodes])
    connection.executemany(sql.ROWS["approval"], [_approval(run.run_id, approval) for approval in found.approvals])


def _write_run(connection: Session, found: Snapshot, place: str, owner: str) -> bool:
    """False for a run that is not mirrored from there."""
    run = found.run
    next_seq = found.events[-1].seq + 1 if found.events else 0
    state: tuple[SqlValue, ...] = (
        run.status,
        run.started_at_ms,
        run.finished_at_ms,
        owner if run.status == "running" else None,
        run.epoch,
        run.frame_no,
        run.cancel_requested_at_ms,
        run.cancel_request_source,
        run.error_json,
    )
    lock_run(connection, run.run_id)
    is_there, stored_place = place_of(connection, run.run_id)
    if is_there:
        if stored_place != place:
            return False
        connection.execute(_AGAIN, (*state, next_seq, next_seq, run.run_id))
        return True
    made = (run.run_id, run.parent_run_id, run.workflow_name, run.workflow_path, run.workflow_hash, run.created_at_ms)
    return connection.execute(_RUN, (*made, *state, next_seq)).fetchone() is not None


def _node(run_id: str, n: NodeRow) -> tuple[SqlValue, ...]:
    place = (run_id, n.node_id, n.iteration)
    return (
        *place, n.state, n.last_attempt, n.updated_at_ms, n.frame_no, n.output_seq, n.output_table, n.label, n.loop_id,
        n.frame_no, None if n.state == "pending" else n.frame_no,
    )  # fmt: skip


def _approval(run_id: str, a: ApprovalRow) -> tuple[SqlValue, ...]:
    decided = (a.decided_at_ms, a.note, a.decided_by, a.request_json, a.decision_json, a.auto_approved)
    frames = (0, None if a.decided_at_ms is None else 0)
    return (run_id, a.node_id, a.iteration, a.status, a.workflow_name, a.requested_at_ms, *decided, *frames)


_RUN = """
INSERT INTO _smithers_runs (run_id, parent_run_id, workflow_name, workflow_path, workflow_hash, created_at_ms, status,
    started_at_ms, finished_at_ms, runtime_owner_id, epoch, frame_no, cancel_requested_at_ms, cancel_request_source,
    error_json, next_seq)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT DO NOTHING RETURNING run_id
"""

_AGAIN = """
UPDATE _smithers_runs SET status = ?, started_at_ms = ?, finished_at_ms = ?, runtime_owner_id = ?, epoch = ?, frame_no = ?,
    cancel_requested_at_ms = ?, cancel_request_source = ?, error_json = ?,
    next_seq = CASE WHEN next_seq < ? THEN ? ELSE next_seq END
WHERE run_id = ?
"""

_SPEC = """
INSERT INTO _smithers_run_specs (run_id, input_json, config_json, created_at_ms, workflow_key, listed_as, is_system,
    started_by_json)
VALUES (?, '{}', ?, ?, ?, ?, ?, ?)
ON CONFLICT (run_id) DO UPDATE SET config_json = excluded.config_json
"""

_EVENT = sql.EVENT + "ON CONFLICT DO NOTHING"


def place_of(connection: Session, run_id: str) -> tuple[bool, str | None]:
    """Whether a run is stored here, and the database that it lives in, if that is another one."""
    row = connection.execute("SELECT config_json FROM _smithers_run_specs WHERE run_id = ?", (run_id,)).fetchone()
    return row is not None, None if row is None else _place_in(row[0])


def _place_in(config_json: str) -> str | None:
    place = json.loads(config_json).get(MIRROR_OF) if MIRROR_OF in config_json else None
    return None if place is None else str(place)


def last_seq(connection: Session, run_id: str) -> int:
    """The newest event number that is mirrored of a run; -1 for none."""
    row = connection.execute("SELECT max(seq) FROM _smithers_events WHERE run_id = ?", (run_id,)).fetchone()
    return -1 if row is None or row[0] is None else int(row[0])


def places(connection: Session) -> list[str]:
    """The databases that runs which have not ended are mirrored from."""
    rows = connection.execute(
        "SELECT s.config_json FROM _smithers_runs r JOIN _smithers_run_specs s USING (run_id) "
        "WHERE r.status NOT IN ('finished', 'failed', 'cancelled', 'continued') AND s.config_json LIKE ?",
        (f"%{MIRROR_OF}%",),
    )
    return sorted({place for (config,) in rows if (place := _place_in(config)) is not None})
