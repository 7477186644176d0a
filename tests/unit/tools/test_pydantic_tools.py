"""Tools in the hands of a pydantic-ai agent, with a scripted model."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from pydantic import BaseModel
from pydantic_ai import Agent, ModelRetry, Tool
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart, ToolReturnPart
from pydantic_ai.models.function import AgentInfo, FunctionModel

from smithers.errors import LeaseLost
from smithers.tools import ToolCallRecord, as_pydantic_tools, as_pydantic_toolset, define_tool, read, tool_context


class Order(BaseModel):
    sku: str


@define_tool(name="orders.place", schema=Order, description="Place an order.")
async def place(args: Order) -> str:
    if args.sku == "bad":
        raise ValueError("no such article")
    return f"placed {args.sku}"


def ask(root: Path, tool: str, args: dict[str, object], agent_tools: object = None) -> object:
    """What the model is shown after it has called a tool."""
    shown: list[object] = []

    def model(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        returned = [part for part in messages[-1].parts if isinstance(part, ToolReturnPart)]
        if not returned:
            return ModelResponse([ToolCallPart(tool, args)])
        shown.append(returned[0].content)
        return ModelResponse([TextPart("done")])

    agent = Agent(FunctionModel(model), toolsets=[as_pydantic_toolset([read, place])])
    with tool_context(root):
        asyncio.run(agent.run("go"))
    return shown[0]


def test_an_agent_uses_built_in_and_defined_tools(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("content")

    assert ask(tmp_path, "read", {"path": "x"}) == "content"
    assert ask(tmp_path, "orders_place", {"sku": "a"}) == "placed a"


def test_what_a_tool_cannot_do_is_shown_to_the_model(tmp_path: Path) -> None:
    assert ask(tmp_path, "read", {"path": "../x"}) == {
        "error": {
            "code": "TOOL_PATH_ESCAPE",
            "message": "'../x' leads out of the root folder",
            "details": {"path": "../x"},
        }
    }
    assert ask(tmp_path, "orders_place", {"sku": "bad"}) == {
        "error": {"code": "TOOL_FAILED", "message": "ValueError: no such article"}
    }
    answer = ask(tmp_path, "orders_place", {"sku": 1})
    assert isinstance(answer, dict)
    assert answer["error"]["code"] == "INVALID_INPUT"


def test_a_journal_that_refuses_ends_the_attempt(tmp_path: Path) -> None:
    class Lost:
        async def intended(self, record: ToolCallRecord) -> None:
            raise LeaseLost("another process has the run")

        async def finished(self, record: ToolCallRecord) -> None:
            raise AssertionError

    def model(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        return ModelResponse([ToolCallPart("orders_place", {"sku": "a"})])

    agent = Agent(FunctionModel(model), tools=as_pydantic_tools([place]))
    with tool_context(tmp_path, run_id="r", node_id="n", journal=Lost()), pytest.raises(LeaseLost):
        asyncio.run(agent.run("go"))


def test_the_five_tools_have_schemas_and_descriptions() -> None:
    made = {tool.name: tool for tool in as_pydantic_tools()}

    assert list(made) == ["read", "write", "edit", "grep", "bash"]
    assert all(tool.description for tool in made.values())
    bash = made["bash"].function_schema.json_schema
    assert bash["required"] == ["cmd"]
    assert set(bash["properties"]) == {"cmd", "args", "opts"}


def test_functions_that_are_not_async_and_tools_of_pydantic_ai_are_taken_too() -> None:
    def double(n: int) -> int:
        """Double a number."""
        return 2 * n

    def picky(n: int) -> int:
        """Refuse a number."""
        raise ModelRetry("another one")

    ready = Tool[object](double, name="ready")
    made = {tool.name: tool for tool in as_pydantic_tools([double, picky, ready])}

    assert made["ready"] is ready
    assert made["double"].description == "Double a number."
    assert asyncio.run(made["double"].function(n=2)) == 4  # type: ignore[call-arg]
    with pytest.raises(ModelRetry):  # pydantic-ai's own way to ask again
        asyncio.run(made["picky"].function(n=2))  # type: ignore[call-arg]
