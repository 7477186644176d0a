"""Calls: one call of a task's function that is made elsewhere, and how the executor that makes it is found.

An executor gets a function with its arguments and returns what the function returns or raises what it raises. Nothing
durable is its business: whoever owns the run validates the result and commits it under its fence, and retries what failed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from smithers.components.placement import Placement
from smithers.engine.runtime import TaskRuntime
from smithers.records import dataclass

if TYPE_CHECKING:
    from smithers.tools.journal import ToolCallRecord


@dataclass(frozen=True, slots=True)
class Attempt:
    """What the attempt's runtime tells where the function is computed; fields as `TaskRuntime` has them."""

    run_id: str
    node_id: str
    iteration: int
    attempt: int
    root_dir: str
    last_heartbeat: object
    undone: Counter[tuple[str, int]]
    earlier: tuple[ToolCallRecord, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call of a task's function.

    Attributes:
        on_start: called once the function is about to be called there.
        on_beat: takes each sign of life from there, with its checkpoint as JSON text.
        on_wait: called once if there is no room for long, from any thread: what is wanted, and whether any node has so
            much of it.
    """

    function: Callable[..., object]
    positional: tuple[object, ...]
    named: dict[str, object]
    attempt: Attempt
    placement: Placement
    ray_address: str | None
    on_start: Callable[[], None]
    on_beat: Callable[[str | None], None]
    on_wait: Callable[[Mapping[str, float], bool], None]


async def call_elsewhere(call: Call) -> object:
    """Make a call where its placement says. Stops it when it is cancelled, and returns when it has ended.

    Raises what the function raises, with the traceback from there as its cause, and:

        ExecutorUnavailable: it cannot be made at all, now or (without the extra that it takes) ever.
        TaskNotPortable: the function, its arguments or its result cannot be sent.
        WorkerLost: whoever made it is gone.
    """
    from smithers.engine.executors.ray import call_on_ray  # the only one so far; nobody else pays for its import

    return await call_on_ray(call)


def attempt_of(runtime: TaskRuntime) -> Attempt:
    """What is told of an attempt. Reads the database, except in a first attempt."""
    key = (runtime.node_id, runtime.iteration)
    undone = runtime.tools.undone[1]
    return Attempt(
        runtime.run_id,
        *key,
        runtime.attempt,
        str(runtime.root_dir),
        runtime.last_heartbeat,
        Counter({key: undone[key]}) if undone else Counter(),
        runtime.earlier_calls(),
    )
