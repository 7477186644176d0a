"""`define_tool`, the journal and the keys of calls."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import BaseModel, Field

from smithers.errors import InvalidInput, ToolPathEscape
from smithers.tools import (
    CallStatus,
    RevertContext,
    ToolCallRecord,
    ToolCtx,
    current_context,
    define_tool,
    read,
    retry_warning,
    tool_context,
    write,
)


class Order(BaseModel):
    sku: str
    count: int = Field(default=1, ge=1)


class Memory:
    """A journal that keeps what it is given, and can refuse."""

    def __init__(self, refuse: bool = False) -> None:
        self.rows: list[ToolCallRecord] = []
        self._refuse = refuse

    async def intended(self, record: ToolCallRecord) -> None:
        if self._refuse:
            raise RuntimeError("the disk is full")
        self.rows.append(record)

    async def finished(self, record: ToolCallRecord) -> None:
        at = [row.call_token for row in self.rows].index(record.call_token)
        self.rows[at] = record


placed: list[tuple[str, str | None]] = []


@define_tool(name="orders.place", schema=Order, side_effect=True, description="Place an order.")
async def place(args: Order, ctx: ToolCtx) -> str:
    placed.append((args.sku, ctx.idempotency_key))
    if args.sku == "bad":
        raise ValueError("no such article")
    return f"{args.count} x {args.sku}"


@pytest.fixture(autouse=True)
def fresh() -> None:
    placed.clear()


def attempt(journal: Memory, root: Path, orders: Iterable[str] = ("a",), *, number: int = 1) -> list[object]:
    async def run() -> list[object]:
        with tool_context(root, run_id="r", node_id="n", iteration=2, attempt=number, journal=journal):
            return [await place(Order(sku=sku)) for sku in orders]

    return asyncio.run(run())


def test_a_call_is_recorded_before_it_runs_and_completed_after(tmp_path: Path) -> None:
    journal = Memory()
    seen: list[CallStatus] = []

    @define_tool(name="look", schema=Order, side_effect=True)
    async def look(args: Order, ctx: ToolCtx) -> str:
        """Look at the journal."""
        seen.extend(row.status for row in journal.rows)
        return "done"

    async def run() -> None:
        with tool_context(tmp_path, run_id="r", node_id="n", iteration=1, attempt=3, journal=journal):
            assert await look(Order(sku="a", count=2)) == "done"

    asyncio.run(run())

    assert seen == [CallStatus.INTENDED]
    row = journal.rows[0]
    assert (row.run_id, row.node_id, row.iteration, row.attempt, row.seq) == ("r", "n", 1, 3, 1)
    assert (row.tool_name, row.status, row.kind) == ("look", CallStatus.SUCCEEDED, "tool")
    assert json.loads(row.input_json) == {"sku": "a", "count": 2}
    assert row.output_json == '"done"'
    assert row.error_json is None
    assert row.finished_at_ms is not None
    assert row.finished_at_ms >= row.started_at_ms
    assert (row.side_effect, row.idempotent, row.accepts_idempotency_key, row.has_revert) == (True, False, True, False)
    assert row.idempotency_key == "smithers:r:n:1:look:1"


def test_a_call_that_fails_leaves_its_effect_unknown(tmp_path: Path) -> None:
    journal = Memory()

    with pytest.raises(ValueError, match="no such article"):
        attempt(journal, tmp_path, ["bad"])

    assert journal.rows[0].status is CallStatus.UNKNOWN
    assert "no such article" in (journal.rows[0].error_json or "")


def test_a_call_that_is_cancelled_leaves_its_effect_unknown(tmp_path: Path) -> None:
    journal = Memory()

    @define_tool(name="slow", schema=Order, side_effect=True)
    async def slow(args: Order, ctx: ToolCtx) -> None:
        started.set()
        await asyncio.Event().wait()

    started = asyncio.Event()

    async def run() -> None:
        with tool_context(tmp_path, run_id="r", node_id="n", journal=journal):
            task = asyncio.create_task(slow(sku="a"))
            await started.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(run())

    assert journal.rows[0].status is CallStatus.UNKNOWN


def test_a_call_that_cannot_be_recorded_does_not_run(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="disk is full"):
        attempt(Memory(refuse=True), tmp_path)

    assert placed == []


def test_keys_are_the_same_in_every_attempt_and_different_for_every_call(tmp_path: Path) -> None:
    attempt(Memory(), tmp_path, ["a", "b"], number=1)
    first = [key for _, key in placed]
    placed.clear()

    async def again() -> None:
        (tmp_path / "x").write_text("")
        with tool_context(tmp_path, run_id="r", node_id="n", iteration=2, attempt=2, journal=Memory()):
            await read("x")  # what an attempt only looks at does not move the keys of its orders
            await place(sku="a")
            await place(sku="b")

    asyncio.run(again())

    assert [key for _, key in placed] == first
    assert len(set(first)) == 2


def test_outside_a_run_there_is_no_key_and_no_record(tmp_path: Path) -> None:
    journal = Memory()

    async def run() -> object:
        with tool_context(tmp_path, journal=journal):
            return await place({"sku": "a"})

    assert asyncio.run(run()) == "1 x a"
    assert placed == [("a", None)]
    assert journal.rows == []


def test_arguments_may_be_an_instance_a_mapping_or_keywords() -> None:
    async def run() -> list[object]:
        return [await place(Order(sku="a")), await place({"sku": "a", "count": 2}), await place(sku="a", count=3)]

    assert asyncio.run(run()) == ["1 x a", "2 x a", "3 x a"]


def test_arguments_that_do_not_fit_are_refused_before_anything_is_recorded(tmp_path: Path) -> None:
    journal = Memory()

    async def run() -> None:
        with tool_context(tmp_path, run_id="r", node_id="n", journal=journal):
            with pytest.raises(InvalidInput, match=r"orders\.place: count") as caught:
                await place(sku="a", count=0)
            assert caught.value.details == {"field": "count"}
            with pytest.raises(InvalidInput):
                await place(Order(sku="a"), count=2)
            with pytest.raises(InvalidInput):
                await place("text")  # type: ignore[arg-type]

    asyncio.run(run())

    assert placed == []
    assert journal.rows == []


def test_a_function_that_is_not_async_runs_in_a_thread_with_the_context(tmp_path: Path) -> None:
    @define_tool(name="where", schema=Order)
    def where(args: Order) -> str:
        """Say where."""
        return str(current_context().root_dir)

    async def run() -> str:
        with tool_context(tmp_path):
            return await where(sku="a")

    assert asyncio.run(run()) == str(tmp_path)
    assert (where.name, where.description, where.spec.idempotent) == ("where", "Say where.", True)


async def undo(call: RevertContext) -> None:
    del call


def test_what_is_declared_wrongly_is_refused() -> None:
    with pytest.raises(InvalidInput, match="side_effect"):
        define_tool(name="x", schema=Order, revert=undo)
    for name in ("", "two words", "x" * 200, "a\nb"):
        with pytest.raises(InvalidInput):
            define_tool(name=name, schema=Order)


def test_a_side_effect_that_cannot_use_the_key_is_warned_about(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):

        @define_tool(name="blind", schema=Order, side_effect=True, revert=undo)
        async def blind(args: Order) -> None:
            del args

        @define_tool(name="careful", schema=Order, side_effect=True, idempotent=True)
        async def careful(args: Order) -> None:
            del args

    assert [record.getMessage().split("'")[1] for record in caplog.records] == ["blind"]
    assert blind.spec.has_revert
    assert not careful.spec.has_revert


def test_an_earlier_attempts_calls_are_named_in_a_warning(tmp_path: Path) -> None:
    journal = Memory()
    attempt(journal, tmp_path, [f"s{n}" for n in range(7)])
    rows = [*journal.rows[:6], replace(journal.rows[6], status=CallStatus.INTENDED)]

    text = retry_warning(rows[5:]) or ""

    assert 'attempt 1: orders.place {"sku":"s5","count":1} succeeded' in text
    assert 'orders.place {"sku":"s6","count":1} may or may not have taken effect' in text
    assert (retry_warning(rows) or "").endswith("- and 2 more")
    assert retry_warning([replace(row, idempotent=True) for row in rows]) is None
    assert retry_warning([]) is None


def test_built_in_tools_are_recorded_without_what_they_write(tmp_path: Path) -> None:
    journal = Memory()

    async def run() -> None:
        with tool_context(tmp_path, run_id="r", node_id="n", journal=journal):
            await write("x", "a password")
            with pytest.raises(ToolPathEscape):
                await read("../x")

    asyncio.run(run())

    wrote, failed = journal.rows
    assert "password" not in wrote.input_json
    assert json.loads(wrote.input_json)["contentBytes"] == 10
    assert (wrote.side_effect, wrote.idempotent, wrote.seq, failed.seq) == (True, True, 1, 2)
    assert json.loads(failed.error_json or "")["code"] == "TOOL_PATH_ESCAPE"


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"max_output_bytes": 0}, "max_output_bytes"),
        ({"max_output_bytes": 11 << 20}, "max_output_bytes"),
        ({"timeout_ms": 0}, "timeout_ms"),
        ({"timeout_ms": 3_600_001}, "timeout_ms"),
        ({"sandbox": "maybe"}, "sandbox"),
        ({"root_dir": "/"}, "root_dir"),
        ({"root_dir": "/proc/self"}, "root_dir"),
    ],
)
def test_a_context_out_of_its_bounds_is_refused(options: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidInput) as caught, tool_context(**options):  # type: ignore[arg-type]
        pass

    assert caught.value.details == {"field": field}
