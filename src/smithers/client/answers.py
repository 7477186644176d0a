"""Answers: what a method's payload must be, at least."""

from __future__ import annotations

from typing import cast

from smithers.client.errors import GatewayConnectionLost


def an_object(payload: object) -> dict[str, object]:
    """A payload that is an object. Raises `GatewayConnectionLost` for another: whoever answers there is no gateway."""
    if not isinstance(payload, dict):
        raise GatewayConnectionLost("the gateway answered with something else than an object")
    return cast("dict[str, object]", payload)


def objects(payload: object) -> list[dict[str, object]]:
    """A payload that is a list of objects. Raises `GatewayConnectionLost`."""
    if not isinstance(payload, list):
        raise GatewayConnectionLost("the gateway answered with something else than a list")
    return [an_object(item) for item in cast("list[object]", payload)]


def group(name: str, params: dict[str, object]) -> dict[str, object]:
    """Parameters below a key of their own; nothing for none."""
    return {name: params} if params else {}
