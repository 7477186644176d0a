"""The attempt that the calling code works for, as far as tools have to know it, and the bounds of what it may ask of them.

The engine sets it around an attempt's work, `smithers.tools` looks it up at each call. It stands apart from both: tools
know no engine, and a task that uses none does not import them.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from smithers.tools.context import ToolContext

SandboxMode = Literal["required", "off"]
"""Whether commands run isolated or not at all, or without isolation."""
MOST_OUTPUT_BYTES = 10 * 1024 * 1024
"""The highest bound on what a tool reads, writes or returns."""
LONGEST_TIMEOUT_MS = 3_600_000
"""The highest bound on how long a command or search may take."""


class ToolHost(Protocol):
    """What an attempt is to the tools that are called in it."""

    def tool_context(self) -> ToolContext:
        """Where tools work for this attempt; the same object for all its calls, made at the first."""
        ...


attempt: ContextVar[ToolHost | None] = ContextVar("smithers_attempt", default=None)
"""None outside a task."""
