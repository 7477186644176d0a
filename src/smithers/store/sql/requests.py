"""What is asked of a run by somebody who does not own it: decisions, answers, signals, requests to cancel or pause.

Each is one write job that leaves a wake-up row, by which the run's owner or a host notices it. Whether it is allowed is
judged inside the transaction, by functions that the control layer passes in. Who has a run is in `control`.
"""

from __future__ import annotations

import json
from collections.abc import Callable

from smithers.errors import AlreadyDecided, InvalidInput, NodeNotFound, RunNotActive
from smithers.events import EventDraft
from smithers.store.interface import ApprovalRow, HumanRow, RunRow, StoredSignal
from smithers.store.sql import lineage, reads
from smithers.store.sql import statements as sql
from smithers.store.sql.control import append_events
from smithers.store.sql.lineage import TERMINAL
from smithers.store.sql.locks import lock_run
from smithers.store.sql.session import Session


def decide(
    connection: Session,
    run_id: str,
    node_id: str,
    iteration: int,
    now_ms: int,
    judge: Callable[[ApprovalRow], tuple[bool, str | None, str | None, str | None]],
) -> ApprovalRow:
    """Record a decision once.

    `judge` looks at the stored request and gives (approved, note, decided_by, decision JSON), or raises.
    Raises `RunNotFound`, `RunNotActive`, `NodeNotFound` or `AlreadyDecided`.
    """
    require_active(connection, run_id)
    row = reads.approval(connection, run_id, node_id, iteration)
    if row is None:
        raise NodeNotFound(
            f"run {run_id!r} has no approval for node {node_id!r} (iteration {iteration})",
            {"runId": run_id, "nodeId": node_id, "iteration": iteration},
        )
    if row.status != "requested":
        raise AlreadyDecided(
            f"approval {node_id!r} was {row.status} before" + (f" by {row.decided_by}" if row.decided_by else ""),
            {"runId": run_id, "nodeId": node_id, "iteration": iteration, "status": row.status},
        )
    approved, note, decided_by, decision = judge(row)
    connection.execute(
        "UPDATE _smithers_approvals SET status = ?, decided_at_ms = ?, note = ?, decided_by = ?, decision_json = ?, "
        "decided_frame = (SELECT frame_no + 1 FROM _smithers_runs r WHERE r.run_id = _smithers_approvals.run_id) "
        "WHERE run_id = ? AND node_id = ? AND iteration = ?",
        ("approved" if approved else "denied", now_ms, note, decided_by, decision, run_id, node_id, iteration),
    )
    event = EventDraft("ApprovalGranted" if approved else "ApprovalDenied", node_id, iteration)
    append_events(connection, run_id, now_ms, [event])
    connection.execute(sql.WAKEUP, (run_id,))
    decided = reads.approval(connection, run_id, node_id, iteration)
    assert decided is not None
    return decided


def answer(
    connection: Session,
    request_id: str,
    now_ms: int,
    judge: Callable[[HumanRow], tuple[str, str | None]],
) -> HumanRow:
    """Record a person's answer. `judge` gives (response JSON, answered_by) or raises."""
    row = reads.human_request(connection, request_id)
    if row is None:
        raise NodeNotFound(f"there is no request {request_id!r}", {"requestId": request_id})
    require_active(connection, row.run_id)
    row = reads.human_request(connection, request_id) or row  # as it is now that nobody else can answer it
    if row.status != "pending":
        raise AlreadyDecided(f"request {request_id!r} is {row.status}", {"requestId": request_id, "status": row.status})
    response, by = judge(row)
    connection.execute(
        "UPDATE _smithers_human_requests SET status = 'answered', response_json = ?, answered_at_ms = ?, answered_by = ?, "
        "closed_frame = (SELECT frame_no + 1 FROM _smithers_runs r WHERE r.run_id = _smithers_human_requests.run_id) "
        "WHERE request_id = ?",
        (response, now_ms, by, request_id),
    )
    append_events(connection, row.run_id, now_ms, [EventDraft("ApprovalGranted", row.node_id, row.iteration)])
    connection.execute(sql.WAKEUP, (row.run_id,))
    found = reads.human_request(connection, request_id)
    assert found is not None
    return found


def signal(
    connection: Session,
    run_id: str,
    name: str,
    correlation_id: str | None,
    payload_json: str,
    now_ms: int,
    received_by: str | None,
    idempotency_key: str | None,
) -> StoredSignal:
    """Put a signal into the mailboxes of a run and of the runs of its subflows, once per idempotency key.

    Raises `RunNotFound`, `RunNotActive`, or `InvalidInput` for a key that the run has had with another signal.
    """
    lock_run(connection, run_id)
    if idempotency_key is not None:  # before the run's state: who lost the answer asks again, perhaps after its end
        row = connection.execute(
            "SELECT seq, signal_name, correlation_id, payload_json, received_at_ms, received_by FROM _smithers_signals "
            "WHERE run_id = ? AND idempotency_key = ?",
            (run_id, idempotency_key),
        ).fetchone()
        if row is not None:
            found = StoredSignal(*row)
            if (found.signal_name, found.correlation_id, found.payload_json) != (name, correlation_id, payload_json):
                raise InvalidInput(f"idempotency key {idempotency_key!r} was used for another signal")
            return found
    require_active(connection, run_id)
    sent = StoredSignal(-1, name, correlation_id, payload_json, now_ms, received_by)
    for run in lineage.descendants(connection, run_id, is_locking=True):
        _put(connection, run.run_id, sent, idempotency_key)
    put = _put(connection, run_id, sent, idempotency_key)
    assert put is not None
    return put


def _put(connection: Session, run_id: str, sent: StoredSignal, idempotency_key: str | None) -> StoredSignal | None:
    """Put a signal into one run's mailbox, with a number of its own there; None if that has had the key before."""
    stored = connection.execute(
        "INSERT INTO _smithers_signals (run_id, seq, signal_name, correlation_id, payload_json, received_at_ms, "
        "received_by, idempotency_key, frame_no) SELECT run_id, next_output_seq, ?, ?, ?, ?, ?, ?, frame_no + 1 "
        "FROM _smithers_runs "
        "WHERE run_id = ? ON CONFLICT DO NOTHING RETURNING seq",
        (*sent[1:], idempotency_key, run_id),
    ).fetchone()
    if stored is None:
        return None
    seq = int(stored[0])
    connection.execute("UPDATE _smithers_runs SET next_output_seq = ? WHERE run_id = ?", (seq + 1, run_id))
    payload = json.dumps({"signalName": sent.signal_name, "correlationId": sent.correlation_id, "signalSeq": seq})
    append_events(connection, run_id, sent.received_at_ms, [EventDraft("SignalReceived", None, None, payload)])
    connection.execute(sql.WAKEUP, (run_id,))
    return sent._replace(seq=seq)


def hand_on_signals(connection: Session, run_id: str, heir: str, untaken: frozenset[int], after: int) -> None:
    """Put a run's signals that nobody has taken, and all after a number, into the mailbox of the run that goes on for it."""
    first = min(untaken, default=after + 1)
    rows = connection.execute(
        "SELECT seq, signal_name, correlation_id, payload_json, received_at_ms, received_by, idempotency_key "
        "FROM _smithers_signals WHERE run_id = ? AND seq >= ? ORDER BY seq",
        (run_id, first),
    ).fetchall()
    for row in rows:
        if row[0] in untaken or row[0] > after:
            _put(connection, heir, StoredSignal(*row[:6]), row[6])


def request_cancel(connection: Session, run_id: str, now_ms: int, source: str) -> RunRow:
    """Ask for a run to be cancelled; the owner, or who claims it, does it. Raises `RunNotFound` or `RunNotActive`."""
    row = require_active(connection, run_id)
    connection.execute(
        "UPDATE _smithers_runs SET cancel_requested_at_ms = coalesce(cancel_requested_at_ms, ?), "
        "cancel_request_source = coalesce(cancel_request_source, ?) WHERE run_id = ?",
        (now_ms, source, run_id),
    )
    connection.execute(sql.WAKEUP, (run_id,))
    return row


def request_pause(connection: Session, run_id: str, now_ms: int) -> RunRow:
    """Ask a live run and the runs of its subflows to drain and pause; paused ones are left alone.

    A parked run is paused at once, if a run below it works, and so is a parked one below. Raises `RunNotFound` or
    `RunNotActive`.
    """
    lock_run(connection, run_id)
    row = reads.run(connection, run_id)
    if row.status == "paused":
        return row
    below = [] if row.status in TERMINAL else lineage.descendants(connection, run_id, is_locking=True)
    if row.status != "running" and not (row.status not in TERMINAL and any(r.status == "running" for r in below)):
        raise RunNotActive(run_id, row.status)
    for run in (row, *below):
        if run.status == "running":
            connection.execute(
                "UPDATE _smithers_runs SET pause_requested_at_ms = coalesce(pause_requested_at_ms, ?) WHERE run_id = ?",
                (now_ms, run.run_id),
            )
            connection.execute(sql.WAKEUP, (run.run_id,))
        elif run.status != "paused":
            # whoever was about to go on with it has to look again
            connection.execute(
                "UPDATE _smithers_runs SET status = 'paused', epoch = epoch + 1 WHERE run_id = ?", (run.run_id,)
            )
            told = EventDraft("RunStatusChanged", None, None, '{"status":"paused"}')
            append_events(connection, run.run_id, now_ms, [told])
    return row


def require_active(connection: Session, run_id: str) -> RunRow:
    """The run, if it has not ended; it does not until the job is committed. Raises `RunNotFound` or `RunNotActive`."""
    lock_run(connection, run_id)
    row = reads.run(connection, run_id)
    if row.status in TERMINAL:
        raise RunNotActive(run_id, row.status)
    return row
