"""Tasks on a real Ray cluster: what runs there, what comes back, what stops it."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest
from tests.integration.engine.support import Bench, Out, Row, outputs, smithers, within

from smithers import Settings, SmithersWorkflow, Task, Workflow, task_runtime
from smithers.engine.executors import ray as ray_executor
from smithers.engine.loading import load_workflow
from smithers.errors import TaskError

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(300)]  # the first test waits for the cluster to start

FLOW = """
from __future__ import annotations

import os

from pydantic import BaseModel, Field

from smithers import Task, Workflow, create_smithers
from helper import shape


class Part(BaseModel):
    n: int


class Row(BaseModel):
    pid: int
    parts: list[Part] = Field(alias="theParts")


smithers, outputs = create_smithers({"row": Row, "output": Row}, db="unused.db")


def twice(first: Row) -> Row:
    return Row(pid=os.getpid(), theParts=[*first.parts, *first.parts])


def refuse() -> Row:
    raise shape.Refused("not today")


@smithers
def workflow(ctx):
    n = 7
    return Workflow("there", executor="ray", resources={"num_cpus": 1})[
        Task("first", output=outputs.row)[lambda: Row(pid=os.getpid(), theParts=[shape.made(Part, n)])],
        Task("second", output=outputs.output, deps={"first": outputs.row})[twice],
    ]


@smithers
def refusing(ctx):
    return Workflow("refusing")[Task("t", output=outputs.output, executor="ray")[refuse]]
"""
HELPER = """
class Refused(Exception):
    pass


def made(model, n):
    return model(n=n)
"""


@pytest.fixture
async def there(bench: Bench, ray_address: str) -> Bench:
    """A bench whose tasks may go to a cluster."""
    bench.new_engine(Settings(durability="normal", sync_threads=4, heartbeat_ms=200, ray_address=ray_address))
    return bench


def on_ray(work: Callable[..., object], **properties: object) -> SmithersWorkflow:
    """A workflow of one task, whose function is computed on the cluster."""

    @smithers
    def flow(ctx: object) -> Workflow:
        del ctx
        return Workflow("flow")[
            Task("t", output=outputs.output, executor="ray", **properties)[work]  # type: ignore[arg-type]
        ]

    return flow


def error_of(bench: Bench) -> dict[str, object]:
    """What the last attempt failed with."""
    found = [event for event in bench.events() if event["type"] == "NodeFailed"][-1]["error"]
    assert isinstance(found, dict)
    return cast("dict[str, object]", found)


async def until(is_so: Callable[[], bool]) -> None:
    """Wait for something outside this process."""

    async def look() -> None:
        while not is_so():  # noqa: ASYNC110 - in another process
            await asyncio.sleep(0.02)

    await within(look())


async def test_functions_of_a_workflow_file_are_computed_in_another_process_and_committed_here(
    there: Bench, tmp_path: Path
) -> None:
    (tmp_path / "flow.py").write_text(FLOW)
    (tmp_path / "helper").mkdir()
    (tmp_path / "helper" / "__init__.py").touch()
    (tmp_path / "helper" / "shape.py").write_text(HELPER)
    result = await there.run(load_workflow(tmp_path / "flow.py"))
    assert result.error is None
    assert result.output is not None
    row = result.output[0].model_dump()
    assert row["parts"] == [{"n": 7}, {"n": 7}]
    assert row["pid"] != os.getpid()

    result = await there.run(load_workflow(tmp_path / "flow.py", name="refusing"), run_id="refusing")
    assert result.error is not None
    cause = result.error["cause"]
    assert isinstance(cause, dict)
    assert (cause["name"], cause["message"]) == ("Refused", "not today")
    assert "flow.py" in cause["cause"]["message"]
    assert "in refuse" in cause["cause"]["message"]


async def test_an_async_function_beats_and_the_next_attempt_finds_its_checkpoint(there: Bench) -> None:
    async def work() -> Row:
        runtime = task_runtime()
        if runtime.attempt == 1:
            runtime.heartbeat({"at": 1})
            runtime.heartbeat({"at": 2})
            await asyncio.sleep(0)
            raise ValueError("once more")
        return Row(text=f"{runtime.node_id} {runtime.last_heartbeat} {runtime.idempotency_key()}")

    result = await there.run(on_ray(work, retries=1, retry_policy={"backoff": "fixed"}))
    assert result.output == [Out(text="t {'at': 2} r:t:0:1")]


async def test_a_worker_that_dies_is_a_failed_attempt_and_the_tasks_own_policy_decides(there: Bench) -> None:
    def work() -> Row:
        if task_runtime().attempt == 1:
            os._exit(1)
        return Row(n=task_runtime().attempt)

    result = await there.run(on_ray(work, retries=1, retry_policy={"backoff": "fixed"}))
    assert result.output == [Out(n=2)]
    assert error_of(there)["code"] == "WORKER_LOST"


async def test_an_error_that_says_so_is_not_tried_again(there: Bench) -> None:
    def work() -> Row:
        raise TaskError("never", {"failure_retryable": False}, code="MINE")

    await there.run(on_ray(work, retries=3))
    assert error_of(there)["code"] == "MINE"
    assert there.types().count("NodeStarted") == 1


@pytest.mark.parametrize("kind", ["sync", "async", "stubborn"])
async def test_a_cancelled_run_stops_its_function_and_kills_a_worker_that_does_not_stop(
    there: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(ray_executor, "GRACE_S", 0.3 if kind == "stubborn" else 30)
    begun, seen = tmp_path / "begun", tmp_path / "seen"

    def sync() -> Row:
        begun.write_text(str(os.getpid()))
        task_runtime().aborted.wait(60)
        seen.touch()
        return Row()

    async def waiting() -> Row:
        begun.write_text(str(os.getpid()))
        try:
            await asyncio.sleep(60)
        finally:
            seen.touch()
        return Row()

    def stubborn() -> Row:
        begun.write_text(str(os.getpid()))
        time.sleep(60)
        return Row()

    handle = await there.start(on_ray({"sync": sync, "async": waiting, "stubborn": stubborn}[kind]))
    await until(lambda: begun.exists() and bool(begun.read_text()))
    await there.store.request_cancel("r", there.clock.now_ms(), "test")
    assert (await within(asyncio.shield(handle.result))).status == "cancelled"
    if kind == "stubborn":
        await until(lambda: not is_alive(int(begun.read_text())))
    else:
        await until(seen.exists)


def is_alive(pid: int) -> bool:
    """Whether a process runs."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


async def test_a_function_that_takes_too_long_is_stopped_as_it_is_here(
    there: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_executor, "GRACE_S", 30)
    seen = tmp_path / "seen"

    def work() -> Row:
        task_runtime().aborted.wait(60)
        seen.touch()
        return Row()

    await there.run(on_ray(work, heartbeat_timeout_ms=200))
    assert error_of(there)["code"] == "TASK_HEARTBEAT_TIMEOUT"
    await until(seen.exists)
    await there.run(on_ray(work, timeout_ms=300), run_id="timeout")
    found = there.events("timeout")
    assert [e["error"]["code"] for e in found if e["type"] == "NodeFailed"] == ["TASK_TIMEOUT"]  # type: ignore[index]


async def test_tools_are_refused_because_their_journal_is_elsewhere(there: Bench) -> None:
    async def work() -> Row:
        from smithers.tools import bash

        return Row(text=str(await bash("echo hello")))

    await there.run(on_ray(work))
    assert error_of(there)["code"] == "TASK_RUNTIME_UNAVAILABLE"
    assert "executor='local'" in str(error_of(there)["summary"])


async def test_what_cannot_be_sent_is_refused_before_anything_runs_or_when_it_is_returned(there: Bench) -> None:
    lock = threading.Lock()
    await there.run(on_ray(lambda: lock.locked(), retries=3))
    assert error_of(there)["code"] == "TASK_NOT_PORTABLE"
    assert there.types().count("NodeStarted") == 1
    await there.run(on_ray(threading.Lock), run_id="returned")
    found = there.events("returned")
    assert [e["error"]["code"] for e in found if e["type"] == "NodeFailed"] == ["TASK_NOT_PORTABLE"]  # type: ignore[index]


async def test_a_task_that_no_node_can_run_says_so_and_waits(there: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_executor, "WAIT_NOTICE_S", 0.05)
    handle = await there.start(on_ray(lambda: Row(), resources={"num_gpus": 4}, heartbeat_timeout_ms=1))
    told = await there.seen("TaskWaitingForWorker", "t")
    assert (told["fits"], told["resources"]) == (False, {"GPU": 4, "CPU": 1})
    await there.store.request_cancel("r", there.clock.now_ms(), "test")
    assert (await within(asyncio.shield(handle.result))).status == "cancelled"
