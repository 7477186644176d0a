"""Preview: what a workflow's tree would be, or is for a stored run, without running anything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from smithers.components.rundata import RunData
from smithers.components.workflow import SmithersWorkflow
from smithers.engine.frames import render_tree
from smithers.graph.extract import extract
from smithers.graph.plan import Plan
from smithers.graph.tree import TreeNode

if TYPE_CHECKING:
    from smithers.store.sql.store import SqlStore


@dataclass(frozen=True, slots=True)
class Preview:
    """A rendered workflow: its canonical tree, and the plan that the engine would go by."""

    tree: TreeNode
    plan: Plan


def preview(workflow: SmithersWorkflow, input: object = None) -> Preview:
    """Render a workflow once, as its first step would. Raises `InvalidInput` or an authoring error."""
    value, _ = workflow.parse_input(input)
    return _render(workflow, RunData("preview", input=value))


async def preview_run(store: SqlStore, run_id: str, workflow: SmithersWorkflow) -> Preview:
    """Render a workflow from what is stored of a run. Raises `RunNotFound` or an authoring error."""
    from smithers.engine.recovery import restore
    from smithers.store.columns import table_def

    tables = [table_def(key, output.model) for key, output in workflow.outputs.items()]
    await store.ensure_tables(tables)
    loaded = await store.load(run_id, tables)
    return _render(workflow, restore(loaded, workflow, tables, "preview", loaded.run.epoch).data)


def _render(workflow: SmithersWorkflow, data: RunData) -> Preview:
    tree, ctx = workflow.render(data)
    plan = extract(tree, ctx, data, workflow.outputs)
    return Preview(render_tree(tree, plan), plan)
