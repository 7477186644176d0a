"""Flow: how a run goes on within one step. Renders where it matters, advances loops, takes what may start.

Holds the current plan and its scheduler. Decides nothing durable by itself: what it does goes into the step that the
state drafts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pydantic_core import to_json

from smithers.components.context import Context
from smithers.components.element import Element
from smithers.engine import guard
from smithers.engine.frames import FrameKeeper
from smithers.engine.mounting import mounted_tables
from smithers.engine.recovery import retry_failed
from smithers.engine.result import failure_error
from smithers.engine.room import AgentRoom
from smithers.engine.state import Begun, RunState
from smithers.errors import SmithersError
from smithers.graph.extract import extract
from smithers.graph.plan import LeafNode, Plan
from smithers.scheduler.scheduler import Outcome, Scheduler
from smithers.scheduler.states import NodeState
from smithers.store.columns import TableDef

if TYPE_CHECKING:
    from smithers.engine.settle import Settler
    from smithers.engine.waits import WaitDesk
    from smithers.engine.work import Work

S = NodeState
MAX_ROUNDS = 100_000
"""Most renders within one step; more is a workflow that never comes to rest."""


class Flow:
    """The tree of one run and the way through it.

    Args:
        state: the run; its step takes what is decided here.
        room: what the process has left for agents.
        limit: at most so many running leaves in the run; None is unlimited.
    """

    tree: Element
    plan: Plan
    scheduler: Scheduler

    def __init__(self, state: RunState, room: AgentRoom, limit: int | None) -> None:
        self._state = state
        self._room = room
        self._limit = limit
        self._ctx: Context[object] | None = None
        self._force_render = True
        self._frames = FrameKeeper(state)
        self.desk: WaitDesk
        self.settler: Settler
        self.work: Work
        self.retries_failed = False
        """Whether what the run failed with is tried again."""
        self.new_tables: list[TableDef] = []
        """Those of mounted workflows, which may not be there yet: the driver has them made before the step is stored."""
        self._mounted: set[TableDef] = set()

    @property
    def is_rendered(self) -> bool:
        """Whether there is a plan."""
        return self._ctx is not None

    @property
    def mounted(self) -> Plan | None:
        """The plan, if there is one."""
        return self.plan if self.is_rendered else None

    @property
    def has_worktrees(self) -> bool:
        """Whether tasks of the plan work in worktrees."""
        return self.is_rendered and bool(self.plan.worktrees)

    @property
    def context(self) -> Context[object]:
        """The context of the last render."""
        assert self._ctx is not None
        return self._ctx

    def must_render(self) -> None:
        """Render in the next step whatever has changed: the workflow function is another one."""
        self._force_render = True

    def advance(self, *, is_halting: bool, starve: Callable[[], None]) -> Outcome | None:
        """Render, advance loops and take leaves until nothing changes any more. The run's outcome, if it has one.

        Args:
            is_halting: start nothing new: the run is to pause or to be given up.
            starve: called when an agent waits for room.
        """
        scheduler = self.scheduler
        for _ in range(MAX_ROUNDS):
            if self._must_render():
                self.render()
                scheduler = self.scheduler
            self._advance_loops()
            if scheduler.caught:
                self._hand_over_errors()
            if scheduler.abandoned:
                self._drop_abandoned()
            moved = 0
            if not is_halting and scheduler.continuation is None:
                moved = self._take(starve)
            if not moved and not self._must_render() and not scheduler.loops_at_end:
                return None if self.work.is_busy else scheduler.outcome()
        raise SmithersError(
            f"the workflow did not come to rest within {MAX_ROUNDS} renders", code="WORKFLOW_RENDER_FAILED"
        )

    def _advance_loops(self) -> None:
        for loop, loop_state in self.scheduler.advance_loops():
            self._state.row(
                "loop",
                self._state.run_id,
                loop.id,
                loop_state.iteration,
                int(loop_state.done),
                self._state.step.now_ms,
                self._state.step.frame_no,
            )
            self._state.data.set_loop(loop.id or "", loop_state)
            self._force_render = self._force_render or not loop_state.done

    def _hand_over_errors(self) -> None:
        """Let the next render see the failures that functions are to catch."""
        for region_id, failure in self.scheduler.caught.items():
            error = self._state.errors.get(failure.leaf.key) if failure.leaf else None
            found = dict(error or failure_error(failure, self._state.errors))
            if failure.leaf is not None:
                found |= {"nodeId": failure.leaf.key[0], "iteration": failure.leaf.key[1]}
            self._state.data.set_region_error(region_id, found)

    def _take(self, starve: Callable[[], None]) -> int:
        """Handle what may start. How many leaves were handled that may have made others ready at once."""
        scheduler, state = self.scheduler, self._state
        begun = 0
        leaves = scheduler.take(self._room.free)
        for leaf in leaves:
            if leaf.key not in state.nodes:
                state.mount(leaf)
            if leaf.element.skip_if or scheduler.is_tainted(leaf):
                state.move(leaf, S.SKIPPED)
                state.tell("NodeSkipped", leaf)
                scheduler.settled(leaf.key)
            elif leaf.kind.is_wait or (not leaf.in_slot and self._has_gate(leaf)):
                self.desk.arrive(leaf)
            elif not leaf.in_slot:
                scheduler.resumes(leaf.key)
            else:
                self.work.begin(leaf)
                begun += 1
        if scheduler.queues.has_agents and self._room.free <= 0:
            starve()
        else:
            self._room.offer()
        return len(leaves) - begun

    def _has_gate(self, leaf: LeafNode) -> bool:
        """Whether a person has yet to agree before work begins: to it at all, or to doing again what was done."""
        if guard.must_ask(self._state, leaf):
            return True
        row = self._state.gates.get(leaf.key)
        return leaf.needs_gate and (row is None or row.status != "approved")

    def _drop_abandoned(self) -> None:
        gone, self.scheduler.abandoned = self.scheduler.abandoned, []
        for leaf in gone:
            self.desk.abandon(leaf.key, "region-failed")

    def _must_render(self) -> bool:
        """Whether what was read has changed, and the run has not been decided to end or go on as another."""
        scheduler = self.scheduler
        return self._is_dirty() and not scheduler.plan.region.halted and scheduler.continuation is None

    def _is_dirty(self) -> bool:
        if self._force_render:
            return True
        data = self._state.data
        if not data.touched:
            return False
        if self._state.workflow.always_render:
            return True
        if self._ctx is None or data.depends_on_change(self._ctx.reads):
            return self._ctx is not None
        data.touched.clear()  # what this render has not read does not matter to it later either
        return False

    def render(self) -> None:
        """Call the workflow function and go on with its tree."""
        state = self._state
        reason = "start" if self._ctx is None else "change"
        state.data.touched = set()
        self._force_render = False
        tree, ctx = state.workflow.render(state.data)
        self.tree = tree
        with state.workflow.authoring(ctx):  # catch functions and inline workflows are authors' code too
            plan = extract(tree, ctx, state.data, state.workflow.outputs)
        if state.name and plan.name != state.name:
            raise SmithersError(
                f"the workflow's name changed from {state.name!r} to {plan.name!r}; it must be the same in every render",
                code="RESUME_METADATA_MISMATCH",
            )
        if not state.name:
            state.name = state.workflow.__dict__["_named"] = plan.name  # which its next run is launched with
            if state.step.launch is not None and state.step.launch.workflow_name != plan.name:
                state.step.launch = state.step.launch._replace(workflow_name=plan.name)
            elif state.step.launch is None:  # it was stored before anybody knew
                state.row("name", plan.name, state.run_id)
        self._ctx = ctx
        state.data.set_worktrees({id: path for id, path in plan.worktrees if id is not None})
        for logical, home in plan.homes.items():
            if state.data.homes.get(logical) != home:
                state.data.homes[logical] = home
        for table in mounted_tables(plan, state.workflow):
            if table not in self._mounted:
                self._mounted.add(table)
                self.new_tables.append(table)
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
        state = self._state
        for key in sorted(k for k in state.live | state.held if k not in plan.leaves):
            if state.nodes[key] is not S.IN_PROGRESS:
                self.desk.abandon(key, "unmounted")
        failed = [k for k in state.errors if state.nodes.get(k) is S.FAILED]
        self.plan = plan
        self.scheduler = Scheduler(
            plan,
            state.nodes,
            state.failures(plan, failed),
            live=state.live,
            held=state.held,
            begun=Begun(state.attempts, state.gates),
            guarded=state.guarded,
            limit=self._limit,
        )
        self.desk.scheduler = self.settler.scheduler = self.scheduler

    def _record_patches(self) -> None:
        data = self._state.data
        if data.new_patches:
            patches = {**data.patches}
            for patch_id, decision in data.new_patches.items():
                self._state.tell("WorkflowPatchRecorded", None, patchId=patch_id, decision=decision)
            data.new_patches = {}
            self._state.config["workflowPatches"] = patches
            self._state.row("config", to_json(self._state.config).decode(), self._state.run_id)
