"""Time travel over random workflows: the past is told as it was, going back and on again comes to the same, a fork of a frame
is what a rewind to it is."""

from __future__ import annotations

import asyncio
import tempfile
import zlib
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.integration.engine.support import Bench, within
from tests.integration.engine.test_invariants import Recipe, Spec, replay, specs

from smithers import RunStatus, SmithersWorkflow
from smithers.control.caller import Caller
from smithers.control.control import Control
from smithers.control.travel.forking import fork
from smithers.control.travel.resetting import retry_task
from smithers.control.travel.rewinding import rewind
from smithers.errors import InvalidInput
from smithers.store.interface import AttemptRow, Committed, NodeRow, Step
from smithers.store.sql import history, reads
from smithers.store.sql.past_nodes import PastNode, as_past
from smithers.store.sql.session import Session

ADMIN = Caller(user="ann", role="admin")
SLOW = settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
State = dict[str, object]
_NEWS = ("NodePending", "NodeCancelled")


def now(c: Session, run_id: str) -> State:
    """What a run is by its tables."""
    return {
        "rows": {(n.node_id, n.iteration): n for n in reads.nodes(c, run_id)},
        "nodes": {(n.node_id, n.iteration): as_past(n) for n in reads.nodes(c, run_id)},
        "loops": {loop.ralph_id: loop for loop in reads.loops(c, run_id)},
        "attempts": {a[:3]: a for a in reads.attempts(c, run_id)},
        "approvals": {a[1:3]: a._replace(run_id="") for a in reads.approvals(c, run_id, only_open=False)},
        "signals": reads.signals(c, run_id),
        "timers": sorted(reads.timers(c, run_id)),
        "outputs": history.outputs_at(c, run_id, 2**31, map(as_past, reads.nodes(c, run_id))),
    }


def then(c: Session, run_id: str, frame_no: int) -> State:
    """What a run was by its history."""
    return {
        "nodes": {(n.node_id, n.iteration): n for n in history.nodes_at(c, run_id, frame_no)},
        "loops": {loop.ralph_id: loop for loop in history.loops_at(c, run_id, frame_no)},
        "attempts": {a[:3]: a for a in history.attempts_at(c, run_id, frame_no)},
        "approvals": {a[1:3]: a._replace(run_id="") for a in history.approvals_at(c, run_id, frame_no)},
        "signals": history.signals_at(c, run_id, frame_no),
        "timers": sorted(history.timers_at(c, run_id, frame_no)),
        "outputs": history.outputs_at(c, run_id, frame_no, history.nodes_at(c, run_id, frame_no)),
    }


def outputs(c: Session, run_id: str) -> list[tuple[object, ...]]:
    rows: list[tuple[object, ...]] = []
    for table, columns in (("row", "text, n"), ("verdict", "approved, note")):
        text = f'SELECT node_id, iteration, {columns} FROM "{table}" WHERE run_id = ? ORDER BY node_id, iteration'
        rows += c.execute(text, (run_id,)).fetchall()
    return rows


@dataclass
class World:
    """A run that is driven by one recipe, with the state after each of its frames."""

    bench: Bench
    flow: SmithersWorkflow
    denies: bool = True
    frames: dict[int, State] = field(default_factory=dict[int, State])

    @classmethod
    async def of(cls, spec: Spec, folder: Path, *, denies: bool = True) -> World:
        bench = Bench(folder / "runs.db")
        found = cls(bench, Recipe(spec).workflow(), denies)
        commit = bench.store.commit

        async def noting(step: Step) -> Committed:
            done = await commit(step)
            if step.run_id == "r":
                found.frames[step.frame_no] = bench.store.read(lambda c: now(c, "r"))
            return done

        bench.store.commit = noting  # type: ignore[method-assign]
        handle = await bench.start(found.flow)
        await within(asyncio.shield(handle.result))
        await found.go_on("r")
        return found

    async def go_on(self, run_id: str) -> None:
        """To the end, with the same answers each time."""
        bench = self.bench
        for _ in range(80):
            if RunStatus(bench.row(run_id).status).is_terminal:
                return
            for approval in bench.approvals(run_id, only_open=True):
                approved = not self.denies or zlib.crc32(f"{approval.node_id}:{approval.iteration}".encode()) % 3 != 1
                await bench.decide(approval.node_id, approved, iteration=approval.iteration, run_id=run_id)
            await bench.signal("go", {"text": "gone"}, run_id=run_id)
            await bench.resume(self.flow, run_id)
        raise AssertionError(f"the run does not end: {bench.states(run_id)}")

    def outcome(self, run_id: str) -> tuple[object, ...]:
        """What a run has come to, however it got there."""
        read = self.bench.store.read
        return self.bench.row(run_id).status, self.bench.states(run_id), read(lambda c: outputs(c, run_id))


def in_world(spec: Spec, work: Callable[[World], Coroutine[object, object, None]], *, denies: bool = True) -> None:
    async def main(folder: Path) -> None:
        world = await World.of(spec, folder, denies=denies)
        try:
            await work(world)
        finally:
            await world.bench.close()

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(main(Path(folder)))


def check_past(world: World, frames: dict[int, State], run_id: str = "r") -> None:
    """Every frame is told as it was."""
    for frame_no, state in asked_anew(frames).items():
        told = world.bench.store.read(lambda c, at=frame_no: then(c, run_id, at))  # type: ignore[misc]
        told = asked_anew({0: told})[0]
        for part, was in told.items():
            assert state[part] == was, (frame_no, part)


def asked_anew(frames: dict[int, State]) -> dict[int, State]:
    """The same without the attempts of nodes that have none under way: a wait that is done again takes the number of its
    attempt again, and until then the row of the one before stands."""
    found: dict[int, State] = {}
    for frame_no, state in frames.items():
        nodes = cast("dict[tuple[str, int], PastNode]", state["nodes"])
        attempts = cast("dict[tuple[str, int, int], AttemptRow]", state["attempts"])
        kept = {
            key: row for key, row in attempts.items() if nodes[key[:2]].state not in ("pending", "waiting-approval")
        }
        found[frame_no] = {**state, "attempts": kept}
    return found


@SLOW
@given(specs(waits=True))
def test_every_frame_is_told_as_it_was(spec: Spec) -> None:
    async def work(world: World) -> None:
        assert len(world.frames) == world.bench.row().frame_no
        check_past(world, world.frames)

    in_world(spec, work)


def harmless(spec: Spec) -> Spec:
    """The same without what fails a run: which of its neighbours have ended by then is a matter of time."""
    kind, number, inner = spec
    return "ok" if kind == "fail" else kind, number, [harmless(child) for child in inner]


@SLOW
@given(specs(waits=True).map(harmless), st.integers(0, 1000))
def test_going_back_and_on_again_comes_to_the_same(spec: Spec, where: int) -> None:
    async def work(world: World) -> None:
        bench, outcome = world.bench, world.outcome("r")
        at = where % (bench.row().frame_no + 1)
        before = {frame: state for frame, state in world.frames.items() if frame <= at}

        await rewind(Control(bench.store, clock=bench.clock), "r", at, caller=ADMIN, confirm=True)

        check_past(world, before)
        check_put_back(world, "r", at)
        nodes = bench.store.read(lambda c: reads.nodes(c, "r"))
        live = bench.store.read(lambda c: live_events(c, "r"))
        assert replay(live) == {(n.node_id, n.iteration): n.state for n in nodes}, "the log tells the states"
        world.frames.clear()
        await world.go_on("r")
        assert world.outcome("r") == outcome
        check_past(world, {**before, **world.frames})

    in_world(spec, work, denies=False)


@SLOW
@given(specs(waits=True), st.integers(0, 1000))
def test_a_fork_of_a_frame_is_what_a_rewind_to_it_is(spec: Spec, where: int) -> None:
    async def work(world: World) -> None:
        bench = world.bench
        control = Control(bench.store, clock=bench.clock)
        at = where % (bench.row().frame_no + 1)
        parent = bench.store.read(lambda c: (now(c, "r"), outputs(c, "r"), reads.events(c, "r", -1, 100_000)))

        await fork(control, "r", at, caller=ADMIN, new_run_id="f")
        assert parent == bench.store.read(lambda c: (now(c, "r"), outputs(c, "r"), reads.events(c, "r", -1, 100_000)))
        await rewind(control, "r", at, caller=ADMIN, confirm=True)

        for frame_no in range(at + 1):
            one, other = (bench.store.read(lambda c, r=r: then(c, r, frame_no)) for r in ("r", "f"))  # type: ignore[misc]  # noqa: B023
            assert one == other
        assert plain(bench, "r") == plain(bench, "f")
        await world.go_on("f")
        await world.go_on("r")
        assert world.outcome("f") == world.outcome("r")

    in_world(spec, work)


@SLOW
@given(specs(waits=True).map(harmless), st.lists(st.integers(0, 1000), min_size=1, max_size=3), st.integers(0, 1000))
def test_frames_from_before_a_retry_are_told_and_can_be_gone_back_to(spec: Spec, which: list[int], where: int) -> None:
    async def work(world: World) -> None:
        bench, control = world.bench, Control(world.bench.store, clock=world.bench.clock)
        for number in which:
            ended = sorted((n.node_id, n.iteration) for n in bench.store.read(lambda c: reads.nodes(c, "r")))
            if not ended:
                return
            with suppress(InvalidInput):
                await retry_task(
                    control, "r", *ended[number % len(ended)], caller=ADMIN, reset_dependents=number % 2 == 0
                )
            check_past(world, world.frames)
            await world.go_on("r")
        check_past(world, world.frames)

        at = where % (bench.row().frame_no + 1)
        before = {frame: state for frame, state in world.frames.items() if frame <= at}
        await rewind(control, "r", at, caller=ADMIN, confirm=True)

        check_past(world, before)
        check_put_back(world, "r", at)
        world.frames.clear()
        await world.go_on("r")
        check_past(world, {**before, **world.frames})

    in_world(spec, work, denies=False)


def plain(bench: Bench, run_id: str) -> tuple[object, ...]:
    """A run's state, without why its work was stopped."""
    state, rows = bench.store.read(lambda c: (now(c, run_id), outputs(c, run_id)))
    attempts = cast("dict[object, AttemptRow]", state["attempts"])
    state["attempts"] = {key: row._replace(error_json=None) for key, row in attempts.items()}
    return state, rows


def check_put_back(world: World, run_id: str, at: int) -> None:
    """The tables are what they were, but that no work is under way."""
    told, found = world.bench.store.read(lambda c: (then(c, run_id, at), now(c, run_id)))
    for part in ("loops", "approvals", "signals", "timers", "outputs"):
        assert found[part] == told[part], part
    was = cast("dict[object, PastNode]", told["nodes"])
    rows = cast("dict[object, NodeRow]", world.frames[at]["rows"] if at in world.frames else {})
    for key, node in cast("dict[object, NodeRow]", found["rows"]).items():
        if was[key].state != "in-progress":
            assert as_past(node) == was[key]
            assert node == rows.get(key, node)
        else:
            assert node.state == "pending"
    assert found["nodes"].keys() == was.keys()  # type: ignore[attr-defined]


def live_events(c: Session, run_id: str) -> list[dict[str, object]]:
    """The log without what rewinds left behind, as far as it tells of nodes."""
    found: list[dict[str, object]] = []
    for first, last in history.live_spans(c, run_id):
        rows = reads.events(c, run_id, first - 1, last - first + 1)
        found += [dict[str, object](type=r.type, nodeId=r.node_id, iteration=r.iteration) for r in rows]
    return found
