"""The journal of tool calls: durable before a call runs, fenced, in the run's log, and known to the next attempt."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from pydantic import BaseModel
from tests.integration.engine.support import Bench, Out, smithers, within

from smithers import Context, RunStatus, SmithersWorkflow, Task, Workflow, task_runtime
from smithers.agents.calls import AgentCall
from smithers.components.task import RetryPolicy
from smithers.control.control import Control
from smithers.control.views import tool_call_summary
from smithers.errors import InvalidInput, LeaseLost, TaskAborted
from smithers.store.calls import ToolCallRow
from smithers.store.sql import calls
from smithers.store.sql.session import Session
from smithers.tools import CallStatus, ToolCtx, current_context, define_tool, read, retry_warning, tool_context

pytestmark = pytest.mark.anyio


class Order(BaseModel):
    sku: str


class Shop:
    """Notes what it was asked for, and what was on record then."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.keys: list[str | None] = []
        self.seen: list[str] = []
        self.begun = asyncio.Event()
        self.gate: asyncio.Event | None = None

        @define_tool(name="order", schema=Order, side_effect=True)
        async def order(args: Order, ctx: ToolCtx) -> str:
            """Order an article."""
            self.keys.append(ctx.idempotency_key)
            self.seen = [row.status for row in rows(bench)]
            self.begun.set()
            if args.sku == "bad":
                raise ValueError("no such article")
            if self.gate is not None:
                await self.gate.wait()
            return f"ordered {args.sku}"

        self.order = order


def rows(bench: Bench, node_id: str | None = None) -> list[ToolCallRow]:
    return bench.store.read(lambda c: calls.tool_calls(c, "r", node_id))


def one(*tasks: Task) -> SmithersWorkflow:
    @smithers
    def workflow(ctx: Context[object]) -> Workflow:
        return Workflow("calls")[list(tasks)]

    return workflow


async def test_a_call_with_an_effect_is_on_record_before_it_runs_and_its_end_after(bench: Bench) -> None:
    shop = Shop(bench)

    async def work() -> dict[str, object]:
        return {"text": await shop.order(sku="a")}

    await bench.run(one(Task("buy", output=Out)[work]))
    (row,) = rows(bench)
    assert shop.seen == ["started"]
    assert (row.node_id, row.iteration, row.attempt, row.seq, row.tool_name) == ("buy", 0, 1, 1, "order")
    assert (row.status, row.output_json, row.error_json) == ("finished", '"ordered a"', None)
    assert (row.side_effect, row.idempotent, row.accepts_idempotency_key, row.has_revert) == (1, 0, 1, 0)
    assert row.idempotency_key == shop.keys[0] == "smithers:r:buy:0:order:1"


async def test_calls_are_numbered_and_told_of_in_the_log_between_start_and_end_of_their_task(
    bench: Bench, tmp_path: Path
) -> None:
    (tmp_path / "x").write_text("content")
    shop = Shop(bench)

    async def work() -> dict[str, object]:
        await read("x")
        await shop.order(sku="a")
        with pytest.raises(ValueError, match="article"):
            await shop.order(sku="bad")
        return {"text": await read("x")}

    await bench.run(one(Task("buy", output=Out)[work]), root_dir=str(tmp_path))
    assert bench.store.read(_told) == [
        ("NodePending", None, None, None),
        ("NodeStarted", None, None, None),
        ("ToolCallStarted", "read", 1, None),
        ("ToolCallFinished", "read", 1, "success"),
        ("ToolCallStarted", "order", 2, None),
        ("ToolCallFinished", "order", 2, "success"),
        ("ToolCallStarted", "order", 3, None),
        ("ToolCallFinished", "order", 3, "error"),
        ("ToolCallStarted", "read", 4, None),
        ("ToolCallFinished", "read", 4, "success"),
        ("NodeFinished", None, None, None),
    ]
    assert [row.status for row in rows(bench)] == ["finished", "finished", "failed", "finished"]
    numbers = bench.store.read(lambda c: [r[0] for r in c.execute("SELECT seq FROM _smithers_events ORDER BY seq")])
    assert numbers == list(range(len(numbers)))


def _told(connection: Session) -> list[tuple[object, ...]]:
    """Type, tool, its number and status of the events about a node."""
    found = connection.execute("SELECT type, payload FROM _smithers_events WHERE node_id IS NOT NULL ORDER BY seq")
    told = [(type, json.loads(payload or "{}")) for type, payload in found]
    return [(type, p.get("toolName"), p.get("seq"), p.get("status")) for type, p in told]


async def test_an_agent_that_tries_again_is_told_what_it_has_done_and_keeps_its_keys(bench: Bench) -> None:
    shop = Shop(bench)
    prompts: list[str] = []

    async def buyer(prompt: str, call: AgentCall) -> dict[str, object]:
        prompts.append(prompt)
        await shop.order(sku="a")
        if call.attempt == 1:
            raise ConnectionError("lost")
        return {"text": "bought"}

    task = Task("buy", output=Out, agent=buyer, retry_policy=RetryPolicy("fixed", 0))["Buy it."]
    result = await bench.run(one(task))
    assert result.status is RunStatus.FINISHED, result.error
    assert "must not be repeated" not in prompts[0]
    assert "An earlier attempt of this task has already called tools" in prompts[1]
    assert '- attempt 1: order {"sku":"a"} succeeded' in prompts[1]
    assert "Buy it." in prompts[1]
    assert shop.keys == ["smithers:r:buy:0:order:1"] * 2
    assert [(row.attempt, row.seq) for row in rows(bench)] == [(1, 1), (2, 1)]
    stored = bench.attempts("buy")[1].meta_json or ""
    assert "already called tools" in stored


async def test_a_function_that_is_tried_again_finds_earlier_calls_and_the_log_warns(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    shop = Shop(bench)
    found: list[str | None] = []

    async def work() -> dict[str, object]:
        earlier = task_runtime().earlier_calls()
        found.append(retry_warning(earlier))
        if not earlier:
            await shop.order(sku="bad")
        assert [call.status for call in earlier] == [CallStatus.UNKNOWN]
        current_context()
        return {"text": "done"}

    policy = RetryPolicy("fixed", 0)
    assert (await bench.run(one(Task("buy", output=Out, retries=1, retry_policy=policy)[work]))).output
    assert found[0] is None
    assert "may or may not have taken effect" in (found[1] or "")
    (warning,) = [record for record in caplog.records if "repeated blindly" in record.getMessage()]
    assert (warning.__dict__["node_id"], warning.__dict__["tools"]) == ("buy", ["order"])


async def test_a_call_that_its_owner_did_not_finish_is_unknown_to_the_next_one(bench: Bench) -> None:
    shop = Shop(bench)
    shop.gate = asyncio.Event()
    found: list[CallStatus] = []

    async def work() -> dict[str, object]:
        earlier = task_runtime().earlier_calls()
        found.extend(call.status for call in earlier)
        if not earlier:
            await shop.order(sku="a")
        return {"text": "done"}

    workflow = one(Task("buy", output=Out)[work])
    await bench.start(workflow)
    await within(shop.begun.wait())
    control = Control(bench.store)
    assert [call.status for call in await control.tool_calls("r")] == ["started"]
    # as a killed process would: what it does from now on is not written
    bench.store.write(lambda c: c.execute("UPDATE _smithers_runs SET epoch = epoch + 1").fetchall())
    bench.abandon()
    bench.new_engine()
    assert (await bench.resume(workflow, force=True)).status is RunStatus.FINISHED
    assert found == [CallStatus.UNKNOWN]
    assert [tool_call_summary(call)["status"] for call in await control.tool_calls("r", "buy")] == ["unknown"]


async def test_an_owner_that_lost_its_lease_neither_calls_nor_records(bench: Bench) -> None:
    shop = Shop(bench)
    errors: list[BaseException] = []
    taken, go_on = asyncio.Event(), asyncio.Event()

    async def work() -> dict[str, object]:
        taken.set()
        await go_on.wait()
        try:
            await shop.order(sku="a")
        except LeaseLost as error:
            errors.append(error)
            raise
        return {"text": "never"}

    handle = await bench.start(one(Task("buy", output=Out, retries=0)[work]))
    await within(taken.wait())
    bench.store.write(
        lambda c: c.execute("UPDATE _smithers_runs SET epoch = epoch + 1, runtime_owner_id = 'x'").fetchall()
    )
    go_on.set()
    with pytest.raises(LeaseLost):
        await within(asyncio.shield(handle.result))
    assert len(errors) == 1
    assert shop.keys == []
    assert rows(bench) == []
    assert not [t for t in bench.types() if t.startswith("ToolCall")]


async def test_a_run_that_is_to_be_cancelled_begins_no_call(bench: Bench) -> None:
    shop = Shop(bench)
    errors: list[BaseException] = []

    async def work() -> dict[str, object]:
        await bench.store.request_cancel("r", bench.clock.now_ms(), "test")
        try:
            await shop.order(sku="a")
        except BaseException as error:
            errors.append(error)
            raise
        return {"text": "never"}

    assert (await bench.run(one(Task("buy", output=Out)[work]))).status is RunStatus.CANCELLED
    assert isinstance(errors[0], (TaskAborted, asyncio.CancelledError))
    assert shop.keys == []


async def test_work_that_outlives_its_attempt_begins_no_call(bench: Bench) -> None:
    shop = Shop(bench)
    left: list[asyncio.Task[object]] = []
    go_on = asyncio.Event()

    async def straggle() -> object:
        await go_on.wait()
        return await shop.order(sku="a")

    async def work() -> dict[str, object]:
        left.append(asyncio.create_task(straggle()))
        return {"text": "done"}

    await bench.run(one(Task("buy", output=Out)[work]))
    go_on.set()
    with pytest.raises(TaskAborted):
        await within(left[0])
    assert shop.keys == []


async def test_calls_in_a_thread_with_a_loop_of_its_own_are_recorded(bench: Bench) -> None:
    shop = Shop(bench)

    def work() -> dict[str, object]:
        assert threading.current_thread() is not threading.main_thread()
        return {"text": str(asyncio.run(_buy(shop)))}

    assert (await bench.run(one(Task("buy", output=Out)[work]))).output == [Out(text="ordered a")]
    assert [row.status for row in rows(bench)] == ["finished"]


async def _buy(shop: Shop) -> object:
    return await shop.order(sku="a")


async def test_a_context_of_ones_own_in_a_task_still_works_for_its_attempt(bench: Bench, tmp_path: Path) -> None:
    shop = Shop(bench)
    own = tmp_path / "own"
    own.mkdir()
    (own / "x").write_text("mine")

    async def work() -> dict[str, object]:
        await shop.order(sku="a")
        with tool_context(own, sandbox="off"):
            await shop.order(sku="b")
            return {"text": await read("x")}

    assert (await bench.run(one(Task("buy", output=Out)[work]))).output == [Out(text="mine")]
    assert [row.seq for row in rows(bench)] == [1, 2, 3]
    assert shop.keys == ["smithers:r:buy:0:order:1", "smithers:r:buy:0:order:2"]


async def test_what_a_tool_gave_is_kept_within_bounds(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "x").write_text("y" * 5000)

    async def work() -> dict[str, object]:
        with tool_context(tmp_path, max_output_bytes=5000):
            return {"n": len(await read("x"))}

    assert (await bench.run(one(Task("look", output=Out)[work]))).output == [Out(n=5000)]
    text = rows(bench)[0].output_json or ""
    assert '"truncated":true,"bytes":5002' in text
    assert len(text) < 5000
    assert [e.get("truncated") for e in bench.events() if e["type"] == "ToolCallFinished"] == [True]


@pytest.mark.parametrize("mode", ["required", "off"])
async def test_the_sandbox_of_a_runs_commands_is_what_the_launch_chose_also_after_a_resume(
    bench: Bench, mode: str
) -> None:
    seen: list[str] = []

    async def work() -> dict[str, object]:
        seen.append(current_context().sandbox)
        if len(seen) == 1:
            raise ValueError("once")
        return {"text": "done"}

    workflow = one(Task("look", output=Out, retries=0)[work])
    assert (await bench.run(workflow, sandbox=mode)).status is RunStatus.FAILED
    assert (await bench.resume(workflow)).status is RunStatus.FINISHED
    assert seen == [mode, mode]


async def test_a_sandbox_mode_that_is_none_is_refused(bench: Bench) -> None:
    with pytest.raises(InvalidInput, match="sandbox"):
        await bench.run(one(Task("look", output=Out)["x"]), sandbox="maybe")


def test_tools_that_are_first_imported_inside_a_task_work_in_its_folder(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "x").write_text("from the root")
    code = """
from pydantic import BaseModel
from smithers import Task, Workflow, create_smithers, run_workflow_sync
import sys

class Out(BaseModel):
    text: str

smithers, outputs = create_smithers({"output": Out}, db="x.db")

async def work():
    assert "smithers.tools" not in sys.modules
    from smithers import read
    from smithers.tools import current_context
    assert current_context().node_id == "look"
    return {"text": await read("x")}

@smithers
def look(ctx):
    return Workflow("look")[Task("look", output=Out)[work]]

result = run_workflow_sync(look, root_dir="root")
assert result.output == [Out(text="from the root")], result
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
