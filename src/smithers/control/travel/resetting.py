"""Resetting: a node of a run is done again, with what was built upon it. The rest of the run stays."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace

from smithers.components.workflow import SmithersWorkflow
from smithers.control.caller import Caller
from smithers.control.control import Control
from smithers.control.travel.audit import holding
from smithers.control.travel.effects import EffectBoundaryReport
from smithers.control.travel.rewinding import Place, Restore, Way, cross_all, require_open
from smithers.engine import leases
from smithers.store.interface import RunRow
from smithers.store.sql import family, lineage, reads, resets
from smithers.store.sql.resets import Reset

PATIENCE_S = 1.0
"""How long to wait for a run that is just ending."""


@dataclass(frozen=True, slots=True)
class NodeReset:
    """What a reset has done; `reset_nodes` as `node_id::iteration`."""

    run_id: str
    node_id: str
    iteration: int
    reset_nodes: tuple[str, ...]
    effects: EffectBoundaryReport
    is_restored: bool = False

    def wire(self) -> dict[str, object]:
        """As it is sent."""
        return {
            "runId": self.run_id,
            "nodeId": self.node_id,
            "iteration": self.iteration,
            "resetNodes": list(self.reset_nodes),
            "status": "retry_requested",
        }


async def retry_task(
    control: Control,
    run_id: str,
    node_id: str,
    iteration: int = 0,
    *,
    caller: Caller,
    reset_dependents: bool = True,
    force: bool = False,
    no_revert: bool = False,
    workflow: SmithersWorkflow | None = None,
) -> NodeReset:
    """Have a node done again, with all its retries, and everything that was started after it had ended. Works on runs that
    have ended too: the run is `running` then, without an owner, and a wake-up is left.

    Args:
        reset_dependents: also what was started later; without it only the node, and what was cancelled since.
        force: go on although effects of these nodes stand outside.
        no_revert: undo no effects.
        workflow: where tasks' `revert` functions are looked for.

    Raises:
        RunNotFound, NodeNotFound, RunActive (somebody drives it), RunNotResumable, TravelBusy, SideEffectBlocked,
        InvalidInput (alone, and its loop has gone on).
    """
    wanted = Reset(run_id, node_id, iteration, reset_dependents, "retry-task")
    return await _reset(control, wanted, Way(caller, force, no_revert, workflow))


async def timetravel(
    control: Control,
    run_id: str,
    node_id: str,
    iteration: int = 0,
    attempt: int | None = None,
    *,
    caller: Caller,
    reset_dependents: bool = True,
    force: bool = False,
    no_revert: bool = False,
    workflow: SmithersWorkflow | None = None,
    restore: Restore | None = None,
) -> NodeReset:
    """As `retry_task`, to before an attempt (the last by default) began: failures before it count, and working folders are
    put back by `restore`. Raises as `retry_task` does, and `AttemptNotFound`, `VcsError`."""
    wanted = Reset(run_id, node_id, iteration, reset_dependents, "timetravel")
    found, _ = await control.store.aread(lambda c: _attempt(c, wanted, attempt))
    wanted = replace(wanted, attempt=found)
    return await _reset(control, wanted, Way(caller, force, no_revert, workflow, restore))


def _attempt(connection: reads.Session, wanted: Reset, attempt: int | None) -> tuple[int, int]:
    resets.node_of(connection, wanted.run_id, wanted.key)
    row, frame = resets.attempt_of(connection, wanted.run_id, wanted.key, attempt)
    return row.attempt, frame


async def _reset(control: Control, wanted: Reset, way: Way) -> NodeReset:
    run_id = wanted.run_id
    await control.store.aread(lambda c: resets.node_of(c, run_id, wanted.key))
    lineage.require_driven(run_id, await control.store.aread(lambda c: lineage.driven_by(c, run_id)))
    row = await _halted(control, run_id)
    async with holding(control, run_id) as hold:
        resets.require_resettable(row, is_driven=_is_driven(control, row))
        keys = await control.store.aread(lambda c: resets.chosen(c, wanted))
        gone = await control.store.aread(lambda c: family.of_nodes(c, run_id, keys))
        places: list[Place] = [(each.run_id, 0, None) for each in reversed(gone)]
        places.append((run_id, row.frame_no, frozenset(keys)))
        await require_open(control, places, way, hold, wanted.operation)
        began = 0
        if way.restore is not None and wanted.attempt is not None:
            _, began = await control.store.aread(lambda c: _attempt(c, wanted, wanted.attempt))
            await way.restore.check(run_id, max(0, began - 1), (*wanted.key, wanted.attempt))
        found = await cross_all(control, places, way, hold, wanted.operation)
        restored = 0
        if way.restore is not None and wanted.attempt is not None:
            restored = await way.restore(run_id, max(0, began - 1), (*wanted.key, wanted.attempt))

        def job(c: reads.Session) -> list[tuple[str, int]]:
            return resets.reset(
                c,
                wanted,
                token=hold.token,
                op_id=hold.token,
                now_ms=control.clock.now_ms(),
                is_driven=_is_driven(control, reads.run(c, run_id)),
                is_restored=restored > 0,
            )

        done = await control.store.awrite(job)
    listed = tuple(f"{node}::{number}" for node, number in done)
    return NodeReset(run_id, wanted.node_id, wanted.iteration, listed, found, restored > 0)


def _is_driven(control: Control, row: RunRow) -> bool:
    return row.status == "running" and not leases.may_take_over(row, control.clock.now_ms())


async def _halted(control: Control, run_id: str) -> RunRow:
    """The run, once nobody drives it, or as it is after a moment of patience."""
    row = await control.run(run_id)
    if not _is_driven(control, row):
        return row
    try:
        async with asyncio.timeout(PATIENCE_S):
            async for _ in control.changes():
                row = await control.run(run_id)
                if not _is_driven(control, row):
                    break
    except TimeoutError:
        pass
    return row
