"""Lineage: a run and the runs of its subflows, whatever those were continued as. What is asked of one reaches all.

Runs that merely name another as their parent are not of its lineage: nobody waits for them.
"""

from __future__ import annotations

from smithers.errors import RunNotFound, RunNotResumable
from smithers.store.interface import ApprovalRow, HumanRow, RunRow
from smithers.store.sql import reads
from smithers.store.sql.locks import lock_run
from smithers.store.sql.session import Session

MAX_CHILDREN = 10_000
ENDED = ("finished", "failed", "cancelled")
TERMINAL = (*ENDED, "continued")


def is_child(run_id: str, parent_run_id: str | None) -> bool:
    """Whether a run is that of a subflow of its parent."""
    return parent_run_id is not None and run_id.startswith(f"{parent_run_id}:child:")


def driven_by(connection: Session, run_id: str) -> RunRow:
    """The run that has to be driven for a run to go on: for that of a subflow the outermost above it, for others itself.
    Raises `RunNotFound`."""
    at = top = reads.run(connection, run_id)
    while at.parent_run_id is not None:
        try:
            above = reads.run(connection, at.parent_run_id)
        except RunNotFound:  # only named, not stored here
            break
        if is_child(at.run_id, above.run_id):
            top = above
        elif above.status != "continued":
            break
        at = above
    return top


def require_driven(run_id: str, top: RunRow) -> None:
    """Raises `RunNotResumable` if a run is that of a subflow, and what `driven_by` says goes on with it is over for good."""
    if top.run_id != run_id and top.status in ("finished", "continued"):
        raise RunNotResumable(
            f"run {run_id!r} is that of a subflow of run {top.run_id!r}, which alone can go on with it and is {top.status}; "
            f"take that back, or have its step done again",
            {"runId": run_id, "topRunId": top.run_id, "status": top.status},
        )


def descendants(connection: Session, run_id: str, *, is_locking: bool = False) -> list[RunRow]:
    """The runs below a run that have not ended; parents before their children. With `is_locking`, in a write job, they
    stay as they are, and no run is launched below them, until it is committed."""
    found: list[RunRow] = []
    todo = [reads.run(connection, run_id)]
    while todo:
        above = todo.pop()
        if is_locking:
            lock_run(connection, above.run_id)
            above = reads.run(connection, above.run_id)
        if above.run_id != run_id and above.status not in TERMINAL:
            found.append(above)
        heir = reads.successor(connection, above.run_id) if above.status == "continued" else None
        for run in reads.runs(connection, (), MAX_CHILDREN, parent=above.run_id):
            if run.status not in ENDED and (run.run_id == heir or is_child(run.run_id, above.run_id)):
                todo.append(run)
    return found


def asked(connection: Session, run_id: str) -> list[ApprovalRow | HumanRow]:
    """What people are asked and have not answered: by the run itself, else by the runs below it. Oldest first."""
    found = _asked_by(connection, run_id)
    if not found:
        for run in descendants(connection, run_id):
            found += _asked_by(connection, run.run_id)
    return sorted(found, key=lambda row: row.requested_at_ms)


def _asked_by(connection: Session, run_id: str) -> list[ApprovalRow | HumanRow]:
    return [*reads.approvals(connection, run_id), *reads.human_requests(connection, run_id)]
