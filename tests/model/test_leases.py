"""The lease protocol, all states of small worlds; and the store's SQL, for every transition of the row that occurs in them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import cast

import pytest
from tests.model.leases import Move, Process, Row, State, moves

from smithers.errors import LeaseLost
from smithers.store import open_store
from smithers.store.interface import NewRun, StatusChange, Step
from smithers.store.sql import commit, control, reads, wakeups
from smithers.store.sql.session import Session
from smithers.store.sql.store import SqlStore

WORLDS = [
    pytest.param(2, 3, 4, frozenset[int](), id="two-processes"),
    pytest.param(3, 1, 3, frozenset[int](), id="three-processes"),
    pytest.param(2, 2, 4, frozenset({1}), id="a-clock-ahead"),
]
Graph = dict[State, list[Move]]


@lru_cache(maxsize=4)
def explored(processes: int, steps: int, max_claims: int, rush: frozenset[int]) -> Graph:
    """Every state that can be reached, with the ways on from it."""
    start = State(Row(), (Process(),) * processes)
    found: Graph = {}
    todo = deque([start])
    while todo:
        state = todo.popleft()
        if state in found:
            continue
        found[state] = list(moves(state, steps=steps, max_claims=max_claims, rush=rush))
        todo.extend(move.after for move in found[state])
    return found


@pytest.mark.parametrize(("processes", "steps", "max_claims", "rush"), WORLDS)
def test_at_most_one_process_may_commit_at_any_moment(
    processes: int, steps: int, max_claims: int, rush: frozenset[int]
) -> None:
    for state, ways in explored(processes, steps, max_claims, rush).items():
        accepted = {move.who for move in ways if move.name in ("commit", "park") and move.is_accepted}
        assert len(accepted) <= 1
        assert accepted <= {state.row.owner}


@pytest.mark.parametrize(("processes", "steps", "max_claims", "rush"), WORLDS)
def test_a_step_is_committed_once_by_a_process_that_knew_all_steps_before_it(
    processes: int, steps: int, max_claims: int, rush: frozenset[int]
) -> None:
    for state, ways in explored(processes, steps, max_claims, rush).items():
        for move in ways:
            if move.name == "commit" and move.is_accepted:
                assert state.processes[move.who].done == state.row.done
                assert move.after.row.done == state.row.done + 1


@pytest.mark.parametrize(("processes", "steps", "max_claims", "rush"), WORLDS)
def test_a_parked_run_is_taken_by_one_process_at_a_time(
    processes: int, steps: int, max_claims: int, rush: frozenset[int]
) -> None:
    tried = 0
    for state, ways in explored(processes, steps, max_claims, rush).items():
        assert not state.row.is_taken or (state.row.owner, state.row.status) == (None, "waiting-event")
        for move in ways:
            if move.name == "take":
                tried += 1
                assert move.is_accepted is not state.row.is_taken
                assert move.after.row.epoch == state.row.epoch
    assert tried > 0


@pytest.mark.parametrize(("processes", "steps", "max_claims", "rush"), WORLDS)
def test_a_finished_run_stays_as_it_is_and_an_epoch_never_goes_back(
    processes: int, steps: int, max_claims: int, rush: frozenset[int]
) -> None:
    for state, ways in explored(processes, steps, max_claims, rush).items():
        for move in ways:
            assert move.after.row.epoch >= state.row.epoch
            if state.row.status == "finished":
                assert move.after.row == state.row


@pytest.mark.parametrize(("processes", "steps", "max_claims", "rush"), WORLDS)
def test_a_process_that_was_overtaken_is_refused_whatever_it_tries(
    processes: int, steps: int, max_claims: int, rush: frozenset[int]
) -> None:
    tried = 0
    for state, ways in explored(processes, steps, max_claims, rush).items():
        for move in ways:
            if move.name in ("commit", "park") and move.fence != state.row.epoch:
                tried += 1
                assert not move.is_accepted
                assert move.after.row == state.row
    assert tried > 0


@pytest.mark.parametrize(("processes", "steps", "max_claims", "rush"), WORLDS)
def test_while_a_process_lives_and_may_claim_the_run_can_be_finished(
    processes: int, steps: int, max_claims: int, rush: frozenset[int]
) -> None:
    graph = explored(processes, steps, max_claims, rush)
    leads: dict[State, list[State]] = {state: [] for state in graph}
    for state, ways in graph.items():
        for move in ways:
            leads[move.after].append(state)
    ending = {state for state in graph if state.row.status == "finished"}
    todo = deque(ending)
    while todo:
        for before in leads[todo.popleft()]:
            if before not in ending:
                ending.add(before)
                todo.append(before)
    stuck = [
        s for s in graph if s not in ending and any(p.phase != "dead" for p in s.processes) and s.claims < max_claims
    ]
    assert stuck == []


# ── the code ───────────────────────────────────────────────────────────────────────────────────────────────────────

RUN = "r"
NOW = 1_000_000
LEASE = 30_000


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqlStore]:
    found = open_store(tmp_path / "leases.db", durability="normal")
    found.write(lambda c: control.launch(c, NewRun(RUN, "w", None, None, "{}", "{}", None, NOW)))
    yield found
    found.close()


class Undo(Exception):
    """Ends a write job that is not to leave anything."""


def test_the_stores_sql_takes_every_transition_of_the_row_as_the_model_does(store: SqlStore) -> None:
    wanted: dict[tuple[Row, str, int, int, int], tuple[Row, bool]] = {}
    for processes, steps, max_claims, rush in (param.values for param in WORLDS):
        assert isinstance(processes, int)
        assert isinstance(steps, int)
        assert isinstance(max_claims, int)
        assert isinstance(rush, frozenset)
        ahead = cast("frozenset[int]", rush)
        for state, ways in explored(processes, steps, max_claims, ahead).items():
            for move in ways:
                if move.name in ("claim", "commit", "park", "heartbeat", "take"):
                    key = (state.row, move.name, move.who, move.fence, steps)
                    wanted[key] = (move.after.row, move.is_accepted)
    assert len(wanted) > 100

    for (row, name, who, fence, steps), expected in wanted.items():
        assert taken(store, row, name, who, fence, steps) == expected, (row, name, who, fence)


def taken(store: SqlStore, row: Row, name: str, who: int, fence: int, steps: int) -> tuple[Row, bool]:
    """What the store makes of a row, and whether it accepts."""
    answers: list[tuple[Row, bool]] = []

    def job(session: Session) -> None:
        _store(session, row)
        is_accepted = _act(session, row, name, who, fence, steps)
        answers.append((_stored(session), is_accepted))
        raise Undo

    with pytest.raises(Undo):
        store.write(job)
    return answers[0]


def _act(session: Session, row: Row, name: str, who: int, fence: int, steps: int) -> bool:
    if name == "claim":
        return control.claim(session, RUN, _name(who), NOW, fence, ()) is not None
    if name == "take":
        return RUN in wakeups.take(session, [RUN], NOW)
    if name == "heartbeat":
        return RUN in control.heartbeat(session, _name(who), NOW)
    step = Step(RUN, _name(who), fence, row.done + 1, NOW)
    if name == "park":
        # a frame number of its own is what a park costs in the code; the model counts what was done
        step.frame_no, step.status = row.done, StatusChange("waiting-event", False)
    elif row.done + 1 == steps:
        step.status = StatusChange("finished", True)
    try:
        commit.write_step(session, step)
    except LeaseLost:
        return False
    return True


def _store(session: Session, row: Row) -> None:
    beat = NOW - 2 * LEASE if row.is_silent else NOW
    if row.status == "waiting-event":  # something has arrived for it, or nobody would take it
        session.execute("INSERT INTO _smithers_wakeups (run_id) VALUES (?)", (RUN,)).fetchall()
    session.execute(
        "UPDATE _smithers_runs SET runtime_owner_id = ?, epoch = ?, status = ?, frame_no = ?, heartbeat_at_ms = ?, "
        "finished_at_ms = ? WHERE run_id = ?",
        (
            None if row.owner is None else _name(row.owner),
            row.epoch,
            row.status,
            row.done,
            beat if row.owner is not None or row.is_taken else None,
            NOW if row.status == "finished" else None,
            RUN,
        ),
    ).fetchall()


def _stored(session: Session) -> Row:
    run = reads.run(session, RUN)
    owner = None if run.runtime_owner_id is None else int(run.runtime_owner_id.partition(":")[2])
    is_silent = owner is not None and NOW - (run.heartbeat_at_ms or 0) > LEASE
    assert run.status in ("running", "waiting-event", "finished")
    is_taken = owner is None and run.heartbeat_at_ms is not None
    return Row(owner, run.epoch, run.status, run.frame_no, is_silent, is_taken)  # type: ignore[arg-type]


def _name(who: int) -> str:
    return f"process:{who}"
