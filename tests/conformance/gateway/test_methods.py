"""Every method, by every name, over every transport: a good request gets a payload that fits the contract's schema."""

from __future__ import annotations

import pytest
from tests.conformance.gateway.contract import BUILT, LATER, METHODS, SCOPES_BY_NAME, Method, hold
from tests.conformance.gateway.support import TRANSPORTS, House
from tests.conformance.gateway.world import GOOD, NOT_EMPTY, World

CASES = [
    pytest.param(method, name, transport, id=f"{method.name}-{name}-{transport}")
    for method in BUILT.values()
    for name in method.names
    for transport in TRANSPORTS
    if transport == "socket" or not method.is_socket_only
]


@pytest.mark.parametrize(("method", "name", "transport"), CASES)
def test_a_good_call_fits_its_schema(world: World, method: Method, name: str, transport: str) -> None:
    params = world.good(method.name)
    hold(params, method.params, "the test's own parameters")

    answer = world.house.call(name, params, transport)

    assert (answer.status, answer.frame["ok"]) == (200, True), answer.frame
    hold(answer.payload, method.payload, name)
    if method.name in NOT_EMPTY:
        assert answer.payload, f"{name} has nothing to show"


def test_every_method_is_called_or_known_to_be_missing() -> None:
    assert set(GOOD) == set(BUILT)
    assert set(METHODS) >= LATER


@pytest.mark.parametrize("name", sorted(n for n, _ in SCOPES_BY_NAME.items()))
def test_every_name_of_the_contract_is_there(house: House, name: str) -> None:
    assert house.call(name).code != "METHOD_NOT_FOUND"


@pytest.mark.parametrize("method", [m for m in BUILT.values() if not m.is_closed], ids=lambda m: m.name)
def test_unknown_keys_are_ignored(world: World, method: Method) -> None:
    # The published schemas are closed everywhere; rpc.md section 1 keeps the leniency that clients are used to.
    transport = "socket" if method.is_socket_only else "bare"
    assert world.house.call(method.name, {**world.good(method.name), "junk": {"a": 1}}, transport).status == 200


@pytest.mark.parametrize("method", [m for m in METHODS.values() if m.is_socket_only], ids=lambda m: m.name)
def test_streams_want_a_socket(world: World, method: Method) -> None:
    answer = world.house.call(method.name, {"runId": world.done})
    assert (answer.status, answer.code) == (400, "INVALID_REQUEST")


def test_an_unknown_method_is_not_found(house: House) -> None:
    for transport in TRANSPORTS:
        answer = house.call("noSuchThing", {}, transport)
        assert (answer.status, answer.code) == (404, "METHOD_NOT_FOUND")
    assert house.call("config.get", {}).code == "METHOD_NOT_FOUND"
