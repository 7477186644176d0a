"""Attempts: carry out one try of a leaf, watched and timed. Nothing durable is written here.

The driver starts an attempt after the commit that made it durable, and takes its `Completion` into the next step.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable, Mapping

from smithers.components.placement import Placement
from smithers.components.task import Task
from smithers.engine import effects
from smithers.engine.completions import Completion, finish
from smithers.engine.functions import arguments_for, in_thread
from smithers.engine.runtime import TaskRuntime, act_as
from smithers.engine.sharing import AttemptContext
from smithers.errors import TaskHeartbeatTimeout, TaskTimeout
from smithers.events import event
from smithers.graph.plan import LeafKind
from smithers.store.columns import TableDef

log = logging.getLogger(__name__)
AGENT_SILENCE_MS = 600_000
"""Longest silence of an agent that does not say otherwise, in milliseconds."""
SECOND_LOOK_S = 0.02
"""After a silence that is too long, how long a sign of life may take that waits for its turn in the event loop."""


class _Liveness:
    """Cancels an attempt that is silent for too long. Where the whole process stood still, the attempt may just not have had
    its turn yet: so a silence is looked at twice."""

    def __init__(self, limit_ms: int, loop: asyncio.AbstractEventLoop) -> None:
        self._limit = limit_ms / 1000
        self._loop = loop
        self._task = asyncio.current_task()
        self.last = loop.time()
        self.is_expired = False
        self._is_suspected = False
        self._handle = loop.call_later(self._limit, self._check)

    def beat(self) -> None:
        self.last = self._loop.time()

    def _check(self) -> None:
        silent = self._loop.time() - self.last
        if silent < self._limit:
            self._is_suspected = False
            self._handle = self._loop.call_later(self._limit - silent, self._check)
        elif not self._is_suspected:
            self._is_suspected = True
            self._handle = self._loop.call_later(SECOND_LOOK_S, self._check)
        else:
            self.is_expired = True
            if self._task is not None:
                self._task.cancel()

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
        git_dir=None if done.root_dir is None else shared.workspaces.git_dir(),
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
        done.unsafe_calls = runtime.unsafe_calls  # after the abort: whoever begins a call from now on is refused
        if liveness is not None:
            liveness.stop()


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
        if done.effect_token is not None:
            function = effects.watched(shared.tools, done.effect_token, lambda: runtime.is_aborted, function)
        return await in_thread(shared, function, arguments)
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
        on_start=(lambda: None) if liveness is None else liveness.start_again,
        on_beat=runtime.on_beat,
        on_wait=on_wait,
    )
    return await call_elsewhere(call)


def _beater(shared: AttemptContext, done: Completion, liveness: _Liveness | None) -> Callable[[str | None], None]:
    def beat(data: str | None) -> None:
        if done.is_over:
            return  # a thread that outlived its attempt: nobody counts on it any more
        if liveness is not None:
            liveness.beat()
        shared.beat(done.leaf, done.attempt, data)

    return beat


def _is_being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _task_uncancel() -> None:
    task = asyncio.current_task()
    if task is not None:
        task.uncancel()
