"""Retries: whether a failed attempt is followed by another, and when. Pure: the jitter comes from the attempt's identity."""

from __future__ import annotations

import hashlib

from smithers.components.task import DEFAULT_POLICY, MAX_BACKOFF_MS, Leaf, RetryPolicy
from smithers.graph.plan import LeafKind, LeafNode

AGENT_RETRIES = 3
"""Extra attempts of an agent task that does not say otherwise."""


def retries_of(leaf: LeafNode) -> int:
    """How many extra attempts a leaf has."""
    given = leaf.element.retries
    return default_retries(leaf.kind) if given is None else given


def default_retries(kind: str) -> int:
    """How many extra attempts a leaf of a kind has that does not say."""
    return AGENT_RETRIES if kind == LeafKind.AGENT else 0


def delay_ms(element: Leaf, failures: int, seed: str) -> int:
    """Milliseconds to wait after so many failures (at least 1).

    Full jitter draws the delay evenly from 0 to the policy's value ("Exponential Backoff And Jitter", M. Brooker, 2015),
    here from a hash of `seed`, so that the same attempt always waits the same time.
    """
    policy: RetryPolicy = element.retry_policy or DEFAULT_POLICY
    base = policy.initial_delay_ms
    if policy.backoff == "linear":
        base *= failures
    elif policy.backoff == "exponential":
        base *= 2 ** min(failures - 1, 30)
    base = min(base, MAX_BACKOFF_MS)
    if not policy.jitter:
        return base
    draw = int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8]) / 2**64
    return int(base * draw)
