"""What callers, parents and event loops leave behind when they are gone before a run: nothing that hinders those who come
after."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar, cast

import pytest
from tests.integration.engine.support import Bench, Calls, Out, Row, smithers, until, within

from smithers import ContinueAsNew, Parallel, SmithersWorkflow, Subflow, Task, Workflow, create_smithers, run_workflow
from smithers.components.context import Context
from smithers.engine import effects
from smithers.engine import run as running
from smithers.errors import InvalidInput, OutcomeUnknown, StorageError, StorageUnreachable
from smithers.scheduler.states import RunStatus
from smithers.store.interface import Step

pytestmark = pytest.mark.anyio
Ctx = Context[dict[str, object]]
BOTH_DATABASES = True
T = TypeVar("T")
parents, of_parents = create_smithers({"output": Out, "row": Row})
CHILD = "r:child:sub:0"


def failing_once(ask: Callable[..., Awaitable[T]], error: StorageError, run_id: str) -> Callable[..., Awaitable[T]]:
    """As `ask`, but that the first time that it is about this run it fails."""
    left = [error]

    async def asked(*about: object) -> T:
        named = about[0].run_id if isinstance(about[0], Step) else about[0]
        if left and named == run_id:
            raise left.pop()
        return await ask(*about)

    return asked


async def test_a_launch_whose_caller_is_cancelled_goes_on_for_whoever_asks_next(bench: Bench) -> None:
    calls = Calls()
    work = calls.held("a")

    @smithers
    def workflow(ctx: Ctx) -> Workflow:
        return Workflow("w")[Task("a", output="row")[work]]

    await bench.engine.start()
    await bench.store.ensure_tables(bench.engine.tables(workflow))
    launching = asyncio.create_task(bench.start(workflow))
    await asyncio.sleep(0)  # to where it waits for the first step
    assert "r" in bench.engine.drivers
    launching.cancel()
    with suppress(asyncio.CancelledError):
        await launching
    await within(calls.begun["a"].wait())
    handle = await bench.engine.resume("r", workflow)
    calls.release("a")
    assert (await within(asyncio.shield(handle.result))).status is RunStatus.FINISHED


async def test_launches_at_once_with_one_id_and_one_idempotency_key_are_one_run(bench: Bench) -> None:
    calls = Calls()

    @smithers
    def workflow(ctx: Ctx) -> Workflow:
        return Workflow("w")[Task("a", output="row")[calls.task("a")]]

    launches = [run_workflow(workflow, run_id="r", idempotency_key="k", engine=bench.engine) for _ in range(3)]
    results = await within(asyncio.gather(*launches))
    assert [result.status for result in results] == [RunStatus.FINISHED] * 3
    assert calls["a"] == 1


async def test_a_parent_waits_for_its_child_when_another_process_takes_that_over(bench: Bench) -> None:
    calls = Calls()
    child, parent = family(calls)
    handle = await bench.start(parent)
    await within(calls.begun["a"].wait())
    first, second = bench.engine, bench.new_engine()
    taken = await second.resume(CHILD, child, force=True)
    assert (await within(asyncio.shield(handle.result))).status is RunStatus.WAITING_EVENT
    calls.release("a")
    assert (await within(asyncio.shield(taken.result))).status is RunStatus.FINISHED
    assert (await within(first.until_moved("r", parent))).status is RunStatus.FINISHED


async def test_a_child_that_is_given_up_because_the_database_was_away_has_not_failed(bench: Bench) -> None:
    calls = Calls()
    _, parent = family(calls)
    handle = await bench.start(parent)
    await within(calls.begun["a"].wait())
    bench.store.commit = failing_once(bench.store.commit, OutcomeUnknown("cut"), CHILD)  # type: ignore[method-assign,assignment]
    calls.release("a")
    assert (await within(asyncio.shield(handle.result))).status is RunStatus.WAITING_EVENT
    assert (await within(bench.engine.until_moved("r", parent))).status is RunStatus.FINISHED
    assert bench.row(CHILD).status == "finished"


async def test_a_child_is_launched_once_the_database_is_back(bench: Bench) -> None:
    calls = Calls()
    _, parent = family(calls)
    bench.store.commit = failing_once(bench.store.commit, StorageUnreachable("away"), CHILD)  # type: ignore[method-assign,assignment]
    handle = await bench.start(parent)
    await within(calls.begun["a"].wait())
    calls.release("a")
    assert (await within(asyncio.shield(handle.result))).status is RunStatus.FINISHED


def family(calls: Calls) -> tuple[SmithersWorkflow, SmithersWorkflow]:
    """A child with one task that is held, and its parent."""
    work = calls.held("a")

    @parents
    def child(ctx: Ctx) -> Workflow:
        return Workflow("child")[Task("a", output=of_parents.output)[work]]

    @parents
    def parent(ctx: Ctx) -> Workflow:
        return Workflow("parent")[Subflow("sub", workflow=child, output=of_parents.row)]

    return child, parent


async def test_the_runs_of_subflows_may_have_ids_that_are_longer_than_those_that_are_given(bench: Bench) -> None:
    @parents
    def nested(ctx: Ctx) -> Workflow:
        depth = int(str(ctx.input["depth"]))
        inner = Subflow("x" * 200, workflow=nested, input={"depth": depth - 1}, output=of_parents.output)
        return Workflow("nested")[Task("a", output=of_parents.output)[{"n": 7}] if depth == 0 else inner]

    assert (await bench.run(nested, {"depth": 3})).output == [Out(n=7)]


@pytest.mark.parametrize("ends", ["cancelled", "failed"])
async def test_a_resumed_parent_goes_on_with_what_its_child_was_continued_as(bench: Bench, ends: str) -> None:
    calls = Calls()
    work = calls.held("a")

    async def fail_once() -> object:
        row = await cast("Awaitable[object]", work())
        if ends == "failed" and calls["a"] == 1:
            raise ValueError("the first time")
        return row

    @parents
    def child(ctx: Ctx) -> Workflow:
        return Workflow("child")[
            Task("a", output=of_parents.output)[fail_once] if ctx.continuation else ContinueAsNew({"is": "second"})
        ]

    @parents
    def parent(ctx: Ctx) -> Workflow:
        return Workflow("parent")[Subflow("sub", workflow=child, output=of_parents.row)]

    handle = await bench.start(parent)
    await within(calls.begun["a"].wait())
    if ends == "cancelled":
        await bench.store.request_cancel("r", bench.clock.now_ms(), "user")
    else:
        calls.release("a")
    assert (await within(asyncio.shield(handle.result))).status == ends
    await until(lambda: {status for status, _ in statuses(bench)} == {"continued", ends}, lambda: "the child goes on")
    calls.release("a")
    assert (await bench.resume(parent)).status is RunStatus.FINISHED
    assert sorted(status for status, _ in statuses(bench)) == ["continued", "finished", "finished"]


async def test_a_cancellation_that_meets_a_database_that_is_away_is_carried_out_once_it_is_back(bench: Bench) -> None:
    calls = Calls()
    work = calls.held("a")

    @smithers
    def workflow(ctx: Ctx) -> Workflow:
        return Workflow("w")[Task("a", output="row")[work]]

    handle = await bench.start(workflow)
    await within(calls.begun["a"].wait())
    bench.store.finalize_cancel = failing_once(bench.store.finalize_cancel, StorageUnreachable("away"), "r")  # type: ignore[method-assign,assignment]
    await bench.store.request_cancel("r", bench.clock.now_ms(), "user")
    assert (await within(asyncio.shield(handle.result))).status is RunStatus.CANCELLED
    assert bench.row().status == "cancelled"


async def test_an_effect_that_outlives_its_run_still_tells_of_its_end(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    told, end = asyncio.Event(), asyncio.Event()

    async def tell(*_about: object) -> None:
        told.set()

    monkeypatch.setattr(effects, "tell_late", tell)

    async def stubborn() -> dict[str, object]:
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        await end.wait()
        return {}

    @smithers
    def breaks(ctx: Ctx) -> Workflow:
        if ctx.output_maybe(Row, "a") is not None:
            raise ValueError("in the second render")
        pay = Task("b", output="row", side_effect=True)[stubborn]
        return Workflow("w")[Parallel()[pay, Task("a", output="row")[lambda: {"text": "a"}]]]

    assert (await bench.run(breaks)).status is RunStatus.FAILED
    end.set()
    await within(told.wait(), 5)


async def test_a_run_is_not_resumed_with_room_for_nothing(bench: Bench) -> None:
    @smithers
    def workflow(ctx: Ctx) -> Workflow:
        return Workflow("w")[Task("a", output="row", needs_approval=True)[{}]]

    await bench.run(workflow)
    for limit in (0, -1):
        with pytest.raises(InvalidInput, match="max_concurrency"):
            await bench.engine.resume("r", workflow, max_concurrency=limit)


async def test_an_engine_that_closes_gives_up_what_its_runs_are_continued_as(bench: Bench) -> None:
    @smithers
    def endless(ctx: Ctx) -> Workflow:
        return Workflow("w")[Task("a", output="row")[{}], ContinueAsNew()]

    handle = await bench.start(endless)
    await until(lambda: len(statuses(bench)) > 5, lambda: "the run is not continued")
    await bench.engine.close()
    assert [owner for status, owner in statuses(bench) if status == "running"] == [None]
    assert (await handle.result).status is RunStatus.RUNNING


def statuses(bench: Bench) -> list[tuple[str, str | None]]:
    return bench.store.read(lambda c: c.execute("SELECT status, runtime_owner_id FROM _smithers_runs").fetchall())


def test_event_loops_that_are_closed_leave_no_database_open(tmp_path: Path) -> None:
    @smithers
    def workflow(ctx: Ctx) -> Workflow:
        return Workflow("w")[Task("a", output="row")[dict]]

    async def once(n: int) -> list[str]:
        assert (await run_workflow(workflow, db=tmp_path / f"{n % 2}.db")).status is RunStatus.FINISHED
        names = [thread.name.partition(" ")[0] for thread in threading.enumerate()]
        return [name for name in names if name in ("smithers-watch", "smithers-writer")]

    try:
        for n in range(4):
            assert sorted(asyncio.run(once(n))) == ["smithers-watch", "smithers-writer"]
    finally:
        running._leave_closed_loops()  # pyright: ignore[reportPrivateUsage]
