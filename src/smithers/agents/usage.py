"""Reads token usage out of the many shapes in which programs and providers report it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from smithers.agents.calls import Usage

_ALIASES: dict[str, tuple[str, ...]] = {
    "input_tokens": ("input_tokens", "inputTokens", "prompt_tokens", "promptTokens", "input", "prompt"),
    "output_tokens": ("output_tokens", "outputTokens", "completion_tokens", "completionTokens", "output", "completion"),
    "cache_read_tokens": (
        "cache_read_tokens", "cacheReadTokens", "cache_read_input_tokens", "cached_input_tokens", "cached_tokens",
        "cached",
    ),
    "cache_write_tokens": ("cache_write_tokens", "cacheWriteTokens", "cache_creation_input_tokens", "cache_creation"),
    "reasoning_tokens": ("reasoning_tokens", "reasoningTokens", "reasoning_output_tokens", "reasoning"),
}  # fmt: skip

_DETAILS = ("prompt_tokens_details", "input_tokens_details", "completion_tokens_details", "output_tokens_details")


def read_usage(value: object) -> Usage:
    """The usage that `value` tells of; zero where it tells nothing. Never raises."""
    if isinstance(value, Usage):
        return value
    if not isinstance(value, Mapping):
        return Usage()
    found = cast("Mapping[str, object]", value)
    details = [cast("Mapping[str, object]", found[key]) for key in _DETAILS if isinstance(found.get(key), Mapping)]
    return Usage(**{field: _first(aliases, [found, *details]) for field, aliases in _ALIASES.items()})


def _first(aliases: tuple[str, ...], sources: list[Mapping[str, object]]) -> int:
    for source in sources:
        for alias in aliases:
            count = source.get(alias)
            if isinstance(count, int | float) and not isinstance(count, bool) and 0 <= count < 2**63:
                return int(count)
    return 0
