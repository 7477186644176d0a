"""Control over a run: launched, claimed, kept alive, given up, closed where nobody answered, ended as cancelled.

Each is one write job; what others have to hear of leaves a wake-up row, by which owners and hosts notice it. What is asked
of a run by somebody who does not own it is in `requests`, what its owner writes as it goes on in `commit`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final

from smithers.errors import RunAlreadyExists, RunNotFound
from smithers.events import EventDraft
from smithers.store.interface import TIMED_OUT, NewRun, RunRow, SqlValue, Step
from smithers.store.sql import lineage, reads
from smithers.store.sql import statements as sql
from smithers.store.sql.lineage import TERMINAL
from smithers.store.sql.locks import lock_end, lock_run
from smithers.store.sql.session import SILENT, Session, dialect_of


def launch(
    connection: Session, run: NewRun, *, heir_of: str | None = None, first_step: Step | None = None
) -> tuple[str, bool]:
    """Store a new run, unless its idempotency key names one that is there. Raises `RunAlreadyExists`.

    A run that goes on for another (`heir_of`) is listed as that one is, and as started by whom that one was. It, and the
    run of a subflow, is to pause if the one above it is. With `first_step`, the run begins with the numbers after that step,
    and who writes it writes the launch's events too.
    """
    key = run.idempotency_key
    if key is not None and (earlier := reads.run_of_key(connection, key)) is not None:
        return earlier, False
    pause: SqlValue = None
    if heir_of is not None or lineage.is_child(run.run_id, run.parent_run_id):
        pause = _pause_of(connection, heir_of or run.parent_run_id)
    stored = connection.execute(
        "INSERT INTO _smithers_runs (run_id, parent_run_id, workflow_name, workflow_path, workflow_hash, status, "
        "created_at_ms, started_at_ms, heartbeat_at_ms, runtime_owner_id, epoch, next_seq, "
        "next_output_seq, frame_no, pause_requested_at_ms) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 1, ?, ?, ?, ?) ON CONFLICT DO NOTHING RETURNING run_id",
        (
            run.run_id,
            run.parent_run_id,
            run.workflow_name,
            run.workflow_path,
            run.workflow_hash,
            run.status,
            run.now_ms,
            run.now_ms if run.status == "running" else None,
            run.now_ms if run.owner else None,
            run.owner,
            len(run.events) + (0 if first_step is None else len(first_step.events)),
            0 if first_step is None else len(first_step.outputs),
            0 if first_step is None else first_step.frame_no,
            pause,
        ),
    ).fetchone()
    if stored is None:
        if key is not None and (earlier := reads.run_of_key(connection, key)) is not None:
            return earlier, False  # launched with this key by somebody else in the same moment
        raise RunAlreadyExists(run.run_id)
    listed: tuple[SqlValue, ...] = (run.workflow_key, run.listed_as, int(run.is_system), run.started_by_json, run.queue)
    if heir_of is not None:
        listed = (
            connection.execute(
                "SELECT workflow_key, listed_as, is_system, started_by_json, queue FROM _smithers_run_specs WHERE run_id = ?",
                (heir_of,),
            ).fetchone()
            or listed
        )
    spec = connection.execute(
        "INSERT INTO _smithers_run_specs (run_id, input_json, config_json, idempotency_key, created_at_ms, workflow_key, "
        "listed_as, is_system, started_by_json, queue) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING RETURNING 1",
        (run.run_id, run.input_json, run.config_json, key, run.now_ms, *listed),
    ).fetchone()
    if spec is None:  # the same, under another id
        assert key is not None
        connection.execute("DELETE FROM _smithers_runs WHERE run_id = ?", (run.run_id,))
        return reads.run_of_key(connection, key) or run.run_id, False
    if first_step is None:
        for seq, event in enumerate(run.events):
            connection.execute(sql.EVENT, (run.run_id, seq, run.now_ms, 0, *event))
    if run.owner is None or pause is not None:
        connection.execute(sql.WAKEUP, (run.run_id,))
    return run.run_id, True


def _pause_of(connection: Session, run_id: str | None) -> SqlValue:
    """Since when a run is asked to pause: so are those that it launches meanwhile, and who goes on for it."""
    if run_id is not None:
        lock_run(connection, run_id)  # who asks it to pause finds the new run, or is found here
    row = connection.execute(
        "SELECT pause_requested_at_ms FROM _smithers_runs WHERE run_id = ? AND status IN ('running', 'continued')",
        (run_id,),
    ).fetchone()
    return None if row is None else row[0]


def claim(
    connection: Session,
    run_id: str,
    owner: str,
    now_ms: int,
    expect_epoch: int,
    events: Sequence[EventDraft],
    keeps_pause: bool = True,
    resumed_by_json: str | None = None,
) -> RunRow | None:
    """Take a run over if nobody has since it was read, or is about to change its history. The run as it is then, or None.

    What was asked of a run that had not ended yet holds for its next owner too, but for a pause that somebody takes back
    by resuming the run (`keeps_pause=False`), and a request to take it over, that whoever resumes it has seen.
    """
    row = connection.execute(
        "UPDATE _smithers_runs SET runtime_owner_id = ?, epoch = epoch + 1, status = 'running', heartbeat_at_ms = ?, "
        "finished_at_ms = NULL, error_json = NULL, "
        "cancel_requested_at_ms = CASE WHEN finished_at_ms IS NULL THEN cancel_requested_at_ms END, "
        "cancel_request_source = CASE WHEN finished_at_ms IS NULL THEN cancel_request_source END, "
        "pause_requested_at_ms = CASE WHEN ? = 1 AND status = 'running' THEN pause_requested_at_ms END, "
        "started_at_ms = coalesce(started_at_ms, ?), "
        "claim_count = CASE WHEN claim_frame = frame_no THEN claim_count + 1 ELSE 1 END, claim_frame = frame_no "
        "WHERE run_id = ? AND epoch = ? AND status <> 'continued' AND NOT EXISTS (SELECT 1 FROM _smithers_rewind_leases l "
        f"WHERE l.run_id = _smithers_runs.run_id AND l.expires_at_ms > ?) RETURNING {', '.join(RunRow._fields)}",
        (owner, now_ms, int(keeps_pause), now_ms, run_id, expect_epoch, now_ms),
    ).fetchone()
    if row is None:
        return None
    if resumed_by_json is not None:
        connection.execute(
            "UPDATE _smithers_run_specs SET resumed_by_json = ?, hijack_requested_at_ms = NULL, hijack_target = NULL "
            "WHERE run_id = ?",
            (resumed_by_json, run_id),
        )
    append_events(connection, run_id, now_ms, events)
    claimed = RunRow(*row)
    return claimed._replace(next_seq=claimed.next_seq + len(events))


def heartbeat(connection: Session, owner: str, now_ms: int) -> set[str]:
    """Mark all runs of an owner as alive, in one statement. All that it holds, also those that a job has locked just now,
    which are marked the next time."""
    if dialect_of(connection) == "postgres":
        connection.execute(_BEAT_FREE, (now_ms, owner))
        rows = connection.execute(f"SELECT run_id FROM _smithers_runs WHERE {_MINE}", (owner,))
    else:
        rows = connection.execute(_BEAT, (now_ms, owner))
    return {str(row[0]) for row in rows}


_MINE: Final = "runtime_owner_id = ? AND status = 'running'"
_BEAT: Final = f"UPDATE {SILENT} _smithers_runs SET heartbeat_at_ms = ? WHERE {_MINE} RETURNING run_id"
# to wait for one run while others are held would be to be waited for
_BEAT_FREE: Final = f"""
UPDATE {SILENT} _smithers_runs SET heartbeat_at_ms = ?
WHERE run_id IN (SELECT run_id FROM _smithers_runs WHERE {_MINE} FOR NO KEY UPDATE SKIP LOCKED)
"""


def release(connection: Session, run_id: str, owner: str) -> None:
    """Give a run up, so that anybody may claim it, and say so; nothing if the owner does not hold it."""
    given_up = connection.execute(
        "UPDATE _smithers_runs SET runtime_owner_id = NULL, heartbeat_at_ms = NULL "
        "WHERE run_id = ? AND runtime_owner_id = ? RETURNING 1",
        (run_id, owner),
    ).fetchone()
    if given_up is not None:
        connection.execute(sql.WAKEUP, (run_id,))


def expire(
    connection: Session, run_id: str, keys: Sequence[tuple[str, int]], now_ms: int, fence: tuple[str, int]
) -> bool:
    """Close approvals and questions that nobody answered in time. False if one of them was answered after all.

    Nothing is closed unless the fence holds.
    """
    lock_run(connection, run_id)
    row = reads.run(connection, run_id)
    if (row.runtime_owner_id, row.epoch) != fence:
        return True  # the owner's next commit finds out
    all_closed = True
    for node_id, iteration in keys:
        approvals = connection.execute(
            "UPDATE _smithers_approvals SET status = 'denied', decided_at_ms = ?, decided_by = ?, decided_frame = ? "
            "WHERE run_id = ? AND node_id = ? AND iteration = ? AND status = 'requested' RETURNING 1",
            (now_ms, TIMED_OUT, row.frame_no + 1, run_id, node_id, iteration),
        ).fetchall()
        humans = connection.execute(
            "UPDATE _smithers_human_requests SET status = 'expired', closed_frame = ? "
            "WHERE run_id = ? AND node_id = ? AND iteration = ? AND status = 'pending' RETURNING 1",
            (row.frame_no + 1, run_id, node_id, iteration),
        ).fetchall()
        all_closed = all_closed and bool(approvals or humans)
    return all_closed


def finalize_cancel(connection: Session, run_id: str, now_ms: int, fence: tuple[str, int] | None) -> bool:
    """End a run as cancelled: its open nodes, attempts, approvals, requests and timers with it.

    Works from what is stored, so that it is right whatever the owner had in mind. With a fence only under it, without
    one only when the run has no owner. False when that does not hold.
    """
    lock_end(connection, run_id)
    row = reads.run(connection, run_id)
    held = (row.runtime_owner_id, row.epoch) if row.runtime_owner_id is not None else None
    if row.status in TERMINAL or held != fence:
        return False
    frame = row.frame_no + 1  # the end is a step of its own
    events = _close_open(connection, run_id, now_ms, frame)
    events.append(EventDraft("RunCancelled"))
    events.append(EventDraft("RunStatusChanged", None, None, '{"status":"cancelled"}'))
    append_events(connection, run_id, now_ms, events)
    connection.execute(sql.END, ("cancelled", None, 1, now_ms, 0, 0, 0, run_id))
    connection.execute("UPDATE _smithers_runs SET frame_no = ? WHERE run_id = ?", (frame, run_id))
    connection.execute(sql.SEEN_WAKEUPS, (run_id, 2**62))
    connection.execute(sql.WAKE_PARENT, (run_id,))
    _cancel_children(connection, run_id, now_ms)
    return True


def _close_open(connection: Session, run_id: str, now_ms: int, frame: int) -> list[EventDraft]:
    """Close everything of a run that is open, in this frame. The events that tell of it."""
    events = list[EventDraft]()
    open_states = "('in-progress', 'waiting-approval', 'waiting-event', 'waiting-timer', 'waiting-quota')"
    for approval in reads.approvals(connection, run_id):
        events.append(EventDraft("ApprovalDenied", approval.node_id, approval.iteration))
    nodes = connection.execute(
        "UPDATE _smithers_nodes SET state = 'cancelled', updated_at_ms = ?, frame_no = ? "
        f"WHERE run_id = ? AND state IN {open_states} RETURNING node_id, iteration, last_attempt",
        (now_ms, frame, run_id),
    ).fetchall()
    timers = {(t.node_id, t.iteration) for t in reads.timers(connection, run_id) if t.kind == "timer"}
    for node_id, iteration, attempt in sorted(nodes):
        if (node_id, iteration) in timers:
            payload = json.dumps({"timerId": node_id})
            events.append(EventDraft("TimerCancelled", str(node_id), _int(iteration), payload))
        payload = json.dumps({"attempt": attempt, "reason": "run-cancelled"})
        events.append(EventDraft("NodeCancelled", str(node_id), _int(iteration), payload))
    connection.execute(
        "UPDATE _smithers_attempts SET state = 'cancelled', finished_at_ms = ?, finished_frame = ? "
        "WHERE run_id = ? AND finished_at_ms IS NULL",
        (now_ms, frame, run_id),
    )
    connection.execute(
        "UPDATE _smithers_approvals SET status = 'denied', decided_at_ms = ?, decided_by = 'smithers:cancel', "
        "decided_frame = ? WHERE run_id = ? AND status = 'requested'",
        (now_ms, frame, run_id),
    )
    connection.execute(
        "UPDATE _smithers_human_requests SET status = 'cancelled', closed_frame = ? WHERE run_id = ? AND status = 'pending'",
        (frame, run_id),
    )
    connection.execute("DELETE FROM _smithers_timers WHERE run_id = ?", (run_id,))
    connection.execute("DELETE FROM _smithers_queue WHERE run_id = ?", (run_id,))
    return events


def _cancel_children(connection: Session, run_id: str, now_ms: int) -> None:
    """Ask for the runs of a cancelled run's subflows to be cancelled too; those that nobody drives are, at once."""
    children = reads.runs(connection, (), 10_000, parent=run_id)
    for child in children:
        if child.status == "continued":
            children += reads.runs(connection, (), 10_000, parent=child.run_id)
        elif child.status not in TERMINAL:
            asked = connection.execute(
                "UPDATE _smithers_runs SET cancel_requested_at_ms = coalesce(cancel_requested_at_ms, ?), "
                "cancel_request_source = coalesce(cancel_request_source, 'parent') "
                "WHERE run_id = ? AND finished_at_ms IS NULL RETURNING runtime_owner_id",
                (now_ms, child.run_id),
            ).fetchone()
            if asked is None:  # it has ended meanwhile
                continue
            connection.execute(sql.WAKEUP, (child.run_id,))
            if asked[0] is None:
                finalize_cancel(connection, child.run_id, now_ms, None)


def _int(value: object) -> int:
    return value if isinstance(value, int) else 0


def append_events(connection: Session, run_id: str, now_ms: int, events: Sequence[EventDraft]) -> int:
    """Append to a run's log from outside a step: into the frame to come. Returns the first number given."""
    row = connection.execute(
        "UPDATE _smithers_runs SET next_seq = next_seq + ? WHERE run_id = ? RETURNING next_seq, frame_no",
        (len(events), run_id),
    ).fetchone()
    if row is None:
        raise RunNotFound(run_id)
    first = row[0] - len(events)
    for seq, event in enumerate(events, first):
        connection.execute(sql.EVENT, (run_id, seq, now_ms, row[1] + 1, *event))
    return int(first)
