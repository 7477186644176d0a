"""Driver: the loop of one run. Takes in what happened, renders if that matters, starts what may start, commits, waits.

One turn is one step: everything that has happened since the last turn and everything that starts because of it go into
one commit; effects (starting work, telling subscribers) come after. This file only wires: states are in `state`, waits in
`waits`, work in `attempts`, results in `settle`, what is decided in `smithers.scheduler`.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from pydantic_core import from_json

from smithers.components.gates import AutoApprove
from smithers.components.scope import Key
from smithers.engine.attempts import AttemptContext, Completion
from smithers.engine.calls import RunTools
from smithers.engine.ending import Ending, broken, ending_of, parking_status, result_of, write_ending
from smithers.engine.flow import Flow
from smithers.engine.generations import Generation, Handover, hand_over
from smithers.engine.recovery import carry, close_lost_attempts, reopen
from smithers.engine.result import RunResult
from smithers.engine.settle import Settler
from smithers.engine.state import RunState
from smithers.engine.tooling import DEFAULT, ToolOptions
from smithers.engine.waits import WaitDesk
from smithers.engine.work import Work
from smithers.errors import LeaseLost, SmithersError, StorageError, StorageUnreachable
from smithers.events import event
from smithers.graph.plan import LeafNode
from smithers.scheduler.states import NodeState, RunStatus
from smithers.store.interface import CancelRequested, LoadedRun, NewRun, NewWakeup, Step

if TYPE_CHECKING:
    from smithers.engine.engine import Engine

log = logging.getLogger(__name__)
S = NodeState
T = TypeVar("T")
AWAY_S = 0.5
"""How soon to ask again a database server that is away."""
ABORT_SETTLE_S = 5.0
"""How long work that was told to stop may take to do so."""


@dataclass(slots=True)
class DriverOptions:
    """What a launch or resume says about how its run is driven."""

    max_concurrency: int | None = None
    root_dir: str | None = None
    tools: ToolOptions = DEFAULT


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
        self.source_change: tuple[str | None, str | None] | None = None
        """Hash and path of the accepted new source, to be recorded."""
        self._handover: Handover | None = None
        """New code that waits for the next step."""
        self._launch = launch
        self._parent_run_id: str | None = None
        self._known_as: str | None = None
        self._wake = asyncio.Event()
        self._check_inbox = launch is None
        self._completions: list[Completion] = []
        self._pausing = False
        self._releasing = False
        self._cancelling = False
        self._auto: list[LeafNode] = []
        self._asking_history = 0
        self._is_over = False
        """Whether the run has ended or parked, and nothing of it is under way any more."""
        self.shared = AttemptContext(
            run_id=state.run_id,
            root_dir=engine.root_dir(options.root_dir),
            tools=RunTools(
                store=engine.store,
                hub=engine.hub,
                loop=engine.loop,
                now_ms=engine.clock.now_ms,
                run_id=state.run_id,
                owner=state.owner,
                epoch=state.epoch,
                options=options.tools,
            ),
            threads=engine.threads,
            now_ms=engine.clock.now_ms,
            deps=lambda leaf: self.work.dependencies(leaf),
            poke=self.poke,
            has_checkpoints=engine.settings.has_checkpoints,
            ray_address=engine.settings.ray_address,
        )
        state.data.root_dir = str(self.shared.root_dir)
        self.desk = WaitDesk(state, engine.clock.now_ms, self._check_history)
        self.settler = Settler(state)
        self.work = Work(self)
        self.flow = Flow(state, engine.agents, options.max_concurrency)
        self.flow.desk, self.flow.settler, self.flow.work = self.desk, self.settler, self.work

    @property
    def is_admitted(self) -> bool:
        """Whether the run is durable."""
        return self.admitted.done()

    @property
    def has_news(self) -> bool:
        """Whether something was written for the run that it has not looked at yet."""
        return self._check_inbox

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

    def reload(self, generation: Generation) -> asyncio.Future[Exception | None]:
        """Go on with new code from the next step on. The answer is as `Handover` has it."""
        handover = self._handover = Handover(generation)
        if self.result.done():
            handover.give_up()
        self._wake.set()
        return handover.answer

    def complete(self, completion: Completion) -> None:
        """Work has come to an end; its result goes into the next step."""
        self._completions.append(completion)
        self._wake.set()

    # ── the loop ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def run(self) -> None:
        """Drive the run to its end or next halt; the outcome is in `result`."""
        stored = self._launch or (self.recovered and self.recovered.run)
        self._parent_run_id = stored.parent_run_id if stored else None
        self._introduce()
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
            if self._handover is not None:
                self._handover.give_up()
            if self._is_over:
                self._come_apart()
            for future in (self.admitted, self.result):
                if not future.done():
                    future.cancel()
                elif not future.cancelled():
                    future.exception()  # whoever waits gets it; nobody has to

    def _come_apart(self) -> None:
        """Let go of the parts that refer back to this: so they are gone now, without the garbage collector's work."""
        self.shared.retire()
        del self.shared, self.desk, self.settler, self.work, self.flow

    def _introduce(self) -> None:
        """Have what is logged and launched from here on belong to this run, if anybody observes."""
        if "smithers.observability.context" in sys.modules:
            from smithers.observability.context import current_run, run_info

            state = self.state
            self._known_as = state.name
            current_run.set(run_info(state.run_id, state.name, self._parent_run_id, state.config))

    async def _drive(self) -> None:
        state = self.state
        while not self.result.done():
            step = state.begin_step(self.engine.clock.now_ms())
            if self._launch is not None:
                step.launch, self._launch = self._launch, None
            ending: Ending | None = None
            if self._releasing:
                await self.work.stop(ABORT_SETTLE_S)
                self._completions = [done for done in self._completions if not done.is_aborted]
            try:
                self._recover()
                if self._handover is not None and not self._releasing:
                    handover, self._handover = self._handover, None
                    hand_over(self, handover)
                late = state.timeouts_due(step.now_ms)
                if step.launch is None and (late or self._check_inbox):
                    await self._look_outside(late, step.now_ms)
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
                self.is_ending = True
                write_ending(state, ending, self.desk, self.work)
            if (not step.is_empty or step.launch is not None) and not await self._commit(step):
                continue
            if not self.admitted.done():
                self.admitted.set_result(None)
                if self._known_as != state.name:
                    self._introduce()  # rendering has told the run's name
            if step.status is not None and ending is not None:
                keeps = state.config.get("keepWorktrees") is True
                if ending.status is RunStatus.FINISHED and self.flow.has_worktrees and not keeps:
                    await self.shared.workspaces.tidy()
                if not self.result.done():
                    self.result.set_result(result_of(state, ending))
                self._is_over = not self.work.is_busy
                return
            if self.result.done():  # lost while the step was being written: what it was to start is somebody else's
                self.work.abort_all()
                return
            if self.work.start_all():
                await asyncio.sleep(0)  # their first turn: what has ended by then goes into the next step
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
            committed = await self._patiently(lambda: self.engine.store.commit(step))
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

    async def _patiently(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Ask a database again while its server is away: work that is under way need not be lost to that. Nothing was
        written then, and if others reach the server and take the run over, the fence says so."""
        while True:
            try:
                return await ask()
            except StorageUnreachable:
                if not self.is_admitted or self._releasing or self.result.done():
                    raise
                log.warning("the database is away; the run waits", extra={"run_id": self.state.run_id})
            await asyncio.sleep(AWAY_S)

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

    async def _look_outside(self, late: list[Key], now_ms: int) -> None:
        """Take in what others have written; of a decision and a timeout that meet, the one stored first counts.

        Args:
            late: where somebody's patience has run out.
        """
        await self._read_inbox()
        late = [key for key in late if self.state.nodes.get(key) is S.WAITING_APPROVAL]
        if late and not self._cancelling:
            fence = (self.state.owner, self.state.epoch)
            if not await self._patiently(lambda: self.engine.store.expire(self.state.run_id, late, now_ms, fence)):
                await self._read_inbox()

    def _advance(self) -> Ending | None:
        halting = self._pausing or self._releasing
        outcome = self.flow.advance(is_halting=halting, starve=lambda: self.engine.agents.starve(self, self.poke))
        return None if outcome is None else ending_of(self.state, outcome, self.engine.clock.now_ms(), self.flow.tree)

    async def _read_inbox(self) -> None:
        self._check_inbox = False
        inbox = await self._patiently(lambda: self.engine.store.inbox(self.state.run_id, self.state.last_signal))
        self.state.last_wakeup = inbox.last_wakeup
        self._cancelling = self._cancelling or inbox.cancel_requested
        self._pausing = self._pausing or inbox.pause_requested
        if self._cancelling:
            return
        if not self.flow.is_rendered:
            self.flow.render()
        self.desk.take_in(inbox)
        self.work.look_at_children()

    def _take_in(self) -> None:
        self._drain_progress()
        if not self.flow.is_rendered:
            self.flow.render()
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
            leaf = self.work.leaf_of(key, self.flow.plan)
            if leaf is not None and self.state.nodes.get(key) is S.WAITING_QUOTA:
                self.shared.release_quotas()
                self.state.move(leaf, S.PENDING)
                self.state.tell("NodePending", leaf)
            self.flow.scheduler.resumes(key)
        elif kind == "deadline":
            self.work.look_at_child(key)
        else:
            self.desk.due(key, kind, moment)

    def _drain_progress(self) -> None:
        progress = self.shared.progress
        if progress.events:
            self.state.step.events.extend(progress.events)
            progress.events.clear()
        if progress.beats:
            for (node_id, iteration, attempt), (moment, data) in progress.beats.items():
                frame_no = self.state.step.frame_no
                self.state.row("heartbeat", moment, data, frame_no, self.state.run_id, node_id, iteration, attempt)
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

    def _parking(self) -> Ending | None:
        """How to halt, if this run can only wait now."""
        if self._releasing:
            return Ending(RunStatus.RUNNING)
        if self._pausing:
            return Ending(RunStatus.PAUSED)
        if self.state.held or self.flow.scheduler.queues.has_ready or self._check_inbox:
            return None
        status = parking_status(self.state, self.engine.clock.now_ms())
        return None if status is None else Ending(status)

    def _broken(self, error: SmithersError) -> Ending:
        """The workflow itself is wrong: the run fails with that."""
        log.info("run failed", extra={"run_id": self.state.run_id, "code": error.error_code})
        self.work.cancel_open("run-failed")
        self.work.abort_all()
        return broken(error)

    async def _cancel(self) -> None:
        """Stop all work and end the run as cancelled."""
        self.is_ending = True
        await self.work.stop(ABORT_SETTLE_S)
        state = self.state
        fence = (state.owner, state.epoch)
        if not await self.engine.store.finalize_cancel(state.run_id, self.engine.clock.now_ms(), fence):
            raise LeaseLost(f"run {state.run_id!r} was taken over while it was being cancelled")
        self.engine.hub.touch(state.run_id)
        if not self.result.done():
            self.result.set_result(RunResult(state.run_id, RunStatus.CANCELLED))


def _internal(error: Exception) -> SmithersError:
    found = SmithersError(f"the run broke with {type(error).__name__}")
    found.__cause__ = error
    return found
