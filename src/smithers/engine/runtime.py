"""The runtime of a task: what work may know about the attempt that it runs in, and how it says that it is alive."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic_core import to_json

from smithers.errors import HeartbeatNotJson, HeartbeatTooLarge, TaskRuntimeUnavailable

if TYPE_CHECKING:
    from smithers.tools.context import ToolContext

MAX_HEARTBEAT_BYTES = 1_000_000

current: ContextVar[TaskRuntime] = ContextVar("smithers_task_runtime")


@dataclass(slots=True, eq=False)
class TaskRuntime:
    """The attempt that the calling code runs in. `aborted` is set when it should stop; `last_heartbeat` is the newest
    checkpoint of earlier attempts, None if there is none."""

    run_id: str
    node_id: str
    iteration: int
    attempt: int
    root_dir: Path
    last_heartbeat: object = None
    allow_network: bool = False
    aborted: threading.Event = field(default_factory=threading.Event)
    on_beat: Callable[[str | None], None] = field(default=lambda _data: None, repr=False)
    """Takes each sign of life with its checkpoint as JSON text; the engine's."""
    _effects: int = 0

    def heartbeat(self, data: object = None) -> None:
        """Say that the work is alive, and keep a checkpoint that the next attempt finds as `last_heartbeat`.

        May be called from any thread, as often as you like; writes are throttled, the newest checkpoint is kept.

        Args:
            data: JSON, at most 1,000,000 bytes.

        Raises:
            HeartbeatNotJson, HeartbeatTooLarge: the checkpoint cannot be kept; the attempt fails for good.
        """
        if data is None:
            self.on_beat(None)
            return
        try:
            text = to_json(data, inf_nan_mode="null")
        except Exception as error:
            raise HeartbeatNotJson(
                f"checkpoint of {self.node_id!r} is not JSON: {error}", {"valueType": type(data).__name__}
            ) from error
        if len(text) > MAX_HEARTBEAT_BYTES:
            raise HeartbeatTooLarge(
                f"checkpoint of {self.node_id!r} has {len(text)} bytes",
                {"dataSizeBytes": len(text), "maxBytes": MAX_HEARTBEAT_BYTES},
            )
        self.on_beat(text.decode())

    def idempotency_key(self) -> str:
        """A key for the next outside effect: the same in every attempt, different for every call within one."""
        self._effects += 1
        return f"{self.run_id}:{self.node_id}:{self.iteration}:{self._effects}"


@contextmanager
def acting_as(runtime: TaskRuntime) -> Generator[None]:
    """Makes `task_runtime()` answer, and lets tools work in the task's folder and stop with it.

    Tools are not imported for workflows that use none.
    """
    token = current.set(runtime)
    try:
        if "smithers.tools.context" not in sys.modules:
            yield
            return
        from smithers.tools.context import DeferredContext, enter, leave

        entered = enter(DeferredContext(lambda: _tool_context(runtime)))
        try:
            yield
        finally:
            leave(entered)
    finally:
        current.reset(token)


def _tool_context(runtime: TaskRuntime) -> ToolContext:
    from smithers.tools.context import make_context

    return make_context(
        runtime.root_dir,
        allow_network=runtime.allow_network,
        run_id=runtime.run_id,
        node_id=runtime.node_id,
        iteration=runtime.iteration,
        attempt=runtime.attempt,
        aborted=runtime.aborted,
    )


def task_runtime() -> TaskRuntime:
    """The attempt that the calling code runs in, also in worker threads. Raises `TaskRuntimeUnavailable` outside one."""
    try:
        return current.get()
    except LookupError:
        raise TaskRuntimeUnavailable("task_runtime() works only inside a running task") from None
