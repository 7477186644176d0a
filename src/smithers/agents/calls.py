"""What passes between the engine and an agent: the call, the answer, token usage.

Plain data, no behaviour. The protocol that an agent implements is in `interface.py`; how an answer becomes the task's
output in `structured.py`; who is called, and how often, in `chain.py`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel


def wall_clock_ms() -> int:
    """Milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


def ignore_event(_event: Mapping[str, object]) -> None:
    """The default `on_event`: nobody listens."""


def ignore_text(_text: str, _stream: str) -> None:
    """The default `on_text`: nobody listens."""


@dataclass(frozen=True, slots=True)
class AgentCall:
    """One request to an agent: an attempt's first turn, or one of its correction turns.

    Attributes:
        prompt: what to do, complete: an agent without native structured output finds the JSON instructions in it.
        output_type: the model that the answer must fit.
        attempt: number of the attempt, from 1.
        root_dir: the folder that the task works in.
        messages: the conversation to go on with, as JSON; None starts a new one.
        last_heartbeat: the last checkpoint of the previous attempt.
        max_schema_retries: how many correction turns one attempt may take.
        on_event: takes progress in the form of an `AgentCliEvent`; each call counts as a sign of life.
        on_text: takes `(text, stream)`, stream being `"stdout"` or `"stderr"`; each call counts as a sign of life.
        allow_tools: the only tools that the agent may use; None leaves it to the agent, `()` means none.
        as_tools: makes tools for pydantic-ai of what an author lists as tools; the engine's, for agents that are built here.
        schema_retry: 0 for the first turn, n for the nth correction turn.
        now_ms: the engine's clock, in milliseconds since the epoch.
    """

    prompt: str
    output_type: type[BaseModel]
    run_id: str
    node_id: str
    iteration: int
    attempt: int
    root_dir: Path
    messages: object | None = None
    last_heartbeat: object | None = None
    max_schema_retries: int = 3
    on_event: Callable[[Mapping[str, object]], None] = ignore_event
    on_text: Callable[[str, str], None] = ignore_text
    allow_tools: tuple[str, ...] | None = None
    as_tools: Callable[[Sequence[Callable[..., object]]], Sequence[object]] = tuple
    schema_retry: int = 0
    now_ms: Callable[[], int] = wall_clock_ms

    def now(self) -> datetime:
        """The time by the engine's clock, aware."""
        return datetime.fromtimestamp(self.now_ms() / 1000, UTC)


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens that were used; usages can be added."""

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.cache_read_tokens + other.cache_read_tokens,
            self.cache_write_tokens + other.cache_write_tokens,
            self.reasoning_tokens + other.reasoning_tokens,
        )

    def __bool__(self) -> bool:
        return self != Usage()


@dataclass(frozen=True, slots=True)
class UsageReport:
    """What one turn used, and who used it. Reported also for turns that failed."""

    agent_id: str
    engine: str
    model: str
    usage: Usage


@dataclass(frozen=True, slots=True)
class AgentResponse:
    """What an agent answered, not yet checked against the schema.

    Attributes:
        text: the final text.
        output: a structured answer, if the agent has one; it is preferred to the text.
        messages: the conversation so far as JSON, if the agent can go on with one.
        model: the model that answered, if other than the one the agent names.
        problem: why the answer cannot be used although the call went through (for the correction turn).
    """

    text: str = ""
    output: object | None = None
    usage: Usage = Usage()
    messages: object | None = None
    model: str | None = None
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class AgentResult:
    """What an attempt of an agent task came to: the validated output, and what it took to get there.

    Attributes:
        output: an instance of the call's `output_type`.
        usage: the sum over all turns of the agent that answered and of those tried before it.
        messages: the conversation in the form that `AgentCall.messages` takes, or None.
        corrections: how many correction turns were needed.
    """

    output: BaseModel
    text: str
    usage: Usage
    model: str
    agent_id: str
    engine: str
    messages: object | None = None
    corrections: int = 0
