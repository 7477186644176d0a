"""Branching: a new run that begins as another one was right after a frame, made in one transaction. Which runs were forked.

The new run gets copies of the rows and of the log as far as it tells of nodes, signals and frames, with their frame
numbers, so its history reaches back as the other one's does; what tells of the other run's life, costs and calls is not
its own. It is paused at that frame.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from smithers.errors import NodeNotFound, RunAlreadyExists
from smithers.events import EventDraft, event
from smithers.records import dataclass
from smithers.store.sql import resets
from smithers.store.sql import statements as sql
from smithers.store.sql.control import append_events
from smithers.store.sql.history import Key, Past, require_frame
from smithers.store.sql.locks import lock_run
from smithers.store.sql.replaced import copy_up_to
from smithers.store.sql.session import Session
from smithers.store.sql.travel import output_tables, put_back, quoted, stop_work

FORKED: Final = "forked"
"""Why attempts that were under way at the frame are cancelled in the new run."""

_NODE: Final = (
    "node_id, iteration, state, last_attempt, updated_at_ms, frame_no, output_seq, output_table, label, loop_id, "
    "created_frame, began_frame"
)
_ATTEMPT: Final = (
    "node_id, iteration, attempt, state, frame_no, started_at_ms, finished_at_ms, heartbeat_at_ms, heartbeat_data_json, "
    "error_json, response_text, cached, meta_json, finished_frame, heartbeat_frame"
)
_APPROVAL: Final = (
    "node_id, iteration, status, workflow_name, requested_at_ms, decided_at_ms, note, decided_by, request_json, "
    "decision_json, auto_approved, frame_no, decided_frame"
)
_HUMAN: Final = (
    "node_id, iteration, kind, status, prompt, schema_json, options_json, response_json, requested_at_ms, answered_at_ms, "
    "answered_by, timeout_at_ms, frame_no, closed_frame"
)
_SIGNAL: Final = (
    "seq, signal_name, correlation_id, payload_json, received_at_ms, received_by, idempotency_key, frame_no"
)


def _copied(table: str, columns: str, condition: str = "") -> str:
    return f"INSERT INTO {table} (run_id, {columns}) SELECT ?, {columns} FROM {table} WHERE run_id = ?{condition}"


_UP_TO: Final = (
    _copied("_smithers_nodes", _NODE, " AND created_frame <= ?"),
    _copied("_smithers_attempts", _ATTEMPT, " AND frame_no <= ?"),
    _copied("_smithers_frames", "frame_no, created_at_ms, encoding, tree, tree_hash, reason", " AND frame_no <= ?"),
    _copied("_smithers_ralph", "ralph_id, frame_no, iteration, done, updated_at_ms", " AND frame_no <= ?"),
    _copied("_smithers_signals", _SIGNAL, " AND frame_no <= ?"),
)
_ALL: Final = (
    _copied("_smithers_approvals", _APPROVAL),
    _copied("_smithers_timers", "node_id, iteration, kind, due_at_ms"),
    f"INSERT INTO _smithers_human_requests (request_id, run_id, {_HUMAN}) "
    "SELECT 'human:' || ? || ':' || node_id || ':' || CAST(iteration AS TEXT), ?, "
    f"{_HUMAN} FROM _smithers_human_requests WHERE run_id = ? AND request_id LIKE 'human:%'",
)

_EVENTS: Final = """
INSERT INTO _smithers_events (run_id, seq, timestamp_ms, frame_no, type, node_id, iteration, payload)
SELECT ?, ? + row_number() OVER (ORDER BY seq), timestamp_ms, frame_no, type, node_id, iteration, payload
FROM _smithers_events WHERE run_id = ? AND seq BETWEEN ? AND ? AND frame_no > 0
  AND (type IN ('SignalReceived', 'FrameCommitted', 'WorkflowPatchRecorded')
       OR (type <> 'NodeOutput' AND (type LIKE 'Node%' OR type LIKE 'Approval%' OR type LIKE 'Timer%')))
"""

_RUN: Final = """
INSERT INTO _smithers_runs (run_id, parent_run_id, workflow_name, workflow_path, workflow_hash, status, created_at_ms, epoch,
                            frame_no, next_seq, next_output_seq)
SELECT ?, NULL, workflow_name, workflow_path, workflow_hash, 'paused', ?, 1, ?, ?, next_output_seq FROM _smithers_runs
WHERE run_id = ? ON CONFLICT DO NOTHING RETURNING run_id
"""

_SPEC: Final = """
INSERT INTO _smithers_run_specs (run_id, input_json, config_json, created_at_ms, workflow_key, listed_as, is_system,
                                 started_by_json)
SELECT ?, coalesce(?, input_json), ?, ?, workflow_key, listed_as, is_system, started_by_json FROM _smithers_run_specs
WHERE run_id = ?
"""

_BRANCH: Final = """
INSERT INTO _smithers_branches (run_id, parent_run_id, parent_frame_no, branch_label, fork_description, created_at_ms)
VALUES (?, ?, ?, ?, ?, ?)
"""


@dataclass(frozen=True, slots=True)
class NewFork:
    """A run that is to be made.

    Attributes:
        reset: ids of nodes that are to be done again: `id` (every iteration), or `id::iteration`.
        input_json: its input; the other run's if None.
        config_json: what is stored of its launch.
        told: events of its beginning beside those of every fork.
    """

    run_id: str
    parent_run_id: str
    frame_no: int
    now_ms: int
    config_json: str
    reset: tuple[str, ...] = ()
    input_json: str | None = None
    label: str | None = None
    description: str | None = None
    told: tuple[EventDraft, ...] = ()


class BranchRow(NamedTuple):
    """A stored fork."""

    run_id: str
    parent_run_id: str
    parent_frame_no: int
    branch_label: str | None
    fork_description: str | None
    created_at_ms: int


def fork(connection: Session, new: NewFork) -> list[Key]:
    """Make the run. Returns the nodes that are to be done again in it.

    Raises:
        RunNotFound, FrameOutOfRange, RunAlreadyExists. NodeNotFound: a node to be reset was not there at the frame.
    """
    lock_run(connection, new.parent_run_id)
    require_frame(connection, new.parent_run_id, new.frame_no)
    spans = Past(connection, new.parent_run_id, new.frame_no).spans
    if connection.execute(_RUN, (new.run_id, new.now_ms, new.frame_no, 0, new.parent_run_id)).fetchone() is None:
        raise RunAlreadyExists(new.run_id)
    connection.execute(_SPEC, (new.run_id, new.input_json, new.config_json, new.now_ms, new.parent_run_id))
    connection.execute(_BRANCH, (new.run_id, new.parent_run_id, new.frame_no, new.label, new.description, new.now_ms))
    forked = event("RunForked", parentRunId=new.parent_run_id, parentFrameNo=new.frame_no, branchLabel=new.label)
    connection.execute(sql.EVENT, (new.run_id, 0, new.now_ms, 0, *forked))
    _copy_rows(connection, new)
    _copy_log(connection, new, spans)
    put_back(connection, new.run_id, new.frame_no, op_id=new.run_id, reason="fork", now_ms=new.now_ms)
    frame = new.frame_no + 1
    told = [*new.told, *stop_work(connection, new.run_id, frame, FORKED, new.now_ms)]
    keys = _chosen(connection, new)
    told += resets.clear(connection, new.run_id, keys, frame, op_id=new.run_id, reason="fork", now_ms=new.now_ms)
    told.append(event("RunStatusChanged", status="paused"))
    append_events(connection, new.run_id, new.now_ms, told)
    return keys


def _copy_rows(connection: Session, new: NewFork) -> None:
    for statement in _UP_TO:
        connection.execute(statement, (new.run_id, new.parent_run_id, new.frame_no))
    approvals, timers, humans = _ALL
    connection.execute(approvals, (new.run_id, new.parent_run_id))
    connection.execute(timers, (new.run_id, new.parent_run_id))
    connection.execute(humans, (new.run_id, new.run_id, new.parent_run_id))
    copy_up_to(connection, new.run_id, new.parent_run_id, new.frame_no)
    for table in output_tables(connection, new.run_id):
        columns = [str(name) for (name,) in connection.execute(_COLUMNS, (table,))]
        names = ", ".join(("node_id", "iteration", *map(quoted, columns)))
        connection.execute(
            f"INSERT INTO {quoted(table)} (run_id, {names}) SELECT ?, {names} FROM {quoted(table)} t WHERE run_id = ? "
            "AND EXISTS (SELECT 1 FROM _smithers_nodes n WHERE n.run_id = ? AND n.node_id = t.node_id "
            "AND n.iteration = t.iteration AND n.frame_no <= ? AND n.output_seq IS NOT NULL)",
            (new.run_id, new.parent_run_id, new.run_id, new.frame_no),
        )


_COLUMNS: Final = "SELECT column_name FROM _smithers_output_schema_columns WHERE table_name = ? ORDER BY column_name"


def _copy_log(connection: Session, new: NewFork, spans: Iterable[tuple[int, int]]) -> None:
    last = 0
    for first, end in spans:
        connection.execute(_EVENTS, (new.run_id, last, new.parent_run_id, first, end))
        row = connection.execute("SELECT max(seq) FROM _smithers_events WHERE run_id = ?", (new.run_id,)).fetchone()
        assert row is not None
        last = int(row[0])
    connection.execute("UPDATE _smithers_runs SET next_seq = ? WHERE run_id = ?", (last + 1, new.run_id))


def _chosen(connection: Session, new: NewFork) -> list[Key]:
    """The nodes that are to be done again, with what came after them, each once."""
    found: dict[Key, None] = {}
    for name in new.reset:
        node_id, mark, number = name.rpartition("::")
        if not mark or not number.isdigit():
            node_id, number = name, ""
        rows = connection.execute(
            "SELECT node_id, iteration FROM _smithers_nodes WHERE run_id = ? AND node_id = ? ORDER BY iteration",
            (new.run_id, node_id),
        ).fetchall()
        keys = [(str(node), int(iteration)) for node, iteration in rows if not number or int(number) == iteration]
        if not keys:
            raise NodeNotFound(
                f"run {new.parent_run_id!r} had no node {name!r} at frame {new.frame_no}",
                {"runId": new.parent_run_id, "nodeId": node_id, "frameNo": new.frame_no},
            )
        for key in keys:
            wanted = resets.Reset(new.run_id, *key, dependents=True, operation="retry-task")
            resets.turn_loops_back(connection, wanted, new.frame_no + 1, new.now_ms)
            found |= dict.fromkeys(resets.chosen(connection, wanted))
    return list(found)


# ── reading ────────────────────────────────────────────────────────────────────────────────────────────────────────

_ROW: Final = ", ".join(BranchRow._fields)


def branch_of(connection: Session, run_id: str) -> BranchRow | None:
    """Where a run was forked from; None if it was not."""
    row = connection.execute(f"SELECT {_ROW} FROM _smithers_branches WHERE run_id = ?", (run_id,)).fetchone()
    return None if row is None else BranchRow(*row)


def forks_of(connection: Session, run_id: str) -> list[BranchRow]:
    """The runs that were forked from a run, by frame, oldest first."""
    rows = connection.execute(
        f"SELECT {_ROW} FROM _smithers_branches WHERE parent_run_id = ? ORDER BY parent_frame_no, created_at_ms, run_id",
        (run_id,),
    )
    return [BranchRow(*row) for row in rows]
