"""Attempts: carry out one try of a leaf and say what it came to. Nothing durable is written here.

The driver starts an attempt after the commit that made it durable, and takes its `Completion` into the next step.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import logging
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ValidationError

from smithers.components.placement import Placement
from smithers.components.task import Task
from smithers.components.workflow import first_problem, issues
from smithers.engine.runtime import TaskRuntime, act_as
from smithers.errors import InvalidOutput, TaskAborted, TaskHeartbeatTimeout, TaskTimeout
from smithers.events import EventDraft, event
from smithers.graph.plan import LeafKind, LeafNode
from smithers.records import dataclass
from smithers.scheduler.states import NodeState
from smithers.store.columns import TableDef
from smithers.store.doorbell import doorbell_of
from smithers.store.interface import SqlValue

if TYPE_CHECKING:
    from smithers.agents.chain import ChainState
    from smithers.engine.calls import RunTools
    from smithers.engine.workspaces import Stored, Workspaces

log = logging.getLogger(__name__)
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
    is_over: bool = False
    """Whether the work has ended, or is not waited for any more."""
    is_cached: bool = False
    measured: dict[str, object] | None = None
    """What metrics count of it, told with its end."""
    parked: NodeState | None = None
    """A subflow that waits: the state that its node takes."""
    text: str | None = None
    meta: dict[str, object] | None = None
    cache_row: tuple[SqlValue, ...] | None = None
    root_dir: Path | None = None
    """The worktree that it works in, if it is in one."""
    is_touching: bool = False
    """Whether it has changed files, as far as its tools tell."""
    files: Stored | None = None
    """What it has left of them."""


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
        tools: what their tools work with.
        deps: looks up what a leaf depends on, by parameter name.
        poke: tells the driver that something is to be written; called in the loop's thread.
        has_checkpoints: whether files that tasks change are stored.
        ray_address: where tasks with `executor="ray"` are computed.
    """

    def __init__(
        self,
        *,
        run_id: str,
        root_dir: Path,
        tools: RunTools,
        threads: ThreadPoolExecutor,
        now_ms: Callable[[], int],
        deps: Callable[[LeafNode], dict[str, object]],
        poke: Callable[[], None],
        has_checkpoints: bool = True,
        ray_address: str | None = None,
    ) -> None:
        self.run_id = run_id
        self.root_dir = root_dir
        self.tools = tools
        self.threads = threads
        self._chain: ChainState | None = None
        self._workspaces: Workspaces | None = None
        self.has_checkpoints = has_checkpoints
        self.ray_address = ray_address
        self.now_ms = now_ms
        self.deps = deps
        self.poke = poke
        self.progress = Progress()
        self.loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()

    @property
    def chain(self) -> ChainState:
        """What the run knows of its agents; made when the first one is asked."""
        if self._chain is None:
            from smithers.agents.chain import ChainState

            self._chain = ChainState()
        return self._chain

    @property
    def workspaces(self) -> Workspaces:
        """The folders that files are changed in; made when the first one is."""
        if self._workspaces is None:
            from smithers.engine.workspaces import Workspaces

            self._workspaces = Workspaces(
                self.tools.store, self.run_id, self.root_dir, self.now_ms, is_storing=self.has_checkpoints
            )
        return self._workspaces

    def retire(self) -> None:
        """Nobody drives the run any more: what a thread still says that outlived its attempt is for nobody."""
        self.poke, self.deps = _nobody, _nothing

    def release_quotas(self) -> None:
        """Used-up limits may be back."""
        if self._chain is not None:
            self._chain.release()

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

    def start_again(self) -> None:
        """After `stop`: count from now."""
        self.stop()
        self.beat()
        self._handle = self._loop.call_later(self._limit, self._check)


async def run_attempt(
    shared: AttemptContext, done: Completion, table: TableDef, last_heartbeat: object, failures: int, messages: object
) -> None:
    """Carry out an attempt of a task leaf and fill in `done`; raises nothing but KeyboardInterrupt."""
    leaf, element = done.leaf, done.leaf.element
    limit = element.heartbeat_timeout_ms or (AGENT_SILENCE_MS if leaf.kind is LeafKind.AGENT else None)
    liveness = _Liveness(limit, shared.loop) if limit is not None else None
    root_dir = done.root_dir or shared.root_dir
    runtime = TaskRuntime(
        shared.run_id,
        leaf.key[0],
        leaf.key[1],
        done.attempt,
        root_dir,
        shared.tools,
        last_heartbeat,
        on_beat=_beater(shared, done, liveness),
        on_touch=lambda: shared.workspaces.begin(root_dir),
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
        elif _is_being_cancelled():
            done.is_aborted = True
            done.error = error
        else:  # nobody stopped it: the work itself raised this
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
        done.is_over = True
        done.is_touching = runtime.is_touching
        runtime.abort()
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
        if type(value) is not leaf.schema and inspect.isawaitable(value):
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
        from smithers.engine.asking import ask  # agents are not imported for workflows without any

        beat = None if liveness is None else liveness.beat
        return await ask(shared, runtime, done, element, failures=failures, messages=messages, beat=beat)
    function = element.child
    if not callable(function):
        return function
    arguments = arguments_for(function, shared.deps(done.leaf) if done.leaf.depends else {})
    if done.leaf.placement is not None:
        return await _elsewhere(shared, runtime, done, done.leaf.placement, (function, *arguments), liveness)
    act_as(runtime)
    try:
        if inspect.iscoroutinefunction(function):
            return await function(*arguments[0], **arguments[1])
        return await _in_thread(shared, function, arguments)
    except asyncio.CancelledError:
        runtime.abort()
        raise


async def _elsewhere(
    shared: AttemptContext,
    runtime: TaskRuntime,
    done: Completion,
    placement: Placement,
    work: tuple[Callable[..., object], tuple[object, ...], dict[str, object]],
    liveness: _Liveness | None,
) -> object:
    """Have a function be computed where its placement says. Until it has begun there, it is not silent but waiting."""
    from smithers.engine.executors.calls import Call, attempt_of, call_elsewhere

    node_id, iteration = done.leaf.key

    def on_wait(wanted: Mapping[str, float], fits: bool) -> None:
        about: dict[str, object] = {"run_id": shared.run_id, "node_id": node_id, "resources": dict(wanted)}
        said = "all nodes that have its resources are busy" if fits else "no node of the cluster has its resources"
        log.warning("task waits for a worker: %s", said, extra=about)
        fields = {"attempt": done.attempt, "executor": placement.executor, "resources": dict(wanted), "fits": fits}
        shared.report(event("TaskWaitingForWorker", node_id, iteration, **fields))

    if liveness is not None:
        liveness.stop()
    call = Call(
        function=work[0],
        positional=work[1],
        named=work[2],
        attempt=attempt_of(runtime),
        placement=placement,
        ray_address=shared.ray_address,
        on_start=_nobody if liveness is None else liveness.start_again,
        on_beat=runtime.on_beat,
        on_wait=on_wait,
    )
    return await call_elsewhere(call)


async def _in_thread(
    shared: AttemptContext,
    function: Callable[..., object],
    arguments: tuple[tuple[object, ...], dict[str, object]],
) -> object:
    future: asyncio.Future[object] = shared.loop.create_future()
    bell = doorbell_of(shared.loop)

    def call() -> None:
        try:
            bell.ring([(future, function(*arguments[0], **arguments[1]), None)])
        except StopIteration as error:  # a future cannot hold it
            found = RuntimeError("the task raised StopIteration")
            found.__cause__ = error
            bell.ring([(future, None, found)])
        except BaseException as error:  # work may raise anything
            bell.ring([(future, None, error)])

    # as run_in_executor has it, but without its three futures and the loop's own, slower way to be woken
    waiting = shared.threads.submit(contextvars.copy_context().run, call)
    try:
        value = await future
    except asyncio.CancelledError:
        waiting.cancel()
        raise
    return await value if inspect.iscoroutine(value) else value


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
        if done.is_over:
            return  # a thread that outlived its attempt: nobody counts on it any more
        if liveness is not None:
            liveness.beat()
        shared.beat(done.leaf, done.attempt, data)

    return beat


def _nobody() -> None:
    pass


def _nothing(_leaf: LeafNode) -> dict[str, object]:
    return {}


def _is_being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _task_uncancel() -> None:
    task = asyncio.current_task()
    if task is not None:
        task.uncancel()


def abort_error(reason: str) -> TaskAborted:
    """What an attempt that was stopped from outside is stored with."""
    return TaskAborted(f"stopped: {reason}")
