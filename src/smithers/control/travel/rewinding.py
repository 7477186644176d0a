"""Rewinding: a run goes back to a frame, for good. What came after is gone, but for the event log."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from smithers.components.workflow import SmithersWorkflow
from smithers.control.caller import Caller
from smithers.control.control import Control
from smithers.control.travel import effects
from smithers.control.travel.audit import Hold, holding, name_of, require_owner
from smithers.control.travel.effects import EffectBoundaryReport
from smithers.errors import ConfirmationRequired, FrameOutOfRange, RewindFailed, RunNotResumable, SmithersError
from smithers.store.interface import RunRow
from smithers.store.sql import audit, family, lineage, reads, travel
from smithers.store.sql.session import Session

log = logging.getLogger(__name__)


class Restore(Protocol):
    """Puts working folders back to what they were; how many sandboxes and folders it has put back. Raises `VcsError`."""

    async def check(self, run_id: str, frame_no: int, attempt: tuple[str, int, int] | None = None, /) -> None:
        """Look whether that can be done. Raises as the call would, which comes after effects were undone."""
        ...

    async def __call__(self, run_id: str, frame_no: int, attempt: tuple[str, int, int] | None = None, /) -> int:
        """To right after a frame, or to before an attempt (node, iteration, attempt) began."""
        ...


Stop = Callable[[str], Awaitable[None]]
"""Has this process let go of a run that it may be driving: an engine's `drop`."""


@dataclass(frozen=True, slots=True)
class Rewound:
    """What a rewind has done."""

    run_id: str
    from_frame_no: int
    new_frame_no: int
    reverted_sandboxes: int
    deleted_frames: int
    deleted_attempts: int
    invalidated_diffs: int
    duration_ms: int
    effects: EffectBoundaryReport

    def wire(self) -> dict[str, object]:
        """As it is sent."""
        return {
            "ok": True,
            "newFrameNo": self.new_frame_no,
            "revertedSandboxes": self.reverted_sandboxes,
            "deletedFrames": self.deleted_frames,
            "deletedAttempts": self.deleted_attempts,
            "invalidatedDiffs": self.invalidated_diffs,
            "durationMs": self.duration_ms,
            "effectBoundary": self.effects.wire(),
        }


@dataclass(frozen=True, slots=True)
class Way:
    """How a run is to be taken back, beside where to; see `rewind`."""

    caller: Caller
    force: bool = False
    no_revert: bool = False
    workflow: SmithersWorkflow | None = None
    restore: Restore | None = None
    stop: Stop | None = None


async def rewind(
    control: Control,
    run_id: str,
    frame_no: int,
    *,
    caller: Caller,
    confirm: bool,
    force: bool = False,
    no_revert: bool = False,
    workflow: SmithersWorkflow | None = None,
    restore: Restore | None = None,
    stop: Stop | None = None,
) -> Rewound:
    """Take a run back to right after a frame (0: before the first). The run is `running` then, without an owner, and a
    wake-up is left: a host goes on with it, or the caller resumes it.

    Args:
        confirm: must be true.
        force: go on although effects stand outside.
        no_revert: undo no effects.
        workflow: where tasks' `revert` functions are looked for.
        restore: puts working folders back; called before history changes.
        stop: has this process let go of the run.

    Raises:
        ConfirmationRequired, RunNotFound, NotRunOwner, FrameOutOfRange, RunNotResumable, TravelRateLimited, TravelBusy,
        SideEffectBlocked, VcsError, RewindFailed.
    """
    if confirm is not True:
        raise ConfirmationRequired(f"a rewind deletes what run {run_id!r} did after frame {frame_no}; confirm it")
    way = Way(caller, force, no_revert, workflow, restore, stop)
    began = control.clock.now_ms()
    by = name_of(caller)
    row, (_, config_json), top = await control.store.aread(
        lambda c: (reads.run(c, run_id), reads.spec(c, run_id), lineage.driven_by(c, run_id))
    )
    record: int | None = None
    try:
        require_owner(caller, run_id, config_json)
        _require_frame(row, frame_no)
        lineage.require_driven(run_id, top)
        async with holding(control, run_id) as hold:
            record = await control.store.awrite(
                lambda c: audit.begin(c, run_id, row.frame_no, frame_no, by, control.clock.now_ms())
            )
            return await _rewind(control, row, frame_no, way, hold, record, began)
    except SmithersError:
        if record is None:
            now = control.clock.now_ms()
            await control.store.awrite(
                lambda c: audit.note(c, run_id, audit.REFUSED, frame_no, by, now, "failed", max(0, now - began))
            )
        raise


def _require_frame(run: RunRow, frame_no: int) -> None:
    if run.status == "continued":
        raise RunNotResumable(f"run {run.run_id!r} was continued as another run", {"runId": run.run_id})
    if not run.frame_no or not 0 <= frame_no <= run.frame_no:
        raise FrameOutOfRange(
            f"run {run.run_id!r} has no frame {frame_no}; its newest is {run.frame_no}",
            {"runId": run.run_id, "frameNo": frame_no, "latestFrameNo": run.frame_no},
        )


async def _rewind(
    control: Control, row: RunRow, frame_no: int, way: Way, hold: Hold, record: int, began: int
) -> Rewound:
    found = EffectBoundaryReport()
    try:
        found = await _clear_the_way(control, row, frame_no, way, hold)
        restored = 0 if way.restore is None else await way.restore(row.run_id, frame_no)

        def job(c: Session) -> travel.Rewinding:
            now = control.clock.now_ms()
            done = travel.rewind(
                c, row.run_id, frame_no, token=hold.token, op_id=hold.token, caller=name_of(way.caller), now_ms=now
            )
            audit.close(c, record, "success", max(0, now - began))
            return done

        done = await control.store.awrite(job)
    except BaseException as error:
        await _failed(control, record, began, is_partial=bool(found.revertible))
        if isinstance(error, SmithersError) or not isinstance(error, Exception):
            raise
        log.exception("a rewind broke off", extra={"run_id": row.run_id})
        raise RewindFailed(
            f"the rewind broke off with {type(error).__name__}; the run's history is as it was",
            {"runId": row.run_id, "needsAttention": bool(found.revertible)},
        ) from error
    hold.halted = False  # the rewind itself has left a wake-up
    return Rewound(
        run_id=row.run_id,
        from_frame_no=done.from_frame,
        new_frame_no=frame_no,
        reverted_sandboxes=restored,
        deleted_frames=done.deleted_frames,
        deleted_attempts=done.deleted_attempts,
        invalidated_diffs=done.invalidated_diffs,
        duration_ms=max(0, control.clock.now_ms() - began),
        effects=found,
    )


async def _failed(control: Control, record: int, began: int, *, is_partial: bool) -> None:
    took = max(0, control.clock.now_ms() - began)
    await control.store.awrite(lambda c: audit.close(c, record, "partial" if is_partial else "failed", took))


async def _clear_the_way(control: Control, row: RunRow, frame_no: int, way: Way, hold: Hold) -> EffectBoundaryReport:
    """Stop a run that is held, and those below it that go back with it, and undo what can be undone of their effects. Runs
    whose effects block, or whose files cannot be put back, are not even stopped.

    Raises `SideEffectBlocked` or `VcsError`.
    """
    gone = await control.store.aread(lambda c: family.below(c, row.run_id, frame_no))
    places: list[Place] = [(each.run_id, each.frame_no or 0, None) for each in reversed(gone)]
    places.append((row.run_id, frame_no, None))
    await require_open(control, places, way, hold, "rewind")
    if way.restore is not None and row.status == "running":
        await way.restore.check(row.run_id, frame_no)
    hold.halted = row.status == "running"
    for run_id, _, _ in places:
        await _halt(control, run_id, way)
    if way.restore is not None:
        await way.restore.check(row.run_id, frame_no)
    return await cross_all(control, places, way, hold, "rewind")


Place = tuple[str, int, frozenset[tuple[str, int]] | None]
"""A run, a frame, and nodes: what effects count, as `effects.cross` takes it. The run that is asked about comes last."""


async def require_open(control: Control, places: Sequence[Place], way: Way, hold: Hold, operation: str) -> None:
    """Raises `SideEffectBlocked` if effects block, before anything is done about any."""
    for run_id, after, nodes in places:
        workflow = way.workflow if run_id == hold.run_id else None
        found = await effects.report(
            control, run_id, after, nodes, operation=operation, no_revert=way.no_revert, workflow=workflow
        )
        if found.blocking and not way.force:
            await cross_all(control, [(run_id, after, nodes)], way, hold, operation)


async def cross_all(
    control: Control, places: Sequence[Place], way: Way, hold: Hold, operation: str
) -> EffectBoundaryReport:
    """Undo what can be undone, in one run after the other. What was found in all. Raises `SideEffectBlocked`."""
    crossed = EffectBoundaryReport()
    for run_id, after, nodes in places:
        found = await effects.cross(
            control,
            run_id,
            after,
            nodes,
            operation=operation,
            op_id=hold.token,
            force=way.force,
            no_revert=way.no_revert,
            caller=way.caller,
            workflow=way.workflow if run_id == hold.run_id else None,
        )
        crossed = EffectBoundaryReport(
            crossed.blocking + found.blocking, crossed.revertible + found.revertible, crossed.warnings + found.warnings
        )
    return crossed


async def _halt(control: Control, run_id: str, way: Way) -> None:
    await control.store.awrite(lambda c: travel.halt(c, run_id))
    if way.stop is not None:
        await way.stop(run_id)
