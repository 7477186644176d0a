"""The one door to durability: a step, written under its run's fence in the writer's transaction.

The fence is the first statement: it finds the run only while (owner, epoch) still hold it and no cancel is asked for, and
in the same breath hands out the event and output numbers. A job that raises is rolled back alone, so a refused step
leaves nothing.
"""

from __future__ import annotations

from functools import lru_cache

import apsw

from smithers.errors import LeaseLost, RunNotFound
from smithers.store.columns import TableDef
from smithers.store.interface import CancelRequested, Committed, LaunchedBefore, NewWakeup, SqlValue, Step
from smithers.store.sqlite import control
from smithers.store.sqlite import statements as sql
from smithers.store.sqlite.tables import insert_sql

insert_statement = lru_cache(maxsize=4096)(insert_sql)


def write_step(connection: apsw.Connection, step: Step) -> Committed:
    """Write a step. Raises `LeaseLost`, `CancelRequested`, `NewWakeup` or `LaunchedBefore` when it may not be written."""
    if step.launch is not None:
        run_id, is_new = control.launch(connection, step.launch)
        if not is_new:
            raise LaunchedBefore(run_id)
    run_id, now, frame = step.run_id, step.now_ms, step.frame_no
    cursor = connection.cursor()  # one for all: each is a new object that the connection keeps track of
    fence = cursor.execute(
        sql.FENCE,
        (len(step.events), len(step.outputs), frame, run_id, step.owner, step.epoch, step.ignores_cancel),
    ).fetchone()
    if fence is None:
        raise _refusal(connection, step)
    first_seq = fence[0] - len(step.events)
    first_output = fence[1] - len(step.outputs)
    if step.nodes:
        cursor.executemany(
            sql.NODE,
            [
                (
                    run_id,
                    node_id,
                    iteration,
                    state,
                    attempt,
                    now,
                    frame,
                    None if out is None else first_output + out,
                    table,
                    label,
                    loop,
                )
                for node_id, iteration, state, attempt, table, label, loop, out in step.nodes.values()
            ],
        )
    if step.attempts:
        cursor.executemany(
            sql.ATTEMPT,
            [(run_id, a[0], a[1], a[2], a[3], frame, *a[4:]) for a in step.attempts],
        )
    if step.outputs:
        _write_outputs(cursor, step)
    if step.events:
        cursor.executemany(
            sql.EVENT,
            [(run_id, seq, now, frame, *event) for seq, event in enumerate(step.events, first_seq)],
        )
    for name, parameters in step.rows:
        cursor.execute(sql.ROWS[name], parameters)
    if step.successor is not None:
        control.launch(connection, step.successor, heir_of=run_id)
    if step.status is not None:
        _write_status(connection, step)
    return Committed(first_seq, first_output, fence[2] is not None)


def _write_outputs(cursor: apsw.Cursor, step: Step) -> None:
    by_table: dict[TableDef, list[tuple[SqlValue, ...]]] = {}
    for table, node_id, iteration, values in step.outputs:
        by_table.setdefault(table, []).append((step.run_id, node_id, iteration, *values))
    for table, rows in by_table.items():
        cursor.executemany(insert_statement(table), rows)


def _write_status(connection: apsw.Connection, step: Step) -> None:
    status = step.status
    assert status is not None
    if step.seen_wakeup is not None:
        newer = connection.execute(sql.NEWER_WAKEUP, (step.run_id, step.seen_wakeup)).fetchone()
        if newer is not None:
            raise NewWakeup
    seen = step.seen_wakeup or 0
    connection.execute(sql.PARK, (status.status, status.error_json, status.is_terminal, step.now_ms, seen, step.run_id))
    connection.execute(sql.SEEN_WAKEUPS, (step.run_id, 2**62 if status.is_terminal else seen))
    if status.is_terminal:
        # whoever waits for this run (a parent) reads on from here
        connection.execute(sql.WAKE_PARENT, (step.run_id,))


def _refusal(connection: apsw.Connection, step: Step) -> Exception:
    row = connection.execute(
        "SELECT runtime_owner_id, epoch, status, cancel_requested_at_ms FROM _smithers_runs WHERE run_id = ?",
        (step.run_id,),
    ).fetchone()
    if row is None:
        return RunNotFound(step.run_id)
    owner, epoch, status, cancel = row
    if owner == step.owner and epoch == step.epoch and status == "running" and cancel is not None:
        return CancelRequested()
    return LeaseLost(
        f"run {step.run_id!r} was taken over (now {status}, epoch {epoch}; this process held epoch {step.epoch})",
        {"runId": step.run_id, "epoch": step.epoch, "currentEpoch": epoch},
    )
