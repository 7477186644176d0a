"""Tools as pydantic-ai's: what one cannot do becomes an answer that the model sees, not a failure of the task.

pydantic-ai is imported at the first use only: it takes two seconds.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, TypeAlias, cast

from pydantic import BaseModel

from smithers.errors import OwnershipError, SmithersError, StorageError, TaskAborted, json_safe
from smithers.tools.builtins import tools
from smithers.tools.define import DefinedTool

if TYPE_CHECKING:
    from pydantic_ai import Tool
    from pydantic_ai.toolsets import FunctionToolset

Given: TypeAlias = "Callable[..., object] | Tool[object]"
"""A function, async or not, a tool of `define_tool`, or one of pydantic-ai's, which stays as it is."""
_NOT_THE_MODELS = (OwnershipError, StorageError, TaskAborted)
"""Errors that end the attempt: the journal or the engine has something against it going on."""


def as_pydantic_tools(given: Mapping[str, Given] | Iterable[Given] | None = None) -> list[Tool[object]]:
    """Tools for pydantic-ai's `Agent(tools=…)`.

    Args:
        given: the built-in functions, tools of `define_tool`, other functions (those that are not async run in a
            thread), pydantic-ai's own tools, or a mapping by name such as `tools`; the five built-in ones by default.
            Characters that providers refuse in names become `_`.
    """
    if isinstance(given, Mapping):
        named = dict(cast("Mapping[str, Given]", given))
    else:
        named = dict(tools) if given is None else {_name(tool): tool for tool in given}
    return [_convert(name, tool) for name, tool in named.items()]


def as_pydantic_toolset(given: Mapping[str, Given] | Iterable[Given] | None = None) -> FunctionToolset[object]:
    """The same as one toolset, for pydantic-ai's `Agent(toolsets=[…])`."""
    from pydantic_ai.toolsets import FunctionToolset

    return FunctionToolset(as_pydantic_tools(given))


def _name(tool: Given) -> str:
    return str(getattr(tool, "__name__", None) or getattr(tool, "name", type(tool).__name__))


def _convert(name: str, tool: Given) -> Tool[object]:
    from pydantic_ai import Tool

    ready: object = tool
    if isinstance(ready, Tool):
        return cast("Tool[object]", ready)
    name = re.sub(r"[^A-Za-z0-9_-]", "_", name)[:64]
    if isinstance(tool, DefinedTool):
        defined = cast("DefinedTool[BaseModel, object]", tool)

        async def call(**fields: object) -> object:
            return await _answer(defined, (), fields)

        return Tool[object].from_schema(call, name, defined.description, defined.schema.model_json_schema())

    function = cast("Callable[..., object]", tool)

    @functools.wraps(function)  # pydantic-ai makes the schema from the signature and the docstring
    async def wrapped(*args: object, **fields: object) -> object:
        return await _answer(function, args, fields)

    return Tool[object](wrapped, name=name)


async def _answer(tool: Callable[..., object], args: tuple[object, ...], fields: Mapping[str, object]) -> object:
    from pydantic_ai.exceptions import ApprovalRequired, CallDeferred, ModelRetry

    try:
        if inspect.iscoroutinefunction(tool) or isinstance(tool, DefinedTool):
            return await cast("Awaitable[object]", tool(*args, **fields))
        value = await asyncio.to_thread(tool, *args, **fields)
        return await value if inspect.isawaitable(value) else value
    except (*_NOT_THE_MODELS, ModelRetry, CallDeferred, ApprovalRequired):
        raise
    except SmithersError as error:
        return {"error": {"code": error.error_code, "message": error.summary, "details": json_safe(error.details)}}
    except Exception as error:
        return {"error": {"code": "TOOL_FAILED", "message": f"{type(error).__name__}: {error}"[:2000]}}
