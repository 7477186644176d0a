"""RunState: what the owner of a run keeps in memory, and the step that is being drafted.

Every change of a node's state goes through `move`, which checks it against the transition table and notes it in the step;
so memory and database cannot tell different stories once the step is committed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import field
from heapq import heappop, heappush

from pydantic import BaseModel
from pydantic_core import to_json

from smithers.components.rundata import OutputRow, RunData
from smithers.components.scope import Key, state_key
from smithers.components.workflow import SmithersWorkflow
from smithers.errors import SchedulerError
from smithers.events import EventDraft, event
from smithers.graph.plan import Failure, LeafNode, Plan
from smithers.records import dataclass
from smithers.scheduler.states import WAITING, NodeState, may_follow
from smithers.store.calls import UnsafeCall
from smithers.store.columns import TableDef, table_def
from smithers.store.interface import ApprovalRow, AttemptChange, NodeChange, OutputWrite, SqlValue, Step

TimerKey = tuple[Key, str]
"""(node, kind); kinds are timer, retry, timeout, quota and deadline (of a subflow)."""


class Begun:
    """The nodes that have ever been at work, or were asked about: what they are now may be pending again."""

    __slots__ = ("_attempts", "_gates")

    def __init__(self, attempts: Mapping[Key, object], gates: Mapping[Key, object]) -> None:
        self._attempts = attempts
        self._gates = gates

    def __contains__(self, key: object) -> bool:
        return key in self._attempts or key in self._gates


@dataclass(slots=True)
class RunState:
    """One run in memory. `step` is the draft that the next commit writes."""

    run_id: str
    workflow: SmithersWorkflow
    data: RunData
    owner: str
    epoch: int
    input_json: str = "{}"
    workflow_path: str | None = None
    workflow_hash: str | None = None
    frame_no: int = 0
    name: str = ""
    generation: int = 0
    """How often this process has given the run new code."""
    nodes: dict[Key, NodeState] = field(default_factory=dict[Key, NodeState])
    attempts: dict[Key, int] = field(default_factory=dict[Key, int])
    failed: dict[Key, int] = field(default_factory=dict[Key, int])
    """Failed attempts of each node; only those that cost a retry."""
    forgiven: dict[Key, int] = field(default_factory=dict[Key, int])
    """Failed attempts from before a resume that gave the node all its retries again."""
    errors: dict[Key, dict[str, object]] = field(default_factory=dict[Key, dict[str, object]])
    """The last error of each failed node."""
    live: set[Key] = field(default_factory=set[Key])
    """Nodes in progress or waiting."""
    held: set[Key] = field(default_factory=set[Key])
    """Nodes that wait for their next attempt."""
    checkpoints: dict[Key, object] = field(default_factory=dict[Key, object])
    gates: dict[Key, ApprovalRow] = field(default_factory=dict[Key, ApprovalRow])
    """Decisions that have arrived, for gates and approvals."""
    guarded: dict[Key, dict[str, UnsafeCall]] = field(default_factory=dict[Key, dict[str, UnsafeCall]])
    """What attempts that are over have called and must not be repeated unasked, by token; only nodes that have any."""
    consumed: dict[tuple[str, str | None], int] = field(default_factory=dict[tuple[str, str | None], int])
    """The newest signal that a wait has taken, by name and correlation id."""
    timers: dict[TimerKey, int] = field(default_factory=dict[TimerKey, int])
    _timer_heap: list[tuple[int, TimerKey]] = field(default_factory=list[tuple[int, TimerKey]])
    config: dict[str, object] = field(default_factory=dict[str, object])
    next_output_seq: int = 0
    last_wakeup: int = 0
    last_signal: int = -1
    step: Step = field(init=False)
    _tables: dict[str, TableDef] = field(default_factory=dict[str, TableDef])
    _newer: dict[type[BaseModel], TableDef] = field(default_factory=dict[type[BaseModel], TableDef])

    def begin_step(self, now_ms: int) -> Step:
        """Start a new draft."""
        # the containers are given, because making them from the fields' generic aliases takes longer than all the rest
        self.step = Step(self.run_id, self.owner, self.epoch, self.frame_no + 1, now_ms, {}, [], [], [], [])
        return self.step

    # ── nodes ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def mount(self, leaf: LeafNode) -> None:
        """Note a leaf that has not been seen before as pending."""
        key = leaf.key
        self.nodes[key] = NodeState.PENDING
        self.step.nodes[key] = self._full_change(leaf, "pending")
        self.step.events.append(EventDraft("NodePending", key[0], key[1]))

    def move(self, leaf: LeafNode, to: NodeState, *, attempt: int | None = None, output: int | None = None) -> None:
        """Change a node's state. Raises `SchedulerError` for a change that the transition table does not know."""
        if leaf.key not in self.nodes:
            self.mount(leaf)
        self.move_key(leaf.key, to, attempt=attempt, output=output)

    def move_key(self, key: Key, to: NodeState, *, attempt: int | None = None, output: int | None = None) -> None:
        """Change the state of a node that has been seen before, mounted or not; raises as `move` does."""
        before = self.nodes[key]
        if not may_follow(before, to):
            raise SchedulerError(f"node {key[0]!r} cannot go from {before} to {to}")
        self.nodes[key] = to
        if to is NodeState.IN_PROGRESS or to in WAITING:
            self.live.add(key)
        else:
            self.live.discard(key)
        old = self.step.nodes.get(key)
        if old is None:
            self.step.nodes[key] = NodeChange(key[0], key[1], to, attempt, None, None, None, output)
        else:
            last = old.last_attempt if attempt is None else attempt
            output = old.output if output is None else output
            self.step.nodes[key] = NodeChange(
                key[0], key[1], to, last, old.output_table, old.label, old.loop_id, output
            )

    def failures_ever(self, key: Key) -> int:
        """How many attempts of a node have failed, also those that do not count any more."""
        return self.failed.get(key, 0) + self.forgiven.get(key, 0)

    def forgive(self, key: Key) -> None:
        """Give a node all its retries again, durably."""
        if count := self.failures_ever(key):
            self.failed.pop(key, None)
            self.forgiven[key] = count
            self.config["forgivenAttempts"] = {state_key(k): n for k, n in self.forgiven.items()}
            self.row("config", to_json(self.config, fallback=str).decode(), self.run_id)

    def _full_change(self, leaf: LeafNode, state: str) -> NodeChange:
        loop = leaf.innermost_loop
        return NodeChange(
            leaf.key[0],
            leaf.key[1],
            state,
            None,
            None if leaf.output is None else self.table(leaf).name,
            leaf.element.label,
            None if loop is None else loop.id,
        )

    # ── outputs ────────────────────────────────────────────────────────────────────────────────────────────────────

    def table(self, leaf: LeafNode) -> TableDef:
        """The table that a leaf's output goes to."""
        assert leaf.output is not None
        found = self._tables.get(leaf.output.key)
        if found is None or found.model is not leaf.output.model:
            found = self._tables[leaf.output.key] = table_def(leaf.output.key, leaf.output.model)
        return found

    def take_code(self, workflow: SmithersWorkflow, newer: dict[type[BaseModel], TableDef], generation: int) -> None:
        """Go on with another workflow: the same one, changed.

        Args:
            newer: where the rows of what is under way go, by the models that it began with.
        """
        self.workflow, self.generation = workflow, generation
        self._newer = newer
        self._tables.clear()

    def write_output(self, leaf: LeafNode, row: BaseModel, values: tuple[SqlValue, ...]) -> int:
        """Add an output to the step and to what renders see. Returns its index within the step.

        Raises `InvalidOutput` if the row was made by code that has changed meanwhile, and does not fit the new model.
        """
        assert leaf.output is not None
        table = self.table(leaf)
        if self._newer and (newer := self._newer.get(leaf.output.model)) is not None:
            row = table.translate(row, newer)
            table, values = newer, newer.encode(row)
        index = len(self.step.outputs)
        self.step.outputs.append(OutputWrite(table, leaf.key[0], leaf.key[1], values))
        self.data.add_output(leaf.output.key, OutputRow(row, leaf.key[0], leaf.key[1], self.next_output_seq + index))
        return index

    def renumber_outputs(self, step: Step, first: int) -> None:
        """Correct the numbers that were foreseen for a step's outputs, when somebody's signal came in between."""
        if first != self.next_output_seq:
            for index, write in enumerate(step.outputs):
                old = self.data.by_key[(write.node_id, write.iteration)]
                row = OutputRow(old.payload, old.node_id, old.iteration, first + index)
                self.data.by_key[(row.node_id, row.iteration)] = row
                self.data.rows[write.table.key][(row.node_id, row.iteration)] = row
        self.next_output_seq = first + len(step.outputs)

    # ── events, rows, timers ───────────────────────────────────────────────────────────────────────────────────────

    def tell(self, type: str, leaf: LeafNode | None = None, **fields: object) -> None:
        """Add an event to the step."""
        if leaf is None:
            self.step.events.append(event(type, **fields))
        else:
            self.tell_of(type, leaf.key, **fields)

    def tell_of(self, type: str, key: Key, **fields: object) -> None:
        """Add an event of a node to the step."""
        self.step.events.append(event(type, key[0], key[1], **fields))

    def row(self, statement: str, *parameters: SqlValue) -> None:
        """Add one of the rarer changes to the step."""
        self.step.rows.append((statement, parameters))

    def attempt(self, change: AttemptChange) -> None:
        """Add an attempt's change to the step."""
        self.step.attempts.append(change)

    def arm(self, key: Key, kind: str, due_at_ms: int) -> None:
        """Wait for a moment, durably."""
        self.timers[(key, kind)] = due_at_ms
        heappush(self._timer_heap, (due_at_ms, (key, kind)))
        self.row("timer", self.run_id, key[0], key[1], kind, due_at_ms)

    def restore_timer(self, key: Key, kind: str, due_at_ms: int) -> None:
        """Take over a stored timer."""
        self.timers[(key, kind)] = due_at_ms
        heappush(self._timer_heap, (due_at_ms, (key, kind)))

    def disarm(self, key: Key, kind: str) -> None:
        """Do not wait for that moment any more."""
        if self.timers.pop((key, kind), None) is not None:
            self.row("timer_done", self.run_id, key[0], key[1], kind)

    def due(self, now_ms: int) -> list[tuple[TimerKey, int]]:
        """The timers whose moment has come, with that moment, earliest first; they are disarmed, but for deadlines."""
        found: list[tuple[TimerKey, int]] = []
        heap = self._timer_heap
        while heap and heap[0][0] <= now_ms:
            moment, key = heappop(heap)
            if self.timers.get(key) == moment:
                if key[1] != "deadline":  # it stands until the subflow ends, whoever goes on with the run meanwhile
                    self.disarm(*key)
                found.append((key, moment))
        return found

    def timeouts_due(self, now_ms: int) -> list[Key]:
        """Where somebody's patience has run out."""
        heap = self._timer_heap
        if not heap or heap[0][0] > now_ms:
            return []
        return [key for (key, kind), moment in self.timers.items() if kind == "timeout" and moment <= now_ms]

    def next_due(self) -> int | None:
        """The earliest moment that this run waits for."""
        heap = self._timer_heap
        while heap and self.timers.get(heap[0][1]) != heap[0][0]:
            heappop(heap)
        return heap[0][0] if heap else None

    # ── signals ────────────────────────────────────────────────────────────────────────────────────────────────────

    def untaken_signals(self) -> frozenset[int]:
        """The numbers of the signals that no wait has taken."""
        taken = self.consumed
        return frozenset(
            row.seq for row in self.data.signals if row.seq > taken.get((row.signal_name, row.correlation_id), -1)
        )

    # ── failures ───────────────────────────────────────────────────────────────────────────────────────────────────

    def failures(self, plan: Plan, keys: Iterable[Key]) -> dict[Key, Failure]:
        """Failed nodes as the scheduler takes them, tied to a plan's leaves."""
        found: dict[Key, Failure] = {}
        for key in keys:
            leaf = plan.leaves.get(key)
            if leaf is not None:
                found[key] = failure_of(leaf, self.errors.get(key))
        return found


def failure_of(leaf: LeafNode, error: dict[str, object] | None) -> Failure:
    """A leaf's failure from its error object."""
    code = str((error or {}).get("code") or (error or {}).get("name") or "INTERNAL_ERROR")
    summary = str((error or {}).get("summary") or (error or {}).get("message") or "failed")
    return Failure(code, summary, leaf)
