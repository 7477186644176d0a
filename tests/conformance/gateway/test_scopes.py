"""Who may call what: every scope alone, every method's own name, every prefix and the older ranks, on every name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pytest
from tests.conformance.gateway.contract import BUILT, CONTRACT, SCOPES_BY_NAME
from tests.conformance.gateway.support import House, bearer, tokens
from tests.conformance.gateway.world import World

SCOPES: tuple[str, ...] = tuple(CONTRACT["scopes"])
IMPLIES: dict[str, list[str]] = CONTRACT["scopeImplies"]
RANKS: dict[str, list[str]] = CONTRACT["legacyGrants"]
PREFIXES = sorted({name.rpartition(".")[0] + ".*" for name in SCOPES_BY_NAME if "." in name})
GRANTS = (*SCOPES, *SCOPES_BY_NAME, *PREFIXES, *RANKS, "*", "nothing", "RUN:READ", "run:*", "runs*")


def allowed(grant: str, name: str) -> bool:
    """Whether gateway.md section 7 lets a grant call a method by this name."""
    scope = SCOPES_BY_NAME[name]
    brings = {grant, *IMPLIES.get(grant, ()), *RANKS.get(grant, ())}
    return "*" in brings or scope in brings or grant == name or (grant in PREFIXES and name.startswith(grant[:-1]))


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    grants = {f"t:{grant}": [grant] for grant in GRANTS}
    with House(tmp_path_factory.mktemp("guarded"), auth=tokens({**grants, "t:spaces": ["  run:read "]})) as found:
        yield found


@pytest.mark.parametrize("grant", GRANTS)
def test_a_grant_allows_what_it_says_and_nothing_else(guarded: House, grant: str) -> None:
    headers = bearer(f"t:{grant}")
    for name in _about(grant):
        answer = guarded.post(f"/v1/rpc/{name}", '{"method":"x","params":{}}', headers)
        if allowed(grant, name):
            assert answer.code not in ("FORBIDDEN", "UNAUTHORIZED"), (grant, name)
        else:
            assert (answer.status, answer.code) == (403, "FORBIDDEN"), (grant, name)
            assert answer.frame["error"]["requiredScope"] == SCOPES_BY_NAME[name]


def _about(grant: str) -> Iterable[str]:
    """All names for scopes and ranks; for the name of a method, a few, because such grants are many."""
    if grant not in SCOPES_BY_NAME:
        return SCOPES_BY_NAME
    others = [name for name in SCOPES_BY_NAME if name != grant]
    return [grant, *others[:: len(others) // 5]]


@pytest.mark.parametrize("scope", SCOPES)
def test_a_scope_counts_over_a_socket_too(guarded: House, scope: str) -> None:
    with guarded.socket(f"t:{scope}") as socket:
        for name in SCOPES_BY_NAME:
            assert (socket.call(name, {}).code == "FORBIDDEN") != allowed(scope, name), (scope, name)


def test_grants_are_trimmed(guarded: House) -> None:
    assert guarded.post("/v1/rpc/listRuns", "{}", bearer("t:spaces")).status == 200


def test_unknown_methods_want_run_read_before_they_are_not_found(guarded: House) -> None:
    for name, grant, code in (
        ("noSuchThing", "cron:read", "FORBIDDEN"),
        ("noSuchThing", "run:read", "METHOD_NOT_FOUND"),
        ("config.set", "run:write", "FORBIDDEN"),
        ("config.set", "run:admin", "METHOD_NOT_FOUND"),
        ("ext.a.b", "cron:read", "FORBIDDEN"),
        ("ext.a.b", "run:read", "EXTENSION_METHOD_NOT_FOUND"),
    ):
        assert guarded.post(f"/v1/rpc/{name}", "{}", bearer(f"t:{grant}")).code == code, (name, grant)


def test_the_scope_is_checked_before_the_parameters(guarded: House) -> None:
    for name in SCOPES_BY_NAME:
        answer = guarded.post(f"/v1/rpc/{name}", '{"runId": 7, "workflow": [], "input": 1}', bearer("t:nothing"))
        assert answer.code == "FORBIDDEN", name


def test_nobody_gets_anywhere_without_a_token(guarded: House) -> None:
    for name in SCOPES_BY_NAME:
        for headers in ({"authorization": ""}, bearer("wrong"), {"authorization": "", "x-smithers-key": ROOT_TYPO}):
            answer = guarded.post(f"/v1/rpc/{name}", "{}", headers)
            assert (answer.status, answer.code) == (401, "UNAUTHORIZED")


ROOT_TYPO = "root-toke"


def test_a_forbidden_call_changes_nothing(guarded: House) -> None:
    world = World(guarded)
    params = {name: world.good(name) for name in BUILT}
    before = world.stored()
    for name, good in params.items():
        transport = guarded.call(name, good, "socket") if BUILT[name].is_socket_only else None
        assert transport is None or transport.status == 200
        answer = guarded.http.post(f"/v1/rpc/{name}", json=good, headers=bearer("t:nothing"))
        assert answer.status_code == 403
    assert world.changes_since(before) == {}
