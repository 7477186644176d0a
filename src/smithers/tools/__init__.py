"""Tools: what tasks and agents use to work on files and run programs, and `define_tool` for tools of one's own.

`context.py` is where they work, `journal.py` how calls are recorded, `sandbox/` how programs are kept in.
`from smithers import tools` and `smithers.tools.tools` are the five built-in ones by name: this module is a mapping too,
because a package and the name that users import are the same word.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping
from types import ModuleType

from smithers.tools.builtins import bash, edit, grep, read, tools, write
from smithers.tools.command import BashOptions, bash_tool
from smithers.tools.context import ToolContext, current_context, tool_context
from smithers.tools.define import DefinedTool, RevertContext, define_tool
from smithers.tools.files import edit_file_tool, read_file_tool, write_file_tool
from smithers.tools.journal import CallStatus, Journal, ToolCallRecord, ToolCtx, retry_warning
from smithers.tools.pydantic_tools import as_pydantic_tools, as_pydantic_toolset
from smithers.tools.search import grep_tool

__all__ = [
    "BashOptions",
    "CallStatus",
    "DefinedTool",
    "Journal",
    "RevertContext",
    "ToolCallRecord",
    "ToolContext",
    "ToolCtx",
    "as_pydantic_tools",
    "as_pydantic_toolset",
    "bash",
    "bash_tool",
    "current_context",
    "define_tool",
    "edit",
    "edit_file_tool",
    "grep",
    "grep_tool",
    "read",
    "read_file_tool",
    "retry_warning",
    "tool_context",
    "tools",
    "write",
    "write_file_tool",
]


class _MappingModule(ModuleType, Mapping[str, Callable[..., Awaitable[str]]]):
    def __hash__(self) -> int:
        return id(self)

    def __getitem__(self, name: str) -> Callable[..., Awaitable[str]]:
        return tools[name]

    def __iter__(self) -> Iterator[str]:
        return iter(tools)

    def __len__(self) -> int:
        return len(tools)


sys.modules[__name__].__class__ = _MappingModule
