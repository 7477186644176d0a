"""What the tests of this folder share: a schema, a call, and a recorder of what `run_agent` tells."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from pydantic import BaseModel

from smithers.agents import AgentCall, AgentResult, BoundAgent, ChainState, Observer, UsageReport, run_agent

NOW_MS = 1_800_000_000_000


class Verdict(BaseModel):
    ok: bool
    note: str = ""


@dataclass
class Recorder:
    """Everything that an attempt told."""

    events: list[Mapping[str, object]] = field(default_factory=list[Mapping[str, object]])
    texts: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    started: list[str] = field(default_factory=list[str])
    usage: list[UsageReport] = field(default_factory=list[UsageReport])
    messages: list[object] = field(default_factory=list[object])

    def observer(self) -> Observer:
        def on_start(agent: BoundAgent) -> None:
            self.started.append(agent.id)

        return Observer(on_start, self.usage.append, self.messages.append)


def make_call(
    root: Path = Path("/"),
    *,
    prompt: str = "Judge it.",
    output_type: type[BaseModel] = Verdict,
    messages: object | None = None,
    max_schema_retries: int = 3,
    allow_tools: tuple[str, ...] | None = None,
    as_tools: Callable[[Sequence[Callable[..., object]]], Sequence[object]] = tuple,
    recorder: Recorder | None = None,
) -> AgentCall:
    heard = recorder or Recorder()
    return AgentCall(
        prompt=prompt,
        output_type=output_type,
        run_id="run-1",
        node_id="judge",
        iteration=2,
        attempt=3,
        root_dir=root,
        messages=messages,
        max_schema_retries=max_schema_retries,
        on_event=heard.events.append,
        on_text=lambda text, stream: heard.texts.append((text, stream)),
        allow_tools=allow_tools,
        as_tools=as_tools,
    )


def run(
    agents: object,
    call: AgentCall | None = None,
    *,
    failures: int = 0,
    state: ChainState | None = None,
    recorder: Recorder | None = None,
    now_ms: int = NOW_MS,
) -> AgentResult:
    chain = cast("Sequence[object]", agents) if isinstance(agents, list) else [agents]
    observer = (recorder or Recorder()).observer()
    attempt = run_agent(
        chain, call or make_call(), failures=failures, state=state, observer=observer, now_ms=lambda: now_ms
    )
    return asyncio.run(attempt)
