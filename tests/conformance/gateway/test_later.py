"""Methods that are not built yet: they check what they are sent and whom they are asked about, and then say so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from tests.conformance.gateway.contract import COMMON, LATER, METHODS, Method, bad_params, status_of
from tests.conformance.gateway.support import TRANSPORTS
from tests.conformance.gateway.world import World

GOOD: dict[str, Callable[[str], dict[str, Any]]] = {
    "createBrowserSession": lambda _: {
        "source": {"kind": "url", "url": "http://localhost"},
        "viewport": {"width": 1, "height": 1},
    },
    "browserAct": lambda _: {"sessionId": "s", "actionId": "a", "expectedRevision": 0, "action": {"kind": "back"}},
    "browserContext": lambda _: {"sessionId": "s", "sinceRevision": 0, "include": ["screenshot"]},
    "browserPick": lambda _: {"sessionId": "s", "point": {"x": 1, "y": 2.5}},
    "closeBrowserSession": lambda _: {"sessionId": "s"},
    "listBrowserSessions": lambda _: {},
}
MISSING = [METHODS[name] for name in sorted(LATER)]


def transports(method: Method) -> tuple[str, ...]:
    return ("socket",) if method.is_socket_only else TRANSPORTS


@pytest.mark.parametrize("method", MISSING, ids=lambda m: m.name)
def test_it_says_that_it_is_not_available(world: World, method: Method) -> None:
    before = world.stored()
    for name in method.names:
        for transport in transports(method):
            answer = world.house.call(name, GOOD[method.name](world.done), transport)
            assert answer.code == "NotAvailable", answer.frame
            assert transport == "socket" or answer.status == 501
    assert world.changes_since(before) == {}


@pytest.mark.parametrize("method", [m for m in MISSING if "unId" in str(m.params)], ids=lambda m: m.name)
def test_an_unknown_run_is_not_found(world: World, method: Method) -> None:
    for transport in transports(method):
        answer = world.house.call(method.name, GOOD[method.name]("no-such-run"), transport)
        assert (answer.status, answer.code in method.emits) == (404, True), answer.frame


@pytest.mark.parametrize("method", MISSING, ids=lambda m: m.name)
def test_what_the_schema_forbids_is_refused(world: World, method: Method) -> None:
    for bad in bad_params(method, GOOD[method.name](world.done)):
        answer = world.house.call(method.name, transport="socket", text=bad.text)
        if not (bad.may_pass and answer.code == "NotAvailable"):
            assert answer.code in {*method.emits, *COMMON}, (bad.label, answer.frame)
            assert status_of(str(answer.code)) < 500
