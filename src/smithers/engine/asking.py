"""Asking: an attempt that is an agent's. Makes the call, reports what the agent says on the way, keeps the record.

Which agent of a chain is asked, and how its answer becomes a row, is `smithers.agents`' business.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

from smithers.agents.calls import AgentCall, UsageReport
from smithers.agents.chain import Observer, run_agent
from smithers.components.task import Task, agent_chain
from smithers.engine.completions import Completion
from smithers.engine.functions import arguments_for
from smithers.engine.runtime import TaskRuntime, acting_as
from smithers.engine.sharing import AttemptContext
from smithers.errors import TaskEmptyPrompt
from smithers.errors.base import storable
from smithers.events import event
from smithers.graph.plan import LeafNode


async def ask(
    shared: AttemptContext,
    runtime: TaskRuntime,
    done: Completion,
    element: Task,
    *,
    failures: int,
    messages: object,
    beat: Callable[[], None] | None,
) -> object:
    """Have a task's agents answer its prompt, and give the answer as its output model.

    Args:
        failures: failed attempts so far; they choose the agent of a chain.
        messages: a conversation to go on with, as JSON.
        beat: to be called at every sign of life.

    Raises:
        TaskEmptyPrompt, AgentError, InvalidOutput.
    """
    leaf = done.leaf
    assert leaf.schema is not None
    prompt = _prompt(shared, leaf, element)
    warning = await shared.tools.warning(*leaf.key, done.attempt)
    if warning is not None:
        prompt = f"{warning}\n\n{prompt}"
    if done.root_dir is not None:
        place = f"You work in {done.root_dir}, a git worktree of its own. Change files in it and nowhere else."
        prompt = f"{place}\n\n{prompt}"
    done.meta = {"kind": "agent", "prompt": prompt}
    done.measured = {**(done.measured or {}), "promptSizeBytes": len(prompt.encode())}
    call = AgentCall(
        prompt=prompt,
        output_type=leaf.schema,
        run_id=shared.run_id,
        node_id=leaf.key[0],
        iteration=leaf.key[1],
        attempt=done.attempt,
        root_dir=runtime.root_dir,
        messages=messages,
        last_heartbeat=runtime.last_heartbeat,
        max_schema_retries=element.max_schema_retries,
        on_event=_teller(shared, done, beat),
        on_text=_text_teller(shared, done, beat),
        allow_tools=element.allow_tools,
        as_tools=_pydantic_tools,
    )
    if any(getattr(agent, "touches_files", False) is True for agent in agent_chain(element.agent)):
        await asyncio.to_thread(runtime.touches_files)
    with acting_as(runtime):
        result = await run_agent(
            agent_chain(element.agent),
            call,
            failures=failures,
            state=shared.chain,
            observer=Observer(on_usage=_usage_teller(shared, done)),
            now_ms=shared.now_ms,
        )
    if result.text is not None:
        done.text = storable(result.text)
        done.measured["responseSizeBytes"] = len(done.text.encode())
    done.meta |= {"agentId": result.agent_id, "agentEngine": result.engine, "agentModel": result.model}
    if result.messages is not None:
        done.meta["agentConversation"] = result.messages
    return result.output


def _pydantic_tools(given: Sequence[Callable[..., object]]) -> Sequence[object]:
    from smithers.tools.pydantic_tools import as_pydantic_tools

    return as_pydantic_tools(given)


def _prompt(shared: AttemptContext, leaf: LeafNode, element: Task) -> str:
    prompt = element.child
    if callable(prompt):
        positional, named = arguments_for(prompt, shared.deps(leaf) if leaf.depends else {})
        prompt = prompt(*positional, **named)
    if not isinstance(prompt, str) or not prompt.strip():
        raise TaskEmptyPrompt(f"{element!r} has an empty prompt", {"nodeId": leaf.key[0]})
    return storable(prompt)


def _teller(
    shared: AttemptContext, done: Completion, beat: Callable[[], None] | None
) -> Callable[[Mapping[str, object]], None]:
    def on_event(found: Mapping[str, object]) -> None:
        if beat is not None:
            beat()
        engine = str(found.get("engine", "agent"))
        shared.report(event("AgentEvent", *done.leaf.key, attempt=done.attempt, engine=engine, event=dict(found)))

    return on_event


def _text_teller(
    shared: AttemptContext, done: Completion, beat: Callable[[], None] | None
) -> Callable[[str, str], None]:
    def on_text(text: str, stream: str) -> None:
        if beat is not None:
            beat()
        shared.report(event("NodeOutput", *done.leaf.key, attempt=done.attempt, text=text, stream=stream))

    return on_text


def _usage_teller(shared: AttemptContext, done: Completion) -> Callable[[UsageReport], None]:
    def on_usage(report: UsageReport) -> None:
        usage = report.usage
        if not usage:
            return
        shared.report(
            event(
                "TokenUsageReported",
                *done.leaf.key,
                attempt=done.attempt,
                model=report.model,
                agent=report.agent_id,
                inputTokens=usage.input_tokens,
                outputTokens=usage.output_tokens,
                cacheReadTokens=usage.cache_read_tokens or None,
                cacheWriteTokens=usage.cache_write_tokens or None,
                reasoningTokens=usage.reasoning_tokens or None,
            )
        )

    return on_usage
