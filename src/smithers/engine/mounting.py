"""Mounting: the tables of workflows that are mounted in another one (`Subflow(mode="inline")`) and have outputs of their own.

Which they are is known only once the outer workflow is rendered, so they are made, and read after a takeover, then.
"""

from __future__ import annotations

from collections.abc import Sequence

from smithers.components.workflow import SmithersWorkflow
from smithers.engine.generations import tried
from smithers.engine.recovery import missing_tables, restore_outputs
from smithers.engine.state import RunState
from smithers.graph.plan import Plan
from smithers.store.columns import TableDef, table_def
from smithers.store.interface import LoadedRun
from smithers.store.sql.store import SqlStore


def mounted_tables(plan: Plan, workflow: SmithersWorkflow) -> list[TableDef]:
    """The tables that a plan's leaves write to beside those of the workflow."""
    if not plan.has_mounted:
        return []
    used = {leaf.output: None for leaf in plan.leaves.values() if leaf.output is not None}
    own = set(workflow.outputs.values())
    return [table_def(output.key, output.model) for output in used if output not in own]


async def restore_mounted(
    store: SqlStore, state: RunState, loaded: LoadedRun, own: Sequence[TableDef]
) -> list[TableDef]:
    """Read the rows of a run that are not the workflow's own. Each render may mount more workflows, once it sees the rows of
    some. Returns the tables that there are beside its own. Raises `StorageError`, or `InvalidOutput` for a row that fits no
    model."""
    mounted: list[TableDef] = []
    while missing := missing_tables(state, loaded):
        try:
            plan = tried(state.data, state.data.rows, state.workflow, state.input_json)
        except Exception:  # the run's own first render tells of it
            break
        tables = mounted_tables(plan, state.workflow)
        found = [table for table in tables if table.name in missing and table not in mounted]
        if not found:
            break
        await store.ensure_tables(found)
        restore_outputs(state, await store.load(state.run_id, found), found)
        mounted += found
    if missing:
        restore_outputs(state, loaded, own, is_strict=True)
    state.data.touched = set()
    return mounted
