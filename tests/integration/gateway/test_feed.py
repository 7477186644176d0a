"""The feed: every stored event of every run once and in order, whoever wrote it; no history, no cost while nothing happens."""

from __future__ import annotations

import asyncio
import tempfile
from collections import defaultdict
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.integration.gateway.socket_support import FAST, FakeRun

from smithers.control.control import Control
from smithers.control.hosting import Place
from smithers.control.streams import StreamHub
from smithers.engine.engine import Engine
from smithers.events import EventRow
from smithers.gateway.streams import feed as feed_module
from smithers.gateway.streams.feed import Feed
from smithers.store import open_store
from smithers.store.sql import feeds


class Told:
    """What a feed has told, by run."""

    def __init__(self) -> None:
        self.seqs: dict[str, list[int]] = defaultdict(list)
        self.types: dict[str, list[str]] = defaultdict(list)
        self.more = asyncio.Event()

    def __call__(self, run_id: str, row: EventRow) -> None:
        self.seqs[run_id].append(row.seq)
        self.types[run_id].append(row.type)
        self.more.set()

    async def until(self, run_id: str, count: int) -> None:
        async with asyncio.timeout(60):
            while len(self.seqs[run_id]) < count:
                self.more.clear()
                await self.more.wait()


@asynccontextmanager
async def open_place(path: Path) -> AsyncGenerator[Place]:
    store = open_store(path, durability="normal")
    engine = Engine(store, FAST)
    hub = StreamHub(store)
    engine.hub = hub
    try:
        yield Place(str(path), store, engine, hub, Control(store, clock=engine.clock, hub=hub))
    finally:
        await engine.close()
        store.close()


WRITES = ("step", "foreign step", "decision", "foreign decision", "end", "foreign end", "reopen")
operations = st.lists(
    st.tuples(st.integers(0, 3), st.sampled_from((*WRITES, "look", "turn", "turn")), st.integers(1, 4)), max_size=40
)


@settings(max_examples=60, deadline=None)
@given(operations, st.integers(1, 5), st.lists(st.booleans(), min_size=4, max_size=4))
def test_each_event_is_told_once_and_in_order_whoever_wrote_it(
    todo: list[tuple[int, str, int]], page: int, are_local: list[bool]
) -> None:
    """Runs 0 and 1 are there before the feed; of their history nothing is told."""

    async def use(path: Path) -> None:
        async with open_place(path) as place:
            told = Told()
            runs = [FakeRun(place, f"run-{n}") for n in range(4)]
            for run in runs[:2]:
                await run.launch()
                await run.emit(3)
            await runs[1].finish()
            began = [run.next_seq() for run in runs[:2]] + [0, 0]
            await asyncio.sleep(0.002)  # the next millisecond: what happened in this one is not history yet
            feed = Feed(place, told, poll_s=0.01)
            ended = {1}
            for number in (2, 3):
                await runs[number].launch(is_here=are_local[number])
            for number, what, count in todo:
                run = runs[number]
                if what == "turn":
                    await asyncio.sleep(0)
                elif what == "look":
                    await feed.settle()
                elif what == "reopen":
                    if number in ended:
                        await run.reopen()
                        ended.discard(number)
                elif number in ended:
                    continue
                elif what.endswith("step"):
                    await run.emit(count, is_here=what == "step")
                elif what.endswith("decision"):
                    await run.decide(is_here=what == "decision")
                else:
                    await run.finish(is_here=what == "end")
                    ended.add(number)
            await feed.settle()
            await feed.close()
            for run, first in zip(runs, began, strict=True):
                assert told.seqs[run.run_id] == list(range(first, run.next_seq()))

    before = feed_module.PAGE
    feed_module.PAGE = page  # type: ignore[misc]
    try:
        with tempfile.TemporaryDirectory() as folder:
            asyncio.run(use(Path(folder) / "s.db"))
    finally:
        feed_module.PAGE = before  # type: ignore[misc]


def test_foreign_events_are_told_without_being_asked_for(tmp_path: Path) -> None:
    async def use() -> None:
        async with open_place(tmp_path / "s.db") as place:
            told = Told()
            feed = Feed(place, told, poll_s=0.2)
            run = FakeRun(place, "run")
            await run.launch(is_here=False)
            await run.emit(700, is_here=False)
            await told.until("run", 702)
            await run.decide(is_here=False)
            await run.finish(is_here=False)
            await told.until("run", 705)
            assert told.seqs["run"] == list(range(705))
            await feed.close()

    asyncio.run(use())


@pytest.mark.parametrize("is_history", [False, True])
def test_a_run_that_another_process_resumes_and_ends_between_two_looks_is_told_of(
    tmp_path: Path, is_history: bool
) -> None:
    async def use() -> None:
        async with open_place(tmp_path / "s.db") as place:
            told, run = Told(), FakeRun(place, "r")
            if is_history:
                await run.launch()
                await run.finish()
                await asyncio.sleep(0.002)  # the next millisecond: what happened in this one is not history yet
            feed = Feed(place, told, poll_s=30)
            if not is_history:
                await run.launch()
                await run.finish()
            before = run.next_seq()
            await feed.settle()
            first = 0 if not is_history else before
            for _ in range(2):
                await run.reopen()
                await run.emit(3, is_here=False)
                await run.finish(is_here=False)
                # all of it is there before the next look, which the commits themselves have brought about
                await told.until("r", run.next_seq() - first)
            await feed.close()
            assert told.seqs["r"] == list(range(first, run.next_seq()))
            assert told.types["r"].count("RunFinished") == (2 if is_history else 3)

    asyncio.run(use())


def test_the_end_of_a_run_is_told_once_and_its_cursor_is_dropped(tmp_path: Path) -> None:
    async def use() -> None:
        async with open_place(tmp_path / "s.db") as place:
            told = Told()
            feed = Feed(place, told, poll_s=0.01)
            for number in range(5):
                run = FakeRun(place, f"run-{number}")
                await run.launch(is_here=number % 2 == 0)
                await run.finish(is_here=number % 2 == 0)
            await feed.settle()
            await feed.settle()
            assert all(types.count("RunFinished") == 1 for types in told.types.values())
            assert len(told.types) == 5
            assert feed.live_count == 0
            await feed.close()

    asyncio.run(use())


def test_a_step_that_the_reader_has_told_already_is_not_told_again(tmp_path: Path) -> None:
    """A commit may be seen in the database before this process hears that it was its own."""

    async def use() -> None:
        async with open_place(tmp_path / "s.db") as place:
            told = Told()
            feed = Feed(place, told)
            run = FakeRun(place, "run")
            late = [await run.launch(is_here=False), await run.emit(2, is_here=False)]
            await feed.settle()
            late.append(await run.emit(3, is_here=False))
            late.append(await run.finish(is_here=False))
            for step, first_seq in late[:2]:
                place.hub.publish("run", step, first_seq)
            assert told.seqs["run"] == [0, 1, 2, 3]
            await feed.settle()
            for step, first_seq in late[2:]:
                place.hub.publish("run", step, first_seq)
            await feed.settle()
            assert told.seqs["run"] == list(range(run.next_seq()))
            await feed.close()

    asyncio.run(use())


def test_a_run_that_has_ended_stays_ended_when_a_door_writes_to_it(tmp_path: Path) -> None:
    async def use() -> None:
        async with open_place(tmp_path / "s.db") as place:
            told = Told()
            feed = Feed(place, told, follows_others=False)
            run = FakeRun(place, "run")
            await run.launch()
            await run.finish()
            await run.decide()
            await told.until("run", 5)
            await asyncio.sleep(0)
            assert feed.live_count == 0
            await feed.close()

    asyncio.run(use())


def test_what_a_listener_raises_harms_neither_the_run_nor_the_order(tmp_path: Path) -> None:
    async def use() -> None:
        async with open_place(tmp_path / "s.db") as place:
            seqs: list[int] = []

            def listen(run_id: str, row: EventRow) -> None:
                seqs.append(row.seq)
                raise ValueError(run_id)

            feed = Feed(place, listen)
            run = FakeRun(place, "run")
            await run.launch()
            await run.emit(2)
            await feed.settle()
            assert seqs == [0, 1, 2, 3]
            await feed.close()

    asyncio.run(use())


def test_nothing_is_asked_while_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten thousand runs that wait cost a gateway nothing."""
    looks = 0
    growth = feeds.growth

    def counted(*args: object, **named: object) -> object:
        nonlocal looks
        looks += 1
        return growth(*args, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(feeds, "growth", counted)

    async def use() -> None:
        async with open_place(tmp_path / "s.db") as place:
            told = Told()
            feed = Feed(place, told, poll_s=0.05)
            run = FakeRun(place, "run")
            await run.launch(is_here=False)
            await told.until("run", 2)
            before = -1
            async with asyncio.timeout(60):
                while before != looks:  # until half a second, ten times the period, passes without a look
                    before = looks
                    await asyncio.sleep(0.5)
            await run.emit(is_here=False)
            await told.until("run", 3)
            assert looks > before
            await feed.close()

    asyncio.run(use())
