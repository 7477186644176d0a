"""A model of the lease protocol: one run's row, and processes that claim, work, commit, fall silent, die and come back.

A state holds everything that matters and nothing else, so that all states of a small world can be visited. Time is one bit:
whether the owner's last sign of life is older than the lease. That covers clocks that run apart, too: to a process whose clock
is ahead an owner looks silent at any moment (`RUSH`).

A parked run is taken before it is claimed (`take`): left to one process for a while, so that not all of them load it. Claims
do not ask for that, and the hold may end at any moment (`hold over`): all that is promised holds without it.

The transitions of the row (`claim`, `commit`, `heartbeat`, `park`, `take`) are functions of their own: `test_leases.py` holds the
SQL to each that is ever taken.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

Phase = Literal["idle", "looked", "owner", "dead"]


@dataclass(frozen=True, slots=True)
class Row:
    """What is stored of the run: who has it, since which claim, how far it is."""

    owner: int | None = None
    epoch: int = 0
    status: Literal["running", "waiting-event", "finished"] = "running"
    done: int = 0
    """Steps that are committed."""
    is_silent: bool = False
    """Whether the owner's last sign of life is older than the lease."""
    is_taken: bool = False
    """Whether it is parked, and left to somebody who is about to claim it."""


@dataclass(frozen=True, slots=True)
class Process:
    """What one process believes."""

    phase: Phase = "idle"
    epoch: int = 0
    """Of the row that it looked at, or of its claim."""
    done: int = 0
    """As far as it knows."""
    is_suspended: bool = False
    has_worked: bool = False
    """Whether the next step's task has been executed and not been committed."""


@dataclass(frozen=True, slots=True)
class State:
    """The world at one moment."""

    row: Row
    processes: tuple[Process, ...]
    claims: int = 0


class Move(NamedTuple):
    """A way on: what happens, to the row by whom with which fence, and the state after it."""

    name: str
    who: int
    fence: int
    after: State
    is_accepted: bool


def claim(row: Row, who: int, expect_epoch: int) -> tuple[Row, bool]:
    """Take the run over if nobody has since it was looked at."""
    if row.epoch != expect_epoch:
        return row, False
    return replace(row, owner=who, epoch=row.epoch + 1, status="running", is_silent=False, is_taken=False), True


def take(row: Row) -> tuple[Row, bool]:
    """Have a parked run left to oneself for a while."""
    if row.owner is not None or row.status != "waiting-event" or row.is_taken:
        return row, False
    return replace(row, is_taken=True), True


def commit(row: Row, who: int, epoch: int, steps: int) -> tuple[Row, bool]:
    """Write a step, under the fence; the last one ends the run and gives it up."""
    if (row.owner, row.epoch, row.status) != (who, epoch, "running"):
        return row, False
    is_last = row.done + 1 == steps
    given = replace(row, done=row.done + 1)
    return (replace(given, owner=None, status="finished", is_silent=False) if is_last else given), True


def park(row: Row, who: int, epoch: int) -> tuple[Row, bool]:
    """Give the run up until something for it arrives, under the fence."""
    if (row.owner, row.epoch, row.status) != (who, epoch, "running"):
        return row, False
    return replace(row, owner=None, status="waiting-event", is_silent=False), True


def heartbeat(row: Row, who: int) -> tuple[Row, bool]:
    """Show that one is alive. Whether the run is one's own still."""
    if row.owner != who or row.status != "running":
        return row, False
    return replace(row, is_silent=False), True


def moves(state: State, *, steps: int, max_claims: int, rush: frozenset[int] = frozenset()) -> Iterator[Move]:
    """All ways on from a state.

    Args:
        steps: how many the run has.
        max_claims: no more than so many takeovers, so that the world is finite.
        rush: processes whose clocks are ahead: they think every owner silent.
    """
    if state.row.owner is not None and not state.row.is_silent:
        yield Move("silence", -1, 0, replace(state, row=replace(state.row, is_silent=True)), True)
    if state.row.is_taken:
        yield Move("hold over", -1, 0, replace(state, row=replace(state.row, is_taken=False)), True)
    for who, process in enumerate(state.processes):
        if process.phase == "dead":
            continue
        if process.is_suspended:
            yield _with(state, who, "wake", replace(process, is_suspended=False))
            continue
        yield _with(state, who, "suspend", replace(process, is_suspended=True))
        yield _with(state, who, "die", Process("dead"))
        if process.phase == "idle" and state.row.status != "finished":
            yield _with(state, who, "look", Process("looked", state.row.epoch, state.row.done))
        elif process.phase == "looked":
            yield _with(state, who, "turn away", Process())
            if state.row.status == "waiting-event":
                row, is_accepted = take(state.row)
                # whoever is too late turns away; whoever is not goes on with what it has seen, though others may claim too
                yield _row_move(state, who, "take", 0, row, process if is_accepted else Process(), is_accepted)
            if state.claims < max_claims and _looks_free(state, who, rush):
                yield _claimed(state, who, process)
        elif process.phase == "owner":
            yield from _owned(state, who, process, steps)


def _looks_free(state: State, who: int, rush: frozenset[int]) -> bool:
    row = state.row
    owner = row.owner
    is_dead = owner is not None and state.processes[owner].phase == "dead"
    return row.status != "finished" and (owner is None or is_dead or row.is_silent or who in rush)


def _claimed(state: State, who: int, process: Process) -> Move:
    row, is_accepted = claim(state.row, who, process.epoch)
    # who has claimed reads what is stored under its own epoch, so it knows how far the run is
    after = Process("owner", row.epoch, row.done) if is_accepted else Process()
    return _row_move(state, who, "claim", process.epoch, row, after, is_accepted, claims=1)


def _owned(state: State, who: int, process: Process, steps: int) -> Iterator[Move]:
    if not process.has_worked:
        yield _with(state, who, "work", replace(process, has_worked=True))
        row, is_accepted = park(state.row, who, process.epoch)
        yield _row_move(state, who, "park", process.epoch, row, Process(), is_accepted)
    else:
        row, is_accepted = commit(state.row, who, process.epoch, steps)
        goes_on = is_accepted and row.status == "running"
        after = Process("owner", process.epoch, process.done + 1) if goes_on else Process()
        yield _row_move(state, who, "commit", process.epoch, row, after, is_accepted)
    row, is_accepted = heartbeat(state.row, who)
    yield _row_move(state, who, "heartbeat", process.epoch, row, process if is_accepted else Process(), is_accepted)


def _with(state: State, who: int, name: str, process: Process) -> Move:
    return Move(name, who, 0, replace(state, processes=_put(state.processes, who, process)), True)


def _row_move(
    state: State, who: int, name: str, fence: int, row: Row, process: Process, is_accepted: bool, claims: int = 0
) -> Move:
    after = State(row, _put(state.processes, who, process), state.claims + (claims if is_accepted else 0))
    return Move(name, who, fence, after, is_accepted)


def _put(processes: tuple[Process, ...], who: int, process: Process) -> tuple[Process, ...]:
    return (*processes[:who], process, *processes[who + 1 :])
