"""Judging: which effects stand after a moment, what becomes of each when history goes back to it, and how it is undone.

Acting on that is `effects.py`'s.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Literal, cast

from pydantic_core import from_json

from smithers.components.workflow import SmithersWorkflow
from smithers.control.control import Control
from smithers.errors import InvalidInput, SmithersError
from smithers.jsons import list_of, object_of, text_of
from smithers.store.interface import RunRow
from smithers.store.sql import effects as rows
from smithers.store.sql import reads
from smithers.store.sql.effects import EffectRow
from smithers.tools.define import Revert, revert_of

FORK: Final = "fork"
"""The operation that makes a run beside the old one and does not go on with it: nothing is undone, nothing blocks."""
REPLAY: Final = "replay"
"""The operation that makes a run and goes on with it: the old run keeps its effects, so nothing is undone."""

Key = tuple[str, int]
EffectStatus = Literal["succeeded", "unknown"]


@dataclass(frozen=True, slots=True)
class Effect:
    """One effect, as reports have it. `token` names its row in the journal."""

    kind: str
    tool_name: str
    node_id: str
    iteration: int
    attempt: int
    seq: int
    status: EffectStatus
    idempotent: bool
    has_revert: bool
    started_at_ms: int
    token: str = field(compare=False)
    reason: str | None = None

    def wire(self) -> dict[str, object]:
        """The effect as it is sent."""
        found: dict[str, object] = {
            "kind": self.kind,
            "toolName": self.tool_name,
            "nodeId": self.node_id,
            "iteration": self.iteration,
            "attempt": self.attempt,
            "seq": self.seq,
            "effectStatus": self.status,
            "idempotent": self.idempotent,
            "hasRevert": self.has_revert,
            "startedAtMs": self.started_at_ms,
        }
        return found if self.reason is None else {**found, "reason": self.reason}


@dataclass(frozen=True, slots=True)
class EffectBoundaryReport:
    """The effects that stand after a moment, in the order in which they began: those that keep history as it is, those
    that are undone first, and those that may happen again without harm."""

    blocking: tuple[Effect, ...] = ()
    revertible: tuple[Effect, ...] = ()
    warnings: tuple[Effect, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.blocking or self.revertible or self.warnings)

    def wire(self) -> dict[str, object]:
        """The report as it is sent."""
        lists = {"blocking": self.blocking, "revertible": self.revertible, "warnings": self.warnings}
        return {name: [effect.wire() for effect in found] for name, found in lists.items()}


def in_order(found: Sequence[Effect]) -> tuple[Effect, ...]:
    """Effects in the order in which they began."""
    return tuple(sorted(found, key=lambda e: (e.started_at_ms, e.node_id, e.iteration, e.attempt, e.seq)))


async def judged(
    control: Control,
    run_id: str,
    after_frame: int,
    nodes: frozenset[Key] | None,
    operation: str,
    no_revert: bool,
    workflow: SmithersWorkflow | None,
) -> tuple[EffectBoundaryReport, dict[str, Revert]]:
    """The report on effects after a frame or of these nodes, and how its revertible ones are undone, by token.

    Raises `RunNotFound`.
    """
    run, standing, at_work = await control.store.aread(
        lambda c: _standing(c, run_id, after_frame, nodes or frozenset())
    )
    finder = _Finder(control, run, workflow)
    is_undoing = operation not in (FORK, REPLAY) and not no_revert
    blocking, revertible, warnings = list[Effect](), list[Effect](), list[Effect]()
    reverts: dict[str, Revert] = {}
    for row in standing:
        effect = _effect(row, is_at_work=(row.node_id, row.iteration, row.attempt) in at_work)
        if is_undoing and effect.has_revert:
            revert = await finder.revert(effect)
            if not isinstance(revert, str):
                reverts[effect.token] = revert
                revertible.append(effect)
            elif effect.idempotent:
                warnings.append(replace(effect, reason=revert))
            else:
                blocking.append(replace(effect, reason=revert))
        elif effect.idempotent:
            warnings.append(effect)
        elif _is_git(row):
            warnings.append(replace(effect, reason="git keeps its own history"))
        elif effect.has_revert and no_revert:
            blocking.append(replace(effect, reason=effect.reason or "it is not to be reverted"))
        else:
            blocking.append(effect)
    if operation == FORK:
        return EffectBoundaryReport(warnings=in_order([*blocking, *warnings])), {}
    return EffectBoundaryReport(tuple(blocking), tuple(revertible), tuple(warnings)), reverts


def _standing(
    connection: reads.Session, run_id: str, after_frame: int, nodes: frozenset[Key]
) -> tuple[RunRow, list[EffectRow], set[tuple[str, int, int]]]:
    """The run, its effects after the frame or of the nodes, and the attempts that work at this moment."""
    run = reads.run(connection, run_id)
    every = rows.standing(connection, run_id)
    early = [e for e in every if e.frame_no <= after_frame and (e.node_id, e.iteration) not in nodes]
    # a call counts if the work that made it had not ended by the frame: going back there has it done again
    over = rows.ended_by(connection, run_id, after_frame) if early else set[tuple[str, int, int]]()
    found = [e for e in every if e not in early or (e.node_id, e.iteration, e.attempt) not in over]
    is_live = run.status == "running" and any(e.status == "started" for e in found)
    return run, found, rows.at_work(connection, run_id) if is_live else set()


def _effect(row: EffectRow, *, is_at_work: bool) -> Effect:
    reason: str | None = None
    if row.revert_status == "reverting":
        reason = "an earlier attempt to revert it was interrupted"
    elif row.revert_status == "revert-failed":
        told = object_of(from_json(row.revert_error_json or "{}"))
        reason = (
            f"reverting it failed before: {text_of(told.get('summary')) or text_of(told.get('message')) or 'error'}"
        )
    elif row.revert_status == "revert-stale":
        reason = "the call ended after its effect was reverted"
    elif row.status == "started":
        reason = "the call is still running" if is_at_work else "the call was cut off: its effect may have happened"
    elif row.status == "failed":
        reason = "the call failed: its effect may have happened"
    # what a revert that did not end may have undone is not known any more
    is_known = row.status == "finished" and row.revert_status in (None, "revert-stale")
    return Effect(
        kind="task" if row.kind == "task" else "tool",
        tool_name=row.tool_name,
        node_id=row.node_id,
        iteration=row.iteration,
        attempt=max(1, row.attempt),
        seq=row.seq,
        status="succeeded" if is_known else "unknown",
        idempotent=bool(row.idempotent),
        has_revert=bool(row.has_revert),
        started_at_ms=row.started_at_ms,
        token=row.call_token,
        reason=reason,
    )


def _is_git(row: EffectRow) -> bool:
    """Whether a call of `bash` was one of git, whose effects version control looks after."""
    if row.command is None:
        return False
    given = object_of(from_json(row.command))
    command = text_of(given.get("cmd")) or ""
    words = [command] if list_of(given.get("args")) else command.split()
    return bool(words) and words[0].rpartition("/")[2] == "git"


class _Finder:
    """Finds the functions that undo effects, in what is loaded, then in the run's workflow file, which it loads once."""

    def __init__(self, control: Control, run: RunRow, workflow: SmithersWorkflow | None) -> None:
        self._control = control
        self._run = run
        self._workflow = workflow
        self._problem: str | None = None
        self._tasks: dict[str, Revert] | None = None

    async def revert(self, effect: Effect) -> Revert | str:
        """How an effect is undone, or why that is not known."""
        if effect.kind == "task":
            return await self._of_task(effect.node_id)
        found = self._of_tool(effect.tool_name)
        if found is None:
            await self._load()
            found = self._of_tool(effect.tool_name)
        return found or self._problem or f"no tool {effect.tool_name!r} with a revert is loaded"

    def _of_tool(self, name: str) -> Revert | str | None:
        path = self._run.workflow_path
        try:
            return revert_of(name, None if path is None else Path(path).resolve())
        except InvalidInput as error:
            return error.summary

    async def _of_task(self, node_id: str) -> Revert | str:
        if self._tasks is None:
            self._tasks = await self._mounted()
        return self._tasks.get(node_id) or self._problem or f"the workflow has no task {node_id!r} with a revert now"

    async def _mounted(self) -> dict[str, Revert]:
        """The `revert` of the tasks that the workflow has as things are."""
        workflow = await self._load()
        if workflow is None:
            return {}
        from smithers.control.preview import preview_run

        try:
            plan = (await preview_run(self._control.store, self._run.run_id, workflow)).plan
        except SmithersError as error:
            self._problem = f"the workflow does not render: {error.summary}"
            return {}
        sides = {key[0]: leaf.element.side_effect for key, leaf in plan.leaves.items()}
        return {
            node_id: cast("Revert", side.revert)
            for node_id, side in sides.items()
            if side is not None and side.revert is not None
        }

    async def _load(self) -> SmithersWorkflow | None:
        if self._workflow is not None or self._problem is not None:
            return self._workflow
        path = self._run.workflow_path
        if path is None:
            self._problem = "the run's workflow has no file, and is not loaded here"
            return None
        from smithers.engine.loading import load_workflow

        try:
            self._workflow = await asyncio.to_thread(load_workflow, path)
        except SmithersError as error:
            self._problem = f"the workflow cannot be loaded: {error.summary}"
        return self._workflow
