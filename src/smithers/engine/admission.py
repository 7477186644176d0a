"""Admission: what a launch or resume must satisfy before a run is driven here. Nothing is written."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic_core import from_json

from smithers.components.workflow import SmithersWorkflow, check_json
from smithers.engine import leases
from smithers.engine.loading import source_hash
from smithers.engine.tooling import DEFAULT, ToolOptions
from smithers.errors import (
    InputMismatch,
    InvalidInput,
    ResumeMetadataMismatch,
    RunNotResumable,
    RunOwnerAlive,
    RunStillRunning,
)
from smithers.store.interface import LoadedRun, RunRow

MAX_RUN_ID = 256
DEFAULT_QUEUE = "default"
MAX_QUEUE_NAME = 64
MAX_PRIORITY = 1_000


@dataclass(frozen=True, slots=True)
class LaunchStamp:
    """What a host that serves many workflows records with a run that it starts.

    Attributes:
        workflow_key: the name that it serves the workflow by.
        is_system: whether lists leave the run out unless they are asked for it.
        started_by: which program asked for the run, and why.
        config: further keys of the run's stored config.
    """

    workflow_key: str
    is_system: bool = False
    started_by: Mapping[str, object] | None = None
    config: Mapping[str, object] = field(default_factory=dict[str, object])


@dataclass(frozen=True, slots=True)
class Place:
    """Where a run waits that is only stored, for a host with room to start it.

    Attributes:
        limit: so many may wait already; no limit if None.
        queue: whose limits hold for the run.
        priority: the higher, the sooner.
    """

    limit: int | None = None
    queue: str = DEFAULT_QUEUE
    priority: int = 0

    def check(self) -> Place:
        """The place, if it can be one. Raises `InvalidInput`."""
        if not self.queue or len(self.queue) > MAX_QUEUE_NAME or not self.queue.isprintable() or ":" in self.queue:
            raise InvalidInput(
                f"the name of a queue is 1 to {MAX_QUEUE_NAME} printable characters and has no colon, not {self.queue!r:.80}"
            )
        if isinstance(self.priority, bool) or not -MAX_PRIORITY <= self.priority <= MAX_PRIORITY:
            raise InvalidInput(f"priority must be from -{MAX_PRIORITY} to {MAX_PRIORITY}, not {self.priority!r}")
        return self


def checked_run_id(run_id: str) -> str:
    """`run_id` if it can be one. Raises `InvalidInput`."""
    if not isinstance(run_id, str) or not run_id.strip() or len(run_id) > MAX_RUN_ID or not run_id.isprintable():
        raise InvalidInput(f"run id must be 1 to {MAX_RUN_ID} printable characters, not {run_id!r:.80}")
    return run_id


def run_config(
    annotations: Mapping[str, object] | None,
    auth: object,
    root_dir: str | None,
    max_concurrency: int | None,
    tools: ToolOptions = DEFAULT,
) -> dict[str, object]:
    """What is stored of a launch beside its input. Raises `InvalidInput` naming the option."""
    check_limit(max_concurrency)
    config: dict[str, object] = {}
    if annotations:
        check_json(annotations, "annotations")
        for key, value in annotations.items():
            if not isinstance(value, (str, int, float, bool)):
                raise InvalidInput(f"annotations.{key} must be a string, number or boolean")
        config["annotations"] = dict(annotations)
    if auth is not None:
        config["auth"] = auth
    if root_dir is not None:
        config["rootDir"] = root_dir
    if max_concurrency is not None:
        config |= {"max_concurrency": max_concurrency, "maxConcurrencyPinned": True}
    config |= tools.check().config()
    if "smithers.observability.context" in sys.modules:  # or nobody has said which trace this belongs to
        from smithers.observability.context import launching_traceparent

        if (traceparent := launching_traceparent()) is not None:
            config["traceparent"] = traceparent
    return config


def check_limit(max_concurrency: object) -> None:
    """Hold the most leaves of a run at once to what lets any begin. Raises `InvalidInput`."""
    if max_concurrency is not None and (type(max_concurrency) is not int or max_concurrency < 1):
        raise InvalidInput(f"max_concurrency must be a whole number of at least 1, not {max_concurrency!r}")


def workflow_hash(workflow: SmithersWorkflow, path: Path | None) -> str | None:
    """The source's hash, read once per loaded workflow: a workflow in memory does not change."""
    cached: dict[Path | None, str | None] = workflow.__dict__.setdefault("_source_hashes", {})
    if path not in cached:
        cached[path] = source_hash(path)
    return cached[path]


def check_claimable(run: RunRow, *, owner: str, now_ms: int, lease_ms: int, force: bool) -> None:
    """Hold a run to the rules of taking over. Raises `RunNotResumable`, `RunOwnerAlive` or `RunStillRunning`."""
    if run.status == "continued":
        raise RunNotResumable(
            f"run {run.run_id!r} was continued as another run", {"runId": run.run_id, "status": run.status}
        )
    if run.status != "running" or force or run.runtime_owner_id == owner:
        return
    if leases.may_take_over(run, now_ms, lease_ms):
        return
    details = {"runId": run.run_id, "runtimeOwnerId": run.runtime_owner_id, "heartbeatAtMs": run.heartbeat_at_ms}
    other = run.runtime_owner_id or ""
    if other.split(":")[2:3] == [leases.host_id()]:
        raise RunOwnerAlive(f"run {run.run_id!r} is being driven by process {other.split(':')[1]}", details)
    raise RunStillRunning(f"run {run.run_id!r} had a heartbeat {now_ms - (run.heartbeat_at_ms or 0)} ms ago", details)


def check_unchanged(
    loaded: LoadedRun, workflow: SmithersWorkflow, path: Path | None, input: object, *, accept: bool
) -> tuple[str | None, str | None] | None:
    """Hold input and source to what the run recorded. The new (hash, path) if an accepted change is to be recorded.

    Raises `InputMismatch` or `ResumeMetadataMismatch`.
    """
    run = loaded.run
    if input is not None and from_json(workflow.parse_input(input)[1]) != from_json(loaded.input_json):
        raise InputMismatch(
            f"run {run.run_id!r} was started with another input; leave it out to resume", {"runId": run.run_id}
        )
    current = workflow_hash(workflow, path)
    if run.workflow_hash is None or current is None or current == run.workflow_hash:
        return None
    if not accept:
        raise ResumeMetadataMismatch(
            f"the source of run {run.run_id!r} changed since it was started; "
            "resume with accept_workflow_change=True (--accept-workflow-change) to go on with the new one",
            {"mismatches": ["workflowHash"], "existing": run.workflow_hash, "current": current},
        )
    return current, None if path is None else str(path)
