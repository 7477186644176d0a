"""The store as the rest of the project sees it: plain values in, one commit path, plain rows out.

`Step` is everything that one step of a run changes; `SqlStore.commit` writes it under the run's fence, all or nothing. The
other writes (launch, decisions, signals, requests) are made by whoever accepts them, owner or not; each leaves a wake-up for
the owner. The SQL is in `sql/`; what a database has to offer for it is `sql/session.py`'s `Database` and `Session`.
"""

from __future__ import annotations

from dataclasses import field
from pathlib import PurePath
from typing import NamedTuple

from smithers.events import EventDraft
from smithers.records import dataclass
from smithers.store.calls import UnsafeCall
from smithers.store.columns import TableDef

SqlValue = None | int | float | str | bytes


TIMED_OUT = "smithers:timeout"
"""Who has decided an approval that nobody decided in time."""


class NodeChange(NamedTuple):
    """A node's new state. None keeps what is stored. `output` is the index of its row in `Step.outputs`."""

    node_id: str
    iteration: int
    state: str
    last_attempt: int | None = None
    output_table: str | None = None
    label: str | None = None
    loop_id: str | None = None
    output: int | None = None


class AttemptChange(NamedTuple):
    """An attempt's new state. None keeps what is stored."""

    node_id: str
    iteration: int
    attempt: int
    state: str
    started_at_ms: int
    finished_at_ms: int | None = None
    error_json: str | None = None
    response_text: str | None = None
    cached: int | None = None
    meta_json: str | None = None
    heartbeat_at_ms: int | None = None
    heartbeat_data_json: str | None = None


class OutputWrite(NamedTuple):
    """A row for an author's table; `values` in the table's column order."""

    table: TableDef
    node_id: str
    iteration: int
    values: tuple[SqlValue, ...]


class StatusChange(NamedTuple):
    """A run's new status. A terminal or parked one gives the ownership up."""

    status: str
    is_terminal: bool
    error_json: str | None = None


class NewRun(NamedTuple):
    """What a launch stores."""

    run_id: str
    workflow_name: str
    workflow_path: str | None
    workflow_hash: str | None
    input_json: str
    config_json: str
    owner: str | None
    now_ms: int
    parent_run_id: str | None = None
    idempotency_key: str | None = None
    status: str = "running"
    events: tuple[EventDraft, ...] = ()
    workflow_key: str | None = None
    """The name that a gateway serves the workflow by."""
    is_system: bool = False
    """Whether lists leave the run out unless they are asked for it."""
    started_by_json: str | None = None
    """Which program asked for the run, and why, as it told."""
    queue: str = "default"
    """The queue whose limits hold for the run."""

    @property
    def listed_as(self) -> str:
        """The workflow's key in lists, unless a workflow of its own name is registered."""
        if self.workflow_key is not None:
            return self.workflow_key
        return PurePath(self.workflow_path).stem if self.workflow_path else self.workflow_name


@dataclass(slots=True)
class Step:
    """Everything that one step of a run changes; committed as a whole under (`owner`, `epoch`) or not at all."""

    run_id: str
    owner: str
    epoch: int
    frame_no: int
    now_ms: int
    nodes: dict[tuple[str, int], NodeChange] = field(default_factory=dict[tuple[str, int], NodeChange])
    attempts: list[AttemptChange] = field(default_factory=list[AttemptChange])
    outputs: list[OutputWrite] = field(default_factory=list[OutputWrite])
    events: list[EventDraft] = field(default_factory=list[EventDraft])
    rows: list[tuple[str, tuple[SqlValue, ...]]] = field(default_factory=list[tuple[str, tuple[SqlValue, ...]]])
    """Rarer changes: (name of a statement, its parameters)."""
    asked_again: tuple[tuple[str, int], ...] = ()
    """Nodes whose approval is replaced by another in this step: the one that stands is kept for older frames."""
    launch: NewRun | None = None
    """The run itself, when this is its first step."""
    successor: NewRun | None = None
    """The run that goes on from here, when this is the last step of a continued one."""
    signals_on: tuple[frozenset[int], int] | None = None
    """Which signals go on to the successor, if any do: these, which nobody has taken, and those that have come since this one."""
    status: StatusChange | None = None
    seen_wakeup: int | None = None
    """Set to park: refuse if a wake-up newer than this one is there."""
    ignores_cancel: bool = False
    """Whether to commit although a cancel was requested; only the cancellation itself does."""

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to write."""
        return not (self.nodes or self.attempts or self.outputs or self.events or self.rows or self.status)


class Committed(NamedTuple):
    """What a commit came to: the numbers that it was given, and whether a pause is asked for."""

    first_seq: int
    first_output_seq: int
    pause_requested: bool


class CancelRequested(Exception):
    """The step was not written, because the run is to be cancelled."""


class LaunchedBefore(Exception):
    """The step was not written, because its launch's idempotency key names an earlier run."""

    def __init__(self, run_id: str) -> None:
        super().__init__(run_id)
        self.run_id = run_id


class NewWakeup(Exception):
    """The run was not parked, because something for it has arrived."""


class RunRow(NamedTuple):
    """A run as it is listed."""

    run_id: str
    parent_run_id: str | None
    workflow_name: str
    workflow_path: str | None
    workflow_hash: str | None
    status: str
    created_at_ms: int
    started_at_ms: int | None
    finished_at_ms: int | None
    heartbeat_at_ms: int | None
    runtime_owner_id: str | None
    epoch: int
    claim_count: int
    claim_frame: int | None
    frame_no: int
    next_seq: int
    next_output_seq: int
    cancel_requested_at_ms: int | None
    cancel_request_source: str | None
    pause_requested_at_ms: int | None
    seen_wakeup: int
    error_json: str | None


class NodeRow(NamedTuple):
    """A node's stored state."""

    node_id: str
    iteration: int
    state: str
    last_attempt: int | None
    updated_at_ms: int
    frame_no: int
    output_seq: int | None
    output_table: str | None
    label: str | None
    loop_id: str | None


class AttemptRow(NamedTuple):
    """A stored attempt."""

    node_id: str
    iteration: int
    attempt: int
    state: str
    frame_no: int
    started_at_ms: int
    finished_at_ms: int | None
    heartbeat_at_ms: int | None
    heartbeat_data_json: str | None
    error_json: str | None
    response_text: str | None
    cached: int | None
    meta_json: str | None


class ApprovalRow(NamedTuple):
    """A stored approval."""

    run_id: str
    node_id: str
    iteration: int
    status: str
    workflow_name: str
    requested_at_ms: int
    decided_at_ms: int | None
    note: str | None
    decided_by: str | None
    request_json: str
    decision_json: str | None
    auto_approved: int


class HumanRow(NamedTuple):
    """A stored request to a person."""

    request_id: str
    run_id: str
    node_id: str
    iteration: int
    kind: str
    status: str
    prompt: str
    schema_json: str | None
    options_json: str | None
    response_json: str | None
    requested_at_ms: int
    answered_at_ms: int | None
    answered_by: str | None
    timeout_at_ms: int | None


class StoredSignal(NamedTuple):
    """A stored signal."""

    seq: int
    signal_name: str
    correlation_id: str | None
    payload_json: str
    received_at_ms: int
    received_by: str | None


class TimerRow(NamedTuple):
    """A moment that a run waits for."""

    node_id: str
    iteration: int
    kind: str
    due_at_ms: int


class LoopRow(NamedTuple):
    """A loop's stored counter."""

    ralph_id: str
    iteration: int
    done: int


class FrameRow(NamedTuple):
    """A stored frame; `smithers.graph.frames` decodes `tree`."""

    frame_no: int
    created_at_ms: int
    encoding: str
    tree: bytes
    tree_hash: str
    reason: str


@dataclass(frozen=True, slots=True)
class LoadedRun:
    """Everything that is needed to go on with a run, read in one transaction."""

    run: RunRow
    input_json: str
    config_json: str
    nodes: list[NodeRow]
    loops: list[LoopRow]
    signals: list[StoredSignal]
    timers: list[TimerRow]
    approvals: list[ApprovalRow]
    humans: list[HumanRow]
    open_attempts: list[AttemptRow]
    failures: dict[tuple[str, int], int]
    """How many failed attempts each node has; nodes without any are left out."""
    consumed: dict[tuple[str, int], int]
    """The signal that each finished wait took."""
    errors: dict[tuple[str, int], str]
    """The last error of each failed node."""
    checkpoints: dict[tuple[str, int], str]
    """The newest checkpoint of each node that has not finished."""
    outputs: dict[str, list[tuple[SqlValue, ...]]]
    """Rows of the given tables by output key: (run_id, node_id, iteration, *columns)."""
    last_wakeup: int
    unsafe_calls: dict[tuple[str, int], list[UnsafeCall]]
    """What nodes that have not finished have called that may not be repeated, in order; of few nodes, as a rule."""


@dataclass(frozen=True, slots=True)
class Inbox:
    """What others have written for a run since its owner last looked."""

    cancel_requested: bool
    cancel_source: str | None
    pause_requested: bool
    approvals: list[ApprovalRow]
    humans: list[HumanRow]
    signals: list[StoredSignal]
    last_wakeup: int
