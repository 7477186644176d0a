"""Resets: nodes of a run are done again, in one transaction. What was built upon them is done again too; the rest stays.

Their output rows and requests go beside (`replaced.py`), so that older frames are told as they were, and their timers go;
their attempts stay, as a record, and do not count against their retries.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

from smithers.errors import AttemptNotFound, InvalidInput, NodeNotFound, RunActive, RunNotResumable
from smithers.events import EventDraft, event
from smithers.jsons import object_of
from smithers.store.interface import AttemptRow, LoopRow, NodeRow, RunRow
from smithers.store.sql import family, reads
from smithers.store.sql import statements as sql
from smithers.store.sql.control import append_events
from smithers.store.sql.history import Key, Past
from smithers.store.sql.locks import lock_run
from smithers.store.sql.replaced import Replacement, take_away
from smithers.store.sql.session import Session
from smithers.store.sql.travel import BACK, OF_NODE, archive_calls, let_go, remove, require_hold

Operation = Literal["retry-task", "timetravel"]

_STARTS: Final = """
SELECT n.node_id, n.iteration, n.state, n.frame_no, n.began_frame,
       (SELECT max(a.frame_no) FROM _smithers_attempts a WHERE a.run_id = n.run_id AND a.node_id = n.node_id
        AND a.iteration = n.iteration),
       coalesce((SELECT p.frame_no FROM _smithers_approvals p WHERE p.run_id = n.run_id AND p.node_id = n.node_id
                 AND p.iteration = n.iteration),
                (SELECT max(h.frame_no) FROM _smithers_human_requests h WHERE h.run_id = n.run_id
                 AND h.node_id = n.node_id AND h.iteration = n.iteration))
FROM _smithers_nodes n WHERE n.run_id = ? AND n.frame_no >= ?
"""


@dataclass(frozen=True, slots=True)
class Reset:
    """What is to be done again: a node, with what was started after it had ended (`dependents`) or alone.

    Attributes:
        attempt: failures of attempts before this one go on to count; None forgives all.
    """

    run_id: str
    node_id: str
    iteration: int
    dependents: bool
    operation: Operation
    attempt: int | None = None

    @property
    def key(self) -> Key:
        """The node."""
        return self.node_id, self.iteration


def node_of(connection: Session, run_id: str, key: Key) -> NodeRow:
    """A node. Raises `RunNotFound` or `NodeNotFound`."""
    reads.run(connection, run_id)
    row = connection.execute(
        f"SELECT {', '.join(NodeRow._fields)} FROM _smithers_nodes WHERE {OF_NODE}", (run_id, *key)
    ).fetchone()
    if row is None:
        raise NodeNotFound(
            f"run {run_id!r} has no node {key[0]!r} (iteration {key[1]})",
            {"runId": run_id, "nodeId": key[0], "iteration": key[1]},
        )
    return NodeRow(*row)


def attempt_of(connection: Session, run_id: str, key: Key, attempt: int | None) -> tuple[AttemptRow, int]:
    """An attempt of a node (the last if None), and the frame at which it began. Raises `AttemptNotFound`."""
    number = " AND attempt = ?" if attempt is not None else ""
    row = connection.execute(
        f"SELECT {', '.join(AttemptRow._fields)}, frame_no FROM _smithers_attempts WHERE {OF_NODE}{number} "
        "ORDER BY attempt DESC LIMIT 1",
        (run_id, *key, *(() if attempt is None else (attempt,))),
    ).fetchone()
    if row is None:
        which = "no attempt" if attempt is None else f"no attempt {attempt}"
        raise AttemptNotFound(f"node {key[0]!r} (iteration {key[1]}) of run {run_id!r} has {which}", {"runId": run_id})
    return AttemptRow(*row[:-1]), int(row[-1])


def chosen(connection: Session, reset: Reset) -> list[Key]:
    """The nodes that a reset is about: first the one itself, then those that began when it had ended, by key.

    Nodes that were cancelled because the run ended, or a part of it failed, are done again in any case: they have not come
    to anything. Raises `RunNotFound` or `NodeNotFound`.
    """
    node = node_of(connection, reset.run_id, reset.key)
    end = _end_of(connection, reset.run_id, node)
    if end is None:
        return [reset.key]
    found = list[Key]()
    for node_id, iteration, state, frame_no, began, attempted, asked in connection.execute(
        _STARTS, (reset.run_id, end)
    ):
        key = (str(node_id), int(iteration))
        if key == reset.key or began is None:
            continue
        start = asked if asked is not None else attempted if attempted is not None else frame_no
        if state == "cancelled" or (reset.dependents and state != "pending" and start >= end):
            found.append(key)
        elif reset.dependents and state == "pending" and attempted is not None and attempted >= end:
            found.append(key)  # waits for another attempt, built upon what is to be done again
    return [reset.key, *sorted(found)]


def _end_of(connection: Session, run_id: str, node: NodeRow) -> int | None:
    """The frame at which a node last came to an end; None if it has not."""
    if node.state not in ("finished", "failed", "cancelled", "skipped"):
        return None
    row = connection.execute(
        f"SELECT max(finished_frame) FROM _smithers_attempts WHERE {OF_NODE}", (run_id, node.node_id, node.iteration)
    ).fetchone()
    return node.frame_no if row is None or row[0] is None else int(row[0])


def reset(
    connection: Session,
    wanted: Reset,
    *,
    token: str,
    op_id: str,
    now_ms: int,
    is_driven: bool,
    is_restored: bool = False,
) -> list[Key]:
    """Do it: the nodes are pending, the run is running without an owner, a wake-up is left. The nodes, in order.

    Args:
        is_driven: whether somebody alive is known to drive the run (judged by the caller, from a row read before).

    Raises:
        RunNotFound, NodeNotFound, TravelBusy (the hold has run out), RunNotResumable. RunActive: somebody drives it.
        InvalidInput: the node is of an iteration that its loop has left, and is to be done alone.
    """
    lock_run(connection, wanted.run_id)
    require_hold(connection, wanted.run_id, token, now_ms)
    run = reads.run(connection, wanted.run_id)
    require_resettable(run, is_driven=is_driven)
    keys = chosen(connection, wanted)
    frame = run.frame_no + 1
    turn_loops_back(connection, wanted, frame, now_ms)
    listed = [f"{node_id}::{iteration}" for node_id, iteration in keys]
    told = [_started(wanted, listed)]
    told += clear(connection, run.run_id, keys, frame, op_id=op_id, reason=wanted.operation, now_ms=now_ms)
    _forgive(connection, wanted, keys)
    told += [_finished(wanted, listed, is_restored=is_restored), event("RunStatusChanged", status="running")]
    connection.execute(BACK, (run.frame_no, run.run_id))
    append_events(connection, run.run_id, now_ms, told)
    let_go(connection, run.run_id, token, wakes=True)
    return keys


def require_resettable(run: RunRow, *, is_driven: bool) -> None:
    """Raises `RunActive` or `RunNotResumable`."""
    if run.status == "continued":
        raise RunNotResumable(f"run {run.run_id!r} was continued as another run", {"runId": run.run_id})
    if run.status == "running" and run.runtime_owner_id is not None and is_driven:
        raise RunActive(
            f"run {run.run_id!r} is being driven; pause it first, or wait until it halts", {"runId": run.run_id}
        )


def clear(
    connection: Session, run_id: str, keys: Iterable[Key], frame: int, *, op_id: str, reason: str, now_ms: int
) -> list[EventDraft]:
    """Take away what nodes have come to, and have them be pending, at a frame. What that tells."""
    told: list[EventDraft] = []
    error = json.dumps({"name": "TaskAborted", "code": "TASK_ABORTED", "message": reason, "summary": reason})
    for key in keys:
        place = (run_id, *key)
        node = node_of(connection, run_id, key)
        take_away(connection, run_id, node, Replacement(frame, op_id, now_ms))
        connection.execute(f"DELETE FROM _smithers_timers WHERE {OF_NODE}", place)
        archive_calls(connection, OF_NODE, place, op_id, reason, now_ms)
        for each in family.of_nodes(connection, run_id, (key,)):
            remove(connection, each.run_id, op_id=op_id, reason=reason, now_ms=now_ms)
        _return_signals(connection, run_id, key)
        stopped = connection.execute(
            "UPDATE _smithers_attempts SET state = 'cancelled', finished_at_ms = ?, finished_frame = ?, error_json = ? "
            f"WHERE {OF_NODE} AND finished_at_ms IS NULL RETURNING attempt",
            (now_ms, frame, error, *place),
        ).fetchone()
        if stopped is not None:
            told.append(event("NodeCancelled", *key, attempt=stopped[0], reason=reason))
        connection.execute(
            "UPDATE _smithers_nodes SET state = 'pending', output_seq = NULL, frame_no = ?, updated_at_ms = ? "
            f"WHERE {OF_NODE}",
            (frame, now_ms, *place),
        )
        told.append(event("NodePending", *key))
    return told


def _return_signals(connection: Session, run_id: str, key: Key) -> None:
    """Put the signals that a node's waits have taken back into the mailbox."""
    for attempt, text in connection.execute(
        f"SELECT attempt, meta_json FROM _smithers_attempts WHERE {OF_NODE} AND meta_json LIKE '%resolvedSignalSeq%'",
        (run_id, *key),
    ).fetchall():
        meta = object_of(json.loads(text))
        wait = object_of(meta.get("waitForEvent"))
        wait["returnedSignalSeq"] = wait.pop("resolvedSignalSeq", None)
        connection.execute(
            sql.ROWS["attempt_meta"], (json.dumps({**meta, "waitForEvent": wait}), run_id, *key, attempt)
        )


def turn_loops_back(connection: Session, wanted: Reset, frame: int, now_ms: int) -> None:
    """Have loops, at a frame, be where they were when the node ended. Raises `InvalidInput`, as `reset` does."""
    node = node_of(connection, wanted.run_id, wanted.key)
    end = _end_of(connection, wanted.run_id, node)
    if end is None:
        return
    before = {loop.ralph_id: loop for loop in Past(connection, wanted.run_id, end - 1).loops()}
    for loop in reads.loops(connection, wanted.run_id):
        old = before.get(loop.ralph_id, LoopRow(loop.ralph_id, 0, 0))
        if (old.iteration, old.done) >= (loop.iteration, loop.done):
            continue
        if not wanted.dependents:
            if loop.ralph_id == node.loop_id:
                raise InvalidInput(
                    f"node {node.node_id!r} is of iteration {node.iteration}, which its loop has left; "
                    "have its dependents done again as well",
                    {"runId": wanted.run_id, "nodeId": node.node_id, "iteration": node.iteration},
                )
            continue
        row = (wanted.run_id, old.ralph_id, old.iteration, old.done, now_ms, frame)
        connection.execute(sql.ROWS["loop"], row)


def _forgive(connection: Session, wanted: Reset, keys: list[Key]) -> None:
    """Give the nodes all their retries again; the one itself those that it had before an attempt, if one is named."""
    _, config_json = reads.spec(connection, wanted.run_id)
    config = object_of(json.loads(config_json))
    forgiven = object_of(config.get("forgivenAttempts"))
    for key in keys:
        since = wanted.attempt if wanted.attempt is not None and key == wanted.key else 0
        row = connection.execute(
            f"SELECT count(*), coalesce(sum(CASE WHEN attempt < ? THEN 1 ELSE 0 END), 0) FROM _smithers_attempts "
            f"WHERE {OF_NODE} AND state = 'failed'",
            (since, wanted.run_id, *key),
        ).fetchone()
        if row is not None and row[0]:
            forgiven[f"{key[0]}::{key[1]}"] = int(row[0]) - int(row[1])
    if forgiven:
        config["forgivenAttempts"] = forgiven
        connection.execute(sql.ROWS["config"], (json.dumps(config), wanted.run_id))


def _started(wanted: Reset, listed: list[str]) -> EventDraft:
    if wanted.operation == "timetravel":
        return event("TimeTravelStarted", *wanted.key, attempt=wanted.attempt)
    return event("RetryTaskStarted", *wanted.key, resetDependents=wanted.dependents, resetNodes=listed)


def _finished(wanted: Reset, listed: list[str], *, is_restored: bool) -> EventDraft:
    if wanted.operation == "timetravel":
        return event(
            "TimeTravelFinished",
            *wanted.key,
            attempt=wanted.attempt,
            success=True,
            vcsRestored=is_restored,
            resetNodes=listed,
        )
    return event("RetryTaskFinished", *wanted.key, resetNodes=listed, success=True)
