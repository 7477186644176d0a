"""What runs on a Ray worker: one call of a task's function, told of as it goes on.

Everything comes in and goes out as bytes that are made here and in `ray`, so that what cannot be sent is noticed where that
can be said. The loop runs in the worker's main thread, where Ray's request to stop arrives as SIGINT; a function that is
not async gets a thread, as it does in the owner's process.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import os
import pickle
import signal
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NoReturn, TypeAlias, cast

from pydantic import BaseModel

from smithers.engine.executors.calls import Attempt
from smithers.engine.runtime import TaskRuntime, acting_as
from smithers.errors import SmithersError, TaskNotPortable, TaskRuntimeUnavailable, json_safe
from smithers.records import dataclass

if TYPE_CHECKING:
    from smithers.engine.calls import RunTools
    from smithers.tools.journal import ToolCallRecord

BEAT_EVERY_S = 0.2
"""Heartbeats are sent at most so often, in seconds; the newest checkpoint counts."""

Message: TypeAlias = tuple[Literal["started", "beat", "result", "error"], object]
"""What is told: `("started", process id)`, then `("beat", JSON text or None)`s, at last `("result", pickled value)` or
`("error", Failure)`."""
Job: TypeAlias = tuple[Callable[..., object], tuple[object, ...], dict[str, object], Attempt]


@dataclass(frozen=True, slots=True)
class Failure:
    """What a function has raised. `pickled` is None where that class is known only to its own program."""

    pickled: bytes | None
    name: str
    message: str
    code: str | None
    details: dict[str, object]
    traceback: str


def versions() -> str:
    """What the run's owner and a worker must have the same of."""
    return f"Python {sys.version_info[0]}.{sys.version_info[1]} and smithers {version('smithers')}"


def carry_out(packed: bytes, owners: str) -> Iterator[Message]:
    """Make a call and tell of it. Ray's remote function; `owners` are the `versions` of the run's owner."""
    if (own := versions()) != owners:
        yield "error", _failure(TaskNotPortable(f"the worker has {own}, the run's owner has {owners}"))
        return
    loop = asyncio.new_event_loop()
    mail = _Mail(loop)
    try:
        job = cast(Job, pickle.loads(packed))
    except Exception as error:
        found = TaskNotPortable(f"the worker cannot read the task's function: {type(error).__name__}: {error}")
        yield "error", _failure(found.with_traceback(error.__traceback__))
        return
    runtime = _runtime(job[3], mail.beat)
    work = loop.create_task(_work(job, runtime, mail))

    def stop() -> None:
        runtime.abort()
        work.cancel()

    loop.add_signal_handler(signal.SIGINT, stop)
    try:
        yield "started", os.getpid()
        while True:
            message = loop.run_until_complete(mail.take())
            yield message
            if message[0] in ("result", "error"):
                return
    finally:
        loop.remove_signal_handler(signal.SIGINT)
        loop.close()


class _Mail:
    """What is to be told, in order; of several heartbeats the last."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._queue: asyncio.Queue[Message] = asyncio.Queue()
        self._is_due = False
        self._checkpoint: str | None = None

    def beat(self, data: str | None) -> None:
        """Have a heartbeat sent soon. From any thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._note, data)

    def _note(self, data: str | None) -> None:
        self._checkpoint = data if data is not None or not self._is_due else self._checkpoint
        if not self._is_due:
            self._is_due = True
            self._loop.call_later(BEAT_EVERY_S, self._send)

    def _send(self) -> None:
        if self._is_due:
            self._is_due = False
            self._queue.put_nowait(("beat", self._checkpoint))

    def end(self, message: Message) -> None:
        """The last message; what was to be sent soon goes before it."""
        self._send()
        self._queue.put_nowait(message)

    async def take(self) -> Message:
        """The next message."""
        return await self._queue.get()


async def _work(job: Job, runtime: TaskRuntime, mail: _Mail) -> None:
    function, positional, named, _ = job
    try:
        with acting_as(runtime):
            if inspect.iscoroutinefunction(function):
                value = await function(*positional, **named)
            else:
                value = await _in_thread(function, positional, named)
        mail.end(("result", _packed(value)))
    except BaseException as error:  # work may raise anything, SystemExit included
        mail.end(("error", _failure(error)))
    finally:
        runtime.abort()


async def _in_thread(
    function: Callable[..., object], positional: tuple[object, ...], named: dict[str, object]
) -> object:
    threads = ThreadPoolExecutor(1)
    context = contextvars.copy_context()
    call = asyncio.wrap_future(threads.submit(context.run, lambda: function(*positional, **named)))
    while not call.done():  # a thread ends when it has seen that it should: the worker is not free before
        try:
            await asyncio.wait([call])
        except asyncio.CancelledError:
            continue
    threads.shutdown(wait=False)
    value = call.result()
    return await value if inspect.iscoroutine(value) else value


def _runtime(attempt: Attempt, on_beat: Callable[[str | None], None]) -> TaskRuntime:
    return TaskRuntime(
        attempt.run_id,
        attempt.node_id,
        attempt.iteration,
        attempt.attempt,
        Path(attempt.root_dir),
        cast("RunTools", _NoTools(attempt)),
        attempt.last_heartbeat,
        on_beat=on_beat,
        on_touch=lambda: _refuse("touches_files()", "the run's owner does not see its files"),
    )


class _NoTools:
    """Stands where the owner has its tools: what is known of earlier calls, and a refusal of new ones."""

    def __init__(self, attempt: Attempt) -> None:
        self._attempt = attempt
        self.undone: tuple[frozenset[str], Counter[tuple[str, int]]] = (frozenset(), attempt.undone)

    def earlier(self, node_id: str, iteration: int, attempt: int) -> tuple[ToolCallRecord, ...]:
        """The calls of attempts before this one that may not be repeated blindly."""
        del node_id, iteration, attempt
        return self._attempt.earlier

    def context(self, runtime: TaskRuntime) -> NoReturn:
        """Refuses: calls of tools are journalled under the fence of the run's owner, which is elsewhere."""
        _refuse(f"a tool in task {runtime.node_id!r}", "the journal of its calls is kept by the run's owner")


def _refuse(what: str, why: str) -> NoReturn:
    raise TaskRuntimeUnavailable(f"{what} cannot be used on a Ray worker: {why}; do it in a task with executor='local'")


def _packed(value: object) -> bytes:
    try:
        return pickle.dumps(_plain(value))
    except Exception as error:
        kind = type(value).__name__
        raise TaskNotPortable(f"the {kind} that the task returned cannot be sent: {error}") from error


def _plain(value: object) -> object:
    """`value` without models, whose classes may be others here than at the run's owner, which validates it anyway."""
    if isinstance(value, BaseModel):
        return value.model_dump(by_alias=True, exclude_computed_fields=True)
    if type(value) is dict:
        return {key: _plain(item) for key, item in cast("dict[object, object]", value).items()}
    if type(value) in (list, tuple):
        return [_plain(item) for item in cast("list[object]", value)]
    return value


def _failure(error: BaseException) -> Failure:
    name, text = type(error).__name__, "".join(traceback.format_exception(error))
    if isinstance(error, SmithersError):
        details = json_safe({**error.details, "failure_retryable": error.is_retryable})
        return Failure(_pickled(error), name, error.summary, error.error_code, cast("dict[str, object]", details), text)
    try:
        said = str(error)
    except Exception:  # a broken __str__ must not hide the failure itself
        said = "…"
    return Failure(_pickled(error), name, said, None, {}, text)


def _pickled(error: BaseException) -> bytes | None:
    """The error for a process that may not know its class; None if it cannot be made again as it is."""
    if type(error).__module__ == "__main__":
        return None
    try:
        data = pickle.dumps(error)  # by reference only: the class can be imported
        return data if type(pickle.loads(data)) is type(error) else None
    except Exception:
        return None
