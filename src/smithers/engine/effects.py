"""Effects: a task that changes something outside is journaled as a call of its own, number 0 of its attempt, so that who
changes the run's history later knows of it. The row is written in the step that starts the attempt, and in the one that
takes its result in; an end that no step takes in any more is told of if its effect was reverted meanwhile. Calls of tools
are recorded in `calls.py`; what becomes of effects is `control.travel.effects`'.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar
from uuid import uuid4

from pydantic_core import to_json

from smithers.components.task import SideEffect
from smithers.engine.calls import RunTools
from smithers.engine.completions import Completion
from smithers.engine.state import RunState
from smithers.errors import SmithersError, error_object
from smithers.store.calls import CallEnd
from smithers.store.sql.effects import late_end

log = logging.getLogger(__name__)


def begin(state: RunState, effect: SideEffect, done: Completion) -> None:
    """Write into the step that an attempt begins which may have an effect."""
    node_id, iteration = done.leaf.key
    flags = (int(effect.idempotent), int(effect.accepts_idempotency_key), int(effect.revert is not None))
    at = (state.run_id, node_id, iteration, done.attempt)
    done.effect_token = uuid4().hex
    state.row("effect", *at, done.effect_token, node_id, done.started_at_ms, *flags, state.step.frame_no)


def end(state: RunState, done: Completion) -> None:
    """Write into the step how it ended. A result from the cache had no effect."""
    at = (state.run_id, *done.leaf.key, done.attempt)
    if done.is_cached:
        state.row("effect_none", *at)
    elif done.error is None:
        output = None if done.output is None else done.output.model_dump_json()
        state.row("effect_end", "finished", state.step.now_ms, output, None, *at)
    else:  # stopped or failed: the effect may have happened
        error = to_json(error_object(done.error, with_stack=False)).decode()
        state.row("effect_end", "failed", state.step.now_ms, None, error, *at)


# ── ends that nobody waits for ─────────────────────────────────────────────────────────────────────────────────────

T = TypeVar("T")


def watched(
    tools: RunTools, token: str, is_given_up: Callable[[], bool], function: Callable[..., T]
) -> Callable[..., T]:
    """A function that runs in a thread, which nothing can stop: if the attempt has been given up by the time that it ends,
    that is told. Blocks its thread for that."""

    def call(*positional: object, **named: object) -> T:
        error: BaseException | None = None
        try:
            return function(*positional, **named)
        except BaseException as raised:  # work may raise anything
            error = raised
            raise
        finally:
            if is_given_up():
                _tell_late(tools, late(tools, token, error))

    return call


def late(tools: RunTools, token: str, error: BaseException | None) -> CallEnd:
    """How an effect has ended that no step takes in any more; stopped or failed, it may have happened all the same."""
    if error is None:
        return CallEnd(token, "finished", tools.now_ms(), None, None)
    return CallEnd(token, "failed", tools.now_ms(), None, to_json(error_object(error, with_stack=False)).decode())


def _tell_late(tools: RunTools, end: CallEnd) -> None:
    try:
        tools.store.write(lambda c: late_end(c, tools.run_id, end, tools.now_ms()))
    except SmithersError as error:
        _warn(tools, error)
    else:
        tools.tell()


async def tell_late(tools: RunTools, token: str, error: BaseException | None) -> None:
    """Have the end of an effect be noticed that no step takes in any more: nothing is written unless time travel has passed
    it by."""
    end = late(tools, token, error)
    try:
        await tools.store.awrite(lambda c: late_end(c, tools.run_id, end, tools.now_ms()))
    except SmithersError as problem:
        _warn(tools, problem)
    else:
        tools.tell()


def _warn(tools: RunTools, error: SmithersError) -> None:
    log.warning("cannot tell of a late end", extra={"run_id": tools.run_id, "code": error.error_code})
