"""Readers of a log: each event once and in order, whoever wrote it; what this process stores is not read again."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.integration.gateway.socket_support import STARTED, FakeRun
from tests.integration.gateway.test_feed import WRITES, open_place

from smithers.control import streams as streams_module
from smithers.control.hosting import Place
from smithers.control.streams import RunStream
from smithers.errors import RunNotFound
from smithers.events import EventDraft
from smithers.store.interface import NewRun, StatusChange, Step

operations = st.lists(
    st.tuples(st.sampled_from((*WRITES, "read", "read", "follow", "follow from", "wake", "turn")), st.integers(0, 6)),
    max_size=40,
)


class Seen:
    """A reader with what it was given."""

    def __init__(self, place: Place, after: int) -> None:
        self.stream = place.stream("run", after)
        self.after = after
        self.seqs: list[int] = []
        self.is_over = False

    def read(self) -> None:
        if self.is_over:
            return
        has_more = True
        while has_more:
            batch = self.stream.read()
            self.seqs += [row.seq for row in batch.rows]
            has_more, self.is_over = batch.has_more, batch.is_over


async def write(run: FakeRun, what: str, count: int, ended: bool) -> bool:
    """Do what was drawn; whether the run has ended then."""
    if what == "reopen":
        if ended:
            await run.reopen()
        return False
    if not ended:
        if what.endswith("step"):
            await run.emit(count + 1, is_here=what == "step")
        elif what.endswith("decision"):
            await run.decide(is_here=what == "decision")
        elif what.endswith("end"):
            await run.finish(is_here=what == "end")
            return True
    return ended


@settings(max_examples=80, deadline=None)
@given(operations, st.booleans(), st.integers(2, 5))
def test_each_reader_gets_each_event_once_and_in_order_whoever_wrote_it(
    todo: list[tuple[str, int]], is_launched_here: bool, batch: int
) -> None:
    async def use(path: Path) -> None:
        async with open_place(path) as place:
            run, readers, ended = FakeRun(place, "run"), list[Seen](), False
            await run.launch(is_here=is_launched_here)
            for what, number in todo:
                if what == "read":
                    for reader in readers[number:]:
                        reader.read()
                elif what == "turn":
                    await asyncio.sleep(0)
                elif what == "wake":
                    place.hub.wake_all()
                elif what.startswith("follow"):
                    readers.append(Seen(place, number - 1 if what == "follow from" else -1))
                else:
                    ended = await write(run, what, number, ended)
            place.hub.wake("run")  # as the look does that follows the last commit
            for reader in readers:
                reader.read()  # what was looked at when it was opened, if nothing was read since
                reader.read()
                reader.stream.close()
                last = reader.seqs[-1] + 1 if reader.seqs else max(reader.after + 1, 0)
                assert reader.seqs == list(range(max(reader.after + 1, 0), last))
                assert reader.is_over or last >= run.next_seq()
            assert not place.hub.has_subscribers

    before = streams_module.BATCH
    streams_module.BATCH = batch
    try:
        with tempfile.TemporaryDirectory() as folder:
            asyncio.run(use(Path(folder) / "s.db"))
    finally:
        streams_module.BATCH = before


def test_a_run_that_is_launched_and_ends_here_is_followed_without_reading_the_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def use() -> None:
        async with open_place(tmp_path / "s.db") as place:
            run = FakeRun(place, "run")
            await run.launch()
            reads: list[object] = []

            def noted(query: object, **_: object) -> None:
                reads.append(query)

            monkeypatch.setattr(place.store, "read", noted)
            seen = Seen(place, -1)
            seen.read()
            assert (seen.seqs, seen.is_over) == ([0, 1], False)
            await run.emit(3)
            seen.read()
            await run.finish()
            seen.read()
            assert (seen.seqs, seen.is_over) == (list(range(7)), True)
            assert not reads
            monkeypatch.undo()
            late = Seen(place, 2)
            late.read()
            assert (late.seqs, late.is_over) == ([3, 4, 5, 6], True)

    asyncio.run(use())


def test_what_nobody_reads_is_not_kept_beyond_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams_module, "MAX_YOUNG", 3)
    monkeypatch.setattr(streams_module, "MAX_YOUNG_EVENTS", 10)

    async def use() -> None:
        async with open_place(tmp_path / "s.db") as place:
            runs = [FakeRun(place, f"run-{n}") for n in range(5)]
            for run in runs:
                await run.launch()
            young = place.hub.young
            assert sorted(young) == ["run-2", "run-3", "run-4"]
            await runs[2].emit(20)
            await runs[3].finish()
            assert sorted(place.hub.young) == ["run-4"]
            slow = RunStream(place.hub, place.store, "run-4", -1)
            await runs[4].emit(5)
            for _ in range(100):
                await runs[4].emit(5)
            seqs: list[int] = []
            while rows := slow.read().rows:
                seqs += [row.seq for row in rows]
            assert seqs == list(range(runs[4].next_seq()))
            slow.close()

    asyncio.run(use())


def test_a_run_that_ends_with_its_first_step_is_followed_to_its_end(tmp_path: Path) -> None:
    async def use() -> None:
        async with open_place(tmp_path / "s.db") as place:
            new = NewRun("run", "flow", None, None, "{}", "{}", "owner", 1, events=STARTED)
            step = Step("run", "owner", 1, 1, 1, launch=new, status=StatusChange("finished", is_terminal=True))
            step.events.append(EventDraft("RunFinished"))
            done = await place.store.commit(step)
            place.hub.publish("run", step, done.first_seq)
            reader = Seen(place, -1)
            reader.read()
            assert (reader.seqs, reader.is_over) == ([0, 1, 2], True)

    asyncio.run(use())


def test_a_run_that_was_taken_over_is_read_from_the_database_from_then_on(tmp_path: Path) -> None:
    async def use() -> None:
        async with open_place(tmp_path / "s.db") as place:
            run = FakeRun(place, "run")
            await run.launch()
            early = Seen(place, -1)
            early.read()
            await run.finish(is_here=False)  # by who has taken it over; nothing is written after that
            place.hub.let_go("run")
            for reader in (early, Seen(place, -1)):
                reader.read()
                assert (reader.seqs, reader.is_over) == ([0, 1, 2, 3], True)

    asyncio.run(use())


def test_an_unknown_run_has_no_stream(tmp_path: Path) -> None:
    async def use() -> None:
        async with open_place(tmp_path / "s.db") as place:
            with pytest.raises(RunNotFound):
                place.stream("nope", -1)
            assert not place.hub.has_subscribers

    asyncio.run(use())
