"""Driver: the loop of one run. Takes in what happened, renders if that matters, starts what may start, commits, waits.

One turn is one step: everything that has happened since the last turn and everything that starts because of it go into
one commit; effects (starting work, telling subscribers) come after. This file only wires: states are in `state`, waits in
`waits`, work in `work`, what has come since the last step in `intake`, what is decided in `smithers.scheduler`.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from smithers.engine.calls import RunTools
from smithers.engine.completions import Completion
from smithers.engine.ending import Ending, broken, ending_of, parking_status, result_of, write_ending
from smithers.engine.flow import Flow
from smithers.engine.generations import Generation, Handover, hand_over
from smithers.engine.intake import Intake
from smithers.engine.recovery import Carried, carry, close_lost_attempts, reopen
from smithers.engine.result import RunResult
from smithers.engine.settle import Settler
from smithers.engine.sharing import AttemptContext
from smithers.engine.state import RunState
from smithers.engine.tooling import DEFAULT, ToolOptions
from smithers.engine.waits import WaitDesk
from smithers.engine.work import Work
from smithers.errors import IncompatibleSchema, LeaseLost, SmithersError, StorageError, StorageUnreachable
from smithers.scheduler.states import RunStatus
from smithers.store.interface import CancelRequested, LoadedRun, NewRun, NewWakeup, Step
from smithers.store.sql.checkpoints import add_files

if TYPE_CHECKING:
    from smithers.engine.engine import Engine

log = logging.getLogger(__name__)
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
        self.carried: Carried | None = None
        """The rows that a continued run brings along from the one before."""
        self.reopens = False
        """Whether nodes that were cancelled with the run may run again."""
        self.source_change: tuple[str | None, str | None] | None = None
        """Hash and path of the accepted new source, to be recorded."""
        self._handover: Handover | None = None
        """New code that waits for the next step."""
        self._taken: Handover | None = None
        """New code that the current step brings: answered once that is durable."""
        self._launch = launch
        self._parent_run_id: str | None = None
        self._known_as: str | None = None
        self._wake = asyncio.Event()
        self._releasing = False
        self.intake = Intake(self, has_news=launch is None)
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
        self.desk = WaitDesk(state, self.intake.check_history)
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
        return self.intake.has_news

    @property
    def is_pausing(self) -> bool:
        """Whether it knows that it is to pause: it starts nothing any more."""
        return self.intake.is_pausing

    # ── from outside ───────────────────────────────────────────────────────────────────────────────────────────────

    def poke(self) -> None:
        """There may be something to do."""
        self._wake.set()

    def look(self) -> None:
        """Somebody has written something for this run."""
        self.intake.has_news = True
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
        self.intake.completions.append(completion)
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
            for handover in (self._handover, self._taken):
                if handover is not None:
                    handover.give_up()
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
        self.intake.retire()
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
                self.intake.leave_aborted()
            try:
                self._recover()
                if self._handover is not None and not self._releasing:
                    self._taken, self._handover = self._handover, None
                    hand_over(self, self._taken)
                late = state.timeouts_due(step.now_ms)
                if step.launch is None and (late or self.intake.has_news):
                    await self.intake.look_outside(late, step.now_ms)
                if not self.intake.is_cancelling:
                    self.intake.take_in()
                    ending = self._advance()
                if self.flow.new_tables:
                    await self._make_tables()
            except IncompatibleSchema as error:
                ending = self._broken(error)
            except (StorageError, LeaseLost):
                raise
            except SmithersError as error:
                ending = self._broken(error)
            except Exception as error:  # an author's object that misbehaves, or a bug of ours: the run must not hang
                log.exception("run broke", extra={"run_id": self.state.run_id})
                ending = self._broken(_internal(error))
            if self.intake.is_cancelling:
                await self._cancel()
                return
            if ending is None and self._is_idle():
                ending = self._parking()
            if ending is not None:
                self.is_ending = True
                write_ending(state, ending, self.desk, self.work)
            if (not step.is_empty or step.launch is not None) and not await self._commit(step):
                continue
            if self._taken is not None:
                self._taken.accept()
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

    def _advance(self) -> Ending | None:
        halting = self.intake.is_pausing or self._releasing
        outcome = self.flow.advance(is_halting=halting, starve=lambda: self.engine.agents.starve(self, self.poke))
        return None if outcome is None else ending_of(self.state, outcome, self.engine.clock.now_ms(), self.flow.tree)

    async def _make_tables(self) -> None:
        """Make the tables of workflows that this step mounts. Raises `IncompatibleSchema`."""
        tables, self.flow.new_tables = self.flow.new_tables, []
        await self.patiently(lambda: self.engine.store.ensure_tables(tables))

    async def _sleep(self) -> None:
        if self.intake.completions or self._wake.is_set():
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
            committed = await self.patiently(lambda: self.engine.store.commit(step))
        except NewWakeup:
            # something arrived while the run was about to park: keep the rest of the step, stay, and look
            self.is_ending = False
            step.status = step.seen_wakeup = None
            step.events = [e for e in step.events if e.type != "RunStatusChanged"]
            self.intake.has_news = True
            self._wake.set()
            return await self._commit(step) if not step.is_empty else True
        except CancelRequested:
            self.intake.is_cancelling = True
            self._wake.set()
            return False
        self.state.frame_no = step.frame_no
        self.state.data.is_fresh = False
        self.state.renumber_outputs(step, committed.first_output_seq)
        self.intake.is_pausing = self.intake.is_pausing or committed.pause_requested
        self.engine.hub.publish(self.state.run_id, step, committed.first_seq)
        return True

    async def patiently(self, ask: Callable[[], Awaitable[T]]) -> T:
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

    # ── ending ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _is_idle(self) -> bool:
        """Nothing runs or is about to; only the world can move this run now."""
        return not (self.work.is_busy or self.intake.is_expecting)

    def _parking(self) -> Ending | None:
        """How to halt, if this run can only wait now."""
        if self._releasing:
            return Ending(RunStatus.RUNNING)
        if self.intake.is_pausing:
            return Ending(RunStatus.PAUSED)
        if self.state.held or self.flow.scheduler.queues.has_ready or self.intake.has_news:
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
        store, state = self.engine.store, self.state
        if files := self.work.files_left():
            await self.patiently(lambda: store.awrite(lambda c: add_files(c, files)))
        fence, now_ms = (state.owner, state.epoch), self.engine.clock.now_ms()
        if not await self.patiently(lambda: store.finalize_cancel(state.run_id, now_ms, fence)):
            raise LeaseLost(f"run {state.run_id!r} was taken over while it was being cancelled")
        self.engine.hub.touch(state.run_id)
        if not self.result.done():
            self.result.set_result(RunResult(state.run_id, RunStatus.CANCELLED))


def _internal(error: Exception) -> SmithersError:
    found = SmithersError(f"the run broke with {type(error).__name__}")
    found.__cause__ = error
    return found
