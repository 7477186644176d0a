"""The ten invariants of the architecture, one test each, named after them. Each has deeper tests elsewhere: the crash suite
(1-4, 7), the properties of the scheduler (6, 10) and of random runs (4-6), the sandbox's escape attempts (8), the doors (9)."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.integration.engine.support import Bench, Calls, Row, Verdict, outputs, smithers, within

from smithers import Approval, Parallel, SmithersWorkflow, Task, Workflow
from smithers.components.context import Context
from smithers.control.caller import Caller
from smithers.control.control import Control
from smithers.errors import AlreadyDecided, Forbidden, InvalidInput, LeaseLost, RunNotActive, SmithersError
from smithers.store.interface import Committed, Step
from smithers.store.sql import reads
from smithers.tools import bash, read
from smithers.tools.context import tool_context

pytestmark = pytest.mark.anyio
BOTH_DATABASES = True
Ctx = Context[dict[str, object]]
ANN = Caller(user="ann", scopes=("*",))


def two_steps(calls: Calls) -> SmithersWorkflow:
    @smithers
    def flow(ctx: Ctx) -> Workflow:
        return Workflow("two")[Task("a", output=Row)[calls.task("a")], Task("b", output=Row)[calls.held("b")]]

    return flow


def asking(**properties: object) -> SmithersWorkflow:
    @smithers
    def flow(ctx: Ctx) -> Workflow:
        return Workflow("asking")[Approval("ok", output=Verdict, **properties)["Go?"]]  # type: ignore[arg-type]

    return flow


async def test_invariant_1_a_finished_task_is_never_executed_again(bench: Bench) -> None:
    calls = Calls()
    flow = two_steps(calls)
    await bench.start(flow)
    await bench.seen("NodeStarted", "b")
    bench.abandon()
    calls.release("b")
    assert (await bench.resume(flow, force=True)).status == "finished"
    assert calls["a"] == 1


async def test_invariant_2_what_was_acknowledged_is_durable(bench: Bench) -> None:
    flow = asking()
    await bench.run(flow)
    control = Control(bench.store, clock=bench.clock)
    await control.decide("r", approved=True, caller=ANN)
    await control.signal("r", "late", {"n": 1})
    await control.cancel("r", source="test")
    bench.abandon()
    assert bench.approvals()[0].status == "approved"
    assert [s.signal_name for s in bench.store.read(lambda c: reads.signals(c, "r"))] == ["late"]
    assert bench.row().status == "cancelled"


async def test_invariant_3_at_most_one_owner_commits(bench: Bench) -> None:
    calls = Calls()
    flow = two_steps(calls)
    first = await bench.start(flow)
    await bench.seen("NodeStarted", "b")
    bench.new_engine()
    second = await bench.engine.resume("r", flow, force=True)
    await bench.seen("NodeStarted", "b", attempt=2)
    calls.release("b")
    assert (await within(asyncio.shield(second.result))).status == "finished"
    with pytest.raises(LeaseLost):
        await within(asyncio.shield(first.result))
    finishes = [e for e in bench.events() if e["type"] == "NodeFinished" and e["nodeId"] == "b"]
    assert [e["attempt"] for e in finishes] == [2]


async def test_invariant_4_numbers_are_dense_and_a_subscriber_gets_each_once(bench: Bench) -> None:
    calls = Calls()
    await bench.start(two_steps(calls))
    await bench.seen("NodeStarted", "b")
    control = Control(bench.store, clock=bench.clock, hub=bench.engine.hub)

    async def follow(after: int) -> list[int]:
        return [row.seq async for row in control.follow("r", after)]

    readers = [asyncio.ensure_future(follow(after)) for after in (-1, 2)]
    await asyncio.sleep(0)
    calls.release("b")
    whole, part = await within(asyncio.gather(*readers))
    assert whole == list(range(bench.row().next_seq))
    assert part == whole[3:]


async def test_invariant_5_replaying_the_events_gives_the_node_states(bench: Bench) -> None:
    after = {
        "NodePending": "pending",
        "NodeStarted": "in-progress",
        "NodeFinished": "finished",
        "NodeFailed": "failed",
        "NodeRetrying": "pending",
        "NodeSkipped": "skipped",
        "NodeCancelled": "cancelled",
        "NodeWaitingApproval": "waiting-approval",
    }
    calls = Calls()

    @smithers
    def flow(ctx: Ctx) -> Workflow:
        flaky = Task("flaky", output=Row, retries=1, retry_policy={"backoff": "fixed"})
        return Workflow("states")[
            flaky[calls.task("flaky", fails=lambda n: ValueError("once") if n == 1 else None)],
            Task("not", output=Row, skip_if=True)[calls.task("not")],
            Approval("ok", output=Verdict)["Go?"],
            Task("end", output=Row)[calls.task("end")],
        ]

    await bench.run(flow)
    for _ in range(2):
        states = {e["nodeId"]: after[str(e["type"])] for e in bench.events() if e["type"] in after}
        assert states == bench.states()
        if bench.row().status == "waiting-approval":
            await bench.decide("ok")
            await bench.resume(flow)


async def test_invariant_6_the_same_outcomes_give_the_same_frames(bench: Bench) -> None:
    def plain(run_id: str) -> list[dict[str, object]]:
        return [{k: v for k, v in e.items() if k not in ("runId", "timestampMs")} for e in bench.events(run_id)]

    @smithers
    def flow(ctx: Ctx) -> Workflow:
        done = len(ctx.outputs(outputs.row))
        return Workflow("frames")[[Task(f"t{i}", output=Row)[{"text": str(i)}] for i in range(min(done + 1, 4))]]

    for run_id in ("one", "two"):
        await bench.run(flow, run_id=run_id)
    assert plain("one") == plain("two")
    hashes = [[f.tree_hash for f in bench.store.read(lambda c, r=r: reads.frames(c, r))] for r in ("one", "two")]  # type: ignore[misc]
    assert hashes[0] == hashes[1]


async def test_invariant_7_a_decision_is_applied_once_and_a_late_or_foreign_one_refused(bench: Bench) -> None:
    flow = asking(allowed_users=["ann"])
    await bench.run(flow)
    control = Control(bench.store, clock=bench.clock)
    with pytest.raises(Forbidden):
        await control.decide("r", approved=True, caller=Caller(user="eve"))
    await control.decide("r", approved=True, caller=ANN)
    with pytest.raises(AlreadyDecided):
        await control.decide("r", "ok", approved=False, caller=ANN)
    assert (await bench.resume(flow)).status == "finished"
    for _ in range(2):
        with pytest.raises(RunNotActive):
            await control.signal("r", "late")
    assert bench.types().count("ApprovalGranted") == 1


async def test_invariant_8_nothing_reaches_outside_the_root_folder_or_the_network(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    with tool_context(root):
        with pytest.raises(SmithersError) as escape:
            await read("../secret.txt")
        assert escape.value.error_code == "TOOL_PATH_ESCAPE"
        with pytest.raises(SmithersError):
            await bash("cat", [str(secret)])
        probe = "import socket; s = socket.socket(); s.settimeout(2); print(s.connect_ex(('192.0.2.1', 80)) != 0)"
        assert (await bash("python3", ["-c", probe])).strip() == "True"


async def test_invariant_9_a_bad_request_names_the_field_and_changes_nothing(bench: Bench) -> None:
    flow = asking(mode="select", options=[{"key": "a", "label": "A"}])
    await bench.run(flow)
    control = Control(bench.store, clock=bench.clock)
    before = (bench.row(), bench.events())
    with pytest.raises(InvalidInput, match=r"decision\.selected"):
        await control.decide("r", approved=True, decision={"selected": "z"}, caller=ANN)
    with pytest.raises(InvalidInput, match="signal name"):
        await control.signal("r", " ")
    deep: object = 1
    for _ in range(40):
        deep = [deep]
    with pytest.raises(InvalidInput, match=r"input\.deep"):
        await bench.start(flow, {"deep": deep}, run_id="other")
    assert (bench.row(), bench.events()) == before


async def test_invariant_10_a_step_writes_as_much_however_large_the_run_is(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    @smithers
    def flow(ctx: Ctx) -> Workflow:
        count = ctx.input["count"]
        assert isinstance(count, int)
        return Workflow("size")[
            Parallel(max_concurrency=1)[[Task(f"t{i}", output=Row)[{"text": ""}] for i in range(count)]]
        ]

    sizes: dict[int, set[tuple[int, int, int]]] = {}
    commit = bench.store.commit
    for count in (10, 500):
        seen: list[tuple[int, int, int]] = []

        async def counted(step: Step, seen: list[tuple[int, int, int]] = seen) -> Committed:
            seen.append((len(step.nodes), len(step.attempts), len(step.events)))
            return await commit(step)

        monkeypatch.setattr(bench.store, "commit", counted)
        await bench.run(flow, {"count": count}, run_id=f"n{count}")
        sizes[count] = set(seen[2:-1])  # the first mounts everything, the last ends the run
    assert sizes[10] == sizes[500] == {(2, 2, 2)}
