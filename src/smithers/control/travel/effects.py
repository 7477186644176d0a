"""Effect guard: what tasks have done outside after a moment is judged, and undone where it can be, before history goes back
to that moment.

An effect is a journaled call with a side effect: of a tool, or a task's own (`SideEffect`). One that nothing has reverted
is *revertible* if its definition has a `revert` that is loaded here, a *warning* if it may be repeated, and else
*blocking*: then history stays as it is, unless the caller forces it, which is recorded. Effects are judged in `judging.py`,
the statements are in `store/sql/effects.py`, and changing history is the rest of this package's.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Final

from pydantic_core import from_json, to_json

from smithers.components.workflow import SmithersWorkflow
from smithers.control.caller import Caller
from smithers.control.control import Control
from smithers.control.travel.judging import FORK as FORK
from smithers.control.travel.judging import REPLAY as REPLAY
from smithers.control.travel.judging import Effect as Effect
from smithers.control.travel.judging import EffectBoundaryReport as EffectBoundaryReport
from smithers.control.travel.judging import Key, in_order, judged
from smithers.errors import InvalidInput, SideEffectBlocked, error_object
from smithers.events import EventDraft, event
from smithers.jsons import object_of
from smithers.store.calls import ToolCallRow
from smithers.store.sql import effects as rows
from smithers.tools.define import Revert, RevertContext

log = logging.getLogger(__name__)

REVERT_TIMEOUT_S: Final = 45.0
"""How long one `revert` may take, in seconds; after that it has failed. Less than a rewind may keep others out."""


# ── what time travel calls ─────────────────────────────────────────────────────────────────────────────────────────


async def report(
    control: Control,
    run_id: str,
    after_frame: int,
    nodes: frozenset[Key] | None = None,
    *,
    operation: str,
    no_revert: bool = False,
    workflow: SmithersWorkflow | None = None,
) -> EffectBoundaryReport:
    """What `cross` would find, without doing anything. Raises `RunNotFound`."""
    found, _ = await judged(control, run_id, after_frame, nodes, operation, no_revert, workflow)
    return found


async def cross(
    control: Control,
    run_id: str,
    after_frame: int,
    nodes: frozenset[Key] | None,
    *,
    operation: str,
    op_id: str,
    force: bool,
    no_revert: bool,
    caller: Caller,
    workflow: SmithersWorkflow | None = None,
) -> EffectBoundaryReport:
    """Make way for a change of history: undo what can be undone, newest first, and refuse if anything blocks.

    Call it with the run stopped and held against other changes. Each `revert` is on record before and after it runs; what
    it has undone stays undone whatever happens next. For `FORK` nothing is done.

    Args:
        after_frame: effects of attempts that had not ended by this frame count.
        nodes: effects of these nodes count too, whenever they happened.
        operation, op_id: what is done, for the record.
        force: go on although effects stand; they are marked, and `SideEffectBoundaryCrossed` is told.
        no_revert: undo nothing.
        workflow: where tasks' own `revert` functions are looked for; loaded from the run's file if it is needed.

    Returns:
        What was found; `revertible` is what has been undone.

    Raises:
        SideEffectBlocked: effects stand (`details.report`) and `force` is not given; or a `revert` has failed, which leaves
            its effect and all older ones standing.
        RunNotFound
    """
    found, reverts = await judged(control, run_id, after_frame, nodes, operation, no_revert, workflow)
    if operation == FORK:
        return found
    if found.blocking and not force:
        raise _blocked(run_id, operation, found)
    guard = _Guard(control, run_id, operation)
    done, stuck = list[Effect](), list(found.blocking)
    for effect in reversed(found.revertible):
        failed = await guard.undo(effect, reverts[effect.token])
        if failed is None:
            done.insert(0, effect)
            continue
        stuck.append(failed)
        if not force:
            undone = {each.token for each in (*done, failed)}
            left = [replace(e, reason="not tried") for e in found.revertible if e.token not in undone]
            stuck += left
            raise _blocked(run_id, operation, replace(found, blocking=in_order(stuck), revertible=tuple(done)))
    found = replace(found, blocking=in_order(stuck), revertible=tuple(done))
    if found.blocking:
        await guard.record(found, op_id, caller)
    return found


def crossed_event(found: EffectBoundaryReport, *, op_id: str, operation: str, parent_run_id: str) -> EventDraft:
    """What a new run's log tells of the effects that its parent has had, and that it may have again."""
    return event(
        "SideEffectBoundaryCrossed",
        opId=op_id,
        operation=operation,
        report=found.wire(),
        parentRunId=parent_run_id,
        warningOnly=True,
    )


def _blocked(run_id: str, operation: str, found: EffectBoundaryReport) -> SideEffectBlocked:
    count = len(found.blocking)
    effects = f"{count} {'effect' if count == 1 else 'effects'}"
    listed = ", ".join(f"{e.tool_name} of {e.node_id}" for e in found.blocking[:3]) + (", …" if count > 3 else "")
    it = "it" if count == 1 else "them"
    told = (
        f"may repeat {effects}: {listed}; force it if that is meant"
        if operation == REPLAY
        else (
            f"leaves {effects} done that the run would not know of: {listed}; undo {it} by hand and force the {operation}"
        )
    )
    return SideEffectBlocked(
        f"{operation} of run {run_id!r} {told}",
        {"runId": run_id, "operation": operation, "report": found.wire()},
    )


# ── doing ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class _Guard:
    """Undoes effects of one run, on the record."""

    def __init__(self, control: Control, run_id: str, operation: str) -> None:
        self._control = control
        self._run_id = run_id
        self._operation = operation

    async def undo(self, effect: Effect, revert: Revert) -> Effect | None:
        """Undo an effect; None if it is undone, else the effect with the reason why not."""
        store, run_id, now = self._control.store, self._run_id, self._control.clock.now_ms
        begun = self._event("EffectRevertStarted", effect, effectStatus=effect.status)
        row = await store.awrite(lambda c: rows.reverting(c, run_id, effect.token, now(), begun))
        if row is None:
            return None  # somebody else has
        error = await _attempted(effect, row, revert)
        if error is None:
            told = self._event("EffectRevertFinished", effect)
            if await store.awrite(lambda c: rows.reverted(c, run_id, effect.token, now(), told)):
                return None
            error = InvalidInput("the call ended while its effect was being reverted")
        stored = error_object(error, with_stack=False)
        reason = str(stored.get("summary") or stored.get("message"))
        log.warning(
            "an effect could not be reverted",
            extra={"run_id": run_id, "node_id": effect.node_id, "tool": effect.tool_name, "call": effect.seq},
        )
        told, text = self._event("EffectRevertFailed", effect, error=reason), to_json(stored).decode()
        await store.awrite(lambda c: rows.reverted(c, run_id, effect.token, now(), told, text))
        return replace(effect, status="unknown", reason=f"reverting it failed: {reason}")

    async def record(self, found: EffectBoundaryReport, op_id: str, caller: Caller) -> None:
        """Put on record that history is changed although effects stand."""
        now = self._control.clock.now_ms()
        by: Mapping[str, object] = {"opId": op_id, "operation": self._operation, "by": caller.user, "atMs": now}
        told = event("SideEffectBoundaryCrossed", opId=op_id, operation=self._operation, report=found.wire())
        tokens: Iterable[str] = [effect.token for effect in found.blocking]
        text = to_json(by).decode()
        await self._control.store.awrite(lambda c: rows.crossed(c, self._run_id, tokens, now, text, [told]))

    def _event(self, type: str, effect: Effect, **fields: object) -> EventDraft:
        return event(
            type,
            effect.node_id,
            effect.iteration,
            attempt=effect.attempt,
            operation=self._operation,
            kind=effect.kind,
            toolName=effect.tool_name,
            seq=effect.seq,
            **fields,
        )


async def _attempted(effect: Effect, row: ToolCallRow, revert: Revert) -> BaseException | None:
    """Have an effect undone; what went wrong, if anything."""
    try:
        context = RevertContext(
            input=_kept(row.input_json, "input"),
            output=_kept(row.output_json, "output"),
            effect_status=effect.status,
            run_id=row.run_id,
            node_id=row.node_id,
            iteration=row.iteration,
            attempt=row.attempt,
            tool_call_seq=row.seq,
        )
        async with asyncio.timeout(REVERT_TIMEOUT_S):
            await revert(context)
    except TimeoutError as error:
        return InvalidInput(str(error)) if str(error) else InvalidInput(f"it took longer than {REVERT_TIMEOUT_S:.0f} s")
    except (
        Exception
    ) as error:  # an author's function may raise anything; cancellation passes through, and stays on record
        return error
    return None


def _kept(text: str | None, what: str) -> object:
    """What the journal has kept of a value. Raises `InvalidInput` for one that it has cut: to undo by half of it is worse
    than not to."""
    value: object = None if text is None else from_json(text)
    found = object_of(value)
    if found.get("truncated") is True and found.keys() == {"truncated", "bytes", "head"}:
        raise InvalidInput(f"the call's {what} was too long to be kept whole")
    return value
