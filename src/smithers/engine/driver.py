"""Driver: the loop of one run. Takes in what happened, renders if that matters, starts what may start, commits, waits.

One turn is one step: everything that has happened since the last turn and everything that starts because of it go into
one commit; effects (starting work, telling subscribers) come after. This file only wires: states are in `state`, waits in
`waits`, work in `attempts`, results in `settle`, what is decided in `smithers.scheduler`.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pydantic import BaseModel
from pydantic_core import from_json, to_json

from smithers.components.context import Context
from smithers.components.gates import AutoApprove
from smithers.components.scope import Key, state_key
from smithers.engine.attempts import AttemptContext, Completion
from smithers.engine.continuation import next_run
from smithers.engine.frames import FrameKeeper
from smithers.engine.recovery import carry, close_lost_attempts, reopen, retry_failed
from smithers.engine.result import RunResult, failure_error
from smithers.engine.settle import Settler
from smithers.engine.state import RunState
from smithers.engine.waits import WaitDesk
from smithers.engine.work import Work
from smithers.errors import DependencyDeadlock, LeaseLost, SmithersError, StorageError, error_object
from smithers.events import event
from smithers.graph.extract import extract
from smithers.graph.plan import LeafNode, Plan
from smithers.scheduler.scheduler import Continued, Deadlocked, Failed, Finished, Scheduler
from smithers.scheduler.states import NodeState, RunStatus
from smithers.store.interface import CancelRequested, LoadedRun, NewRun, NewWakeup, StatusChange, Step

if TYPE_CHECKING:
    from smithers.engine.engine import Engine

log = logging.getLogger(__name__)
S = NodeState
ABORT_SETTLE_S = 5.0
"""How long work that was told to stop may take to do so."""
MAX_ROUNDS = 100_000
"""Most renders within one step; more is a workflow that never comes to rest."""


@dataclass(slots=True)
class DriverOptions:
    """What a launch or resume says about how its run is driven."""

    max_concurrency: int | None = None
    root_dir: str | None = None


class Driver:
    """Drives one run that this process owns, until it ends, parks or is lost."""

    def __init__(self, engine: Engine, state: RunState, options: DriverOptions, launch: NewRun | None) -> None:
        self.engine = engine
        self.state = state
        self.options = options
        self.result: asyncio.Future[RunResult] = engine.loop.create_future()
        self.admitted: asyncio.Future[None] = engine.loop.create_future()
        """Resolved once the first step is durable."""
        self.is_ending = False
        self.recovered: LoadedRun | None = None
        """What was read at the claim, if this run was taken over."""
        self.carried: LoadedRun | None = None
        """The rows that a continued run brings along from the one before."""
        self.reopens = False
        """Whether nodes that were cancelled with the run may run again."""
        self.retries_failed = False
        """Whether what the run failed with is tried again."""
        self.source_change: tuple[str | None, str | None] | None = None
        """Hash and path of the accepted new source, to be recorded."""
        self._launch = launch
        self._wake = asyncio.Event()
        self._check_inbox = launch is None
        self._completions: list[Completion] = []
        self._pausing = False
        self._releasing = False
        self._cancelling = False
        self._dirty = True
        self._force_render = True
        self._ctx: Context[object] | None = None
        self._plan: Plan
        self._scheduler: Scheduler
        self._auto: list[LeafNode] = []
        self._asking_history = 0
        self._error: dict[str, object] | None = None
        self._successor: NewRun | None = None
        self._frames = FrameKeeper(state)
        self.shared = AttemptContext(
            run_id=state.run_id,
            root_dir=engine.root_dir(options.root_dir),
            threads=engine.threads,
            now_ms=engine.clock.now_ms,
            deps=lambda leaf: self.work.dependencies(leaf),
            poke=self.poke,
        )
        self.desk = WaitDesk(state, engine.clock.now_ms, self._check_history)
        self.settler = Settler(state)
        self.work = Work(self)

    @property
    def is_admitted(self) -> bool:
        """Whether the run is durable."""
        return self.admitted.done()

    @property
    def has_news(self) -> bool:
        """Whether something was written for the run that it has not looked at yet."""
        return self._check_inbox

    @property
    def caches_by_default(self) -> bool:
        """Whether the workflow wants its tasks' results to be reused."""
        return self._plan.cache_by_default

    @property
    def render_context(self) -> Context[object]:
        """The context of the last render."""
        assert self._ctx is not None
        return self._ctx

    # ── from outside ───────────────────────────────────────────────────────────────────────────────────────────────

    def poke(self) -> None:
        """There may be something to do."""
        self._wake.set()

    def look(self) -> None:
        """Somebody has written something for this run."""
        self._check_inbox = True
        self._wake.set()

    def release(self) -> None:
        """Stop work and give the run up, so that any process may go on with it."""
        self._releasing = True
        self._wake.set()

    def lose(self) -> None:
        """Another process has the run: stop work, write nothing."""
        self.work.abort_all()
        if not self.result.done():
            self.result.set_exception(LeaseLost(f"run {self.state.run_id!r} was taken over by another process"))
        self._wake.set()

    def complete(self, completion: Completion) -> None:
        """Work has come to an end; its result goes into the next step."""
        self._completions.append(completion)
        self._wake.set()

    # ── the loop ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def run(self) -> None:
        """Drive the run to its end or next halt; the outcome is in `result`."""
        try:
            await self._drive()
        except LeaseLost:
            log.warning("run lost to another owner", extra={"run_id": self.state.run_id})
            self.lose()
        except asyncio.CancelledError:
            self.work.abort_all()
            self.result.cancel()
            raise
        except BaseException as error:
            self.work.abort_all()
            if not self.admitted.done():
                self.admitted.set_exception(error)
            if not self.result.done():
                self.result.set_exception(error)
        finally:
            self.engine.forget(self)
            for future in (self.admitted, self.result):
                if not future.done():
                    future.cancel()
                elif not future.cancelled():
                    future.exception()  # whoever waits gets it; nobody has to

    async def _drive(self) -> None:
        state = self.state
        while not self.result.done():
            step = state.begin_step(self.engine.clock.now_ms())
            if self._launch is not None:
                step.launch, self._launch = self._launch, None
            ending: RunStatus | None = None
            if self._releasing:
                await self.work.stop(ABORT_SETTLE_S)
                self._completions = [done for done in self._completions if not done.is_aborted]
            try:
                self._recover()
                if step.launch is None and (self._check_inbox or state.has_timeout_due(step.now_ms)):
                    await (
                        self._read_inbox()
                    )  # a decision that came in time counts, even if its wake-up is still on its way
                if not self._cancelling:
                    self._take_in()
                    ending = self._advance()
            except (StorageError, LeaseLost):
                raise
            except SmithersError as error:
                ending = self._broken(error)
            except Exception as error:  # an author's object that misbehaves, or a bug of ours: the run must not hang
                log.exception("run broke", extra={"run_id": self.state.run_id})
                ending = self._broken(_internal(error))
            if self._cancelling:
                await self._cancel()
                return
            if ending is None and self._is_idle():
                ending = self._parking()
            if ending is not None:
                self._end(ending)
            if (not step.is_empty or step.launch is not None) and not await self._commit(step):
                continue
            if not self.admitted.done():
                self.admitted.set_result(None)
            if step.status is not None and ending is not None:
                self._finish(ending)
                return
            self.work.start_all()
            await self._sleep()

    async def _sleep(self) -> None:
        if self._completions or self._wake.is_set():
            self._wake.clear()
            return
        due = self.state.next_due()
        cancel = None if due is None else self.engine.clock.call_at(due, self.poke)
        try:
            await self._wake.wait()
        finally:
            self._wake.clear()
            if cancel is not None:
                cancel()

    async def _commit(self, step: Step) -> bool:
        """Write the step. False when the run is to be cancelled instead."""
        try:
            committed = await self.engine.store.commit(step)
        except NewWakeup:
            # something arrived while the run was about to park: keep the rest of the step, stay, and look
            self.is_ending = False
            step.status = step.seen_wakeup = None
            step.events = [e for e in step.events if e.type != "RunStatusChanged"]
            self._check_inbox = True
            self._wake.set()
            return await self._commit(step) if not step.is_empty else True
        except CancelRequested:
            self._cancelling = True
            self._wake.set()
            return False
        self.state.frame_no = step.frame_no
        self.state.data.is_fresh = False
        self.state.renumber_outputs(step, committed.first_output_seq)
        self._pausing = self._pausing or committed.pause_requested
        self.engine.hub.publish(self.state.run_id, step, committed.first_seq)
        return True

    def _recover(self) -> None:
        """Into the first step after a claim: what the former owner left open, what is carried along, what was accepted."""
        state = self.state
        loaded, self.recovered = self.recovered, None
        if loaded is not None:
            close_lost_attempts(state, loaded)
            if self.reopens:
                reopen(state)
        if self.source_change is not None:
            new_hash, path = self.source_change
            state.row("source", new_hash, path, state.run_id)
            state.tell("WorkflowReloaded", None, generation=1, changedFiles=[path] if path else [])
            self.source_change = None
        carried, self.carried = self.carried, None
        if carried is not None:
            carry(state, carried)

    # ── taking in ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def _read_inbox(self) -> None:
        self._check_inbox = False
        inbox = await self.engine.store.inbox(self.state.run_id, self.state.last_signal)
        self.state.last_wakeup = inbox.last_wakeup
        self._cancelling = self._cancelling or inbox.cancel_requested
        self._pausing = self._pausing or inbox.pause_requested
        if self._cancelling:
            return
        if self._ctx is None:
            self._render()
        self.desk.take_in(inbox)
        self.work.look_at_children()

    def _take_in(self) -> None:
        self._drain_progress()
        if self._force_render and self._ctx is None:
            self._render()
        completions, self._completions = self._completions, []
        for completion in completions:
            self.work.ended(completion.leaf.key)
            self.settler.settle(completion)
        for leaf in self._auto:
            self.desk.approve_by_history(leaf)
        self._auto.clear()
        for (key, kind), moment in self.state.due(self.state.step.now_ms):
            self._due(key, kind, moment)

    def _due(self, key: Key, kind: str, moment: int) -> None:
        if kind in ("retry", "quota"):
            self.state.held.discard(key)
            leaf = self.work.leaf_of(key, self._plan)
            if leaf is not None and self.state.nodes.get(key) is S.WAITING_QUOTA:
                self.shared.release_quotas()
                self.state.move(leaf, S.PENDING)
                self.state.tell("NodePending", leaf)
            self._scheduler.resumes(key)
        else:
            self.desk.due(key, kind, moment)

    def _drain_progress(self) -> None:
        progress = self.shared.progress
        if progress.events:
            self.state.step.events.extend(progress.events)
            progress.events.clear()
        if progress.beats:
            for (node_id, iteration, attempt), (moment, data) in progress.beats.items():
                self.state.row("heartbeat", moment, data, self.state.run_id, node_id, iteration, attempt)
                if data is not None:
                    self.state.checkpoints[(node_id, iteration)] = from_json(data)
                self.state.step.events.append(
                    event(
                        "TaskHeartbeat",
                        node_id,
                        iteration,
                        attempt=attempt,
                        hasData=data is not None,
                        dataSizeBytes=len(data or ""),
                    )
                )
            progress.beats.clear()

    # ── going on ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _advance(self) -> RunStatus | None:
        """Render, advance loops and take leaves until nothing changes any more. The run's end, if it has come."""
        scheduler = self._scheduler
        for _ in range(MAX_ROUNDS):
            if self._must_render():
                self._render()
                scheduler = self._scheduler
            for loop, loop_state in scheduler.advance_loops():
                self.state.row(
                    "loop",
                    self.state.run_id,
                    loop.id,
                    loop_state.iteration,
                    int(loop_state.done),
                    self.state.step.now_ms,
                    self.state.step.frame_no,
                )
                self.state.data.set_loop(loop.id or "", loop_state)
                self._force_render = self._force_render or not loop_state.done
            for region_id, failure in scheduler.caught.items():
                error = self.state.errors.get(failure.leaf.key) if failure.leaf else None
                found = dict(error or failure_error(failure, self.state.errors))
                if failure.leaf is not None:
                    found |= {"nodeId": failure.leaf.key[0], "iteration": failure.leaf.key[1]}
                self.state.data.set_region_error(region_id, found)
            self._drop_abandoned()
            moved = 0
            if not (self._pausing or self._releasing) and scheduler.continuation is None:
                moved = self._take()
            if not moved and not self._must_render() and not scheduler.loops_at_end:
                return self._verdict()
        raise SmithersError(
            f"the workflow did not come to rest within {MAX_ROUNDS} renders", code="WORKFLOW_RENDER_FAILED"
        )

    def _take(self) -> int:
        """Handle what may start. How many leaves were handled that may have made others ready at once."""
        scheduler, state = self._scheduler, self.state
        begun = 0
        leaves = scheduler.take(self.engine.agent_room)
        for leaf in leaves:
            if leaf.key not in state.nodes:
                state.mount(leaf)
            if leaf.element.skip_if or scheduler.is_tainted(leaf):
                state.move(leaf, S.SKIPPED)
                state.tell("NodeSkipped", leaf)
                scheduler.settled(leaf.key)
            elif leaf.kind.is_wait or (leaf.needs_gate and not leaf.in_slot and not self._is_approved(leaf.key)):
                self.desk.arrive(leaf)
            elif not leaf.in_slot:
                scheduler.resumes(leaf.key)
            else:
                self.work.begin(leaf)
                begun += 1
        if scheduler.queues.has_agents and self.engine.agent_room <= 0:
            self.engine.starve(self)
        else:
            self.engine.offer_agent_room()
        return len(leaves) - begun

    def _is_approved(self, key: Key) -> bool:
        row = self.state.gates.get(key)
        return row is not None and row.status == "approved"

    def _drop_abandoned(self) -> None:
        gone, self._scheduler.abandoned = self._scheduler.abandoned, []
        for leaf in gone:
            self.desk.abandon(leaf.key, "region-failed")

    def _must_render(self) -> bool:
        """Whether what was read has changed, and the run has not been decided to end or go on as another."""
        scheduler = self._scheduler
        return self._is_dirty() and not scheduler.plan.region.halted and scheduler.continuation is None

    def _is_dirty(self) -> bool:
        if self._force_render:
            return True
        touched = self.state.data.touched
        if not touched:
            return False
        return self.state.workflow.always_render or (
            self._ctx is not None and self.state.data.depends_on_change(self._ctx.reads)
        )

    def _render(self) -> None:
        """Call the workflow function and go on with its tree."""
        state = self.state
        reason = "start" if self._ctx is None else "change"
        state.data.touched = set()
        self._force_render = False
        tree, ctx = state.workflow.render(state.data)
        with state.workflow.authoring(ctx):  # catch functions and inline workflows are authors' code too
            plan = extract(tree, ctx, state.data, state.workflow.outputs)
        if state.name and plan.name != state.name:
            raise SmithersError(
                f"the workflow's name changed from {state.name!r} to {plan.name!r}; it must be the same in every render",
                code="RESUME_METADATA_MISMATCH",
            )
        if not state.name:
            state.name = plan.name
            if state.step.launch is not None:
                state.step.launch = replace(state.step.launch, workflow_name=plan.name)
        self._ctx = ctx
        for logical, home in plan.homes.items():
            if state.data.homes.get(logical) != home:
                state.data.homes[logical] = home
        self._frames.keep(tree, plan, reason)
        for key, leaf in plan.leaves.items():
            if key not in state.nodes and leaf.region.part not in ("catch", "compensation"):
                state.mount(leaf)
        if self.retries_failed:
            self.retries_failed = False
            retry_failed(state, plan)
        self._adopt(plan)
        self._record_patches()

    def _adopt(self, plan: Plan) -> None:
        """Put a new plan in place of the old one, over the same node states."""
        state = self.state
        for key in sorted(k for k in state.live | state.held if k not in plan.leaves):
            if state.nodes[key] is not S.IN_PROGRESS:
                self.desk.abandon(key, "unmounted")
        failed = [k for k in state.errors if state.nodes.get(k) is S.FAILED]
        self._plan = plan
        self._scheduler = Scheduler(
            plan,
            state.nodes,
            state.failures(plan, failed),
            live=state.live,
            held=state.held,
            limit=self.options.max_concurrency,
        )
        self.desk.scheduler = self.settler.scheduler = self._scheduler

    def _record_patches(self) -> None:
        data = self.state.data
        if data.new_patches:
            patches = {**data.patches}
            for patch_id, decision in data.new_patches.items():
                self.state.tell("WorkflowPatchRecorded", None, patchId=patch_id, decision=decision)
            data.new_patches = {}
            self.state.config["workflowPatches"] = patches
            self.state.row("config", to_json(self.state.config).decode(), self.state.run_id)

    def _check_history(self, leaf: LeafNode, auto: AutoApprove) -> None:
        async def look() -> None:
            try:
                if await self.engine.has_history(self.state.name, leaf.key[0], auto.after):
                    self._auto.append(leaf)
            finally:
                self._asking_history -= 1
                self.poke()

        self._asking_history += 1
        self.engine.background(look())

    # ── ending ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _is_idle(self) -> bool:
        """Nothing runs or is about to; only the world can move this run now."""
        return not (self.work.is_busy or self._completions or self._auto or self._asking_history)

    def _verdict(self) -> RunStatus | None:
        if self.work.is_busy:
            return None
        outcome = self._scheduler.outcome()
        match outcome:
            case None:
                return None
            case Finished():
                return RunStatus.FINISHED
            case Failed(failure):
                self._error = failure_error(failure, self.state.errors)
                return RunStatus.FAILED
            case Continued(node):
                self._successor = next_run(self.state, node, self.engine.clock.now_ms())
                self.state.step.successor = self._successor
                return RunStatus.CONTINUED
            case Deadlocked(waiting):
                missing = {state_key(key): list(ids) for key, ids in waiting.items()}
                listed = "; ".join(f"{key} waits for {', '.join(ids)}" for key, ids in list(missing.items())[:5])
                raise DependencyDeadlock(f"nothing can go on: {listed}", {"waiting": missing})

    def _parking(self) -> RunStatus | None:
        """The status to park with, if this run can only wait now."""
        if self._releasing:
            return RunStatus.RUNNING
        if self._pausing:
            return RunStatus.PAUSED
        state = self.state
        if state.held or self._scheduler.queues.has_ready or self._check_inbox:
            return None
        waiting = {state.nodes[key] for key in state.live}
        for status in (S.WAITING_APPROVAL, S.WAITING_EVENT, S.WAITING_TIMER, S.WAITING_QUOTA):
            if status in waiting:
                due = state.next_due()
                return RunStatus(status.value) if due is None or due > self.engine.clock.now_ms() else None
        return None

    def _broken(self, error: SmithersError) -> RunStatus:
        """The workflow itself is wrong: the run fails with that."""
        log.info("run failed", extra={"run_id": self.state.run_id, "code": error.error_code})
        self.work.cancel_open("run-failed")
        self.work.abort_all()
        self._error = error_object(error)
        return RunStatus.FAILED

    def _end(self, status: RunStatus) -> None:
        """Write the run's end or halt into the step."""
        state = self.state
        self.is_ending = True
        error = None
        if status.is_terminal:
            for key in sorted(state.live | state.held):
                if state.nodes[key] is not S.IN_PROGRESS:
                    self.desk.abandon(key, "run-ended")
            state.row("timers_done", state.run_id)
        if status is RunStatus.FINISHED:
            keys = self._tolerated()
            state.tell("RunFinished", None, failedChildren=len(keys) or None, failedChildKeys=list(keys) or None)
        elif status is RunStatus.FAILED:
            error = to_json(self._error).decode()
            state.tell("RunFailed", None, error=self._error)
        elif status is RunStatus.CONTINUED:
            assert self._successor is not None
            size = len(self._successor.config_json)
            state.tell("RunContinuedAsNew", None, newRunId=self._successor.run_id, iteration=0, carriedStateSize=size)
        elif status is RunStatus.RUNNING:
            self.work.hand_back()
        else:
            state.step.seen_wakeup = state.last_wakeup
        state.tell("RunStatusChanged", None, status=status.value)
        state.step.status = StatusChange(status.value, status.is_terminal, error)

    def _tolerated(self) -> tuple[str, ...]:
        return tuple(state_key(key) for key in self.state.errors if self.state.nodes.get(key) is S.FAILED)

    def _finish(self, status: RunStatus) -> None:
        state = self.state
        output: list[BaseModel] | None = None
        if status is RunStatus.FINISHED and "output" in state.workflow.outputs:
            output = [row.payload for row in state.data.rows.get("output", {}).values()]
        next_run_id = None if self._successor is None else self._successor.run_id
        failed = self._tolerated() if status is RunStatus.FINISHED else ()
        result = RunResult(state.run_id, status, output, self._error, next_run_id, failed)
        if not self.result.done():
            self.result.set_result(result)

    async def _cancel(self) -> None:
        """Stop all work and end the run as cancelled."""
        self.is_ending = True
        await self.work.stop(ABORT_SETTLE_S)
        state = self.state
        fence = (state.owner, state.epoch)
        if not await self.engine.store.finalize_cancel(state.run_id, self.engine.clock.now_ms(), fence):
            raise LeaseLost(f"run {state.run_id!r} was taken over while it was being cancelled")
        self.engine.hub.wake(state.run_id)
        if not self.result.done():
            self.result.set_result(RunResult(state.run_id, RunStatus.CANCELLED))


def _internal(error: Exception) -> SmithersError:
    found = SmithersError(f"the run broke with {type(error).__name__}")
    found.__cause__ = error
    return found
