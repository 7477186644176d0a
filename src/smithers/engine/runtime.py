"""The runtime of a task: what work may know about the attempt that it runs in, and how it says that it is alive."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic_core import to_json

from smithers import ambient
from smithers.errors import HeartbeatNotJson, HeartbeatTooLarge, TaskRuntimeUnavailable
from smithers.records import dataclass

if TYPE_CHECKING:
    from smithers.engine.calls import RunTools
    from smithers.store.calls import UnsafeCall
    from smithers.tools.context import ToolContext
    from smithers.tools.journal import ToolCallRecord

MAX_HEARTBEAT_BYTES = 1_000_000
_making = threading.Lock()
_making_event = threading.Lock()
"""Of its own, because a tool context is made with the event in it."""


@dataclass(slots=True, eq=False)
class TaskRuntime:
    """The attempt that the calling code runs in. `aborted` is set when it should stop; `last_heartbeat` is the newest
    checkpoint of earlier attempts, None if there is none."""

    run_id: str
    node_id: str
    iteration: int
    attempt: int
    root_dir: Path
    tools: RunTools = field(repr=False)
    """What tools work with; the engine's."""
    last_heartbeat: object = None
    on_beat: Callable[[str | None], None] = field(default=lambda _data: None, repr=False)
    """Takes each sign of life with its checkpoint as JSON text; the engine's."""
    on_touch: Callable[[], None] = field(default=lambda: None, repr=False)
    """Stores the files of the folder as they are, once in a run; the engine's."""
    is_touching: bool = False
    """Whether the work has changed files, or is about to."""
    git_dir: Path | None = None
    """The git directory of the repository that `root_dir` is a worktree of, if it is one."""
    unsafe_calls: dict[str, UnsafeCall] | None = field(default=None, repr=False)
    """What its tools have done that must not be repeated unasked, by token; None if it has called none."""
    _effects: int = 0
    _is_aborted: bool = False
    _aborted: threading.Event | None = field(default=None, repr=False)
    _tool_context: ToolContext | None = field(default=None, repr=False)

    @property
    def aborted(self) -> threading.Event:
        """Set when the work should stop, and when it is over. Made when it is first asked for: most work never does."""
        if self._aborted is None:
            with _making_event:
                if self._aborted is None:
                    self._aborted = threading.Event()
            if self._is_aborted:
                self._aborted.set()
        return self._aborted

    @property
    def is_aborted(self) -> bool:
        """Whether `aborted` is set."""
        return self._is_aborted

    def abort(self) -> None:
        """Set `aborted`, from any thread."""
        self._is_aborted = True  # first, so that whoever makes the event just now sees it
        if self._aborted is not None:
            self._aborted.set()

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

    def touches_files(self) -> None:
        """Say that the work is about to change files in its folder. They are stored as they are, if no task of the run has
        changed any there before, and as they will be when the attempt ends: so there is a difference to be shown, and a
        way back. Tools that write files do this themselves. Blocks, for as long as git takes; from any thread.
        """
        self.is_touching = True
        self.on_touch()

    def idempotency_key(self) -> str:
        """A key for the next outside effect: the same in every attempt, different for every call within one. After the
        task's effect was undone (`SideEffect.revert`), another one.
        """
        self._effects += 1
        again = self.tools.undone[1][self.node_id, self.iteration]
        key = f"{self.run_id}:{self.node_id}:{self.iteration}:{self._effects}"
        return f"{key}:{again + 1}" if again else key

    def earlier_calls(self) -> tuple[ToolCallRecord, ...]:
        """What earlier attempts of this task have called that may not be repeated blindly: calls of tools with a side
        effect that are not idempotent, in order. `status` is `UNKNOWN` for one that failed or was cut off. Reads the
        database, except in a first attempt.
        """
        return self.tools.earlier(self.node_id, self.iteration, self.attempt)

    def tool_context(self) -> ToolContext:
        """Where the tools of this attempt work; `smithers.tools` asks for it at a call. Made at the first."""
        if self._tool_context is None:
            with _making:
                if self._tool_context is None:
                    self._tool_context = self.tools.context(self)
        return self._tool_context


def act_as(runtime: TaskRuntime) -> None:
    """What `acting_as` does, for good: for an attempt's own task, whose context ends with it."""
    ambient.attempt.set(runtime)


@contextmanager
def acting_as(runtime: TaskRuntime) -> Generator[None]:
    """Makes `task_runtime()` answer, and lets tools work in the task's folder and stop with it."""
    token = ambient.attempt.set(runtime)
    try:
        yield
    finally:
        ambient.attempt.reset(token)


def task_runtime() -> TaskRuntime:
    """The attempt that the calling code runs in, also in worker threads. Raises `TaskRuntimeUnavailable` outside one."""
    found = ambient.attempt.get()
    if not isinstance(found, TaskRuntime):
        raise TaskRuntimeUnavailable("task_runtime() works only inside a running task")
    return found
