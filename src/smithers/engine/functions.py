"""Functions: how the function of a task is called: with which arguments, and in a thread if it would hold up the loop.

One that is computed in another process goes by `executors`.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
from collections.abc import Callable

from smithers.engine.sharing import AttemptContext
from smithers.store.doorbell import doorbell_of


async def in_thread(
    shared: AttemptContext,
    function: Callable[..., object],
    arguments: tuple[tuple[object, ...], dict[str, object]],
) -> object:
    """Call it in one of the run's threads, in this context; what is returned to be awaited is awaited here."""
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
