"""What grants authorise, held to a slow oracle that follows the contract's table grant by grant."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smithers.gateway.auth.identity import Identity, caller
from smithers.gateway.auth.scopes import SCOPES, allows, holds, require
from smithers.gateway.problems import RpcError

ABOVE = {
    "run:read": ["run:write"],
    "run:write": ["run:admin"],
    "cron:read": ["cron:write"],
    "ticket:read": ["ticket:write"],
}
READ = [
    "run:read",
    "cron:read",
    "account:read",
    "memory:read",
    "prompt:read",
    "score:read",
    "ticket:read",
    "observability:read",
]
EXECUTE = ["run:read", "run:write", "signal:submit", "cron:read", "cron:write", "ticket:read", "ticket:write"]
RANKED = {"read": READ, "execute": EXECUTE, "approve": ["approval:submit", *EXECUTE]}
METHODS = [
    "launchRun",
    "getRun",
    "cron.list",
    "cron.add",
    "runs.create",
    "runs.create.x",
    "ext.a.b",
    "cron",
    "config.get",
]

grant_strings = st.one_of(
    st.sampled_from([*SCOPES, "*", "read", "execute", "approve", "admin", "deploy:prod", "", " ", "__proto__"]),
    st.sampled_from(METHODS),
    st.sampled_from(["cron.*", "runs.*", "runs.create.*", ".*", "*.*", "ext.*", "ext.a.*", "config.*", "c*", "cron*"]),
    st.sampled_from([" run:write ", "\tadmin", "RUN:READ", "run:*", "run"]),
    st.text(max_size=6),
)
grant_lists = st.lists(grant_strings, max_size=5)


def oracle_holds(grants: list[str], scope: str) -> bool:
    trimmed = [grant.strip() for grant in grants]
    if "*" in trimmed or "admin" in trimmed:
        return True
    if scope not in SCOPES:
        return False
    if scope in trimmed or any(scope in RANKED.get(grant, []) for grant in trimmed):
        return True
    return any(oracle_holds([g for g in trimmed if g in SCOPES], above) for above in ABOVE.get(scope, []))


def oracle_allows(grants: list[str], method: str, scope: str, is_extension: bool) -> bool:
    if oracle_holds(grants, scope):
        return True
    if is_extension or method.startswith("ext."):
        return False
    for grant in (grant.strip() for grant in grants):
        if grant == method:
            return True
        if len(grant) > 2 and grant.endswith(".*") and method.startswith(grant[:-1]):
            return True
    return False


@given(grants=grant_lists, scope=st.sampled_from([*SCOPES, "deploy:prod", "read", "*", ""]))
def test_a_scope_is_held_exactly_if_a_grant_brings_it(grants: list[str], scope: str) -> None:
    assert holds(grants, scope) is oracle_holds(grants, scope)


@given(grants=grant_lists, method=st.sampled_from(METHODS), scope=st.sampled_from(SCOPES), is_extension=st.booleans())
def test_a_method_is_allowed_exactly_by_scope_name_or_prefix(
    grants: list[str], method: str, scope: str, is_extension: bool
) -> None:
    assert allows(grants, method, scope, is_extension=is_extension) is oracle_allows(
        grants, method, scope, is_extension
    )


@given(grants=grant_lists, more=grant_lists, scope=st.sampled_from(SCOPES))
def test_another_grant_never_takes_a_scope_away(grants: list[str], more: list[str], scope: str) -> None:
    assert not holds(grants, scope) or holds(grants + more, scope)


@given(grants=grant_lists, scope=st.sampled_from(SCOPES))
def test_the_control_layer_sees_the_same_scopes(grants: list[str], scope: str) -> None:
    assert caller(Identity(scopes=tuple(grants))).has_scope(scope) is holds(grants, scope)


def test_a_method_grant_reaches_no_other_method_of_its_scope() -> None:
    assert allows(["launchRun"], "launchRun", "run:write")
    assert not allows(["launchRun"], "cancelRun", "run:write")
    assert not holds(["launchRun"], "run:write")


@pytest.mark.parametrize("grant", ["ext.*", "ext.team.*", "ext.team.list"])
def test_names_and_prefixes_reach_no_extension(grant: str) -> None:
    assert not allows([grant], "ext.team.list", "run:read")
    assert not allows([grant, "list"], "list", "run:read", is_extension=True)


def test_unknown_strings_authorise_nothing_but_reach_the_control_layer() -> None:
    assert not any(holds(["deploy:prod"], scope) for scope in (*SCOPES, "deploy:prod"))
    assert caller(Identity(scopes=("deploy:prod",), user_id="ann")).has_scope("deploy:prod")


def test_a_refusal_names_scope_and_method() -> None:
    with pytest.raises(RpcError) as refused:
        require(Identity(scopes=("run:read",)), "launchRun", "run:write")
    assert refused.value.body() == {
        "version": "v1",
        "code": "FORBIDDEN",
        "message": "Missing required scope run:write for launchRun",
        "requiredScope": "run:write",
    }
    assert refused.value.http_status == 403
    require(Identity(scopes=("execute",)), "launchRun", "run:write")


@pytest.mark.parametrize(
    ("identity", "owner"),
    [
        (Identity(user_id="ann", token_id="t"), "ann"),
        (Identity(token_id="t"), "t"),
        (Identity(role="system"), "system"),
        (Identity(role=""), "anonymous"),
    ],
)
def test_streams_are_counted_for_the_closest_name(identity: Identity, owner: str) -> None:
    assert identity.stream_owner == owner
