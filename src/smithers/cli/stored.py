"""Stored: which workflow a stored run is made by, and which run has to be driven for it to go on.

The run of a subflow is made by a workflow that only its parent's code names, and goes on with its parent.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from smithers.errors import RunNotResumable, WorkflowLoadFailed
from smithers.store.sql import branching, lineage, reads

if TYPE_CHECKING:
    from smithers.components.workflow import SmithersWorkflow
    from smithers.control.control import Control
    from smithers.store.interface import RunRow
    from smithers.store.sql.session import Session


async def workflow_of(control: Control, run_id: str, file: Path | None = None) -> SmithersWorkflow:
    """The workflow of a run: of the file that it was started from, or of the given one.

    Raises `RunNotFound`, `RunNotResumable` or `WorkflowLoadFailed`.
    """
    row = await control.run(run_id)
    path = row.workflow_path if file is None else str(file)
    if path is None:
        raise RunNotResumable(
            f"run {run_id!r} was started from a workflow that is in no file; resume it from the program that has it",
            {"runId": run_id},
        )
    from smithers.engine.loading import load_workflow

    above = await control.store.aread(lambda c: _above(c, row))
    if above is None:
        return load_workflow(path)
    try:
        return load_workflow(path, name=row.workflow_name)
    except WorkflowLoadFailed as error:
        if above.workflow_path != row.workflow_path:  # a file that holds nothing but the subflow
            return load_workflow(path)
        raise RunNotResumable(
            f"run {run_id!r} is made by the subflow {row.workflow_name!r}, and {path} holds no function of that name; "
            "resume it from a program that has the workflow",
            {"runId": run_id, "workflowName": row.workflow_name},
        ) from error


def _above(c: Session, row: RunRow) -> RunRow | None:
    """The run whose subflow a run is, or what it was forked from."""
    while (branch := branching.branch_of(c, row.run_id)) is not None:
        row = reads.run(c, branch.parent_run_id)
    top = lineage.driven_by(c, row.run_id)
    return None if top.run_id == row.run_id else top


async def driven_by(control: Control, run_id: str) -> RunRow:
    """The run that has to be resumed for a run to go on. Raises `RunNotFound`."""
    return await control.store.aread(lambda c: lineage.driven_by(c, run_id))


async def require_top(control: Control, run_id: str) -> None:
    """Raises `RunNotResumable` for the run of a subflow, which goes on with another one."""
    top = await driven_by(control, run_id)
    if top.run_id != run_id:
        raise RunNotResumable(
            f"run {run_id!r} is that of a subflow, and goes on with run {top.run_id!r}, which is {top.status}; resume that",
            {"runId": run_id, "topRunId": top.run_id, "status": top.status},
        )
