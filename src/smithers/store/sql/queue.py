"""Queue: runs that were launched when there was no room for them, or for workers to start. Each is stored and can be read,
cancelled and streamed like any other; it has no owner and no step yet.

A run waits in the lane of its queue and workflow. Whoever has room takes runs: the highest priority first, within one the
lanes in turn, within a lane the oldest. What is taken is held for a moment, so that no two hosts start one run; that only
one of them can drive it is the claim's business, as ever.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import merge
from typing import Final, NamedTuple

from smithers.errors import QuotaExceeded
from smithers.events import event
from smithers.store.interface import NewRun, RunRow
from smithers.store.sql import control
from smithers.store.sql.limits import OF_WORKFLOW, Limit, in_use, limits, note_starts
from smithers.store.sql.locks import lock_name
from smithers.store.sql.session import Session, dialect_of

STATUS: Final = "waiting-quota"
HOLD_MS: Final = 4_000
"""How long a run that was taken is left to who took it. If that one dies before it claims the run, others take it then."""

_SEPARATOR: Final = "\x1f"
_EVENTS: Final = (event("RunStatusChanged", None, None, status=STATUS),)
_QUEUED: Final = "status = 'waiting-quota' AND frame_no = 0 AND runtime_owner_id IS NULL"

_LANES: Final = """
WITH RECURSIVE lanes (lane) AS (
    SELECT min(lane) FROM _smithers_queue
    UNION ALL
    SELECT (SELECT min(q.lane) FROM _smithers_queue q WHERE q.lane > lanes.lane) FROM lanes WHERE lanes.lane IS NOT NULL
)
SELECT lane FROM lanes WHERE lane IS NOT NULL
"""
"""Each lane once: a step along the index for each, however many runs wait in it."""

_FIRST: Final = """
SELECT run_id, priority FROM _smithers_queue WHERE lane = ? AND taken_until_ms <= ?
ORDER BY priority DESC, id LIMIT ?
"""


@dataclass(frozen=True, slots=True)
class Waiting:
    """A run that waits, and where."""

    run_id: str
    priority: int
    lane: str

    @property
    def names(self) -> tuple[str, str]:
        """The names of the limits that hold it back: its queue's, its workflow's."""
        queue, _, workflow = self.lane.partition(_SEPARATOR)
        return queue, OF_WORKFLOW + workflow


@dataclass(slots=True)
class Taken:
    """What was taken from the queue.

    Attributes:
        runs: in the order in which they are to be started.
        is_held: runs were left because of a limit.
        is_paused: runs were left that nothing but a change of a limit lets start.
        opens_at_ms: the earliest moment at which a rate lets one of those start; None if none does by itself.
    """

    runs: list[Waiting] = field(default_factory=list[Waiting])
    is_held: bool = False
    is_paused: bool = False
    opens_at_ms: float | None = None


def is_queued(run: RunRow) -> bool:
    """Whether a run waits for room; the same status at a later frame means that its agents' limits are used up."""
    return run.status == STATUS and run.frame_no == 0


def enqueue(connection: Session, run: NewRun, limit: int | None, priority: int = 0) -> tuple[str, bool]:
    """Store a run that waits for room; as `control.launch`. Raises `QuotaExceeded` where `limit` runs do so already;
    there may be a few more, where several processes store at once."""
    stored = control.launch(connection, run._replace(owner=None, status=STATUS, events=_EVENTS))
    if stored[1]:
        if limit is not None and (waiting := count(connection)) >= limit:
            raise QuotaExceeded(f"{waiting} runs wait for room already: try again later", {"limit": limit})
        workflow = run.listed_as
        connection.execute(
            "INSERT INTO _smithers_queue (run_id, lane, queue, workflow, priority) VALUES (?, ?, ?, ?, ?)",
            (run.run_id, run.queue + _SEPARATOR + workflow, run.queue, workflow, priority),
        ).fetchall()
    return stored


def count(connection: Session) -> int:
    """How many runs wait for room."""
    return int(connection.execute("SELECT count(*) FROM _smithers_queue").fetchall()[0][0])


def waiting(connection: Session, limit: int) -> list[str]:
    """Some runs that wait for room, oldest first."""
    rows = connection.execute("SELECT run_id FROM _smithers_queue ORDER BY id LIMIT ?", (limit,))
    return [str(row[0]) for row in rows]


class Lane(NamedTuple):
    """How many runs of a workflow wait in a queue."""

    queue: str
    workflow: str
    runs: int

    def is_paused(self, held: Mapping[str, Limit]) -> bool:
        """Whether none of them starts, because of a limit of the queue or the workflow."""
        return any(name in held and held[name].is_pause for name in (self.queue, OF_WORKFLOW + self.workflow))


def lanes(connection: Session) -> list[Lane]:
    """All lanes, by queue and workflow. Counts every run that waits."""
    rows = connection.execute(
        "SELECT queue, workflow, count(*) FROM _smithers_queue GROUP BY queue, workflow ORDER BY queue, workflow"
    )
    return [Lane(*row) for row in rows]


def lane_of(connection: Session, run_id: str) -> Lane | None:
    """Where a run waits, with how many wait there; None if it does not."""
    rows = connection.execute(
        "SELECT queue, workflow, (SELECT count(*) FROM _smithers_queue o WHERE o.lane = q.lane) FROM _smithers_queue q "
        "WHERE run_id = ?",
        (run_id,),
    ).fetchall()
    return Lane(*rows[0]) if rows else None


def take(
    connection: Session,
    now_ms: int,
    room: int,
    *,
    is_wanted: Callable[[str], bool],
    serves: Callable[[str, str], bool],
    last_turns: Mapping[str, int],
    passed_over: int = 0,
) -> Taken:
    """Take up to `room` runs out of the queue for a moment.

    Args:
        is_wanted: whether this host starts a run, by its id.
        serves: whether it serves a workflow, in a queue.
        last_turns: when each lane had its last turn here, as any rising number: the one whose turn is longest ago is first.
        passed_over: how many runs `is_wanted` may refuse.
    """
    held = limits(connection)
    if held:
        lock_name(connection, "queue starts")  # or two hosts would both use the last free place
        held = limits(connection)
    lanes: list[list[Waiting]] = []
    is_paused = False
    order = sorted((str(row[0]) for row in connection.execute(_LANES).fetchall()), key=lambda x: last_turns.get(x, -1))
    for lane in order:
        queue, _, workflow = lane.partition(_SEPARATOR)
        if not serves(workflow, queue):
            continue
        if Lane(queue, workflow, 0).is_paused(held):
            is_paused = True
        else:
            lanes.append([w for w in _first(connection, lane, now_ms, room + passed_over) if is_wanted(w.run_id)])
    picked = _pick(connection, _in_turn(lanes), held, now_ms, room)
    picked.is_paused = is_paused
    if picked.runs:
        marks = ", ".join("?" for _ in picked.runs)
        connection.execute(
            f"UPDATE _smithers_queue SET taken_until_ms = ? WHERE run_id IN ({marks})",
            (now_ms + HOLD_MS, *(waiting.run_id for waiting in picked.runs)),
        ).fetchall()
    return picked


def done(connection: Session, run_ids: Sequence[str]) -> None:
    """Forget runs that have been started."""
    marks = ", ".join("?" for _ in run_ids)
    connection.execute(f"DELETE FROM _smithers_queue WHERE run_id IN ({marks})", tuple(run_ids)).fetchall()


def _first(connection: Session, lane: str, now_ms: int, limit: int) -> list[Waiting]:
    """The next of a lane. Those that do not wait any more (cancelled, or started by somebody who died then) are forgotten."""
    lock = " FOR UPDATE SKIP LOCKED" if dialect_of(connection) == "postgres" else ""
    rows = connection.execute(_FIRST + lock, (lane, now_ms, limit)).fetchall()
    if not rows:
        return []
    ids = tuple(str(row[0]) for row in rows)
    marks = ", ".join("?" for _ in ids)
    found = connection.execute(f"SELECT run_id FROM _smithers_runs WHERE run_id IN ({marks}) AND {_QUEUED}", ids)
    queued = {str(row[0]) for row in found.fetchall()}
    if gone := [run_id for run_id in ids if run_id not in queued]:
        done(connection, gone)
    return [Waiting(str(run_id), int(priority), lane) for run_id, priority in rows if run_id in queued]


def _in_turn(lanes: Sequence[Sequence[Waiting]]) -> list[Waiting]:
    """The highest priority first, within one each lane in turn."""

    def keyed(number: int, lane: Sequence[Waiting]) -> list[tuple[int, int, int, Waiting]]:
        turns: dict[int, int] = {}
        found: list[tuple[int, int, int, Waiting]] = []
        for waiting in lane:
            turn = turns[waiting.priority] = turns.get(waiting.priority, -1) + 1
            found.append((-waiting.priority, turn, number, waiting))
        return found

    ordered = merge(*(keyed(number, lane) for number, lane in enumerate(lanes)), key=lambda entry: entry[:3])
    return [entry[3] for entry in ordered]


def _pick(connection: Session, candidates: Sequence[Waiting], held: dict[str, Limit], now_ms: int, room: int) -> Taken:
    found = Taken()
    used: dict[str, int] = {}
    changed = set[str]()
    for waiting in candidates:
        if len(found.runs) >= room:
            break
        names = [name for name in waiting.names if name in held]
        opens_at = max((held[name].opens_at(now_ms) for name in names), default=0.0)
        if opens_at > now_ms:
            found.is_held = True
            found.opens_at_ms = opens_at if found.opens_at_ms is None else min(found.opens_at_ms, opens_at)
            continue
        if any(_is_full(connection, held[name], used, now_ms) for name in names):
            found.is_held = True
            continue
        for name in names:
            used[name] = used.get(name, 0) + 1
            held[name] = held[name].after_start(now_ms)
            changed.add(name)
        found.runs.append(waiting)
    for name in sorted(changed):
        note_starts(connection, held[name])
    return found


def _is_full(connection: Session, limit: Limit, used: dict[str, int], now_ms: int) -> bool:
    if limit.concurrency is None:
        return False
    if limit.name not in used:
        used[limit.name] = in_use(connection, limit.name, now_ms)
    return used[limit.name] >= limit.concurrency
