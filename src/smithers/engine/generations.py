"""Generations: the code of a run that was loaded anew while the run goes on, and how the run takes it over.

What is finished stays: its rows become rows of the new models. What is under way ends on the code that it began with.
Watching and loading are in `reload`, what models may change in `compat`.
"""

from __future__ import annotations

import asyncio
from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel

from smithers.components.outputs import Outputs
from smithers.components.rundata import OutputRow, RunData
from smithers.components.scope import Key
from smithers.components.workflow import SmithersWorkflow
from smithers.engine.compat import table_problem
from smithers.errors import InvalidOutput, UnsafeReload
from smithers.graph.extract import extract
from smithers.graph.plan import Plan
from smithers.records import dataclass
from smithers.scheduler.states import NodeState
from smithers.store.columns import TableDef, table_def

if TYPE_CHECKING:
    from smithers.engine.driver import Driver

Rows = dict[str, dict[Key, OutputRow]]


@dataclass(frozen=True, slots=True)
class Generation:
    """Code of a workflow, as it was loaded at one moment.

    Attributes:
        number: 1 for the first that replaces the code which a process began with.
        hash: of the source that it was loaded from.
        changed: the files that differ from the generation before.
    """

    number: int
    workflow: SmithersWorkflow
    hash: str
    changed: tuple[str, ...]


@dataclass(slots=True, eq=False)
class Handover:
    """A generation on its way to a run. `answer` is None once that the run has it is durable, or why it is refused;
    cancelled if the run ended or parked before."""

    generation: Generation
    answer: asyncio.Future[Exception | None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def accept(self) -> None:
        """The step that brings it is committed. Does nothing after a refusal."""
        if not self.answer.done():
            self.answer.set_result(None)

    def give_up(self) -> None:
        """Nobody is there any more to take it."""
        self.answer.cancel()


def hand_over(driver: Driver, handover: Handover) -> None:
    """Give a run new code, in its current step, or say why not. The next render is of the new code; the driver accepts
    it once the step is durable: whoever was told so may count on any process going on with that code."""
    try:
        _take_over(driver, handover.generation)
    except Exception as error:  # authors' code may raise anything, and the run goes on without it
        handover.answer.set_result(error)


def _take_over(driver: Driver, generation: Generation) -> None:
    """Raises `UnsafeReload`, or what rendering the new code raises; then nothing has changed."""
    state, flow, new = driver.state, driver.flow, generation.workflow
    if not flow.is_rendered:
        flow.render()
    rows = carried_rows(state.data, state.workflow.outputs, new.outputs)
    plan = tried(state.data, rows, new, state.input_json)
    if plan.name != state.name:
        raise UnsafeReload(f"the workflow's name changed from {state.name!r} to {plan.name!r}")
    _carry_mounted(rows, plan)
    newer = _newer_tables(driver, plan, new.outputs)
    _begin_waits_anew(driver, plan)
    _put_rows(state.data, rows)
    state.data.input = new.load_input(state.input_json)
    new.__dict__["_named"] = state.name
    path = state.workflow_path
    if path is not None:
        new.__dict__.setdefault("_source_hashes", {})[Path(path)] = generation.hash
        state.workflow_hash = generation.hash
        state.row("source", generation.hash, path, state.run_id)
    state.take_code(new, newer, generation.number)
    flow.must_render()
    driver.engine.newest[state.run_id] = new
    state.tell("WorkflowReloaded", None, generation=generation.number, changedFiles=list(generation.changed))


def carried_rows(data: RunData, old: Outputs, new: Outputs) -> Rows:
    """A run's rows as rows of changed models. Raises `UnsafeReload` if one does not fit."""
    found: Rows = {}
    for key, rows in data.rows.items():
        if key not in old:  # of a workflow that is mounted in this one
            found[key] = dict(rows)
            continue
        mine = old[key].model
        if key in new:
            found[key] = {
                place: _carried(key, row, new[key].model) if type(row.payload) is mine else row
                for place, row in rows.items()
            }
        elif any(type(row.payload) is mine for row in rows.values()):
            raise UnsafeReload(f"output {key!r} was removed, and the run has rows in it")
    return found


def _carry_mounted(rows: Rows, plan: Plan) -> None:
    """Make the rows of workflows that are mounted in the new one rows of their new models; raises as `carried_rows`."""
    for key, table in rows.items():
        for place, row in table.items():
            leaf = plan.leaves.get(place)
            if leaf is not None and leaf.output is not None and leaf.output.key == key:
                table[place] = _carried(key, row, leaf.output.model)


def _carried(key: str, row: OutputRow, model: type[BaseModel]) -> OutputRow:
    if type(row.payload) is model:
        return row
    before, after = table_def(key, type(row.payload)), table_def(key, model)
    if problem := table_problem(before, after):
        raise UnsafeReload(f"output {key!r}: {problem}")
    try:
        return OutputRow(before.translate(row.payload, after), row.node_id, row.iteration, row.seq)
    except InvalidOutput as error:
        raise UnsafeReload(f"output {key!r}: a row of the run does not fit any more: {error.summary}") from error


def _newer_tables(driver: Driver, plan: Plan, outputs: Outputs) -> dict[type[BaseModel], TableDef]:
    """Where the rows of what is under way go, by the models that it began with."""
    found: dict[type[BaseModel], TableDef] = {}
    for key in driver.state.live:
        leaf, mine = driver.work.leaf_of(key, None), plan.leaves.get(key)
        if leaf is None or leaf.output is None:
            continue
        output = mine.output if mine is not None else None
        if output is None or output.key != leaf.output.key:
            output = outputs.get(leaf.output.key)
        if output is not None and output.model is not leaf.output.model:
            found[leaf.output.model] = table_def(output.key, output.model)
    return found


def tried(data: RunData, rows: Rows, workflow: SmithersWorkflow, input_json: str) -> Plan:
    """What code makes of a run with these rows; the run stays as it is. Raises what the code raises."""
    before, patches, input = data.rows, data.new_patches, data.input
    try:
        data.input = workflow.load_input(input_json)
        data.new_patches = dict(patches)
        _put_rows(data, rows)
        tree, ctx = workflow.render(data)
        with workflow.authoring(ctx):
            return extract(tree, ctx, data, workflow.outputs)
    finally:
        data.input, data.new_patches = input, patches
        _put_rows(data, before)


def _put_rows(data: RunData, rows: Rows) -> None:
    data.rows = rows
    data.by_key = {place: row for table in rows.values() for place, row in table.items()}


def _begin_waits_anew(driver: Driver, plan: Plan) -> None:
    """What waits for one thing and would wait for another, or for nothing, under the new plan has not begun there."""
    state, before = driver.state, driver.flow.plan
    for key in sorted(state.live):
        old, new = before.leaves.get(key), plan.leaves.get(key)
        if old is None or new is None or not state.nodes[key].is_waiting:
            continue
        if (old.kind, old.needs_gate) != (new.kind, new.needs_gate):
            driver.desk.abandon(key, "reloaded")
            state.move_key(key, NodeState.PENDING)
            state.tell_of("NodePending", key)
