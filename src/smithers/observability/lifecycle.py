"""Lifecycle: what happens to runs, in the log. A listener of the event feed, for loggers that let `info` through."""

from __future__ import annotations

import logging
from typing import Final

from pydantic_core import from_json

from smithers.events import EventRow
from smithers.jsons import object_of
from smithers.observability.context import RunInfo

log = logging.getLogger("smithers.runs")

SENTENCES: Final = {
    "RunStarted": "run started",
    "RunFinished": "run finished",
    "RunFailed": "run failed",
    "RunCancelled": "run cancelled",
    "RunContinuedAsNew": "run continued as another",
    "NodeStarted": "task started",
    "NodeFinished": "task finished",
    "NodeFailed": "task failed",
    "NodeCancelled": "task cancelled",
    "NodeRetrying": "task is tried again",
    "ApprovalRequested": "approval requested",
    "ApprovalGranted": "approval granted",
    "ApprovalAutoApproved": "approved by itself",
    "ApprovalDenied": "approval denied",
}
_FIELDS: Final = ("attempt", "reason", "delayMs", "newRunId")


def log_event(run: RunInfo, row: EventRow) -> None:
    """Log an event that people follow runs by. Never raises."""
    sentence = SENTENCES.get(row.type)
    if sentence is None or not log.isEnabledFor(logging.INFO):
        return
    about: dict[str, object] = {"run_id": run.run_id, "workflow_name": run.workflow_name}
    if run.parent_run_id is not None:
        about["parent_run_id"] = run.parent_run_id
    if row.node_id is not None:
        about |= {"node_id": row.node_id, "iteration": row.iteration}
    if row.payload is not None:
        payload = object_of(from_json(row.payload))
        about |= {name: payload[name] for name in _FIELDS if name in payload}
        if code := object_of(payload.get("error")).get("code"):
            about["code"] = code
    log.info(sentence, extra={"smithers": about})
