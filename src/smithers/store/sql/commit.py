"""The one door to durability: a step, written under its run's fence in the writer's transaction.

The fence is the first statement: it finds the run only while (owner, epoch) still hold it and no cancel is asked for, and
in the same breath hands out the event and output numbers. A job that raises is rolled back alone, so a refused step
leaves nothing.
"""

from __future__ import annotations

from functools import lru_cache

from smithers.errors import LeaseLost, RunNotFound
from smithers.store.columns import TableDef
from smithers.store.interface import CancelRequested, Committed, LaunchedBefore, NewRun, NewWakeup, SqlValue, Step
from smithers.store.sql import control, requests
from smithers.store.sql import statements as sql
from smithers.store.sql.locks import lock_waiting
from smithers.store.sql.replaced import Replacement, keep_approval
from smithers.store.sql.session import Dialect, Executor, Session, dialect_of
from smithers.store.sql.tables import insert_sql

insert_statement = lru_cache(maxsize=4096)(insert_sql)
EVENT_COLUMNS = 8
ASKED_AGAIN = "asked-again"
"""By what an approval was replaced whose node a person is asked about once more."""


def write_step(connection: Session, step: Step) -> Committed:
    """Write a step. Raises `LeaseLost`, `CancelRequested`, `NewWakeup` or `LaunchedBefore` when it may not be written."""
    run_id, now, frame, launch = step.run_id, step.now_ms, step.frame_no, step.launch
    cursor = connection.cursor()  # one for all: each is a new object that the connection keeps track of
    events: list[SqlValue] = []
    if launch is not None and launch.parent_run_id is None and step.status is None:
        # nobody can have asked anything of this run, so there is no fence to pass: its row begins with the step's numbers
        _launch(connection, launch, step)
        first_seq, first_output, is_pausing, parent = len(launch.events), 0, False, None
        for seq, event in enumerate(launch.events):
            events += (run_id, seq, launch.now_ms, 0, *event)
    else:
        if launch is not None:
            _launch(connection, launch, None)
        next_seq, next_output, pause, parent = _pass_fence(connection, cursor, step)
        first_seq, first_output, is_pausing = next_seq - len(step.events), next_output - len(step.outputs), bool(pause)
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
                    frame,
                    None if state == "pending" else frame,
                )
                for node_id, iteration, state, attempt, table, label, loop, out in step.nodes.values()
            ],
        )
    if step.attempts:
        cursor.executemany(
            sql.ATTEMPT,
            [(run_id, a[0], a[1], a[2], a[3], frame, *a[4:], None if a[5] is None else frame) for a in step.attempts],
        )
    if step.outputs:
        _write_outputs(cursor, step, dialect_of(connection))
    for seq, event in enumerate(step.events, first_seq):
        events += (run_id, seq, now, frame, *event)
    if events:
        _write_events(cursor, events)
    for key in step.asked_again:
        keep_approval(connection, run_id, key, Replacement(frame, ASKED_AGAIN, now))
    for name, parameters in step.rows:
        cursor.execute(sql.ROWS[name], parameters)
    if step.successor is not None:
        control.launch(connection, step.successor, heir_of=run_id)
        if step.signals_on is not None:
            requests.hand_on_signals(connection, run_id, step.successor.run_id, *step.signals_on)
    if step.status is not None:
        _tidy_wakeups(cursor, step, has_parent=parent is not None)
    return Committed(first_seq, first_output, is_pausing)


def _launch(connection: Session, launch: NewRun, first_step: Step | None) -> None:
    run_id, is_new = control.launch(connection, launch, first_step=first_step)
    if not is_new:
        raise LaunchedBefore(run_id)


def _pass_fence(connection: Session, cursor: Executor, step: Step) -> tuple[int, int, int | None, str | None]:
    """Take the step's numbers, and give the run up if this is its last step here: the next event and output numbers,
    since when a pause is asked for, the parent run."""
    numbers = (len(step.events), len(step.outputs), step.frame_no)
    fence = (step.run_id, step.owner, step.epoch, int(step.ignores_cancel))
    status = step.status
    if status is None:
        found = cursor.execute(sql.FENCE, (*numbers, *fence)).fetchone()
    else:
        seen = step.seen_wakeup or 0
        # who goes on with the run, or for it, still has to pause
        keeps_pause = int(status.status in ("running", "continued"))
        given = (status.status, status.error_json, int(status.is_terminal), step.now_ms, keeps_pause, seen, seen)
        if status.is_terminal:
            lock_waiting(connection, step.run_id)
        found = cursor.execute(sql.LAST_FENCE, (*numbers, *given, *fence)).fetchone()
    if found is None:
        raise _refusal(connection, step)
    if status is not None and step.seen_wakeup is not None:
        newer = cursor.execute(sql.NEWER_WAKEUP, (step.run_id, step.seen_wakeup)).fetchone()
        if newer is not None:
            raise NewWakeup
    next_seq, next_output, pause, parent = found
    return next_seq, next_output, pause, parent


def _write_events(cursor: Executor, values: list[SqlValue]) -> None:
    """Store events, given as the columns of one after the other."""
    for at in range(0, len(values), sql.MAX_EVENTS * EVENT_COLUMNS):
        some = values[at : at + sql.MAX_EVENTS * EVENT_COLUMNS]
        cursor.execute(sql.events_sql(len(some) // EVENT_COLUMNS), some)


def _write_outputs(cursor: Executor, step: Step, dialect: Dialect) -> None:
    by_table: dict[TableDef, list[tuple[SqlValue, ...]]] = {}
    for table, node_id, iteration, values in step.outputs:
        by_table.setdefault(table, []).append((step.run_id, node_id, iteration, *values))
    for table, rows in by_table.items():
        cursor.executemany(insert_statement(table, dialect), rows)


def _tidy_wakeups(cursor: Executor, step: Step, *, has_parent: bool) -> None:
    """The run is given up: what it has seen need not wake anybody, and who waits for its end is woken."""
    assert step.status is not None
    is_terminal = step.status.is_terminal
    cursor.execute(sql.SEEN_WAKEUPS, (step.run_id, 2**62 if is_terminal else step.seen_wakeup or 0))
    if is_terminal and has_parent:
        # whoever waits for this run (a parent) reads on from here
        cursor.execute(sql.WAKE_PARENT, (step.run_id,))
    if step.status.status == "running":
        # it can go on at once, and other hosts look for that only now and then
        cursor.execute(sql.WAKEUP, (step.run_id,))


def _refusal(connection: Session, step: Step) -> Exception:
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
