"""Work: the attempts of one run that are under way, from the step that starts them to their completion."""

from __future__ import annotations

import asyncio
import hashlib
import json
from typing import TYPE_CHECKING

from pydantic import BaseModel
from pydantic_core import from_json, to_json

from smithers.components.composites import Subflow
from smithers.components.scope import Key, logical_id
from smithers.components.task import CachePolicy, Task, agent_chain
from smithers.engine import effects
from smithers.engine.attempts import run_attempt
from smithers.engine.children import run_child
from smithers.engine.completions import Completion, abort_error, finish
from smithers.errors import DepNotSatisfied, ForkError, SmithersError, error_object
from smithers.events import attempt_event
from smithers.graph.plan import LeafKind, LeafNode, LoopNode, Plan, PlanNode
from smithers.scheduler.states import NodeState
from smithers.store.interface import AttemptChange, SqlValue
from smithers.store.sql import reads

if TYPE_CHECKING:
    from smithers.engine.driver import Driver

S = NodeState


class Work:
    """The attempts of one driver."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._state = driver.state
        self._running: dict[Key, Completion] = {}
        self._tasks: dict[Key, asyncio.Task[None]] = {}
        self._to_start: list[Completion] = []
        self._left: dict[Key, Completion] = {}
        """Attempts that were stopped, with the files that they have left, while no step tells of that."""

    @property
    def is_busy(self) -> bool:
        """Whether attempts are under way."""
        return bool(self._running)

    def leaf_of(self, key: Key, plan: Plan | None) -> LeafNode | None:
        """The leaf of a key: as it runs, or as it is mounted."""
        done = self._running.get(key)
        if done is not None:
            return done.leaf
        return None if plan is None else plan.leaves.get(key)

    # ── starting ───────────────────────────────────────────────────────────────────────────────────────────────────

    def begin(self, leaf: LeafNode) -> None:
        """Write the start of a leaf's next attempt into the step; it runs once that is committed."""
        state, key = self._state, leaf.key
        attempt = state.attempts.get(key, 0) + 1
        state.attempts[key] = attempt
        self._left.pop(key, None)
        now = state.step.now_ms
        state.move(leaf, S.IN_PROGRESS, attempt=attempt)
        state.attempt(AttemptChange(key[0], key[1], attempt, "in-progress", now))
        state.step.events.append(attempt_event("NodeStarted", key[0], key[1], attempt))
        done = Completion(leaf, attempt, now)
        if leaf.element.side_effect is not None:
            effects.begin(state, leaf.element.side_effect, done)
        self._running[key] = done
        self._to_start.append(done)
        if leaf.kind is LeafKind.AGENT:
            self._driver.engine.agents.take()
        limit = leaf.element.timeout_ms
        if leaf.kind is LeafKind.SUBFLOW and limit is not None and (key, "deadline") not in state.timers:
            state.arm(key, "deadline", now + limit)  # once: looking again at a child that waited does not begin it anew

    def start_all(self) -> bool:
        """Start what the committed step has begun. Whether that made tasks, which begin with the loop's next turn."""
        if not self._to_start:
            return False
        starting, self._to_start = self._to_start, []
        create_task, tasks = self._driver.engine.loop.create_task, self._tasks
        has_tasks = False
        for done in starting:
            leaf = done.leaf
            if leaf.kind is LeafKind.STATIC and not self._caches(leaf):
                self._run_static(done)
            else:
                tasks[leaf.key] = create_task(self._run(done), name=leaf.key[0])
                has_tasks = True
        return has_tasks

    def _run_static(self, done: Completion) -> None:
        element = done.leaf.element
        assert isinstance(element, Task)
        try:
            finish(done, self._state.table(done.leaf), element.child)
        except Exception as error:  # an author's validator may raise anything
            done.error = error
        self._driver.complete(done)

    async def _run(self, done: Completion) -> None:
        leaf, shared = done.leaf, self._driver.shared  # which the driver lets go of, when the run ends before the work
        try:
            if leaf.worktree is not None:
                done.root_dir = await shared.workspaces.worktree(leaf.worktree)
            if leaf.kind is LeafKind.SUBFLOW:
                assert isinstance(leaf.element, Subflow)
                await run_child(self._driver, done, leaf.element)
                return
            key = self._cache_key(leaf) if self._caches(leaf) else None
            if key is not None:
                done.measured = {"cache": "miss"}
                if await self._from_cache(done, key):
                    return
            messages = await self._conversation(leaf) if getattr(leaf.element, "fork", None) is not None else None
            await run_attempt(
                shared,
                done,
                self._state.table(leaf),
                self._state.checkpoints.get(leaf.key),
                self._state.failed.get(leaf.key, 0),
                messages,
            )
            if done.effect_token is not None and leaf.key not in self._running:
                await effects.tell_late(shared.tools, done.effect_token, done.error)
            if done.is_touching and leaf.key in self._running:  # else nobody expects anything of it any more
                folder = done.root_dir or shared.root_dir
                done.files = await shared.workspaces.checkpoint(folder, *leaf.key, done.attempt)
                if done.is_aborted:
                    self._left[leaf.key] = done
            if key is not None and done.error is None:
                done.cache_row = self._cache_row(done, key)
        except asyncio.CancelledError:
            done.is_aborted = True
            done.error = abort_error("cancelled")
        except Exception as error:
            done.error = error
        finally:
            self._driver.complete(done)

    # ── stopping ───────────────────────────────────────────────────────────────────────────────────────────────────

    def ended(self, key: Key) -> None:
        """An attempt's completion is being taken in."""
        done = self._running.pop(key, None)
        self._tasks.pop(key, None)
        if done is not None and done.leaf.kind is LeafKind.AGENT:
            self._driver.engine.agents.give()

    def abort_all(self) -> None:
        """Tell all attempts to stop, and expect nothing of them any more."""
        for key, task in list(self._tasks.items()):
            task.cancel()
            self.ended(key)
        for key in list(self._running):
            self.ended(key)
        self._to_start.clear()

    async def stop(self, patience_s: float) -> None:
        """Tell all attempts to stop and give them so many seconds to do it."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=patience_s)
        for key in list(self._running):
            self.ended(key)
        self._to_start.clear()

    def hand_back(self) -> None:
        """Write into the step that attempts were stopped and their nodes may be run by somebody else."""
        state = self._state
        plan = self._driver.flow.mounted
        for key in list(state.live):
            leaf = self.leaf_of(key, plan)
            if leaf is None or state.nodes[key] is not S.IN_PROGRESS:
                continue
            self._cancel_attempt(leaf, "shutdown")
            state.move(leaf, S.PENDING)
            state.tell("NodePending", leaf)

    def cancel_open(self, reason: str) -> None:
        """Write into the step that attempts under way were cancelled for good."""
        state = self._state
        plan = self._driver.flow.mounted
        for key in list(state.live):
            leaf = self.leaf_of(key, plan)
            if leaf is not None and state.nodes[key] is S.IN_PROGRESS:
                self._cancel_attempt(leaf, reason)
                state.move(leaf, S.CANCELLED)

    def files_left(self, key: Key | None = None) -> list[tuple[SqlValue, ...]]:
        """What attempts that were stopped (all of them, or a node's) have left of files, as rows; each is told once."""
        state, keys = self._state, list(self._left) if key is None else [key]
        stopped = [done for each in keys if (done := self._left.pop(each, None)) is not None]
        return [
            done.files.row(state.run_id, *done.leaf.key, done.attempt, state.step.frame_no, state.step.now_ms)
            for done in stopped
            if done.files is not None and done.attempt == state.attempts.get(done.leaf.key)
        ]

    def _cancel_attempt(self, leaf: LeafNode, reason: str) -> None:
        state, key = self._state, leaf.key
        for row in self.files_left(key):
            state.row("checkpoint", *row)
        attempt = state.attempts.get(key, 1)
        error = to_json(error_object(abort_error(reason))).decode()
        now = state.step.now_ms
        state.attempt(AttemptChange(key[0], key[1], attempt, "cancelled", now, now, error))
        state.tell("NodeCancelled", leaf, attempt=attempt, reason=reason)

    def look_at_children(self) -> None:
        """Go on with subflows whose child run was waiting: it may have ended meanwhile."""
        for key in list(self._driver.desk.scheduler.waiting):
            self.look_at_child(key)

    def look_at_child(self, key: Key) -> None:
        """Go on with a subflow, if it is one whose child run was waiting: that has ended, or is out of time."""
        scheduler = self._driver.desk.scheduler
        leaf = scheduler.waiting.get(key)
        if leaf is not None and leaf.kind is LeafKind.SUBFLOW:
            self._state.attempts[key] = max(0, self._state.attempts.get(key, 1) - 1)  # the same attempt goes on
            scheduler.resumes(key)

    # ── dependencies ───────────────────────────────────────────────────────────────────────────────────────────────

    def dependencies(self, leaf: LeafNode) -> dict[str, object]:
        """The rows that a task's function asks for, by name. Raises `DepNotSatisfied`."""
        element = leaf.element
        needs = dict(element.needs or {})
        typed = dict(element.deps or {}) if isinstance(element, Task) else {}
        names = {**{name: needs.get(name, name) for name in typed}, **needs}
        prefix = leaf.logical_id[: len(leaf.logical_id) - len(element.id)]
        found: dict[str, object] = {}
        for name, id in names.items():
            target = leaf.dep_targets[leaf.depends.index(prefix + id)]
            row = self._row_of(target, prefix + id)
            if row is not None:
                found[name] = row
            elif name in typed and not (isinstance(element, Task) and element.deps_optional):
                raise DepNotSatisfied(
                    f"{element!r} depends on {id!r}, which has no row",
                    {"taskId": leaf.key[0], "depKey": name, "resolvedNodeId": id},
                )
        return found

    def _row_of(self, target: PlanNode | None, id: str) -> BaseModel | None:
        data = self._state.data
        if isinstance(target, LeafNode):
            row = data.by_key.get(target.key)
            return None if row is None else row.payload
        if isinstance(target, LoopNode):  # from outside a loop: the newest row of the task inside
            rows = [key for key in data.by_key if logical_id(key[0]) == id]
            return data.by_key[max(rows, key=lambda key: data.by_key[key].seq)].payload if rows else None
        return None

    async def _conversation(self, leaf: LeafNode) -> object:
        """The conversation that a task goes on from: a copy of that of the task named by `fork`."""
        element = leaf.element
        if not isinstance(element, Task) or element.fork is None:
            return None
        prefix = leaf.logical_id[: len(leaf.logical_id) - len(element.id)]
        target = leaf.dep_targets[leaf.depends.index(prefix + element.fork)]
        if not isinstance(target, LeafNode):
            raise ForkError(f"{element!r} forks {element.fork!r}, which is not a task")
        rows = await self._driver.engine.store.aread(lambda c: reads.attempts(c, self._state.run_id, target.key[0]))
        for row in reversed(rows):
            if row.iteration == target.key[1] and row.state == "finished" and row.meta_json:
                messages: object = from_json(row.meta_json).get("agentConversation")
                if messages is not None:
                    return messages
        raise ForkError(
            f"{element!r} forks {element.fork!r}, which has no conversation to go on from",
            code="TASK_FORK_SESSION_UNAVAILABLE",
        )

    # ── cache ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def _caches(self, leaf: LeafNode) -> bool:
        policy = leaf.element.cache
        return bool(policy) if policy is not None else self._driver.flow.plan.cache_by_default

    def _cache_key(self, leaf: LeafNode) -> str | None:
        """What a result depends on, hashed; None when that cannot be told."""
        element = leaf.element
        assert isinstance(element, Task)
        assert leaf.output is not None
        policy = element.cache if isinstance(element.cache, CachePolicy) else CachePolicy()
        state = self._state
        scope = {"run": state.run_id, "workflow": state.name, "global": ""}[policy.scope]
        try:
            by = policy.by(self._driver.flow.context) if callable(policy.by) else policy.by
            deps = {n: _plain(row) for n, row in self.dependencies(leaf).items()} if leaf.depends else {}
            parts: dict[str, object] = {
                "scope": [policy.scope, scope],
                "node": policy.key or [leaf.key[0], leaf.key[1]],
                "schema": self._schema_signature(leaf),
                "agents": _agent_ids(element),
                "version": policy.version,
                "by": by,
                "deps": deps,
                "work": element.child if isinstance(element.child, str) else None,
                "static": None if callable(element.child) or element.agent else _plain(element.child),
                "input": None if policy.by is not None else _plain(state.data.input),
            }
            return hashlib.sha256(json.dumps(parts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
        except Exception:  # a key that cannot be made means: do not cache
            return None

    def _schema_signature(self, leaf: LeafNode) -> str:
        assert leaf.output is not None
        # "columns" tells how rows are kept: earlier versions of this project kept them as dumps
        schema = json.dumps([leaf.output.key, leaf.output.model.model_json_schema(), "columns"], sort_keys=True)
        return hashlib.sha256(schema.encode()).hexdigest()[:16]

    async def _from_cache(self, done: Completion, key: str) -> bool:
        entry = await self._driver.engine.store.aread(lambda c: reads.cache_entry(c, key))
        if entry is None:
            return False
        created, signature, payload = entry
        leaf = done.leaf
        policy = leaf.element.cache
        ttl = policy.ttl_ms if isinstance(policy, CachePolicy) else None
        too_old = ttl is not None and self._driver.engine.clock.now_ms() - created > ttl
        if too_old or signature != self._schema_signature(leaf):
            return False
        try:
            table = self._state.table(leaf)
            stored: dict[str, SqlValue] = from_json(payload)
            finish(done, table, table.decode([stored[column.name] for column in table.columns]))
        except (SmithersError, KeyError):  # kept by a model that has changed in what a schema does not tell
            return False
        done.is_cached = True
        done.measured = {"cache": "hit"}
        return True

    def _cache_row(self, done: Completion, key: str) -> tuple[SqlValue, ...] | None:
        leaf = done.leaf
        if done.output is None or leaf.output is None:
            return None
        table = self._state.table(leaf)
        return (
            key,
            self._driver.engine.clock.now_ms(),
            self._state.name,
            leaf.key[0],
            table.name,
            self._schema_signature(leaf),
            None,
            to_json({column.name: value for column, value in zip(table.columns, done.values, strict=True)}).decode(),
        )


def _agent_ids(element: Task) -> list[str]:
    if element.agent is None:
        return []
    from smithers.agents.resolve import resolve_agent

    return [resolve_agent(agent).id for agent in agent_chain(element.agent)]


def _plain(value: object) -> object:
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else value
