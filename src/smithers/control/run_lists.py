"""Run lists: runs, their nodes, attempts, events and open approvals as a gateway sends them, in the wire's spelling.

Every list takes a limit and reads as much as it gives. What status pages and the command line show is made in
`listing.py` and `views.py`; a node's output in `node_output.py`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Sequence
from typing import Final, TypeVar

from pydantic_core import from_json

from smithers.control import views
from smithers.control.control import Control
from smithers.control.listing import run_row, vcs_facts
from smithers.errors import AttemptNotFound, RunNotFound
from smithers.events import EventRow, wire_object
from smithers.jsons import int_of, list_of, object_of, text_of
from smithers.store.interface import ApprovalRow, AttemptRow, HumanRow, RunRow
from smithers.store.sql import lineage, pages, reads, run_pages
from smithers.store.sql.run_pages import ListedRun, Pending, RunFilter

T = TypeVar("T")
Wire = dict[str, object]

MAX_LIMIT: Final = 1_000
MAX_OFFSET: Final = 100_000
"""Rows that are skipped have to be read; who goes further takes a cursor."""
MAX_NODE_EVENTS: Final = 500
SHORT: Final = 100
"""Up to so many rows are read right on the event loop: a thread would take longer to get its turn than they take."""

_QUOTA = ("quotaBlockedCount", "resetAtMs")
_MODES: Final = {"approve": "gate", "select": "select", "rank": "rank"}


async def _read(control: Control, rows: int, query: Callable[[reads.Session], T]) -> T:
    return control.store.read(query) if rows <= SHORT else await control.store.aread(query)


def _bounded(limit: int, most: int = MAX_LIMIT) -> int:
    return max(1, min(limit, most))


# ── runs ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def resolve_key(
    workflow_key: str | None, workflow_name: str, listed_as: str, registered: Collection[str], owner: str | None = None
) -> str:
    """The key that a run's workflow is listed under: the recorded one, else its name if that is registered, else the name
    of its file without the ending, else its name, else the key of whoever owns the database."""
    if workflow_key is not None:
        return workflow_key
    if workflow_name in registered:
        return workflow_name
    return listed_as or workflow_name or owner or ""


def run_summary(listed: ListedRun, registered: Collection[str]) -> Wire:
    """A run as lists have it."""
    run = listed.run
    found = run_row(run, listed.config_json)
    found["workflowKey"] = resolve_key(listed.workflow_key, run.workflow_name, listed.listed_as, registered)
    found["system"] = listed.is_system != 0
    found["hijackRequestedAtMs"], found["hijackTarget"] = listed.hijack_requested_at_ms, listed.hijack_target
    if listed.started_by_json is not None:
        found["startedBy"] = from_json(listed.started_by_json)
    if listed.resumed_by_json is not None:
        found["resumedBy"] = from_json(listed.resumed_by_json)
    return found


async def list_runs(
    control: Control | Sequence[Control],
    *,
    limit: int = 50,
    offset: int = 0,
    status: str | None = None,
    workflow_key: str | None = None,
    parent_run_id: str | None = None,
    include_system: bool = False,
    cursor: tuple[int, str] | None = None,
    registered: Collection[str] = (),
) -> list[Wire]:
    """Runs (`RunSummary`), newest first.

    Args:
        control: the database, or several; a run that two of them know is given once, as the earlier one has it.
        limit: at most so many; never more than `MAX_LIMIT`.
        status: `running` also finds continued ones; an unknown one finds nothing.
        cursor: (createdAtMs, runId) of the run to go on after; costs the same however far down the list that is.
        registered: the keys of all registered workflows.
    """
    wanted = RunFilter(
        statuses=() if not status else ("running", "continued") if status == "running" else (status,),
        workflow_key=workflow_key,
        registered=tuple(registered),
        parent_run_id=parent_run_id,
        include_system=include_system,
        before=cursor,
    )
    limit, offset = _bounded(limit), min(max(0, offset), MAX_OFFSET)
    controls = [control] if isinstance(control, Control) else control
    if len(controls) == 1:
        rows = await _read(controls[0], limit + offset, lambda c: run_pages.run_page(c, wanted, limit, offset))
    else:
        found: dict[str, ListedRun] = {}
        for each in controls:
            page = await _read(each, limit + offset, lambda c: run_pages.run_page(c, wanted, limit + offset))
            found |= {row.run.run_id: row for row in page if row.run.run_id not in found}
        newest = sorted(found.values(), key=lambda row: (row.run.created_at_ms, row.run.run_id), reverse=True)
        rows = newest[offset : offset + limit]
    return [run_summary(row, registered) for row in rows]


LIVE: Final = ("running", "waiting-approval", "waiting-event", "waiting-timer", "waiting-quota", "paused")
"""The statuses of runs that have not ended."""


async def live_runs(
    controls: Sequence[Control], *, registered: Collection[str] = (), run_ids: Collection[str] | None = None
) -> list[Wire]:
    """Runs (`RunSummary`) that have not ended, newest first, at most `MAX_LIMIT`; with `run_ids`, those of them only."""
    found: list[ListedRun] = []
    wanted = RunFilter(statuses=LIVE, registered=tuple(registered))
    for each in controls:
        if run_ids is None:
            found += await _read(each, MAX_LIMIT, lambda c: run_pages.run_page(c, wanted, MAX_LIMIT))
        else:
            found += await _read(each, len(run_ids), lambda c: _known(c, run_ids))
    found.sort(key=lambda row: (row.run.created_at_ms, row.run.run_id), reverse=True)
    return [run_summary(row, registered) for row in found[:MAX_LIMIT]]


def _known(connection: reads.Session, run_ids: Collection[str]) -> list[ListedRun]:
    found: list[ListedRun] = []
    for run_id in list(run_ids)[:MAX_LIMIT]:
        try:
            listed = run_pages.listed_run(connection, run_id)
        except RunNotFound:
            continue
        if listed.run.status in LIVE:
            found.append(listed)
    return found


async def run_record(control: Control, run_id: str, *, registered: Collection[str] = ()) -> Wire:
    """One run (`RunRecord`) with its derived state and its nodes counted by state. Raises `RunNotFound`."""
    now = control.clock.now_ms()

    def query(c: reads.Session) -> Wire:
        listed = run_pages.listed_run(c, run_id)
        run = listed.run
        found = run_summary(listed, registered) | vcs_facts(c, run_id)
        found["summary"] = pages.node_counts(c, run_id)
        found["runState"] = run_state(c, run, now)
        if run.status == "finished":
            ended = object_of(from_json(run_pages.last_payload(c, run_id, "RunFinished") or "{}"))
            if count := int_of(ended.get("failedChildren")):
                found["failedChildren"] = count
                found["failedChildKeys"] = ended.get("failedChildKeys") or []
        return found

    return await _read(control, 1, query)


def run_state(connection: reads.Session, run: RunRow, now_ms: int) -> Wire:
    """A run's derived state (`RunStateView`); of its nodes only the one that it waits for is read."""
    if not run.status.startswith("waiting-"):
        return views.run_state(run, nodes=(), asked=(), timers=(), now_ms=now_ms)
    node = run_pages.waiting_node(connection, run.run_id, run.status)
    row = None if node is None else run_pages.node_row(connection, run.run_id, *node)
    view = views.run_state(
        run,
        nodes=() if row is None else (row,),
        asked=lineage.asked(connection, run.run_id) if run.status == "waiting-approval" else (),
        timers=reads.timers(connection, run.run_id) if run.status == "waiting-timer" else (),
        now_ms=now_ms,
    )
    blocked = object_of(view.get("blocked"))
    if blocked.get("kind") == "event" and node is not None:
        meta = run_pages.open_attempt_meta(connection, run.run_id, *node)
        wait = object_of(object_of(from_json(meta or "{}")).get("waitForEvent"))
        blocked["correlationKey"] = text_of(wait.get("correlationId")) or text_of(wait.get("signalName"))
    elif blocked.get("kind") == "quota" and run.error_json is not None:
        blocked |= {k: v for k, v in object_of(from_json(run.error_json)).items() if k in _QUOTA}
    return view


async def descendants(control: Control, run_id: str, *, limit: int = MAX_LIMIT) -> list[Wire]:
    """A run and the runs below it: `{runId, parentRunId, depth}`, by depth. Raises `RunNotFound`.

    Args:
        limit: at most so many, the run itself included; never more than `MAX_LIMIT`.
    """
    limit = _bounded(limit)

    def query(c: reads.Session) -> list[Wire]:
        root = reads.run(c, run_id)
        found: list[Wire] = [{"runId": run_id, "parentRunId": root.parent_run_id, "depth": 0}]
        level, depth, seen = [run_id], 0, {run_id}
        while level and len(found) < limit:
            depth, above = depth + 1, level
            level = list[str]()
            for parent in above:
                children = run_pages.child_runs(c, parent, limit)
                new = [child for child in children if child not in seen][: limit - len(found)]
                seen.update(new)
                level += new
                found.extend({"runId": child, "parentRunId": parent, "depth": depth} for child in new)
        return found

    return await control.store.aread(query)


async def token_usage(control: Control, run_id: str) -> Wire:
    """Every report of used tokens: `{runId, events: […]}`, in order. Raises `RunNotFound`."""

    def query(c: reads.Session) -> list[EventRow]:
        reads.run(c, run_id)
        return run_pages.usage_events(c, run_id)

    found: list[Wire] = []
    for row in await control.store.aread(query):
        try:
            payload = object_of(from_json(row.payload or "{}"))
        except ValueError:
            continue
        found.append(
            {
                "nodeId": row.node_id or "unknown",
                "iteration": row.iteration or 0,
                "attempt": int_of(payload.get("attempt")) or 0,
                "model": text_of(payload.get("model")) or "unknown",
                "agent": text_of(payload.get("agent")) or "unknown",
                **{name: int_of(payload.get(name)) or 0 for name in _TOKENS},
                "timestampMs": row.timestamp_ms,
            }
        )
    return {"runId": run_id, "events": found}


_TOKENS = ("inputTokens", "outputTokens", "cacheReadTokens", "cacheWriteTokens", "reasoningTokens")


# ── nodes, attempts, events ────────────────────────────────────────────────────────────────────────────────────────


async def node_states(control: Control, run_id: str) -> list[Wire]:
    """All nodes of a run with the times of their latest attempts. Raises `RunNotFound`."""

    def query(c: reads.Session) -> list[run_pages.NodeTimes]:
        reads.run(c, run_id)
        return run_pages.node_times(c, run_id)

    return [
        {
            "nodeId": node.node_id,
            "iteration": node.iteration,
            "state": node.state,
            "lastAttempt": node.last_attempt,
            "updatedAtMs": node.updated_at_ms,
            "label": node.label,
            "startedAtMs": node.started_at_ms,
            "finishedAtMs": node.finished_at_ms,
        }
        for node in await control.store.aread(query)
    ]


async def attempts(control: Control, run_id: str, *, node_id: str | None = None, iteration: int = 0) -> list[Wire]:
    """Attempts: of one iteration of a node, newest first; of a whole run, by start time. Raises `RunNotFound`."""

    def query(c: reads.Session) -> list[AttemptRow]:
        reads.run(c, run_id)
        if node_id is None:
            return run_pages.attempts_of_run(c, run_id)
        return run_pages.attempts_of_node(c, run_id, node_id, iteration)

    return [attempt_row(run_id, row) for row in await control.store.aread(query)]


async def attempt(control: Control, run_id: str, node_id: str, iteration: int, number: int) -> Wire:
    """One attempt. Raises `RunNotFound` or `AttemptNotFound`."""

    def query(c: reads.Session) -> list[AttemptRow]:
        reads.run(c, run_id)
        return run_pages.attempts_of_node(c, run_id, node_id, iteration, number)

    found = await _read(control, 1, query)
    if not found:
        raise AttemptNotFound(
            f"node {node_id!r} (iteration {iteration}) of run {run_id!r} has no attempt {number}",
            {"runId": run_id, "nodeId": node_id, "iteration": iteration, "attempt": number},
        )
    return attempt_row(run_id, found[0])


def attempt_row(run_id: str, row: AttemptRow) -> Wire:
    """An attempt's row, as it is sent."""
    return {
        "runId": run_id,
        "nodeId": row.node_id,
        "iteration": row.iteration,
        "attempt": row.attempt,
        "state": row.state,
        "startedAtMs": row.started_at_ms,
        "finishedAtMs": row.finished_at_ms,
        "heartbeatAtMs": row.heartbeat_at_ms,
        "heartbeatDataJson": row.heartbeat_data_json,
        "errorJson": row.error_json,
        "jjPointer": None,
        "cached": bool(row.cached),
        "metaJson": row.meta_json,
        "responseText": row.response_text,
        "jjCwd": None,
    }


async def stored_events(
    control: Control, run_id: str, *, after: int = -1, limit: int = 100, node_id: str | None = None
) -> list[Wire]:
    """Stored events above a number, in order: `{runId, seq, event, payload, timestampMs}`. Raises `RunNotFound`.

    With a node the newest ones that name it are given, at most `MAX_NODE_EVENTS`.
    """

    def query(c: reads.Session) -> list[EventRow]:
        reads.run(c, run_id)
        if node_id is None:
            return reads.events(c, run_id, after, _bounded(limit))
        return run_pages.newest_events(c, run_id, after, _bounded(limit, MAX_NODE_EVENTS), node_id)

    rows = await _read(control, limit if node_id is None else MAX_LIMIT, query)
    return [
        {
            "runId": run_id,
            "seq": row.seq,
            "event": row.type,
            "payload": wire_object(run_id, row),
            "timestampMs": row.timestamp_ms,
        }
        for row in rows
    ]


# ── approvals ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def pending_approvals(
    control: Control,
    *,
    run_id: str | None = None,
    workflow_key: str | None = None,
    limit: int | None = None,
    registered: Collection[str] = (),
) -> list[Wire]:
    """What people have to decide or answer (`ApprovalSummary`), oldest first, at most `MAX_LIMIT`.

    Human tasks are among them: their nodes wait for approval too, without a request of that kind.
    """
    wanted = RunFilter(workflow_key=workflow_key, registered=tuple(registered))
    most = MAX_LIMIT if limit is None else _bounded(limit)
    # a filter by workflow may look at everything that is open
    rows = most if workflow_key is None else MAX_LIMIT
    found = await _read(control, rows, lambda c: run_pages.pending(c, wanted, run_id, most))
    return [approval_summary(each, registered) for each in found]


def approval_summary(pending: Pending, registered: Collection[str]) -> Wire:
    """An open approval, as it is sent."""
    ask = pending.ask
    request = object_of(from_json(ask.request_json)) if isinstance(ask, ApprovalRow) else _human_request(ask)
    auto = request.get("autoApprove")
    return {
        "runId": ask.run_id,
        "workflowKey": resolve_key(pending.workflow_key, pending.workflow_name, pending.listed_as, registered),
        "nodeId": ask.node_id,
        "iteration": ask.iteration,
        "requestTitle": text_of(request.get("title")) or pending.label or ask.node_id,
        "requestSummary": text_of(request.get("summary")),
        "requestedAtMs": ask.requested_at_ms,
        "approvalMode": _MODES.get(str(request.get("mode", "approve")), "decision"),
        "options": [_option(object_of(option)) for option in list_of(request.get("options"))],
        "allowedScopes": [str(scope) for scope in list_of(request.get("allowedScopes"))],
        "allowedUsers": [str(user) for user in list_of(request.get("allowedUsers"))],
        "autoApprove": object_of(auto) or None,
    }


def _human_request(ask: HumanRow) -> Wire:
    return {"mode": "human", "summary": ask.prompt, "options": from_json(ask.options_json or "[]")}


def _option(option: Wire) -> Wire:
    key = str(option.get("key", ""))
    found: Wire = {"key": key, "label": text_of(option.get("label")) or key}
    if (summary := text_of(option.get("summary"))) is not None:
        found["summary"] = summary
    return found


# ── the schema ─────────────────────────────────────────────────────────────────────────────────────────────────────


EMPTY_SIGNATURE: Final[Wire] = {
    "schemaVersion": "0000",
    "signature": hashlib.sha256(b"empty").hexdigest(),
    "components": {},
}
"""What is answered where no workflow, and so no database, is registered."""


async def schema_signature(control: Control) -> Wire:
    """`{schemaVersion, signature, components}`: changes when a table does, and only then."""
    version, components = await _read(control, 1, run_pages.schema)
    text = "\n".join(f"{table}={digest}" for table, digest in sorted(components.items()))
    signature = hashlib.sha256(f"{version}\n{text}".encode()).hexdigest()
    return {"schemaVersion": version, "signature": signature, "components": components}
