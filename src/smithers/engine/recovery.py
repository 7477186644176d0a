"""Recovery: from the rows of a stored run back to its state in memory, and the first step after that.

Nothing is replayed: finished nodes are finished because their rows say so. Attempts that were under way belonged to an
owner that is gone; they are closed as `owner-lost`, cost no retry, and their nodes are pending again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from pydantic import BaseModel
from pydantic_core import from_json

from smithers.components.rundata import OutputRow, RunData, SignalRow
from smithers.components.scope import LoopState, state_key
from smithers.components.workflow import SmithersWorkflow
from smithers.engine.state import RunState
from smithers.errors import InvalidOutput
from smithers.events import event
from smithers.graph.plan import Plan
from smithers.jsons import int_of, list_of, object_of
from smithers.scheduler.states import WAITING, NodeState
from smithers.store.columns import TableDef
from smithers.store.interface import AttemptChange, LoadedRun, NodeChange, NodeRow, OutputWrite

OWNER_LOST = '{"name":"TaskAborted","code":"TASK_ABORTED","message":"owner-lost","summary":"owner-lost"}'


def restore(
    loaded: LoadedRun, workflow: SmithersWorkflow, tables: Sequence[TableDef], owner: str, epoch: int
) -> RunState:
    """A run as its next owner has it in memory."""
    run = loaded.run
    config: dict[str, object] = from_json(loaded.config_json)
    continuation = object_of(config.get("continuation"))
    data = RunData(
        run.run_id,
        input=workflow.load_input(loaded.input_json),
        auth=config.get("auth"),
        continuation=continuation.get("payload"),
        is_fresh=run.frame_no == 0,
    )
    state = RunState(run.run_id, workflow, data, owner, epoch)
    state.input_json, state.config = loaded.input_json, config
    state.workflow_path, state.workflow_hash = run.workflow_path, run.workflow_hash
    state.frame_no, state.next_output_seq = run.frame_no, run.next_output_seq
    state.name = run.workflow_name if run.frame_no else ""
    state.last_wakeup = loaded.last_wakeup
    data.patches = {patch: bool(side) for patch, side in object_of(config.get("workflowPatches")).items()}
    _restore_nodes(state, loaded)
    restore_outputs(state, loaded, tables)
    for loop in loaded.loops:
        data.loops[loop.ralph_id] = LoopState(loop.iteration, bool(loop.done))
    for loop_id, stored in object_of(continuation.get("loops")).items():  # where loops began that have not moved since
        iteration, done = list_of(stored)
        data.loops.setdefault(loop_id, LoopState(int_of(iteration) or 0, bool(done)))
    for signal in loaded.signals:
        payload = from_json(signal.payload_json)
        row = SignalRow(payload, signal.signal_name, signal.correlation_id, signal.seq, signal.received_at_ms)
        data.add_signal(row)
        state.last_signal = max(state.last_signal, signal.seq)
    by_seq = {s.seq: s for s in data.signals}
    for seq in loaded.consumed.values():
        taken = by_seq.get(seq)
        if taken is not None:
            where = (taken.signal_name, taken.correlation_id)
            state.consumed[where] = max(seq, state.consumed.get(where, -1))
    for timer in loaded.timers:
        key = (timer.node_id, timer.iteration)
        state.restore_timer(key, timer.kind, timer.due_at_ms)
        if timer.kind == "retry":
            state.held.add(key)
    state.gates = {(a.node_id, a.iteration): a for a in loaded.approvals}
    data.touched = set()
    return state


def _restore_nodes(state: RunState, loaded: LoadedRun) -> None:
    for node in loaded.nodes:
        key = (node.node_id, node.iteration)
        state.nodes[key] = found = NodeState(node.state)
        if node.last_attempt is not None:
            state.attempts[key] = node.last_attempt
        if found is NodeState.IN_PROGRESS or found in WAITING:
            state.live.add(key)
        state.data.remember_home(node.node_id, node.loop_id)
    forgiven = object_of(state.config.get("forgivenAttempts"))
    for key, count in loaded.failures.items():
        state.forgiven[key] = earlier = int_of(forgiven.get(state_key(key))) or 0
        state.failed[key] = max(0, count - earlier)
    for key, text in loaded.errors.items():
        if state.nodes.get(key) is NodeState.FAILED:
            state.errors[key] = from_json(text)
    state.checkpoints = {key: from_json(text) for key, text in loaded.checkpoints.items()}
    state.guarded = {key: {call.call_token: call for call in calls} for key, calls in loaded.unsafe_calls.items()}


def missing_tables(state: RunState, loaded: LoadedRun) -> set[str]:
    """Names of the tables in which a run has rows that were not restored: they are of workflows that are mounted in it."""
    known = state.data.by_key
    written = (n for n in loaded.nodes if n.output_seq is not None and (n.node_id, n.iteration) not in known)
    return {node.output_table for node in written if node.output_table}


def restore_outputs(state: RunState, loaded: LoadedRun, tables: Sequence[TableDef], *, is_strict: bool = False) -> None:
    """The run's rows in these tables, as renders see them, but for those that they see already.

    Args:
        is_strict: also raise `InvalidOutput` for a row that may be of a workflow that is mounted in the run's own.
    """
    seqs = {(n.node_id, n.iteration): n.output_seq for n in loaded.nodes}
    by_key = {table.key: table for table in tables}
    rows: list[tuple[int, str, OutputRow]] = []
    for key, stored in loaded.outputs.items():
        table = by_key[key]
        for values in stored:
            node_id, iteration = str(values[1]), int(values[2] or 0)
            seq = seqs.get((node_id, iteration))
            if seq is None or (node_id, iteration) in state.data.by_key:
                continue  # a row of a node that this run does not know: not ours to show
            try:
                payload: BaseModel = table.decode(values[3:])
            except InvalidOutput:
                if is_strict or "/" not in node_id:
                    raise
                continue
            rows.append((seq, key, OutputRow(payload, node_id, iteration, seq)))
    rows.sort(key=lambda r: r[0])
    for _, key, row in rows:
        state.data.add_output(key, row)


def close_lost_attempts(state: RunState, loaded: LoadedRun) -> None:
    """Write into the first step that the former owner's attempts are over."""
    step = state.step
    for attempt in loaded.open_attempts:
        key = (attempt.node_id, attempt.iteration)
        if state.nodes.get(key) is not NodeState.IN_PROGRESS:
            continue
        state.attempt(AttemptChange(*key, attempt.attempt, "cancelled", attempt.started_at_ms, step.now_ms, OWNER_LOST))
        step.events.append(event("NodeCancelled", *key, attempt=attempt.attempt, reason="owner-lost"))
    for key in [k for k in state.live if state.nodes[k] is NodeState.IN_PROGRESS]:
        state.nodes[key] = NodeState.PENDING
        state.live.discard(key)
        step.nodes[key] = NodeChange(key[0], key[1], "pending")
        step.events.append(event("NodePending", *key))


def reopen(state: RunState) -> None:
    """Write into the first step that what ended with the run (cancelled nodes) may run again."""
    step = state.step
    for key, found in state.nodes.items():
        if found is NodeState.CANCELLED:
            state.nodes[key] = NodeState.PENDING
            state.gates.pop(key, None)
            step.nodes[key] = NodeChange(key[0], key[1], "pending")
            step.events.append(event("NodePending", *key))


def retry_failed(state: RunState, plan: Plan) -> None:
    """Write into the step that the tasks which the run failed with may be tried again, with all their retries.

    Failures that were tolerated, or that a saga or try has handled, stand.
    """
    for key in list(state.errors):
        leaf = plan.leaves.get(key)
        if leaf is None or state.nodes.get(key) is not NodeState.FAILED or leaf.region is not plan.region:
            continue
        if not (leaf.element.continue_on_fail or leaf.is_quarantined):
            state.move(leaf, NodeState.PENDING)
            state.tell("NodePending", leaf)
            state.forgive(key)
            state.gates.pop(key, None)
            del state.errors[key]


class Carried(NamedTuple):
    """What a continued run brings along: the run before, with the rows of these tables."""

    before: LoadedRun
    tables: list[TableDef]


def is_in_loop(state: RunState) -> bool:
    """Whether a continued run goes on in the middle of a loop."""
    return object_of(state.config.get("continuation")).get("reason") == "loop-threshold"


def carry(state: RunState, carried: Carried) -> None:
    """Write into the first step the finished nodes and rows that a continued run brings along.

    A run that goes on in the middle of a loop also brings what has ended without a row: timers, and what was skipped.
    """
    before, tables = carried.before, {table.key: table for table in carried.tables}
    seqs = {(n.node_id, n.iteration): n for n in before.nodes if n.output_seq is not None}
    rows = [(key, values) for key, stored in before.outputs.items() for values in stored]
    rows.sort(key=lambda r: _seq(seqs.get((str(r[1][1]), int(r[1][2] or 0)))))
    for key, values in rows:
        node = seqs.get((str(values[1]), int(values[2] or 0)))
        if node is None:
            continue
        table, place = tables[key], (node.node_id, node.iteration)
        index = len(state.step.outputs)
        state.step.outputs.append(OutputWrite(table, *place, values[3:]))
        state.step.nodes[place] = NodeChange(
            *place, "finished", None, node.output_table, node.label, node.loop_id, index
        )
        state.step.events += [event("NodePending", *place), event("NodeFinished", *place, attempt=0)]
        state.nodes[place] = NodeState.FINISHED
        state.data.remember_home(node.node_id, node.loop_id)
        state.data.add_output(key, OutputRow(table.decode(values[3:]), *place, state.next_output_seq + index))
    if is_in_loop(state):
        _carry_rowless(state, before)


def _carry_rowless(state: RunState, before: LoadedRun) -> None:
    told = {NodeState.FINISHED: "NodeFinished", NodeState.SKIPPED: "NodeSkipped"}
    for node in before.nodes:
        place, ended = (node.node_id, node.iteration), NodeState(node.state)
        loop = None if node.loop_id is None else state.data.loops.get(node.loop_id)
        if place in state.nodes or ended not in told or (loop is not None and node.iteration < loop.iteration):
            continue
        if ended is NodeState.FINISHED and node.output_seq is not None:
            continue  # its row was not to be carried
        state.step.nodes[place] = NodeChange(*place, ended, None, node.output_table, node.label, node.loop_id)
        state.step.events.append(event("NodePending", *place))
        details = {"attempt": 0} if ended is NodeState.FINISHED else {}
        state.step.events.append(event(told[ended], *place, **details))
        state.nodes[place] = ended
        state.data.remember_home(node.node_id, node.loop_id)


def _seq(node: NodeRow | None) -> int:
    return -1 if node is None or node.output_seq is None else node.output_seq
