"""What nodes had come to before they were done again: older frames, differences, rewinds and forks still have it."""

from __future__ import annotations

import pytest
from pydantic import BaseModel
from tests.integration.engine.support import Bench
from tests.integration.engine.travel_support import ADMIN, back, control_of

from smithers import Approval, HumanTask, Sequence, SmithersWorkflow, Task, Workflow, create_smithers
from smithers.components.context import Context
from smithers.control.travel.diffing import diff_frames
from smithers.control.travel.forking import fork
from smithers.control.travel.resetting import retry_task
from smithers.store.sql import history, reads
from smithers.store.sql.past_nodes import as_past

pytestmark = pytest.mark.anyio
BOTH_DATABASES = True


class Odd(BaseModel):
    """Values that are hard to keep."""

    text: str = ""
    n: int = 0
    big: int = 0
    share: float = 0.0
    is_so: bool = False
    parts: list[str] = []
    nothing: str | None = None


class Verdict(BaseModel):
    """A decision."""

    approved: bool
    note: str | None = None
    decided_by: str | None = None
    decided_at: str | None = None


smithers, outputs = create_smithers({"odd": Odd, "verdict": Verdict, "answer": Odd})


def counting() -> SmithersWorkflow:
    """`a` gives another row each time."""
    count = 0

    async def work() -> Odd:
        nonlocal count
        count += 1
        return Odd(text="ä\x00\u2028", n=count, big=2**70 + count, share=0.1, is_so=True, parts=["x", str(count)])

    @smithers
    def workflow(ctx: Context[object]) -> Workflow:
        return Workflow(name="counting")[
            Sequence[
                Task(id="a", output=outputs.odd)[work],
                Task(id="b", output=outputs.odd)[work],
            ]
        ]

    return workflow


def rows(bench: Bench, run_id: str = "r") -> dict[str, object]:
    frame = bench.row(run_id).frame_no
    found = bench.store.read(lambda c: history.outputs_at(c, run_id, frame, map(as_past, reads.nodes(c, run_id))))
    return {node: row["n"] for (node, _), (_, row) in found.items()}


async def test_an_older_frame_has_the_row_from_before_the_retry(bench: Bench) -> None:
    workflow = counting()
    await bench.run(workflow)
    was = bench.row().frame_no
    await retry_task(control_of(bench), "r", "a", caller=ADMIN)
    assert (await bench.resume(workflow)).status == "finished"

    found = await diff_frames(control_of(bench), "r", was, bench.row().frame_no)

    assert [(d.node_id, (d.before or {})["n"], (d.after or {})["n"]) for d in found.outputs] == [
        ("a", 1, 3),
        ("b", 2, 4),
    ]
    before, after = found.outputs[0].before or {}, found.outputs[0].after or {}
    assert (before["share"], before["is_so"], before["parts"], before["nothing"]) == (0.1, True, ["x", "1"], None)
    assert (before["text"], type(before["big"])) == (after["text"], type(after["big"]))


async def test_a_rewind_to_before_a_retry_brings_the_old_rows_back(bench: Bench) -> None:
    workflow = counting()
    await bench.run(workflow)
    was = bench.row().frame_no
    old = bench.store.read(lambda c: c.execute('SELECT * FROM "odd" ORDER BY node_id').fetchall())
    for _ in range(2):
        await retry_task(control_of(bench), "r", "a", caller=ADMIN)
        assert (await bench.resume(workflow)).status == "finished"
    assert rows(bench) == {"a": 5, "b": 6}

    await back(bench, was)

    assert bench.store.read(lambda c: c.execute('SELECT * FROM "odd" ORDER BY node_id').fetchall()) == old
    assert bench.states() == {"a": "finished", "b": "finished"}
    assert (await bench.resume(workflow)).status == "finished"
    assert rows(bench) == {"a": 1, "b": 2}
    assert not bench.store.read(lambda c: c.execute("SELECT 1 FROM _smithers_replaced_rows").fetchall())


async def test_a_retry_is_undone_by_a_rewind_to_the_frame_that_it_was_made_at(bench: Bench) -> None:
    workflow = counting()
    await bench.run(workflow)
    await retry_task(control_of(bench), "r", "b", caller=ADMIN)

    await back(bench, bench.row().frame_no)

    assert rows(bench) == {"a": 1, "b": 2}
    assert (await bench.resume(workflow)).status == "finished"
    assert rows(bench) == {"a": 1, "b": 2}


async def test_two_retries_at_one_frame_keep_what_stood_before_both(bench: Bench) -> None:
    workflow = counting()
    await bench.run(workflow)
    was = bench.row().frame_no
    await retry_task(control_of(bench), "r", "b", caller=ADMIN)
    await retry_task(control_of(bench), "r", "a", caller=ADMIN)
    assert (await bench.resume(workflow)).status == "finished"
    assert rows(bench) == {"a": 3, "b": 4}

    await back(bench, was)

    assert rows(bench) == {"a": 1, "b": 2}


async def test_a_fork_from_before_a_retry_has_the_old_rows(bench: Bench) -> None:
    workflow = counting()
    await bench.run(workflow)
    was = bench.row().frame_no
    await retry_task(control_of(bench), "r", "a", caller=ADMIN)
    assert (await bench.resume(workflow)).status == "finished"

    await fork(control_of(bench), "r", was, caller=ADMIN, new_run_id="f")

    assert (await bench.resume(workflow, "f")).status == "finished"
    assert (rows(bench, "f"), rows(bench)) == ({"a": 1, "b": 2}, {"a": 3, "b": 4})


async def test_what_people_have_said_before_a_retry_is_told_and_comes_back(bench: Bench) -> None:
    @smithers
    def workflow(ctx: Context[object]) -> Workflow:
        return Workflow(name="asks")[
            Sequence[
                Approval(id="ok", output=outputs.verdict)["Ok?"],
                HumanTask(id="say", output=outputs.answer)["What?"],
            ]
        ]

    async def through(note: str, text: str) -> None:
        await bench.decide("ok", decision={"approved": True, "note": note})
        assert (await bench.resume(workflow)).status == "waiting-approval"
        await control_of(bench).answer("r", "say", {"text": text}, caller=ADMIN)
        assert (await bench.resume(workflow)).status == "finished"

    assert (await bench.run(workflow)).status == "waiting-approval"
    await through("first", "one")
    was = bench.row().frame_no
    asked = bench.store.read(lambda c: (history.approvals_at(c, "r", was), history.humans_at(c, "r", was)))
    await retry_task(control_of(bench), "r", "ok", caller=ADMIN)
    assert (await bench.resume(workflow)).status == "waiting-approval"
    await through("second", "two")

    told = bench.store.read(lambda c: (history.approvals_at(c, "r", was), history.humans_at(c, "r", was)))
    assert told == asked

    await back(bench, was)
    assert (bench.approvals(), bench.store.read(lambda c: reads.human_requests(c, "r", only_open=False))) == asked
