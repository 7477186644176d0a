"""Intake: what has come to a run since its last step: results and reports of its work, and what others have written.

The driver has it taken in at the beginning of a step. What becomes of it there is decided in `settle` and `waits`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic_core import from_json

from smithers.components.gates import AutoApprove
from smithers.components.scope import Key
from smithers.engine.completions import Completion
from smithers.events import event
from smithers.graph.plan import LeafNode
from smithers.scheduler.states import NodeState

if TYPE_CHECKING:
    from smithers.engine.driver import Driver

S = NodeState


class Intake:
    """Collects for one driver.

    Attributes:
        completions: attempts that have ended.
        has_news: whether something was written for the run that it has not looked at yet.
        is_cancelling: whether somebody has asked for the run to be cancelled.
        is_pausing: whether somebody has asked for it to pause.
    """

    def __init__(self, driver: Driver, *, has_news: bool) -> None:
        self._driver = driver
        self._state = driver.state
        self.completions: list[Completion] = []
        self.has_news = has_news
        self.is_cancelling = False
        self.is_pausing = False
        self._approved: list[LeafNode] = []
        """Approvals that need nobody, as their history says."""
        self._asking_history = 0

    @property
    def is_expecting(self) -> bool:
        """Whether something is here, or about to be, that the next step takes in."""
        return bool(self.completions or self._approved or self._asking_history)

    def leave_aborted(self) -> None:
        """The run is given up: leave the attempts that were stopped for that to who goes on with it."""
        self.completions = [done for done in self.completions if not done.is_aborted]

    def retire(self) -> None:
        """Nobody drives the run any more: nothing is taken in."""
        del self._driver

    async def look_outside(self, late: list[Key], now_ms: int) -> None:
        """Take in what others have written; of a decision and a timeout that meet, the one stored first counts.

        Args:
            late: where somebody's patience has run out.
        """
        await self._read_inbox()
        state = self._state
        late = [key for key in late if state.nodes.get(key) is S.WAITING_APPROVAL]
        if late and not self.is_cancelling:
            store, fence = self._driver.engine.store, (state.owner, state.epoch)
            if not await self._driver.patiently(lambda: store.expire(state.run_id, late, now_ms, fence)):
                await self._read_inbox()

    async def _read_inbox(self) -> None:
        driver, state = self._driver, self._state
        self.has_news = False
        inbox = await driver.patiently(lambda: driver.engine.store.inbox(state.run_id, state.last_signal))
        state.last_wakeup = inbox.last_wakeup
        self.is_cancelling = self.is_cancelling or inbox.cancel_requested
        self.is_pausing = self.is_pausing or inbox.pause_requested
        if self.is_cancelling:
            return
        if not driver.flow.is_rendered:
            driver.flow.render()
        driver.desk.take_in(inbox)
        driver.work.look_at_children()

    def take_in(self) -> None:
        """Have what has come go into the step: reports, results, approvals that need nobody, moments that are due."""
        driver, state = self._driver, self._state
        self._drain_progress()
        if not driver.flow.is_rendered:
            driver.flow.render()
        completions, self.completions = self.completions, []
        for completion in completions:
            driver.work.ended(completion.leaf.key)
            driver.settler.settle(completion)
        for leaf in self._approved:
            driver.desk.approve_by_history(leaf)
        self._approved.clear()
        for (key, kind), moment in state.due(state.step.now_ms):
            self._due(key, kind, moment)

    def _due(self, key: Key, kind: str, moment: int) -> None:
        driver, state = self._driver, self._state
        if kind in ("retry", "quota"):
            state.held.discard(key)
            leaf = driver.work.leaf_of(key, driver.flow.plan)
            if leaf is not None and state.nodes.get(key) is S.WAITING_QUOTA:
                driver.shared.release_quotas()
                state.move(leaf, S.PENDING)
                state.tell("NodePending", leaf)
            driver.flow.scheduler.comes_again(key)
        elif kind == "deadline":
            driver.work.look_at_child(key)
        else:
            driver.desk.due(key, kind, moment)

    def _drain_progress(self) -> None:
        """Write what attempts have reported since the last step; of the heartbeats of one, the newest."""
        progress, state = self._driver.shared.progress, self._state
        if progress.events:
            state.step.events.extend(progress.events)
            progress.events.clear()
        if progress.beats:
            for (node_id, iteration, attempt), (moment, data) in progress.beats.items():
                state.row("heartbeat", moment, data, state.step.frame_no, state.run_id, node_id, iteration, attempt)
                if data is not None:
                    state.checkpoints[(node_id, iteration)] = from_json(data)
                size = len(data or "")
                told = event(
                    "TaskHeartbeat", node_id, iteration, attempt=attempt, hasData=data is not None, dataSizeBytes=size
                )
                state.step.events.append(told)
            progress.beats.clear()

    def check_history(self, leaf: LeafNode, auto: AutoApprove) -> None:
        """Look up whether the approval's history makes asking anybody unnecessary; a later step takes in what is found."""
        driver, state = self._driver, self._state

        async def look() -> None:
            try:
                if await driver.engine.has_history(state.name, leaf.key[0], auto.after):
                    self._approved.append(leaf)
            finally:
                self._asking_history -= 1
                driver.poke()

        self._asking_history += 1
        driver.engine.background(look())
