"""A node's output as it is sent: produced, pending or failed, in the author's own field names."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from enum import Enum
from typing import Literal, cast

import pytest
from pydantic import BaseModel, Field, RootModel

from smithers import Engine, Settings, SmithersWorkflow, Task, Workflow, create_smithers
from smithers.control.control import Control
from smithers.control.node_output import node_output, schema_of
from smithers.errors import IterationNotFound, MalformedOutputRow, NodeNotFound, PayloadTooLarge, RunNotFound
from smithers.store import open_store
from smithers.store.sql.store import SqlStore


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Report(BaseModel):
    """What the tests' task writes."""

    fileName: str = Field(description="where")
    is_good: bool
    tags: list[str]
    colour: Colour = Colour.RED
    huge: int = 0
    note: str | None = None
    mode: Literal["a"] | Literal["b"] = "a"


class Names(RootModel[list[str]]):
    """A row that is no object."""


BOTH_DATABASES = True
smithers, outputs = create_smithers({"report": Report, "names": Names})


def run_with(db: str, workflow: SmithersWorkflow, check: Callable[[Control], Awaitable[None]]) -> None:
    async def main() -> None:
        store: SqlStore = open_store(db, durability="normal")
        engine = Engine(store, Settings(durability="normal"))
        handle = await engine.launch(workflow, run_id="r")
        await handle.result
        await engine.close()
        await check(Control(store))
        store.close()

    asyncio.run(main())


def flow(work: Callable[[], object]) -> SmithersWorkflow:
    @smithers
    def made(ctx: object) -> object:
        return Workflow(name="w")[Task(id="t", output=outputs.report, retries=0)[work]]

    return made


def good() -> Report:
    return Report(fileName="x", is_good=True, tags=["a"], huge=2**70)


ROW = {"is_good": True, "tags": ["a"], "colour": "red", "huge": 2**70, "note": None, "mode": "a"}


def test_a_produced_row_has_the_models_names_and_shape(db: str) -> None:
    async def check(control: Control) -> None:
        found = await node_output(control, "r", "t", 0, model=Report)
        assert found["status"] == "produced"
        assert found["row"] == {"fileName": "x", **ROW}
        assert found["schema"] == {
            "fields": [
                {"name": "fileName", "type": "string", "optional": False, "nullable": False, "description": "where"},
                {"name": "is_good", "type": "boolean", "optional": False, "nullable": False},
                {"name": "tags", "type": "array", "optional": False, "nullable": False},
                {"name": "colour", "type": "string", "optional": True, "nullable": False, "enum": ["red", "blue"]},
                {"name": "huge", "type": "number", "optional": True, "nullable": False},
                {"name": "note", "type": "string", "optional": True, "nullable": True},
                {"name": "mode", "type": "string", "optional": True, "nullable": False, "enum": ["a", "b"]},
            ]
        }
        assert set(found) == {"status", "row", "schema"}

    run_with(db, flow(good), check)


def test_without_the_model_rows_and_shapes_are_what_the_store_knows(db: str) -> None:
    async def check(control: Control) -> None:
        found = await node_output(control, "r", "t")
        assert found["row"] == {"file_name": "x", **ROW}
        schema = cast("dict[str, list[dict[str, str]]]", found["schema"])
        types = {field["name"]: field["type"] for field in schema["fields"]}
        assert types["is_good"] == "boolean"
        assert types["tags"] == "unknown"

    run_with(db, flow(good), check)


def test_a_failed_node_tells_its_error(db: str) -> None:
    def fails() -> object:
        raise RuntimeError("m" * 5_000)

    async def check(control: Control) -> None:
        found = await node_output(control, "r", "t")
        assert (found["status"], found["row"], found["partial"]) == ("failed", None, None)
        assert found["error"] == {"name": "RuntimeError", "message": "m" * 4_000, "attempt": 1}

    run_with(db, flow(fails), check)


def test_a_node_without_row_or_failure_is_pending(db: str) -> None:
    async def check(control: Control) -> None:
        await control.store.awrite(lambda c: c.execute("DELETE FROM report").fetchall())
        found = await node_output(control, "r", "t")
        assert (found["status"], found["row"], set(found)) == ("pending", None, {"status", "row", "schema"})

    run_with(db, flow(good), check)


def test_what_is_not_there_is_told_apart(db: str) -> None:
    async def check(control: Control) -> None:
        for run_id, node_id, iteration, error in [
            ("x", "t", 0, RunNotFound),
            ("r", "x", 0, NodeNotFound),
            ("r", "t", 1, IterationNotFound),
        ]:
            with pytest.raises(error):
                await node_output(control, run_id, node_id, iteration)

    run_with(db, flow(good), check)


def test_rows_that_are_too_large_or_broken_are_not_sent(db: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def check(control: Control) -> None:
        with monkeypatch.context() as patched:
            patched.setattr("smithers.control.node_output.MAX_OUTPUT_BYTES", 3)
            with pytest.raises(PayloadTooLarge):
                await node_output(control, "r", "t")
        await control.store.awrite(lambda c: c.execute("UPDATE report SET tags = '['").fetchall())
        with pytest.raises(MalformedOutputRow):
            await node_output(control, "r", "t")

    run_with(db, flow(good), check)


def test_a_row_that_is_no_object_is_wrapped(db: str) -> None:
    @smithers
    def made(ctx: object) -> object:
        return Workflow(name="w")[Task(id="t", output=outputs.names)[lambda: Names(["a"])]]

    async def check(control: Control) -> None:
        found = await node_output(control, "r", "t", model=Names)
        assert (found["row"], found["schema"]) == ({"value": ["a"]}, None)

    run_with(db, made, check)


def test_fields_of_several_types_and_nested_models_have_a_type_too() -> None:
    class Nested(BaseModel):
        both: int | str
        part: Report
        nothing: None

    assert schema_of(Nested) == {
        "fields": [
            {"name": "both", "type": "unknown", "optional": False, "nullable": False},
            {"name": "part", "type": "object", "optional": False, "nullable": False},
            {"name": "nothing", "type": "null", "optional": False, "nullable": True},
        ]
    }
