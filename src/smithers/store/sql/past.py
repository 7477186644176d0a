"""Past: a run right after a frame, from rows that carry frame numbers and from the run's log. Questions are `history.py`'s.

A frame's state is what its commit left; what others wrote for the run afterwards belongs to the next frame. Rows that have
not changed since are taken as they are. Of a node that has, the log's last event up to then tells what it was, unless it
had not begun yet: then it was pending. What it had come to before it was done again is in `replaced.py`. After a rewind
the numbers of frames go on from where it went back to, so events of what was left behind are skipped (`live_spans`).
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import Any, Final

from pydantic_core import from_json, to_json

from smithers.events import EventRow
from smithers.jsons import int_of, object_of
from smithers.store.interface import (
    ApprovalRow,
    AttemptRow,
    HumanRow,
    LoopRow,
    NodeRow,
    SqlValue,
    StoredSignal,
    TimerRow,
)
from smithers.store.sql import reads
from smithers.store.sql.past_nodes import UNTOLD, PastNode, as_past, state_of, told_by_rows
from smithers.store.sql.replaced import APPROVAL, ATTEMPT, HUMAN, OUTPUT, Replaced, attempts_before, replaced_since
from smithers.store.sql.session import Session

Key = tuple[str, int]

STATE_OF: Final[dict[str, str]] = {
    "NodePending": "pending",
    "NodeRetrying": "pending",
    "NodeStarted": "in-progress",
    "NodeWaitingApproval": "waiting-approval",
    "NodeWaitingEvent": "waiting-event",
    "NodeWaitingTimer": "waiting-timer",
    "NodeWaitingQuota": "waiting-quota",
    "NodeFinished": "finished",
    "NodeFailed": "failed",
    "NodeCancelled": "cancelled",
    "NodeSkipped": "skipped",
}
"""The state that each event of a node leaves it in; the last one counts."""

_TELLING: Final = ", ".join(f"'{type}'" for type in STATE_OF)
_EVENT: Final = ", ".join(EventRow._fields)
_OPEN: Final = ("in-progress", "waiting-approval", "waiting-event", "waiting-timer", "waiting-quota")
_FIRST_SCAN: Final = 256
_LONGEST_SCAN: Final = 65_536
_FEW: Final = 100

_MOUNTED: Final = """
SELECT DISTINCT created_frame FROM _smithers_nodes
WHERE run_id = ? AND created_frame <= ? AND frame_no > ? AND (began_frame IS NULL OR began_frame > ?)
"""

_CHANGED: Final = """
SELECT node_id, iteration, created_frame, output_table, label, loop_id FROM _smithers_nodes
WHERE run_id = ? AND created_frame <= ? AND frame_no > ? AND began_frame <= ?
"""


def live_spans(connection: Session, run_id: str) -> list[tuple[int, int]]:
    """The event numbers (first, last) that make up the run as it is now, without what rewinds left behind."""
    end = reads.last_seq(connection, run_id)
    spans = [(0, end)]
    for seq, cut in connection.execute(
        "SELECT seq, cut_seq FROM _smithers_jumps WHERE run_id = ? ORDER BY seq", (run_id,)
    ):
        spans = [(first, min(last, cut)) for first, last in spans if first <= cut]
        spans.append((seq, end))
    return spans


class Past:
    """A run right after a frame, read as far as it is asked for. Use it within one transaction."""

    def __init__(self, connection: Session, run_id: str, frame_no: int) -> None:
        self._connection = connection
        self.run_id = run_id
        self.frame_no = frame_no

    @cached_property
    def spans(self) -> list[tuple[int, int]]:
        """The event numbers (first, last) of the run up to this frame."""
        found = list[tuple[int, int]]()
        for first, last in live_spans(self._connection, self.run_id):
            cut = self._cut(first, last)
            if cut >= first:
                found.append((first, cut))
            if cut < last:
                break
        return found

    @property
    def last_seq(self) -> int:
        """The frame's last event; -1 for none."""
        return self.spans[-1][1] if self.spans else -1

    @cached_property
    def moment_ms(self) -> int:
        """When the frame's last event happened; 0 if there is none."""
        row = self._connection.execute(
            "SELECT timestamp_ms FROM _smithers_events WHERE run_id = ? AND seq = ?", (self.run_id, self.last_seq)
        ).fetchone()
        return 0 if row is None else int(row[0])

    def _cut(self, first: int, last: int) -> int:
        """The last number from `first` to `last` whose event is of this frame or an earlier one; frames grow with numbers."""
        while first <= last:
            middle = (first + last) // 2
            row = self._connection.execute(
                "SELECT frame_no FROM _smithers_events WHERE run_id = ? AND seq = ?", (self.run_id, middle)
            ).fetchone()
            if row is not None and row[0] > self.frame_no:
                last = middle - 1
            else:
                first = middle + 1
        return last

    # ── nodes ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def nodes(self) -> list[PastNode]:
        """All nodes, in no particular order."""
        found = told_by_rows(self._connection, self.run_id, self.frame_no)
        if UNTOLD not in map(state_of, found):
            return found
        changed = {(row.node_id, row.iteration): row for row in self.changed()}
        return [row if row.state else as_past(changed[row.node_id, row.iteration]) for row in found]

    @cached_property
    def mounted(self) -> dict[int, int]:
        """The frames at which the nodes that had not begun were mounted, with their moments."""
        n, run_id = self.frame_no, self.run_id
        rows = self._connection.execute(_MOUNTED, (run_id, n, n, n)).fetchall()
        return {int(created): Past(self._connection, run_id, created).moment_ms for (created,) in rows}

    def changed(self) -> list[NodeRow]:
        """The nodes that had begun and have changed since."""
        rows = self._changed_rows
        attempts = self._newest_attempts([(row[0], row[1]) for row in rows])
        found: list[NodeRow] = []
        for node_id, iteration, created, table, label, loop in rows:
            told = self.told.get((node_id, iteration))
            state = "pending" if told is None else STATE_OF[told.type]
            moment, frame_no = (0, created) if told is None else (told.timestamp_ms, told.frame_no)
            attempt = attempts.get((node_id, iteration))
            was = self.replaced.get((OUTPUT, node_id, iteration))
            seq = None if was is None else was.output_seq
            found.append(NodeRow(node_id, iteration, state, attempt, moment, frame_no, seq, table, label, loop))
        return found

    @cached_property
    def replaced(self) -> dict[tuple[str, str, int], Replaced]:
        """What stood then and was replaced since, by kind and node."""
        rows = replaced_since(self._connection, self.run_id, self.frame_no)
        return {(row.kind, row.node_id, row.iteration): row for row in rows}

    @cached_property
    def _changed_rows(self) -> list[tuple[str, int, int, str | None, str | None, str | None]]:
        n = self.frame_no
        rows = self._connection.execute(_CHANGED, (self.run_id, n, n, n))
        return [(str(r[0]), int(r[1]), int(r[2]), r[3], r[4], r[5]) for r in rows]

    @cached_property
    def told(self) -> dict[Key, EventRow]:
        """The last event up to the frame of each node that had begun and has changed since."""
        wanted = {(row[0], row[1]) for row in self._changed_rows}
        found: dict[Key, EventRow] = {}
        names = sorted({node_id for node_id, _ in wanted})
        only = f" AND node_id IN ({', '.join('?' for _ in names)})" if len(names) <= _FEW else ""
        text = (
            f"SELECT {_EVENT} FROM _smithers_events WHERE run_id = ? AND seq BETWEEN ? AND ? "
            f"AND type IN ({_TELLING}){only} ORDER BY seq DESC"
        )
        size = _FIRST_SCAN
        for first, last in reversed(self.spans):
            while wanted and last >= first:
                start = max(first, last - size + 1)
                given: list[SqlValue] = [self.run_id, start, last, *(names if only else ())]
                for row in self._connection.execute(text, given):
                    key = (row[4], row[5])
                    if key in wanted:
                        found[key] = EventRow(*row)
                        wanted.discard(key)
                last, size = start - 1, min(size * 4, _LONGEST_SCAN)
        return found

    def _newest_attempts(self, keys: list[Key]) -> dict[Key, int]:
        text = "SELECT node_id, iteration, max(attempt) FROM _smithers_attempts WHERE run_id = ? AND frame_no <= ?"
        groups = " GROUP BY node_id, iteration"
        if len(keys) > _FEW:
            rows = self._connection.execute(text + groups, (self.run_id, self.frame_no)).fetchall()
        else:
            one = text + " AND node_id = ? AND iteration = ?" + groups
            rows = [
                row
                for key in keys
                for row in self._connection.execute(one, (self.run_id, self.frame_no, *key)).fetchall()
            ]
        found = {(str(node_id), int(iteration)): int(number) for node_id, iteration, number in rows}
        for was in (*self._left, *self._again):
            found[was.key] = max(int(was.values["attempt"] or 0), found.get(was.key, 0))
        return found

    # ── what belongs to nodes ──────────────────────────────────────────────────────────────────────────────────────

    def attempts(self, keys: Iterable[Key] | None = None) -> list[AttemptRow]:
        """The attempts, of these nodes if any are given; one that ended later is open, as its node was."""
        text = (
            f"SELECT {', '.join(AttemptRow._fields)}, finished_frame, heartbeat_frame FROM _smithers_attempts "
            "WHERE run_id = ? AND frame_no <= ?"
        )
        if keys is None:
            rows = self._connection.execute(text, (self.run_id, self.frame_no)).fetchall()
        else:
            one = text + " AND node_id = ? AND iteration = ?"
            rows = [
                row
                for key in keys
                for row in self._connection.execute(one, (self.run_id, self.frame_no, *key)).fetchall()
            ]
        if self._again or self._left:
            names = (*AttemptRow._fields, "finished_frame", "heartbeat_frame")
            wanted = None if keys is None else set(keys)
            left = {row[:3]: row for row in (was.columns(self.run_id, names) for was in self._left)}
            stood = {row[:3]: row for row in (was.columns(self.run_id, names) for was in self._again)}
            rows = [
                row
                for row in (left | {row[:3]: row for row in rows} | stood).values()
                if wanted is None or row[:2] in wanted
            ]
        return [self._attempt(AttemptRow(*row[:-2]), row[-2], row[-1]) for row in rows]

    def _attempt(self, row: AttemptRow, finished: int | None, beaten: int | None) -> AttemptRow:
        if beaten is not None and beaten > self.frame_no:
            row = row._replace(heartbeat_at_ms=None, heartbeat_data_json=None)
        if finished is not None and finished <= self.frame_no:
            return row
        told = self.told.get((row.node_id, row.iteration))
        if told is None and finished is None:
            return row
        state = STATE_OF[told.type] if told is not None else "in-progress"
        if state not in _OPEN:  # what is left of an attempt whose number a wait takes again, now that it is done again
            return row
        if finished is None:
            return row._replace(state=state)
        return row._replace(
            state=state,
            finished_at_ms=None,
            error_json=None,
            response_text=None,
            cached=None,
            meta_json=open_meta(row.meta_json, row.started_at_ms),
        )

    def timers(self) -> list[TimerRow]:
        """What the run waited for by the clock, earliest first."""
        rows = self._connection.execute(
            "SELECT t.node_id, t.iteration, t.kind, t.due_at_ms FROM _smithers_timers t JOIN _smithers_nodes n "
            "ON n.run_id = t.run_id AND n.node_id = t.node_id AND n.iteration = t.iteration "
            "WHERE t.run_id = ? AND n.frame_no <= ?",
            (self.run_id, self.frame_no),
        )
        found = [TimerRow(*row) for row in rows]
        for key, told in self.told.items():
            timer = _timer(told)
            if timer is not None:
                found.append(TimerRow(*key, *timer))
        return sorted(found, key=lambda timer: timer.due_at_ms)

    def loops(self) -> list[LoopRow]:
        """The loop counters."""
        rows = self._connection.execute(
            "SELECT r.ralph_id, r.iteration, r.done FROM _smithers_ralph r JOIN (SELECT ralph_id, max(frame_no) AS newest "
            "FROM _smithers_ralph WHERE run_id = ? AND frame_no <= ? GROUP BY ralph_id) last "
            "ON last.ralph_id = r.ralph_id AND last.newest = r.frame_no WHERE r.run_id = ?",
            (self.run_id, self.frame_no, self.run_id),
        )
        return [LoopRow(*row) for row in rows]

    # ── what others write ──────────────────────────────────────────────────────────────────────────────────────────

    def approvals(self) -> list[ApprovalRow]:
        """The approvals, oldest first; one that was decided later is open."""
        rows = self._connection.execute(
            f"SELECT {', '.join(ApprovalRow._fields)}, decided_frame FROM _smithers_approvals "
            "WHERE run_id = ? AND frame_no <= ?",
            (self.run_id, self.frame_no),
        )
        found: list[ApprovalRow] = []
        for *columns, decided in [*rows, *self._requests(APPROVAL, (*ApprovalRow._fields, "decided_frame"))]:
            row = ApprovalRow(*columns)
            if decided is not None and decided > self.frame_no:
                row = row._replace(
                    status="requested",
                    decided_at_ms=None,
                    note=None,
                    decided_by=None,
                    decision_json=None,
                    auto_approved=0,
                )
            found.append(row)
        return sorted(found, key=lambda row: (row.requested_at_ms, row.node_id, row.iteration))

    def humans(self) -> list[HumanRow]:
        """The requests to people, oldest first; one that was answered or closed later is open."""
        rows = self._connection.execute(
            f"SELECT {', '.join(HumanRow._fields)}, closed_frame FROM _smithers_human_requests "
            "WHERE run_id = ? AND frame_no <= ?",
            (self.run_id, self.frame_no),
        )
        found: list[HumanRow] = []
        for *columns, closed in [*rows, *self._requests(HUMAN, (*HumanRow._fields, "closed_frame"))]:
            row = HumanRow(*columns)
            if closed is not None and closed > self.frame_no:
                row = row._replace(status="pending", response_json=None, answered_at_ms=None, answered_by=None)
            found.append(row)
        return sorted(found, key=lambda row: (row.requested_at_ms, row.request_id))

    @cached_property
    def _again(self) -> list[Replaced]:
        """Attempts that stood then and whose numbers may have been given again since."""
        return [row for (kind, *_), row in self.replaced.items() if kind == ATTEMPT]

    @cached_property
    def _left(self) -> list[Replaced]:
        """Attempts from before their nodes were done again, by then."""
        return attempts_before(self._connection, self.run_id, self.frame_no)

    def _requests(self, kind: str, names: tuple[str, ...]) -> list[tuple[Any, ...]]:
        """Requests of one kind that stood then and were replaced since, with their columns in this order."""
        return [row.columns(self.run_id, names) for (of, *_), row in self.replaced.items() if of == kind]

    def signals(self) -> list[StoredSignal]:
        """The signals that had arrived, in order."""
        rows = self._connection.execute(
            f"SELECT {', '.join(StoredSignal._fields)} FROM _smithers_signals WHERE run_id = ? AND frame_no <= ? ORDER BY seq",
            (self.run_id, self.frame_no),
        )
        return [StoredSignal(*row) for row in rows]


def open_meta(meta_json: str | None, started_at_ms: int) -> str | None:
    """What an attempt said of its wait before the signal came that ended it."""
    if meta_json is None or "waitForEvent" not in meta_json:
        return meta_json
    meta = object_of(from_json(meta_json))
    had = {**object_of(meta.get("waitForEvent")), "startedAtMs": started_at_ms}
    wait = {name: had.get(name) for name in ("signalName", "correlationId", "waitAsync", "startedAtMs", "timeoutMs")}
    return to_json({**meta, "waitForEvent": wait}).decode()


def _timer(told: EventRow) -> tuple[str, int] | None:
    """What a node waited for by the clock since an event: kind and moment."""
    payload = object_of(from_json(told.payload or "{}"))
    if told.type == "NodeRetrying":
        delay = int_of(payload.get("delayMs")) or 0
        return ("retry", told.timestamp_ms + delay) if delay > 0 else None
    for type, kind, name in (
        ("NodeWaitingTimer", "timer", "firesAtMs"),
        ("NodeWaitingQuota", "quota", "resetAtMs"),
        ("NodeWaitingApproval", "timeout", "timeoutAtMs"),
        ("NodeWaitingEvent", "timeout", "timeoutAtMs"),
    ):
        if told.type == type and (due := int_of(payload.get(name))) is not None:
            return kind, due
    return None
