"""A run is forked from a frame of another; frames and runs are compared."""

from __future__ import annotations

import pytest
from tests.integration.engine.support import Bench, Calls
from tests.integration.engine.travel_support import ADMIN, chain, control_of

from smithers.control.travel.diffing import diff_frames, diff_runs
from smithers.control.travel.forking import fork
from smithers.control.travel.timeline import timeline
from smithers.errors import (
    FrameOutOfRange,
    InvalidInput,
    NodeNotFound,
    RunAlreadyExists,
    RunNotFound,
)

pytestmark = pytest.mark.anyio


async def test_a_fork_goes_on_by_itself_and_leaves_its_parent_alone(bench: Bench) -> None:
    calls = Calls()
    workflow = chain(calls, "a", "b", "c")
    await bench.run(workflow)
    before = (bench.row(), bench.states(), bench.events())

    found = await fork(control_of(bench), "r", 2, caller=ADMIN, new_run_id="f", label="try")

    assert found.run_id == "f"
    assert (bench.row("f").status, bench.row("f").frame_no) == ("paused", 2)
    assert bench.states("f") == {"a": "finished", "b": "pending", "c": "pending"}
    assert bench.texts("f") == ["a"]
    assert bench.types("f")[0] == "RunForked"
    assert (await bench.resume(workflow, "f")).status == "finished"
    assert (bench.row(), bench.states(), bench.events()) == before
    assert calls.by_name == {"a": 1, "b": 2, "c": 2}
    line = await timeline(control_of(bench), "r")
    assert [(f.run_id, f.parent_frame_no, f.label) for f in line.forks] == [("f", 2, "try")]
    assert line.wire()["frames"]


async def test_a_fork_may_have_nodes_done_again_and_another_input(bench: Bench) -> None:
    calls = Calls()
    workflow = chain(calls, "a", "b", "c")
    await bench.run(workflow)

    found = await fork(control_of(bench), "r", caller=ADMIN, reset_nodes=["b"], input={"x": 1})

    assert found.reset_nodes == ("b::0", "c::0")
    assert bench.states(found.run_id) == {"a": "finished", "b": "pending", "c": "pending"}
    report = await control_of(bench).inspect(found.run_id)
    assert report.input == {"x": 1}
    assert (await bench.resume(workflow, found.run_id)).status == "finished"
    assert calls.by_name == {"a": 1, "b": 2, "c": 2}
    diff = await diff_runs((control_of(bench), "r"), (control_of(bench), found.run_id))
    assert diff.is_empty


async def test_what_cannot_be_forked_is_refused(bench: Bench) -> None:
    await bench.run(chain(Calls(), "a"))
    control = control_of(bench)

    for error, options in (
        (RunNotFound, {"run_id": "other"}),
        (FrameOutOfRange, {"frame_no": 9}),
        (RunAlreadyExists, {"new_run_id": "r"}),
        (NodeNotFound, {"reset_nodes": ["zz"]}),
        (InvalidInput, {"input": [1]}),
    ):
        given: dict[str, object] = {"run_id": "r", "caller": ADMIN, **options}
        with pytest.raises(error):
            await fork(control, **given)  # type: ignore[arg-type]
    assert [r.run_id for r in await control.runs()] == ["r"]


async def test_frames_are_compared_by_nodes_outputs_and_loops(bench: Bench) -> None:
    await bench.run(chain(Calls(), "a", "b"))

    diff = await diff_frames(control_of(bench), "r", 1, 2)

    assert [(d.node_id, d.before, d.after) for d in diff.changed] == [
        ("a", "in-progress", "finished"),
        ("b", "pending", "in-progress"),
    ]
    assert [(d.node_id, d.before, d.after) for d in diff.outputs] == [("a", None, {"text": "a", "n": 0})]
    assert (await diff_frames(control_of(bench), "r", 0, 1)).added
    assert diff.wire()["nodesChanged"]
