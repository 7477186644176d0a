"""A mini engine without I/O: renders, takes, and lets the world answer. Holds every step to the oracle and to a rebuild."""

from __future__ import annotations

from collections.abc import Callable

from pydantic import BaseModel
from tests.unit.scheduler.oracle import Oracle

from smithers.components.context import Context
from smithers.components.element import Element
from smithers.components.flow import Workflow
from smithers.components.gates import Approval
from smithers.components.outputs import Outputs
from smithers.components.rundata import OutputRow, RunData
from smithers.components.scope import Key
from smithers.components.workflow import SmithersWorkflow
from smithers.graph.extract import extract
from smithers.graph.plan import Failure, LeafKind, LeafNode
from smithers.scheduler.scheduler import Continued, Deadlocked, Failed, Finished, Outcome, Scheduler
from smithers.scheduler.states import NodeState

S = NodeState


class Out(BaseModel):
    """The one output of all tests here."""

    approved: bool = True


outputs = Outputs({"out": Out})

_WAIT_STATES = {LeafKind.TIMER: S.WAITING_TIMER, LeafKind.EVENT: S.WAITING_EVENT}


def plain(outcome: Outcome | None) -> tuple[object, ...] | None:
    """An outcome as the oracle writes it."""
    match outcome:
        case None:
            return None
        case Finished():
            return ("finished",)
        case Failed(failure):
            codes, cause = [failure.code], failure.cause
            while cause is not None:
                codes.append(cause.code)
                cause = cause.cause
            leaf = failure.root.leaf
            return ("failed", tuple(codes), None if leaf is None else leaf.key)
        case Continued(node):
            return ("continued", node.ordinal)
        case Deadlocked(waiting):
            return ("deadlocked", tuple(sorted(waiting.items())))


class Run:
    """A run in memory.

    Args:
        build: the workflow function; elements are wrapped in a Workflow.
        agent_room: agents that may start in one take.
        limit: running leaves in the run.
    """

    def __init__(
        self,
        build: Callable[[Context[object]], object],
        *,
        agent_room: int = 100,
        limit: int | None = None,
        check: bool = True,
    ) -> None:
        def tree(ctx: Context[object]) -> Element:
            return Workflow("test")[build(ctx)]

        self.workflow = SmithersWorkflow(tree, outputs=outputs, input_model=None, db="")
        self.agent_room, self.limit, self.check = agent_room, limit, check
        self.data = RunData("run")
        self.states: dict[Key, NodeState] = {}
        self.failures: dict[Key, Failure] = {}
        self.live: set[Key] = set()
        self.held: set[Key] = set()
        self.approved: set[Key] = set()
        self.begun: set[Key] = set()
        """What has ever been started or approved."""
        self.guarded: set[Key] = set()
        """What is not done again unasked; `approved` has it once somebody was asked."""
        self.leaves: dict[Key, LeafNode] = {}
        self.given: list[Key] = []
        """Everything that was started, in order."""
        self.renders = 0
        self.render()
        self.pump()

    # ── the engine's part ──────────────────────────────────────────────────────────────────────────────────────────

    def fresh(self) -> tuple[Scheduler, set[tuple[str, ...]]]:
        """A new scheduler over the states as they are."""
        tree, ctx = self.workflow.render(self.data)
        plan = extract(tree, ctx, self.data, outputs)
        for logical, home in plan.homes.items():
            self.data.homes[logical] = home
        scheduler = Scheduler(
            plan,
            self.states,
            dict(self.failures),
            live=self.live,
            held=self.held,
            begun=self.begun,
            guarded=self.guarded,
            limit=self.limit,
        )
        return scheduler, ctx.reads

    def render(self) -> None:
        """Render and put a new scheduler in place of the old one."""
        self.renders += 1
        self.data.touched = set()
        self.force = False
        self.scheduler, self.reads = self.fresh()
        self.leaves.update(self.scheduler.plan.leaves)
        for key in [key for key in self.live | self.held if key not in self.scheduler.plan.leaves]:
            if self.states[key] is not S.IN_PROGRESS:
                self.drop(key)

    def drop(self, key: Key) -> None:
        """Cancel a leaf that waits."""
        self.live.discard(key)
        self.held.discard(key)
        self.states[key] = S.CANCELLED

    @property
    def is_dirty(self) -> bool:
        return (self.force or self.data.depends_on_change(self.reads)) and not self.scheduler.plan.region.halted

    def pump(self) -> None:
        """Go on until only the world can move the run."""
        for _ in range(300):
            if self.is_dirty:
                self.render()
            for loop, state in self.scheduler.advance_loops():
                self.data.set_loop(loop.id or "", state)
                self.force = self.force or not state.done
            for id, failure in self.scheduler.caught.items():
                self.data.set_region_error(id, {"code": failure.code})
            for leaf in self.scheduler.abandoned:
                self.drop(leaf.key)
            self.scheduler.abandoned = []
            if self.is_dirty or self.open_gates(self.scheduler):
                continue
            taken = self.take_and_compare() if self.check else self.scheduler.take(self.agent_room)
            for leaf in taken:
                self.handle(leaf)
            if not taken:
                return
        raise AssertionError("the run does not come to rest")

    def take_and_compare(self) -> list[LeafNode]:
        """What the scheduler gives; fails unless a rebuilt one and the oracle say the same."""
        rebuilt = self.fresh()[0]
        is_current = not self.data.depends_on_change(self.reads)  # a failed run is not rendered again
        oracle = Oracle(
            self.scheduler.plan,
            self.states,
            {key: failure.code for key, failure in self.failures.items()},
            live=self.live,
            held=self.held,
            approved=self.approved,
            begun=self.begun,
            guarded=self.guarded,
            loops=self.data.loops,
            limit=self.limit,
        ).answer(self.agent_room)
        outcome = plain(self.scheduler.outcome())
        assert outcome == oracle.outcome
        assert set(self.scheduler.caught) == oracle.caught
        taken = self.scheduler.take(self.agent_room)
        seen = self.split(taken)
        assert seen == (oracle.arrivals, oracle.work)
        if is_current:
            ended = rebuilt.advance_loops()
            # a run that is failing lets its other loops be; one that is rebuilt just before still ends them
            assert ended == [] or self.scheduler.plan.region.halted
            while self.open_gates(rebuilt):
                assert rebuilt.advance_loops() == []
            assert rebuilt.abandoned == []
            assert plain(rebuilt.outcome()) == outcome
            assert self.split(rebuilt.take(self.agent_room)) == seen
        return taken

    def open_gates(self, scheduler: Scheduler) -> bool:
        """Let leaves go on whose gate was approved before this scheduler was made. Whether there were any."""
        opened = [leaf for leaf in scheduler.arrivals if leaf.key in self.approved]
        scheduler.arrivals = [leaf for leaf in scheduler.arrivals if leaf not in opened]
        for leaf in opened:
            scheduler.resumes(leaf.key)
        return bool(opened)

    def split(self, leaves: list[LeafNode]) -> tuple[frozenset[Key], tuple[Key, ...]]:
        """Arrivals, in no order, and work in its order."""
        return (
            frozenset(leaf.key for leaf in leaves if not leaf.in_slot),
            tuple(leaf.key for leaf in leaves if leaf.in_slot),
        )

    def handle(self, leaf: LeafNode) -> None:
        key = leaf.key
        assert self.states.get(key, S.PENDING) in (S.PENDING, S.CANCELLED), f"{key} is given out again"
        if leaf.in_slot:
            self.given.append(key)
            self.begun.add(key)
            self.states[key] = S.IN_PROGRESS
            self.live.add(key)
            self.check_caps(leaf)
        elif leaf.element.skip_if or self.scheduler.is_tainted(leaf):
            self.settle(key, S.SKIPPED)
        else:
            self.states[key] = _WAIT_STATES.get(leaf.kind, S.WAITING_APPROVAL)
            self.live.add(key)
            self.scheduler.waits(leaf)

    def check_caps(self, leaf: LeafNode) -> None:
        running = [self.leaves[key] for key in self.live if self.states[key] is S.IN_PROGRESS]
        assert self.limit is None or len(running) <= self.limit
        if leaf.group is not None and leaf.group.limit is not None:
            assert sum(other.group is leaf.group for other in running) <= leaf.group.limit

    # ── the world's part ───────────────────────────────────────────────────────────────────────────────────────────

    def settle(self, key: Key, state: NodeState, code: str = "E") -> None:
        """A leaf comes to its end."""
        leaf = self.leaves[key]
        self.live.discard(key)
        self.held.discard(key)
        self.states[key] = state
        if state is S.FAILED:
            self.failures[key] = self.scheduler.failures[key] = Failure(code, code, leaf)
        if state is S.FINISHED and leaf.output is not None:
            self.data.add_output("out", OutputRow(Out(), key[0], key[1], len(self.given)))
        self.scheduler.settled(key)

    def finish(self, *ids: str) -> Run:
        """Leaves finish, given as `id` or `id::iteration`; then the run goes on."""
        for id in ids:
            self.settle(self.key(id), S.FINISHED)
            self.pump()
        return self

    def fail(self, id: str, code: str = "E") -> Run:
        """A leaf fails for good; then the run goes on."""
        self.settle(self.key(id), S.FAILED, code)
        self.pump()
        return self

    def skip(self, id: str) -> Run:
        """A waiting leaf is skipped (a denial, a timeout); then the run goes on."""
        self.settle(self.key(id), S.SKIPPED)
        self.pump()
        return self

    def wait(self, id: str, state: NodeState = S.WAITING_QUOTA) -> None:
        """A running leaf now waits."""
        key = self.key(id)
        self.states[key] = state
        self.scheduler.waits(self.leaves[key])
        self.pump()

    def hold(self, id: str) -> None:
        """A running leaf waits for its next attempt."""
        key = self.key(id)
        self.states[key] = S.PENDING
        self.live.discard(key)
        self.held.add(key)
        self.scheduler.holds(self.leaves[key])
        self.pump()

    def resume(self, id: str) -> None:
        """A held or waiting leaf goes on."""
        key = self.key(id)
        is_gate = self.states[key] is S.WAITING_APPROVAL
        if is_gate:
            self.approved.add(key)
            self.begun.add(key)
        self.states[key] = S.PENDING
        self.live.discard(key)
        self.held.discard(key)
        if is_gate:
            self.scheduler.resumes(key)
        else:
            self.scheduler.comes_again(key)
        self.pump()

    def guard(self, id: str, *, hold: bool = False) -> None:
        """A running leaf has done what must not be repeated, and is to be done again: at once, or after a while."""
        key = self.key(id)
        self._guard(key)
        self.states[key] = S.PENDING
        self.live.discard(key)
        if hold:
            self.held.add(key)
        self.scheduler.holds(self.leaves[key])
        if not hold:
            self.scheduler.comes_again(key)
        self.pump()

    def _guard(self, key: Key) -> None:
        self.guarded.add(key)
        self.approved.discard(key)

    def crash(self, *, guards: bool = False) -> None:
        """The process dies and another goes on: what ran is pending again, and may have done what must not be repeated."""
        for key in list(self.live):
            if self.states[key] is S.IN_PROGRESS:
                self.live.discard(key)
                self.states[key] = S.PENDING
                if guards and self.leaves[key].kind is not LeafKind.SUBFLOW:
                    self._guard(key)
        self.render()
        self.pump()

    def key(self, id: str) -> Key:
        name, _, iteration = id.partition("::")
        return (name, int(iteration or 0))

    # ── what tests look at ─────────────────────────────────────────────────────────────────────────────────────────

    @property
    def running(self) -> list[str]:
        """What runs, in document order; iterations beyond the first as `id::n`."""
        return self.named(S.IN_PROGRESS)

    @property
    def waiting(self) -> list[str]:
        """What waits for the world, in document order."""
        return self.named(S.WAITING_APPROVAL, S.WAITING_EVENT, S.WAITING_TIMER, S.WAITING_QUOTA)

    def named(self, *states: NodeState) -> list[str]:
        keys = [key for key in self.live if self.states[key] in states]
        keys.sort(key=lambda key: self.leaves[key].ordinal)
        return [f"{id}::{iteration}" if iteration else id for id, iteration in keys]

    @property
    def outcome(self) -> tuple[object, ...] | None:
        return plain(self.scheduler.outcome())

    def may_be_skipped(self, key: Key) -> bool:
        """Whether a waiting leaf can end as skipped."""
        leaf = self.leaves[key]
        if isinstance(leaf.element, Approval):
            return leaf.element.on_deny == "skip"
        return leaf.kind is LeafKind.EVENT
