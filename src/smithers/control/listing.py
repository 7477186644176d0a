"""Listing: what lists and status pages show of runs, approvals and frames, in the wire's spelling."""

from __future__ import annotations

from typing import NamedTuple

from pydantic_core import from_json

from smithers.control import views
from smithers.control.control import Control
from smithers.graph.frames import decode_frame
from smithers.graph.tree import TreeNode, canonical
from smithers.jsons import object_of, text_of
from smithers.store.interface import FrameRow, RunRow
from smithers.store.sql import checkpoints, lineage, pages, reads


class RunStatusView(NamedTuple):
    """A run with its derived state and its nodes counted by state."""

    run: RunRow
    state: dict[str, object]
    summary: dict[str, int]

    def wire(self) -> dict[str, object]:
        """As it is sent."""
        return {
            "runId": self.run.run_id,
            "workflowName": self.run.workflow_name or "workflow",
            "status": self.run.status or "unknown",
            "startedAtMs": self.run.started_at_ms,
            "finishedAtMs": self.run.finished_at_ms,
            "runState": self.state,
            "summary": self.summary,
        }


def run_status(control: Control, run_id: str) -> RunStatusView:
    """A run as it is now. Raises `RunNotFound`."""
    now = control.clock.now_ms()

    def query(c: reads.Session) -> RunStatusView:
        run = reads.run(c, run_id)
        return RunStatusView(run, _state(c, run, now), pages.node_counts(c, run_id))

    # A few rows by their keys: read right here, a thread would take longer to get its turn than this takes.
    return control.store.read(query)


def _state(c: reads.Session, run: RunRow, now_ms: int) -> dict[str, object]:
    is_parked = run.status.startswith("waiting-")
    view = views.run_state(
        run,
        nodes=reads.nodes(c, run.run_id) if is_parked else [],
        asked=lineage.asked(c, run.run_id) if run.status == "waiting-approval" else [],
        timers=reads.timers(c, run.run_id) if is_parked else [],
        now_ms=now_ms,
    )
    blocked = object_of(view.get("blocked"))
    if blocked.get("kind") == "event":
        blocked["correlationKey"] = _awaited(c, run.run_id, text_of(blocked.get("nodeId")))
    elif blocked.get("kind") == "quota" and run.error_json is not None:
        blocked |= {k: v for k, v in object_of(from_json(run.error_json)).items() if k in _QUOTA}
    return view


_QUOTA = ("quotaBlockedCount", "resetAtMs")


def _awaited(c: reads.Session, run_id: str, node_id: str | None) -> str | None:
    """What a node waits for: the correlation id, else the signal's name."""
    for attempt in reversed(reads.attempts(c, run_id, node_id)):
        if attempt.finished_at_ms is None and attempt.meta_json is not None:
            wait = object_of(object_of(from_json(attempt.meta_json)).get("waitForEvent"))
            return text_of(wait.get("correlationId")) or text_of(wait.get("signalName"))
    return None


async def run_list(
    control: Control, *, status: str | None = None, workflow: str | None = None, limit: int = 50
) -> list[dict[str, object]]:
    """Runs, newest first, as they are sent. `running` also finds continued ones; an unknown status finds nothing."""
    statuses = () if not status else ("running", "continued") if status == "running" else (status,)
    now = control.clock.now_ms()

    def query(c: reads.Session) -> list[dict[str, object]]:
        found = pages.run_page(c, statuses=statuses, workflow=workflow or None, limit=limit)
        return [
            {**run_row(run, config), **vcs_facts(c, run.run_id), "runState": _state(c, run, now)}
            for run, config in found
        ]

    return await control.store.aread(query)


def vcs_facts(c: reads.Session, run_id: str) -> dict[str, object]:
    """Under which version control a run works, and the commit that holds its files as it found them, as they are sent;
    nothing if it is under none, or has changed no files."""
    found = next((place for place in checkpoints.workspaces(c, run_id) if place.vcs_type is not None), None)
    if found is None:
        return {}
    return {"vcsType": found.vcs_type, "vcsRoot": found.vcs_root, "vcsRevision": found.base_ref}


def run_row(run: RunRow, config_json: str | None) -> dict[str, object]:
    """A run's row, as it is sent."""
    return {
        "runId": run.run_id,
        "parentRunId": run.parent_run_id,
        "workflowName": run.workflow_name,
        "workflowPath": run.workflow_path,
        "workflowHash": run.workflow_hash,
        "status": run.status,
        "createdAtMs": run.created_at_ms,
        "startedAtMs": run.started_at_ms,
        "finishedAtMs": run.finished_at_ms,
        "heartbeatAtMs": run.heartbeat_at_ms,
        "runtimeOwnerId": run.runtime_owner_id,
        "cancelRequestedAtMs": run.cancel_requested_at_ms,
        "cancelRequestId": None,
        "cancelRequestSource": run.cancel_request_source,
        "cancelRequestClientIdentity": None,
        "cancelRequestClientPid": None,
        "pauseRequestedAtMs": run.pause_requested_at_ms,
        "hijackRequestedAtMs": None,
        "hijackTarget": None,
        "vcsType": None,
        "vcsRoot": None,
        "vcsRevision": None,
        "errorJson": run.error_json,
        "configJson": config_json,
    }


async def approval_list(control: Control) -> list[dict[str, object]]:
    """Open approvals of runs that have not ended, oldest first, as they are sent."""
    now = control.clock.now_ms()
    found = await control.store.aread(pages.open_approvals)
    out: list[dict[str, object]] = []
    for row, label, run_status in found:
        request = object_of(from_json(row.request_json))
        out.append(
            {
                "runId": row.run_id,
                "nodeId": row.node_id,
                "workflowName": row.workflow_name or "workflow",
                "iteration": row.iteration,
                "runStatus": run_status,
                "label": label or row.node_id,
                "requestTitle": text_of(request.get("title")) or label or row.node_id,
                "requestSummary": row.note or text_of(request.get("summary")),
                "note": row.note,
                "decidedBy": row.decided_by,
                "requestedAtMs": row.requested_at_ms,
                "waitingMs": max(0, now - row.requested_at_ms),
            }
        )
    return out


async def frame_list(
    control: Control, run_id: str, *, after: int | None = None, limit: int = 50
) -> list[dict[str, object]]:
    """The newest frames, newest first, as they are sent: each with its whole tree, however it is stored."""

    def query(c: reads.Session) -> list[dict[str, object]]:
        rows, wanted = pages.newest_frames(c, run_id, after, limit)
        return _frames(run_id, rows, wanted)[::-1]

    return await control.store.aread(query)


async def frame(control: Control, run_id: str, frame_no: int | None = None) -> dict[str, object] | None:
    """One frame, by default the newest with a tree of its own, as it is sent; one without has the tree of the one before.
    None if there is none of this number. Raises `RunNotFound`."""

    def query(c: reads.Session) -> list[dict[str, object]]:
        run = reads.run(c, run_id)
        if frame_no is not None and frame_no > run.frame_no:
            return []
        return _frames(run_id, pages.frame_rows(c, run_id, frame_no), 1)

    for found in await control.store.aread(query):
        return found if frame_no is None else {**found, "frameNo": frame_no}
    return None


def _frames(run_id: str, rows: list[FrameRow], wanted: int) -> list[dict[str, object]]:
    """The last so many of a chain of frames. Large trees take a while to read: not on the event loop."""
    out: list[dict[str, object]] = []
    tree: TreeNode | None = None
    for index, row in enumerate(rows):
        tree = decode_frame(row.encoding, row.tree, tree)
        if index >= len(rows) - wanted:
            out.append(_frame(run_id, row, tree))
    return out


def _frame(run_id: str, row: FrameRow, tree: TreeNode | None) -> dict[str, object]:
    return {
        "runId": run_id,
        "frameNo": row.frame_no,
        "createdAtMs": row.created_at_ms,
        "xmlJson": canonical(tree),
        "xmlHash": row.tree_hash,
        "encoding": row.encoding,
        "mountedTaskIdsJson": None,
        "taskIndexJson": None,
        "note": None,
    }


async def gauges(control: Control) -> dict[str, int]:
    """What is going on now, by the metrics' names."""
    return await control.store.aread(pages.gauges)
