"""Feed: every event of the runs that go on here, once and in order, whoever wrote it."""

from __future__ import annotations

import asyncio
from pathlib import Path

from pydantic import BaseModel

from smithers import Approval, Task, Workflow, create_smithers
from smithers.components.workflow import SmithersWorkflow
from smithers.control.caller import Caller
from smithers.control.control import Control
from smithers.control.requests import cancel_run
from smithers.engine.engine import Engine
from smithers.events import EventRow
from smithers.observability.context import RunInfo
from smithers.observability.feed import EventFeed, LogCounter
from smithers.observability.metrics import Metrics
from smithers.settings import Settings
from smithers.store import open_store
from smithers.store.sql import reads

ME = Caller("me", scopes=("*",))


class Row(BaseModel):
    n: int = 1


class Verdict(BaseModel):
    approved: bool
    note: str | None = None


def asking() -> SmithersWorkflow:
    smithers, outputs = create_smithers({"row": Row, "verdict": Verdict})

    @smithers
    def workflow(ctx: object) -> Workflow:
        del ctx
        return Workflow(name="w")[
            Task(id="a", output=outputs.row)[lambda: Row()],
            Approval(id="go", output=outputs.verdict, request={"title": "Go?"}),
            Task(id="b", output=outputs.row)[lambda: Row()],
        ]

    return workflow


class Part:
    """One process's part in a run."""

    def __init__(self, db: Path) -> None:
        self.store = open_store(str(db))
        self.engine = Engine(self.store, Settings())
        self.control = Control(self.store)
        self.told: list[tuple[int, str]] = []
        self.runs: set[RunInfo] = set()
        self.feed = EventFeed(self.store, self.engine.hub, self.listen)

    def listen(self, run: RunInfo, row: EventRow) -> None:
        self.runs.add(run)
        self.told.append((row.seq, row.type))

    async def stored(self) -> list[tuple[int, str]]:
        rows = await self.store.aread(lambda c: reads.events(c, "r", -1, 1_000))
        return [(row.seq, row.type) for row in rows]

    async def close(self) -> None:
        await self.engine.close()
        await self.feed.close()
        self.store.close()


def test_what_doors_write_between_steps_is_told_in_its_place(tmp_path: Path) -> None:
    async def run() -> None:
        part, workflow = Part(tmp_path / "s.db"), asking()
        await (await part.engine.launch(workflow, {}, run_id="r", parent_run_id=None)).result
        await part.control.decide("r", approved=True, caller=ME)
        await (await part.engine.resume("r", workflow)).result
        stored = await part.stored()
        await part.close()
        assert part.told == stored
        assert part.runs == {RunInfo("r", "w")}

    asyncio.run(run())


def test_a_run_that_is_taken_over_is_told_of_from_its_claim_on(tmp_path: Path) -> None:
    async def run() -> None:
        first, workflow = Part(tmp_path / "s.db"), asking()
        await (await first.engine.launch(workflow, {}, run_id="r")).result
        await first.close()
        second = Part(tmp_path / "s.db")
        await second.control.decide("r", approved=True, caller=ME)
        await (await second.engine.resume("r", workflow)).result
        stored = await second.stored()
        await second.close()
        assert second.told == stored[stored.index((second.told[0][0], "RunStarted")) :]
        assert [*first.told, stored[len(first.told)], *second.told] == stored

    asyncio.run(run())


def test_a_door_that_has_written_to_an_unknown_run_is_told_of(tmp_path: Path) -> None:
    async def run() -> None:
        first, workflow = Part(tmp_path / "s.db"), asking()
        await (await first.engine.launch(workflow, {}, run_id="r")).result
        await first.close()
        second = Part(tmp_path / "s.db")
        await cancel_run(second.control, "r", source="test")
        second.engine.hub.touch("r")
        await second.close()
        assert [type for _, type in second.told][-2:] == ["RunCancelled", "RunStatusChanged"]
        assert "NodeStarted" not in [type for _, type in second.told]

    asyncio.run(run())


def test_one_runs_counter_reads_its_whole_log_once(tmp_path: Path) -> None:
    async def run() -> str:
        part, workflow, metrics = Part(tmp_path / "s.db"), asking(), Metrics()
        counter = LogCounter(lambda: part.store, "r", metrics)
        await counter.count()  # there is no such run yet
        await (await part.engine.launch(workflow, {}, run_id="r")).result
        await asyncio.gather(counter.count(), counter.count())
        await counter.count()
        count = len(await part.stored())
        await part.close()
        assert f"smithers_events_emitted_total {count}\n" in metrics.render()
        return metrics.render()

    text = asyncio.run(run())
    assert "smithers_nodes_finished 1\n" in text
    assert "smithers_approvals_requested 1\n" in text
