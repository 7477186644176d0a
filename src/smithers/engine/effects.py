"""Effects: a task that changes something outside is journaled as a call of its own, number 0 of its attempt, so that who
changes the run's history later knows of it. The row is written in the step that starts the attempt, and in the one that
takes its result in. Calls of tools are recorded in `calls.py`; what becomes of effects is `control.travel.effects`'.
"""

from __future__ import annotations

from uuid import uuid4

from pydantic_core import to_json

from smithers.components.task import SideEffect
from smithers.engine.attempts import Completion
from smithers.engine.state import RunState
from smithers.errors import error_object


def begin(state: RunState, effect: SideEffect, done: Completion) -> None:
    """Write into the step that an attempt begins which may have an effect."""
    node_id, iteration = done.leaf.key
    flags = (int(effect.idempotent), int(effect.revert is not None))
    at = (state.run_id, node_id, iteration, done.attempt)
    state.row("effect", *at, uuid4().hex, node_id, done.started_at_ms, *flags, state.step.frame_no)


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
