"""How a run's tree is followed: one text for all streams, rewinds, what is missing, connections that do not read, other
processes. The runs are written by the tests; the store is a real one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.integration.gateway.socket_support import PATIENCE_S, MiniGateway, mini_gateway, now_ms
from tests.unit.gateway.devtools_support import Viewer, hold_snapshot, walk

from smithers.control.hosting import Place
from smithers.errors import RunNotFound
from smithers.events import EventDraft
from smithers.gateway.devtools import reading, stream, watch
from smithers.gateway.devtools.live import LiveTree
from smithers.gateway.devtools.stream import DevToolsStreams
from smithers.gateway.streams.run_streams import HIGH_WATER, StreamSocket
from smithers.graph.frames import encode_frame
from smithers.graph.tree import FrameTree, TreeNode
from smithers.store.interface import NewRun, NodeChange, Step
from smithers.store.sql import control as writes

RUN = "run"
NOBODY = json.dumps({"caller": None, "fromFrameNo": 9, "toFrameNo": 1})


class Socket:
    """A connection that keeps what it is sent."""

    connection_id = "c"

    def __init__(self) -> None:
        self.pending_bytes = 0
        self.is_open = True
        self.told: list[tuple[str, str]] = []
        self.viewer = Viewer()
        self.error: dict[str, Any] | None = None
        self._ends: dict[str, Callable[[], None]] = {}
        self._heard = asyncio.Event()

    def send_event(self, name: str, payload: str) -> None:
        found = json.loads(payload)
        if name == "devtools.error":
            self.error = found["error"]
        else:
            text = payload.partition('"event":')[2]
            self.told.append((found["event"]["kind"], text))
            self.viewer.take(found["event"])
        self._heard.set()

    def follow_run(self, run_id: str) -> None:
        raise AssertionError

    def after_response(self, request_id: str, call: Callable[[], None]) -> None:
        call()

    def add_stream(self, stream_id: str, end: Callable[[], None], run_id: str | None = None, **rights: Any) -> None:
        assert rights == {"scope": "observability:read", "shows": RUN}
        self._ends[stream_id] = end

    def end_stream(self, stream_id: str) -> bool:
        end = self._ends.pop(stream_id, None)
        if end is not None:
            end()
        return end is not None

    def end_all(self) -> None:
        for stream_id in list(self._ends):
            self.end_stream(stream_id)

    async def until(self, is_so: Callable[[Socket], bool]) -> None:
        """Until something holds of what it was sent."""
        async with asyncio.timeout(PATIENCE_S):
            while not is_so(self):
                self._heard.clear()
                await self._heard.wait()

    async def at(self, seq: int) -> None:
        await self.until(lambda socket: socket.viewer.seq == seq)

    @property
    def tasks(self) -> dict[str, str]:
        assert self.viewer.root is not None
        return {n["name"]: n["task"]["state"] for n in walk(self.viewer.root) if "state" in n.get("task", {})}


def tree(*names: str) -> TreeNode:
    """A workflow with these tasks."""
    leaves = [TreeNode.of("smithers:task", {"id": name, "kind": "compute"}) for name in names]
    return TreeNode.of("smithers:workflow", {"name": "w"}, *leaves)


def pending(names: Iterable[str]) -> dict[str, Any]:
    """These tasks, all of which wait to begin."""
    return dict.fromkeys(names, "pending")


class Story:
    """A run that the test writes."""

    def __init__(self, gateway: MiniGateway) -> None:
        self.place: Place = gateway.place
        self.frame = 0
        self.last: FrameTree | None = None
        self._deltas = 0

    async def begin(self) -> None:
        new = NewRun(RUN, "w", None, None, "{}", "{}", "owner", now_ms(), events=(EventDraft("RunStarted"),))
        await self._commit(Step(RUN, "owner", 1, 0, now_ms(), launch=new), is_here=True)

    async def step(
        self, shown: TreeNode | None = None, *, is_here: bool = True, keyframe: bool = False, **states: str
    ) -> None:
        """A step: another tree, other states of tasks."""
        self.frame += 1
        step = Step(RUN, "owner", 1, self.frame, now_ms(), events=[])
        for name, state in states.items():
            step.nodes[(name, 0)] = NodeChange(name, 0, state, 1, "note")
            step.events.append(EventDraft("NodeStarted", name, 0, '{"attempt":1}'))
        if shown is not None:
            frame = FrameTree.of(shown)
            encoding, payload = encode_frame(None if keyframe else self.last, frame, self._deltas)
            self._deltas = 0 if encoding == "keyframe" else self._deltas + 1
            self.last = frame
            step.rows.append(("frame", (RUN, self.frame, now_ms(), encoding, payload, frame.hash, "change")))
            step.events.append(EventDraft("FrameCommitted", None, None, f'{{"frameNo":{self.frame}}}'))
        await self._commit(step, is_here)

    async def _commit(self, step: Step, is_here: bool) -> None:
        done = await self.place.store.commit(step)
        if is_here:
            self.place.hub.publish(RUN, step, done.first_seq)

    async def write(self, *statements: str, event: EventDraft | None = None) -> None:
        """Change what is stored, as time travel does."""

        def job(connection: Any) -> None:
            for statement in statements:
                connection.execute(statement).fetchall()
            if event is not None:
                writes.append_events(connection, RUN, now_ms(), [event])

        await self.place.store.awrite(job)
        self.place.hub.touch(RUN)


class World:
    def __init__(self, gateway: MiniGateway, streams: DevToolsStreams, story: Story) -> None:
        self.gateway = gateway
        self.streams = streams
        self.story = story
        self.sockets: list[Socket] = []

    async def socket(self, after: int | None = None) -> Socket:
        found = Socket()
        assert isinstance(found, StreamSocket)
        answer = await self.streams.subscribe(found, RUN, after, "1")
        assert (answer["afterSeq"], answer["fromSeq"]) == (after, after)
        self.sockets.append(found)
        return found

    def snapshot(self) -> dict[str, Any]:
        query = self.gateway.place.store.read
        found: dict[str, Any] = json.loads(query(lambda c: reading.snapshot(c, RUN, None, now_ms())))
        hold_snapshot(found)
        return found


@asynccontextmanager
async def _world(path: Path) -> AsyncGenerator[World]:
    async with mini_gateway(path) as gateway:

        async def find(run_id: str) -> Place:
            if run_id != RUN:
                raise RunNotFound(run_id)
            return gateway.place

        def follow(_place: Place, run_id: str, begins: bool) -> None:
            (gateway.feed.follow if begins else gateway.feed.unfollow)(run_id)

        gateway.hub.devtools = DevToolsStreams(find, follow)
        story = Story(gateway)
        await story.begin()
        here = World(gateway, gateway.hub.devtools, story)
        yield here
        for socket in here.sockets:
            socket.end_all()
        assert here.streams.count == 0


def real(folder: Path, use: Callable[[World], Awaitable[None]]) -> None:
    async def main() -> None:
        async with _world(folder / "dt.db") as here:
            await use(here)

    asyncio.run(main())


def test_a_run_without_frames_is_an_empty_tree_whose_root_is_replaced(tmp_path: Path) -> None:
    async def use(here: World) -> None:
        socket = await here.socket()
        await socket.at(0)
        assert socket.viewer.root == {
            "id": 0,
            "type": "workflow",
            "name": "(empty)",
            "props": {},
            "children": [],
            "depth": 0,
        }
        await here.story.step(tree("a"), a="pending")
        await socket.at(1)
        assert socket.viewer.root == here.snapshot()["root"]

    real(tmp_path, use)


def test_an_event_is_made_once_for_all_streams(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    delta_event = LiveTree.delta_event

    def count(self: LiveTree, base: int, ops: Any) -> str:
        made.append(self.seq)
        return delta_event(self, base, ops)

    monkeypatch.setattr(LiveTree, "delta_event", count)

    async def use(here: World) -> None:
        await here.story.step(tree("a", "b"), a="pending", b="pending")
        sockets = [await here.socket() for _ in range(20)]
        for socket in sockets:
            await socket.at(1)
        made.clear()
        await here.story.step(tree("a", "b", "c"), a="in-progress", c="pending")
        for socket in sockets:
            await socket.at(2)
            assert socket.viewer.root == here.snapshot()["root"]
        assert made == [2]
        assert len({socket.told[-1] for socket in sockets}) == 1

    real(tmp_path, use)


def test_steps_of_other_processes_are_told_too(tmp_path: Path) -> None:
    async def use(here: World) -> None:
        await here.story.step(tree("a"), a="pending")
        socket = await here.socket()
        await socket.at(1)
        await here.story.step(tree("a", "b"), is_here=False, a="finished", b="pending")
        await socket.at(2)
        assert socket.tasks == {"a": "finished", "b": "pending"}

    real(tmp_path, use)


def test_a_keyframe_in_the_middle_is_told_as_what_it_changes(tmp_path: Path) -> None:
    async def use(here: World) -> None:
        names = [f"t{i}" for i in range(40)]
        await here.story.step(tree(*names), **pending(names))
        socket = await here.socket()
        await socket.at(1)
        await here.story.step(tree(*names[:-1], "new"), keyframe=True, new="pending", t0="finished")
        await socket.at(2)
        kind, text = socket.told[-1]
        ops = json.loads(text[:-1])["delta"]["ops"]
        assert (kind, sorted(op["op"] for op in ops)) == ("delta", ["addNode", "removeNode", "updateTask"])
        assert socket.viewer.root == here.snapshot()["root"]

    real(tmp_path, use)


@pytest.mark.parametrize("is_announced", [True, False])
def test_a_rewind_is_told_by_a_snapshot(tmp_path: Path, is_announced: bool) -> None:
    async def use(here: World) -> None:
        story = here.story
        for names in ("a", "ab", "abc", "abcd"):
            await story.step(tree(*names), **pending(names))
        socket, late = await here.socket(), await here.socket(after=1)
        await socket.at(4)
        await late.at(4)
        await story.write(
            "DELETE FROM _smithers_frames WHERE run_id = 'run' AND frame_no > 2",
            "UPDATE _smithers_runs SET frame_no = 2 WHERE run_id = 'run'",
            event=EventDraft("TimeTravelJumped" if is_announced else "RunStatusChanged", None, None, NOBODY),
        )
        for each in (socket, late):
            await each.at(2)
            assert each.told[-1][0] == "snapshot"
            assert each.viewer.root == here.snapshot()["root"]
        story.frame = 2
        await story.step(tree("z"), keyframe=True, z="pending")
        await socket.at(3)
        assert socket.tasks == {"z": "pending"}

    real(tmp_path, use)


def test_frames_that_were_rewritten_unseen_are_noticed(tmp_path: Path) -> None:
    async def use(here: World) -> None:
        story = here.story
        await story.step(tree("a"), a="pending")
        await story.step(tree("a", "b"), b="pending")
        socket = await here.socket()
        await socket.at(2)
        # back to 1, and on again as far as 2, before anybody has looked
        await story.write("DELETE FROM _smithers_frames WHERE run_id = 'run' AND frame_no > 1")
        story.frame, story.last = 1, FrameTree.of(tree("a"))
        await story.step(tree("a", "c"), c="pending")
        await story.step(tree("a", "c", "d"), d="pending")
        await socket.until(lambda s: "d" in s.tasks)
        assert socket.viewer.root == here.snapshot()["root"]

    real(tmp_path, use)


def test_a_missing_frame_is_jumped_over(tmp_path: Path) -> None:
    async def use(here: World) -> None:
        story = here.story
        names = [f"t{i}" for i in range(8)]
        await story.step(tree(*names), **pending(names))
        socket = await here.socket()
        await socket.at(1)
        await story.step(tree(*names[:2]), is_here=False)
        await story.write("DELETE FROM _smithers_frames WHERE frame_no = 2")
        await story.step(tree(*names[:1]), is_here=False, t0="finished")  # builds on the frame that is gone
        await story.step(tree(*names), keyframe=True, t0="finished")
        await socket.at(4)
        assert socket.viewer.root == here.snapshot()["root"]

    real(tmp_path, use)


def test_the_past_is_told_from_a_multiple_of_fifty_on(tmp_path: Path) -> None:
    async def use(here: World) -> None:
        story = here.story
        for number in range(130):
            names = [f"t{i}" for i in range(number % 7)]
            await story.step(tree(*names), **pending(names))
        await story.step(t0="finished")
        for after, first in ((0, 0), (49, 0), (50, 50), (129, 100), (131, 100)):
            socket = await here.socket(after)
            await socket.at(131)
            assert socket.viewer.seqs[0] == first
            assert socket.viewer.seqs == sorted(socket.viewer.seqs)
            assert len(socket.viewer.seqs) == len(set(socket.viewer.seqs)) == 132 - first
            runs = "".join(kind[0] for kind in socket.viewer.kinds).split("s")
            assert max(map(len, runs)) <= 49
            assert socket.viewer.root == here.snapshot()["root"]

    real(tmp_path, use)


def test_states_without_a_frame_wait_for_the_next_one_or_are_told_by_a_snapshot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "LATE_S", 0.05)

    async def use(here: World) -> None:
        story = here.story
        await story.step(tree("a", "b"), a="pending", b="pending")
        socket = await here.socket()
        await socket.at(1)
        for name in "ab":
            await story.write(
                f"UPDATE _smithers_nodes SET state = 'cancelled' WHERE node_id = '{name}'",
                event=EventDraft("NodeCancelled", name, 0, '{"attempt":1}'),
            )
        await socket.until(lambda s: s.tasks == {"a": "cancelled", "b": "cancelled"})
        assert (socket.viewer.seq, set(socket.viewer.kinds)) == (1, {"snapshot"})
        await story.write(
            "UPDATE _smithers_nodes SET state = 'pending' WHERE node_id = 'a'", event=EventDraft("NodePending", "a", 0)
        )
        await story.step(b="pending")
        # with the step, or by a snapshot after it if the step was seen first
        await socket.until(lambda s: s.viewer.seq == 2 and s.viewer.root == here.snapshot()["root"])

    real(tmp_path, use)


def test_who_does_not_read_loses_the_stream_and_nobody_else_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "GAP_S", 0.0)
    monkeypatch.setattr(stream, "MAX_WAITING", 5)

    async def use(here: World) -> None:
        story = here.story
        await story.step(tree("a"), a="pending")
        slow, other = await here.socket(), await here.socket()
        for socket in (slow, other):
            await socket.at(1)
        slow.pending_bytes = HIGH_WATER + 1
        for number in range(2, 8):
            await story.step(a="in-progress" if number % 2 else "pending")
            await other.at(number)
        await slow.until(lambda socket: socket.error is not None)
        assert slow.error is not None
        assert (slow.error["code"], slow.is_open, slow.viewer.seq) == ("BackpressureDisconnect", True, 1)
        assert here.streams.count == 1

    real(tmp_path, use)


def test_a_connection_that_reads_again_goes_on_where_it_was(tmp_path: Path) -> None:
    async def use(here: World) -> None:
        story = here.story
        for number in range(30):
            await story.step(tree(*[f"t{i}" for i in range(number % 5)]))
        slow = await here.socket(after=0)
        slow.pending_bytes = HIGH_WATER + 1
        other = await here.socket()
        await other.at(30)
        await story.step(tree("z"), z="pending")
        await other.at(31)
        assert slow.told == []
        slow.pending_bytes = 0
        await slow.at(31)
        assert slow.viewer.root == other.viewer.root

    real(tmp_path, use)


def test_a_run_that_cannot_be_read_ends_its_streams(tmp_path: Path) -> None:
    async def use(here: World) -> None:
        await here.story.step(tree("a"), a="pending")
        socket = await here.socket()
        await socket.at(1)
        jumped = EventDraft("TimeTravelJumped", None, None, NOBODY)
        await here.story.write("UPDATE _smithers_frames SET tree = x'00'", event=jumped)
        await socket.until(lambda s: s.error is not None)
        assert socket.error == {"code": "Internal", "message": "the run's tree cannot be read"}

    real(tmp_path, use)
