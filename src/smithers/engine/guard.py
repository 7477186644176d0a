"""Guard: what a task's earlier attempts have done that must not be repeated, and whether another attempt may begin.

An unsafe call has a side effect, is not idempotent, hands no idempotency key on, and is not confined to the task's own folder.
Calls of an attempt that is under way are noted by its journal (`calls.py`); here those of attempts that are over are kept by
node, as the database tells them to whoever takes the run over (`recovery.py`). A person agrees to them by their fingerprint,
so whoever has agreed to some has not agreed to more. How a person is asked is `waits.py`'s.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from pydantic_core import from_json

from smithers.components.scope import Key
from smithers.components.task import SideEffect
from smithers.engine.completions import Completion
from smithers.engine.state import RunState
from smithers.graph.plan import LeafNode
from smithers.jsons import object_of
from smithers.store.calls import UnsafeCall


def fingerprint(tokens: Iterable[str]) -> str:
    """A short name for a set of calls, whatever their order."""
    return hashlib.sha256("\n".join(sorted(set(tokens))).encode()).hexdigest()[:32]


def take_over(state: RunState, done: Completion) -> None:
    """Note what an attempt that is over has done."""
    leaf, found = done.leaf, dict(done.unsafe_calls or {})
    effect = leaf.element.side_effect
    if done.effect_token is not None and effect is not None and not done.is_cached and is_unsafe(effect):
        has_succeeded = done.error is None and not done.is_aborted
        found[done.effect_token] = UnsafeCall(done.effect_token, done.attempt, 0, leaf.key[0], None, has_succeeded)
    if found:
        state.guarded[leaf.key] = {**state.guarded.get(leaf.key, {}), **found}


def is_unsafe(effect: SideEffect) -> bool:
    """Whether a task's own effect must not be repeated unasked."""
    return not effect.idempotent and not effect.accepts_idempotency_key


def must_ask(state: RunState, leaf: LeafNode) -> bool:
    """Whether another attempt has to wait for a person, or is not to be at all."""
    if leaf.key not in state.guarded or policy_of(leaf) == "allow":
        return False
    return not _is_agreed(state, leaf.key)


def policy_of(leaf: LeafNode) -> str:
    """What a leaf's element says of being done again: ask, allow or fail."""
    return str(getattr(leaf.element, "unsafe_replay", "ask"))


def _is_agreed(state: RunState, key: Key) -> bool:
    row = state.gates.get(key)
    if row is None or row.status != "approved":
        return False
    return object_of(from_json(row.request_json)).get("fingerprint") == fingerprint(state.guarded[key])
