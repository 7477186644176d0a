"""Attempts: carry out one try of a leaf and say what it came to. Nothing durable is written here.

The driver starts an attempt after the commit that made it durable, and takes its `Completion` into the next step.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel, ValidationError

from smithers.agents.calls import AgentCall, UsageReport
from smithers.agents.chain import ChainState, Observer, run_agent
from smithers.components.task import Task, agent_chain
from smithers.components.workflow import first_problem, issues
from smithers.engine.runtime import TaskRuntime, current
from smithers.errors import InvalidOutput, TaskAborted, TaskEmptyPrompt, TaskHeartbeatTimeout, TaskTimeout
from smithers.events import EventDraft, event
from smithers.graph.plan import LeafKind, LeafNode
from smithers.scheduler.states import NodeState
from smithers.store.columns import TableDef
from smithers.store.interface import SqlValue

AGENT_SILENCE_MS = 600_000
"""Longest silence of an agent that does not say otherwise, in milliseconds."""
BEAT_EVERY_MS = 500
"""Heartbeats are written at most so often."""


@dataclass(slots=True)
class Completion:
    """What an attempt came to."""

    leaf: LeafNode
    attempt: int
    started_at_ms: int
    output: BaseModel | None = None
    values: tuple[SqlValue, ...] = ()
    error: BaseException | None = None
    is_aborted: bool = False
    """Stopped from outside (cancel, shutdown): costs no retry."""
    is_cached: bool = False
    parked: NodeState | None = None
    """A subflow that waits: the state that its node takes."""
    text: str | None = None
    meta: dict[str, object] | None = None
    cache_row: tuple[SqlValue, ...] | None = None


@dataclass(slots=True)
class Progress:
    """What attempts report while they run; the driver writes it with its next step."""

    events: list[EventDraft] = field(default_factory=list[EventDraft])
    beats: dict[tuple[str, int, int], tuple[int, str | None]] = field(
        default_factory=dict[tuple[str, int, int], tuple[int, str | None]]
    )


class AttemptContext:
    """What attempts of one run share.

    Args:
        deps: looks up what a leaf depends on, by parameter name.
        poke: tells the driver that something is to be written; called in the loop's thread.
    """

    def __init__(
        self,
        *,
        run_id: str,
        root_dir: Path,
        threads: ThreadPoolExecutor,
        chain: ChainState,
        now_ms: Callable[[], int],
        deps: Callable[[LeafNode], dict[str, object]],
        poke: Callable[[], None],
    ) -> None:
        self.run_id = run_id
        self.root_dir = root_dir
        self.threads = threads
        self.chain = chain
        self.now_ms = now_ms
        self.deps = deps
        self.poke = poke
        self.progress = Progress()
        self.loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()

    def report(self, draft: EventDraft) -> None:
        """Have an event written soon."""
        self._in_loop(self.progress.events.append, draft)

    def beat(self, leaf: LeafNode, attempt: int, data: str | None) -> None:
        """Have a heartbeat written soon."""
        self._in_loop(self._note_beat, leaf, attempt, data)

    def _note_beat(self, leaf: LeafNode, attempt: int, data: str | None) -> None:
        key = (*leaf.key, attempt)
        old = self.progress.beats.get(key)
        kept = data if data is not None or old is None else old[1]
        self.progress.beats[key] = (self.now_ms(), kept)

    def _in_loop(self, function: Callable[..., object], *arguments: object) -> None:
        if threading.get_ident() == self._thread:
            function(*arguments)
            self._soon()
        elif not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self._both, function, arguments)

    def _both(self, function: Callable[..., object], arguments: tuple[object, ...]) -> None:
        function(*arguments)
        self._soon()

    _is_due = False

    def _soon(self) -> None:
        if not self._is_due:
            self._is_due = True
            self.loop.call_later(BEAT_EVERY_MS / 1000, self._now)

    def _now(self) -> None:
        self._is_due = False
        self.poke()


class _Liveness:
    """Cancels an attempt that is silent for too long."""

    def __init__(self, limit_ms: int, loop: asyncio.AbstractEventLoop) -> None:
        self._limit = limit_ms / 1000
        self._loop = loop
        self._task = asyncio.current_task()
        self.last = loop.time()
        self.is_expired = False
        self._handle = loop.call_later(self._limit, self._check)

    def beat(self) -> None:
        self.last = self._loop.time()

    def _check(self) -> None:
        silent = self._loop.time() - self.last
        if silent >= self._limit:
            self.is_expired = True
            if self._task is not None:
                self._task.cancel()
        else:
            self._handle = self._loop.call_later(self._limit - silent, self._check)

    def stop(self) -> None:
        self._handle.cancel()


async def run_attempt(
    shared: AttemptContext, done: Completion, table: TableDef, last_heartbeat: object, failures: int, messages: object
) -> None:
    """Carry out an attempt of a task leaf and fill in `done`; raises nothing but KeyboardInterrupt."""
    leaf, element = done.leaf, done.leaf.element
    limit = element.heartbeat_timeout_ms or (AGENT_SILENCE_MS if leaf.kind is LeafKind.AGENT else None)
    liveness = _Liveness(limit, shared.loop) if limit is not None else None
    runtime = TaskRuntime(
        shared.run_id,
        leaf.key[0],
        leaf.key[1],
        done.attempt,
        shared.root_dir,
        last_heartbeat,
        on_beat=_beater(shared, done, liveness),
    )
    deadline = asyncio.timeout(element.timeout_ms / 1000) if element.timeout_ms is not None else None
    try:
        if deadline is None:
            value = await _work(shared, runtime, done, failures, messages, liveness)
        else:
            async with deadline:
                value = await _work(shared, runtime, done, failures, messages, liveness)
        finish(done, table, value)
    except asyncio.CancelledError as error:
        if liveness is not None and liveness.is_expired:
            _task_uncancel()
            done.error = TaskHeartbeatTimeout(
                f"{element!r} was silent for {limit} ms",
                {"nodeId": leaf.key[0], "iteration": leaf.key[1], "attempt": done.attempt, "timeoutMs": limit},
            )
        else:
            done.is_aborted = True
            done.error = error
    except TimeoutError as error:
        if deadline is not None and deadline.expired():
            done.error = TaskTimeout(
                f"{element!r} took longer than {element.timeout_ms} ms",
                {"nodeId": leaf.key[0], "attempt": done.attempt, "timeoutMs": element.timeout_ms},
            )
        else:
            done.error = error
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # work may raise anything, SystemExit and GeneratorExit included
        done.error = error
    finally:
        runtime.aborted.set()
        if liveness is not None:
            liveness.stop()


def finish(done: Completion, table: TableDef, value: object) -> None:
    """Validate and encode a result. Raises `InvalidOutput`."""
    leaf = done.leaf
    row = validate(leaf, value)
    done.output = row
    done.values = table.encode(row)


def validate(leaf: LeafNode, value: object) -> BaseModel:
    """A value as a row of the leaf's output. Raises `InvalidOutput` naming the field."""
    assert leaf.output is not None
    assert leaf.schema is not None
    try:
        if inspect.isawaitable(value):
            raise InvalidOutput(
                f"{leaf.element!r} returned something to be awaited; make its function async",
                {"nodeId": leaf.key[0], "failure_retryable": False},
            )
        row = leaf.schema.model_validate(value)
        if leaf.schema is not leaf.output.model:
            row = leaf.output.model.model_validate(row.model_dump())
        return row
    except ValidationError as error:
        raise InvalidOutput(
            f"{leaf.element!r}: result does not fit {leaf.output!r}: {first_problem(error)}",
            {"nodeId": leaf.key[0], "issues": issues(error)},
        ) from error


async def _work(
    shared: AttemptContext,
    runtime: TaskRuntime,
    done: Completion,
    failures: int,
    messages: object,
    liveness: _Liveness | None,
) -> object:
    element = done.leaf.element
    assert isinstance(element, Task)
    if done.leaf.kind is LeafKind.AGENT:
        return await _ask(shared, runtime, done, element, failures, messages, liveness)
    function = element.child
    if not callable(function):
        return function
    arguments = arguments_for(function, shared.deps(done.leaf) if done.leaf.depends else {})
    token = current.set(runtime)
    try:
        if inspect.iscoroutinefunction(function):
            return await function(*arguments[0], **arguments[1])
        context = contextvars.copy_context()
        call = lambda: function(*arguments[0], **arguments[1])  # noqa: E731 - bound to this call's values
        value = await shared.loop.run_in_executor(shared.threads, context.run, call)
        return await value if inspect.iscoroutine(value) else value
    except StopIteration as error:
        raise RuntimeError("the task raised StopIteration") from error
    except asyncio.CancelledError:
        runtime.aborted.set()
        raise
    finally:
        current.reset(token)


async def _ask(
    shared: AttemptContext,
    runtime: TaskRuntime,
    done: Completion,
    element: Task,
    failures: int,
    messages: object,
    liveness: _Liveness | None,
) -> object:
    leaf = done.leaf
    assert leaf.schema is not None
    prompt = element.child
    if callable(prompt):
        positional, named = arguments_for(prompt, shared.deps(leaf) if leaf.depends else {})
        prompt = prompt(*positional, **named)
    if not isinstance(prompt, str) or not prompt.strip():
        raise TaskEmptyPrompt(f"{element!r} has an empty prompt", {"nodeId": leaf.key[0]})

    def on_event(found: Mapping[str, object]) -> None:
        if liveness is not None:
            liveness.beat()
        engine = str(found.get("engine", "agent"))
        shared.report(event("AgentEvent", *leaf.key, attempt=done.attempt, engine=engine, event=dict(found)))

    def on_text(text: str, stream: str) -> None:
        if liveness is not None:
            liveness.beat()
        shared.report(event("NodeOutput", *leaf.key, attempt=done.attempt, text=text, stream=stream))

    def on_usage(report: UsageReport) -> None:
        usage = report.usage
        if usage:
            draft = event(
                "TokenUsageReported",
                *leaf.key,
                attempt=done.attempt,
                model=report.model,
                agent=report.agent_id,
                inputTokens=usage.input_tokens,
                outputTokens=usage.output_tokens,
                cacheReadTokens=usage.cache_read_tokens or None,
                cacheWriteTokens=usage.cache_write_tokens or None,
                reasoningTokens=usage.reasoning_tokens or None,
            )
            shared.report(draft)

    done.meta = {"kind": "agent", "prompt": prompt}
    call = AgentCall(
        prompt=prompt,
        output_type=leaf.schema,
        run_id=shared.run_id,
        node_id=leaf.key[0],
        iteration=leaf.key[1],
        attempt=done.attempt,
        root_dir=shared.root_dir,
        messages=messages,
        last_heartbeat=runtime.last_heartbeat,
        max_schema_retries=element.max_schema_retries,
        on_event=on_event,
        on_text=on_text,
        allow_tools=element.allow_tools,
    )
    token = current.set(runtime)
    try:
        result = await run_agent(
            agent_chain(element.agent),
            call,
            failures=failures,
            state=shared.chain,
            observer=Observer(on_usage=on_usage),
            now_ms=shared.now_ms,
        )
    finally:
        current.reset(token)
    done.text = result.text
    done.meta |= {"agentId": result.agent_id, "agentEngine": result.engine, "agentModel": result.model}
    if result.messages is not None:
        done.meta["agentConversation"] = result.messages
    return result.output


def arguments_for(
    function: Callable[..., object], deps: dict[str, object]
) -> tuple[tuple[object, ...], dict[str, object]]:
    """How to call a task's function: dependencies by parameter name, or all of them in its only other parameter."""
    code = getattr(function, "__code__", None)
    if code is not None and not code.co_argcount and not code.co_kwonlyargcount and not code.co_flags & 0x08:
        return (), {}
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return (), {}
    named: dict[str, object] = {}
    positional: tuple[object, ...] = ()
    for parameter in parameters:
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            named |= {name: row for name, row in deps.items() if name not in named}
        elif parameter.name in deps and parameter.kind is not inspect.Parameter.VAR_POSITIONAL:
            named[parameter.name] = deps[parameter.name]
        elif (
            parameter.default is inspect.Parameter.empty
            and parameter.kind in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
            and not positional
        ):
            positional = (deps,)
    return positional, named


def _beater(shared: AttemptContext, done: Completion, liveness: _Liveness | None) -> Callable[[str | None], None]:
    def beat(data: str | None) -> None:
        if liveness is not None:
            liveness.beat()
        shared.beat(done.leaf, done.attempt, data)

    return beat


def _task_uncancel() -> None:
    task = asyncio.current_task()
    if task is not None:
        task.uncancel()


def abort_error(reason: str) -> TaskAborted:
    """What an attempt that was stopped from outside is stored with."""
    return TaskAborted(f"stopped: {reason}")
