"""Blockers: what a run waits for, or what ended it. Read from the store alone; no workflow is loaded.

Why one of its nodes is where it is, is told by `explaining.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from pydantic_core import from_json

from smithers.engine import leases
from smithers.jsons import int_of, list_of, object_of, text_of
from smithers.store.interface import ApprovalRow, HumanRow, NodeRow, RunRow, TimerRow
from smithers.store.sql import limits, narration, queue, reads, run_pages
from smithers.store.sql.lineage import TERMINAL

MAX_EACH: Final = 10
"""Of each kind at most so many are told apart."""
MAX_NODES: Final = 100
"""So many nodes at most are looked at."""
MAX_DEPTH: Final = 8
"""So far runs of subflows are followed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocker:
    """One thing that a run or node waits for, or that ended it.

    Attributes:
        kind: approval, question, signal, timer, retry, quota, timeout, child, working, interrupted, order, dependency,
            failed-dependency, room, queued, paused, pausing, cancelling, owner-dead, owner-silent, unowned, rewound,
            reset, failed, cancelled, continued, decided, ready.
        text: the same for a person; goes on after "it waits for" or stands alone.
        run_id: the run that it is in: the one asked about, or one below it.
        details: what commands are made of, by the wire's names.
    """

    kind: str
    text: str
    run_id: str
    node_id: str | None = None
    iteration: int = 0
    since_ms: int | None = None
    until_ms: int | None = None
    details: Mapping[str, object] | None = None

    @property
    def place(self) -> str:
        """The node, with its iteration if that is not the first."""
        if self.node_id is None:
            return ""
        return self.node_id if not self.iteration else f"{self.node_id} (iteration {self.iteration})"

    def wire(self) -> dict[str, object]:
        """As it is sent."""
        found: dict[str, object] = {"kind": self.kind, "text": self.text, "runId": self.run_id}
        if self.node_id is not None:
            found |= {"nodeId": self.node_id, "iteration": self.iteration}
        times = {"sinceMs": self.since_ms, "untilMs": self.until_ms}
        return {**found, **{k: v for k, v in times.items() if v is not None}, **(self.details or {})}


# ── runs ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def run_standing(c: reads.Session, run: RunRow, now: int) -> tuple[str, int | None]:
    """The state in a word, and since when."""
    if run.status in TERMINAL:
        return run.status, run.finished_at_ms
    if run.status != "running":
        return run.status, narration.changed_at(c, run.run_id)
    owner = _owner(c, run, now)
    if owner is None:
        return "running", run.started_at_ms
    words = {"owner-dead": "orphaned", "unowned": "orphaned", "owner-silent": "stale"}
    return words.get(owner.kind, owner.kind), owner.since_ms


def _owner(c: reads.Session, run: RunRow, now: int) -> Blocker | None:
    """What is wrong with the owner of a running run, if anything."""
    if leases.is_mirror(run):
        return None
    alive = max(run.heartbeat_at_ms or 0, run.started_at_ms or 0)
    owner = run.runtime_owner_id
    if owner is None:
        if (changed := narration.unresumed_change(c, run.run_id)) is not None:
            return _changed(run, changed)
        text = "a process: nobody has taken it since it was given up"
        since = run.heartbeat_at_ms or narration.changed_at(c, run.run_id) or alive
        return Blocker(kind="unowned", text=text, run_id=run.run_id, since_ms=since)
    who = _process(owner)
    details = {"owner": owner}
    if leases.is_owner_dead(owner):
        text = f"a process: {who}, which owned it, is gone"
        return Blocker(kind="owner-dead", text=text, run_id=run.run_id, since_ms=alive, details=details)
    if now - alive > leases.LEASE_MS:
        text = f"{who}, which owns it and gives no sign of life; others may take it over"
        return Blocker(kind="owner-silent", text=text, run_id=run.run_id, since_ms=alive, details=details)
    return None


def _queued(c: reads.Session, run: RunRow) -> Blocker:
    """A run that has not been started yet."""
    lane = queue.lane_of(c, run.run_id)
    text = "a worker or gateway that has its workflow, and room"
    if lane is not None:
        text += f"; {lane.runs:,} runs wait in queue {lane.queue}"
        if lane.is_paused(limits.limits(c)):
            text = f"somebody to lift a limit: nothing of queue {lane.queue} and workflow {lane.workflow} is to start"
    return Blocker(kind="queued", text=text, run_id=run.run_id, since_ms=run.created_at_ms)


def _changed(run: RunRow, change: narration.Change) -> Blocker:
    """A run whose history somebody has changed, and which nobody has gone on with since."""
    if change.frame_no is not None:
        kind, text = "rewound", f"somebody to resume it: it was taken back to frame {change.frame_no}"
    else:
        kind, text = "reset", f"somebody to resume it: {change.node_id} is to be done again"
    details = None if change.frame_no is None else {"frameNo": change.frame_no}
    return Blocker(kind=kind, text=text, run_id=run.run_id, since_ms=change.timestamp_ms, details=details)


def _process(owner: str) -> str:
    parts = owner.split(":")
    return f"process {parts[1]}" if len(parts) > 1 and parts[0] == "pid" else f"owner {owner}"


def run_blockers(c: reads.Session, run: RunRow, now: int, depth: int = 0) -> list[Blocker]:
    """What a run waits for, and the runs of its subflows with it; or what ended it."""
    if run.status in TERMINAL:
        return ended(c, run)
    found: list[Blocker] = []
    if run.cancel_requested_at_ms is not None:
        source = f" (asked by {run.cancel_request_source})" if run.cancel_request_source else ""
        text = f"its owner to end it: a cancellation was asked for{source}"
        found.append(Blocker(kind="cancelling", text=text, run_id=run.run_id, since_ms=run.cancel_requested_at_ms))
    if run.status == "paused":
        since = narration.changed_at(c, run.run_id)
        found.append(
            Blocker(kind="paused", text="somebody to resume it: it is paused", run_id=run.run_id, since_ms=since)
        )
    owner = _owner(c, run, now) if run.status == "running" else None
    if run.status == "running":
        if owner is not None:
            found.append(owner)
        elif run.pause_requested_at_ms is not None:
            text = "work under way to end: a pause was asked for"
            found.append(Blocker(kind="pausing", text=text, run_id=run.run_id, since_ms=run.pause_requested_at_ms))
    if queue.is_queued(run):
        return [*found, _queued(c, run)]
    waits = _waits(c, run, depth, now, is_at_work=owner is None or owner.kind == "owner-silent")
    found += waits
    if not waits and run.status.startswith("waiting-"):
        text = "somebody to resume it: what it waited for has come"
        found.append(
            Blocker(kind="decided", text=text, run_id=run.run_id, since_ms=narration.changed_at(c, run.run_id))
        )
    if not found:
        text = "its next step"
        found.append(Blocker(kind="ready", text=text, run_id=run.run_id, since_ms=run.heartbeat_at_ms))
    return found


def ended(c: reads.Session, run: RunRow) -> list[Blocker]:
    """What ended a run."""
    since = run.finished_at_ms
    if run.status == "cancelled":
        by = f" by {run.cancel_request_source}" if run.cancel_request_source else ""
        return [Blocker(kind="cancelled", text=f"it was cancelled{by}", run_id=run.run_id, since_ms=since)]
    if run.status == "continued":
        heir = reads.successor(c, run.run_id)
        text, details = f"it goes on as {heir}", {"newRunId": heir}
        return [Blocker(kind="continued", text=text, run_id=run.run_id, since_ms=since, details=details)]
    if run.status != "failed":
        return []
    found = [
        Blocker(
            kind="failed",
            text=f"{node.node_id} failed after {_attempts(node)}: {error_text(error)}",
            run_id=run.run_id,
            node_id=node.node_id,
            iteration=node.iteration,
            since_ms=node.updated_at_ms,
            details={"error": error, "attempts": node.last_attempt},
        )
        for node, error in failed_nodes(c, run.run_id, MAX_EACH)
    ]
    told = object_of(from_json(run.error_json)) if run.error_json is not None else {}
    if not found or text_of(told.get("code")) in ("LateToolCompletion", "AUTO_RESUME_GAVE_UP"):
        text = f"it failed: {error_text(told)}"
        found.insert(0, Blocker(kind="failed", text=text, run_id=run.run_id, since_ms=since, details={"error": told}))
    return found


def failed_nodes(c: reads.Session, run_id: str, limit: int) -> list[tuple[NodeRow, dict[str, object]]]:
    """The nodes of a run that have failed, the latest first, each with the error of its last attempt."""
    return [(node, object_of(from_json(text or "{}"))) for node, text in narration.failed_nodes(c, run_id, limit)]


def error_text(error: Mapping[str, object]) -> str:
    """An error object in words, with its code if it has one."""
    told = text_of(error.get("summary")) or text_of(error.get("message")) or "no reason is on record"
    told = " ".join(told.split())
    code = text_of(error.get("code")) or text_of(error.get("name"))
    return f"{told} [{code}]" if code else told


def _attempts(node: NodeRow) -> str:
    count = node.last_attempt or 1
    return "1 attempt" if count == 1 else f"{count} attempts"


# ── what is waited for ─────────────────────────────────────────────────────────────────────────────────────────────


def _waits(c: reads.Session, run: RunRow, depth: int, now: int, *, is_at_work: bool) -> list[Blocker]:
    """Everything that an unended run waits for: people, signals, moments, runs below it, and work under way.

    Args:
        is_at_work: whether a process may be at work on it.
    """
    run_id = run.run_id
    timers = reads.timers(c, run_id)
    found = [_asked(row) for row in reads.approvals(c, run_id)]
    found += [_asked(row) for row in reads.human_requests(c, run_id)]
    found += [
        _signal(c, run_id, node) for node in _nodes_in(c, run_id, "waiting-event") if not _child_of(c, run_id, node)
    ]
    found += [_timer(run_id, timer) for timer in timers if timer.kind in _MOMENTS]
    for node in _nodes_in(
        c, run_id, "waiting-approval", "waiting-event", "waiting-timer", "waiting-quota", "in-progress"
    ):
        child = _child_of(c, run_id, node)
        if child is not None and depth < MAX_DEPTH:
            found += _of_child(c, child, node, depth, now)
        elif node.state == "in-progress" and run.status == "running":
            found.append(_working(c, run_id, node) if is_at_work else _interrupted(run_id, node))
    limits = {(t.node_id, t.iteration): t.due_at_ms for t in timers if t.kind in ("timeout", "deadline")}
    return [
        replace(b, until_ms=limits.get((b.node_id or "", b.iteration)))
        if b.kind in ("approval", "question", "signal") and b.run_id == run_id
        else b
        for b in found
    ]


_MOMENTS: Final = {"timer": "timer", "retry": "retry", "quota": "quota"}


def _nodes_in(c: reads.Session, run_id: str, *states: str) -> list[NodeRow]:
    return narration.nodes_in(c, run_id, states, MAX_NODES)


def _child_of(c: reads.Session, run_id: str, node: NodeRow) -> RunRow | None:
    """The run of a subflow, followed to what it goes on as."""
    child = f"{run_id}:child:{node.node_id}:{node.iteration}"
    if not narration.has_run(c, child):
        return None
    run = reads.run(c, child)
    while run.status == "continued" and (heir := reads.successor(c, run.run_id)) is not None:
        run = reads.run(c, heir)
    return run


def _of_child(c: reads.Session, child: RunRow, node: NodeRow, depth: int, now: int) -> list[Blocker]:
    below = [] if child.status in TERMINAL else run_blockers(c, child, now, depth + 1)
    text = f"the run {child.run_id} of its subflow, which is {child.status}"
    own = Blocker(
        kind="child",
        text=text,
        run_id=child.parent_run_id or child.run_id,
        node_id=node.node_id,
        iteration=node.iteration,
        since_ms=node.updated_at_ms,
        details={"childRunId": child.run_id, "childStatus": child.status},
    )
    return [own, *below]


def _asked(row: ApprovalRow | HumanRow) -> Blocker:
    if isinstance(row, HumanRow):
        return Blocker(
            kind="question",
            text=f'an answer to "{_line(row.prompt)}"',
            run_id=row.run_id,
            node_id=row.node_id,
            iteration=row.iteration,
            since_ms=row.requested_at_ms,
            details={"prompt": row.prompt, "requestId": row.request_id},
        )
    request = object_of(from_json(row.request_json))
    title, summary = text_of(request.get("title")) or row.node_id, text_of(request.get("summary"))
    users = [str(user) for user in list_of(request.get("allowedUsers"))]
    scopes = [str(scope) for scope in list_of(request.get("allowedScopes"))]
    who = f" by {_either(users)}" if users else ""
    who += f" with the scope {_either(scopes)}" if scopes else ""
    keys = [str(object_of(option).get("key")) for option in list_of(request.get("options"))]
    wanted = {"select": "a choice", "rank": "a ranking"}.get(str(request.get("mode")), "approval")
    return Blocker(
        kind="approval",
        text=f'{wanted} of "{_line(title)}"{who}' if wanted == "approval" else f'{wanted} for "{_line(title)}"{who}',
        run_id=row.run_id,
        node_id=row.node_id,
        iteration=row.iteration,
        since_ms=row.requested_at_ms,
        details={
            "title": title,
            "mode": text_of(request.get("mode")) or "approve",
            "options": keys,
            "allowedUsers": users,
            "allowedScopes": scopes,
            **({} if summary is None else {"summary": summary}),
        },
    )


def _signal(c: reads.Session, run_id: str, node: NodeRow) -> Blocker:
    meta = run_pages.open_attempt_meta(c, run_id, node.node_id, node.iteration)
    wait = object_of(object_of(from_json(meta or "{}")).get("waitForEvent"))
    name, about = text_of(wait.get("signalName")), text_of(wait.get("correlationId"))
    return Blocker(
        kind="signal",
        text=f"the signal {name or '(unknown)'}" + (f" about {about}" if about else ""),
        run_id=run_id,
        node_id=node.node_id,
        iteration=node.iteration,
        since_ms=int_of(wait.get("startedAtMs")) or node.updated_at_ms,
        details={"signalName": name, "correlationId": about},
    )


def _timer(run_id: str, timer: TimerRow) -> Blocker:
    texts = {"timer": "its timer", "retry": "its next attempt", "quota": "the limits of its agents to be reset"}
    return Blocker(
        kind=_MOMENTS[timer.kind],
        text=texts[timer.kind],
        run_id=run_id,
        node_id=timer.node_id,
        iteration=timer.iteration,
        until_ms=timer.due_at_ms,
    )


def _working(c: reads.Session, run_id: str, node: NodeRow) -> Blocker:
    place = (run_id, node.node_id, node.iteration)
    begun, call = narration.open_attempt(c, *place), narration.open_call(c, *place, node.last_attempt)
    attempt = f", attempt {node.last_attempt}" if (node.last_attempt or 1) > 1 else ""
    text = f"its work to end{attempt}" + (f": it has called {call}" if call is not None else "")
    details: dict[str, object] = {"attempt": node.last_attempt}
    if begun is not None and begun[1] is not None:
        details["heartbeatAtMs"] = begun[1]
    return Blocker(
        kind="working",
        text=text,
        run_id=run_id,
        node_id=node.node_id,
        iteration=node.iteration,
        since_ms=node.updated_at_ms if begun is None else begun[0],
        details=details,
    )


def _interrupted(run_id: str, node: NodeRow) -> Blocker:
    """Work that nobody does any more."""
    return Blocker(
        kind="interrupted",
        text="its run to be taken up again: it was under way, and begins anew then",
        run_id=run_id,
        node_id=node.node_id,
        iteration=node.iteration,
        since_ms=node.updated_at_ms,
        details={"attempt": node.last_attempt},
    )


def _line(text: str, limit: int = 80) -> str:
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def _either(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"
