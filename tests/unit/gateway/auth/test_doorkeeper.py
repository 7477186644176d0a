"""The doorkeeper: the order of its checks, where credentials may stand, and who may stay."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.gateway.auth.door import HOST, NOW, Door, raw, refused, tokens

from smithers.gateway.auth.config import AuthConfig, JwtAuth, TokenAuth, TrustedProxyAuth
from smithers.gateway.auth.doorkeeper import ANYBODY, Doorkeeper
from smithers.gateway.auth.identity import Identity
from smithers.gateway.auth.sent import Sent
from smithers.gateway.problems import RpcError


@pytest.mark.parametrize("door", [Door(None, insecure=True), Door(None, trusts=True)])
def test_an_insecure_gateway_answers_everybody(door: Door) -> None:
    assert door.request(host="evil.example", origin="null") == ANYBODY
    door.upgrade(host="evil.example", origin="https://evil.example")


def test_insecure_means_nothing_with_authentication() -> None:
    with pytest.raises(RpcError, match="bearer token is required"):
        Door(tokens(), insecure=True, trusts=True).request(host="localhost")


def test_the_host_is_judged_before_the_origin_and_both_before_the_credential() -> None:
    with pytest.raises(RpcError, match="Host"):
        Door(None).request(host="evil", origin="https://evil")
    with pytest.raises(RpcError, match="Origin"):
        Door(tokens(), origins="https://ui.example").request(**HOST, origin="https://evil", authorization="bad")


@pytest.mark.parametrize("name", ["host", "authorization", "x-smithers-key"])
@pytest.mark.parametrize("door", [Door(tokens()), Door(tokens(), origins="https://a")])
def test_a_header_that_decides_may_stand_only_once(name: str, door: Door) -> None:
    twice = [(name, "good"), (name, "good")]
    with pytest.raises(RpcError, match="more than once"):
        door.request(*twice)
    with pytest.raises(RpcError, match="more than once"):
        door.request(("host", "a"), ("host", "b"), x_smithers_key="good")
    with pytest.raises(RpcError, match="more than once"):
        Door(None).request(("host", "localhost"), ("host", "localhost"))
    with pytest.raises(RpcError, match="more than once"):
        Door(None).request(("host", "localhost"), ("origin", "http://localhost"), ("origin", "https://evil"))


@pytest.mark.parametrize(
    "headers",
    [
        {"x_smithers_key": "good"},
        {"authorization": "Bearer good"},
        {"authorization": "bEARER   good "},
        {"authorization": "good"},
        {"x_smithers_key": "good", "authorization": "Bearer bad"},
        {"x_smithers_key": " ", "authorization": "good"},
        {"authorization": "good", "cookie": "smithers_session_7331=bad"},
        {"cookie": "a=b; smithers_session_7331=good"},
        {"cookie": "smithers_session_7331=%67ood", "authorization": "Bearer "},
    ],
)
def test_a_bearer_may_stand_in_three_places(headers: dict[str, str]) -> None:
    assert Door(tokens()).request(**HOST, **headers).token_id == "ci"


@pytest.mark.parametrize("authorization", ["Bearer", "bearer ", "", " "])
def test_an_empty_bearer_is_none(authorization: str) -> None:
    with pytest.raises(RpcError) as error:
        Door(tokens()).request(authorization=authorization)
    assert refused(error) == "A bearer token is required"


@pytest.mark.parametrize("token", ["__proto__", "constructor", "toString", "bad", "Bearer good", "gööd"])
def test_other_bearers_are_refused(token: str) -> None:
    with pytest.raises(RpcError) as error:
        Door(tokens()).request(authorization=f"Bearer {token}")
    assert refused(error) == "Invalid token"


def test_a_token_beyond_ascii_is_the_same_in_every_place() -> None:
    door = Door(TokenAuth({"gööd": {"role": "operator", "scopes": ["*"]}}))
    assert door.request(authorization="Bearer gööd") == door.connect("gööd")
    assert door.request(cookie="smithers_session=g%C3%B6%C3%B6d") == door.connect("gööd")


def test_the_token_of_a_connect_stands_before_the_headers() -> None:
    door = Door(tokens())
    assert door.connect("good", authorization="bad").token_id == "ci"
    assert door.connect(None, authorization="good").token_id == "ci"
    with pytest.raises(RpcError, match="Invalid token"):
        door.connect("bad", authorization="good")
    with pytest.raises(RpcError, match="required"):
        door.connect("", authorization="good")
    with pytest.raises(RpcError, match="Invalid token"):
        door.connect("\ud800")


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("localhost:7331", "smithers_session_7331"),
        ("[::1]:80", "smithers_session_80"),
        ("localhost", "smithers_session"),
        ("::1", "smithers_session"),
        ("[::1]", "smithers_session"),
        ("localhost:", "smithers_session"),
        ("localhost:7331x", "smithers_session"),
        ("localhost:²", "smithers_session"),
        ("localhost:1; a=b", "smithers_session"),
        ("", "smithers_session"),
    ],
)
def test_the_cookie_is_named_after_the_port(host: str, name: str) -> None:
    assert Sent(raw(host=host)).cookie_name() == name


def test_two_different_session_cookies_are_nobodys() -> None:
    door = Door(tokens())
    with pytest.raises(RpcError, match="more than once"):
        door.request(**HOST, cookie="smithers_session_7331=good; smithers_session_7331=other")
    with pytest.raises(RpcError, match="more than once"):
        door.request(("cookie", "smithers_session_7331=good"), ("cookie", "smithers_session_7331=other"), **HOST)
    assert door.request(**HOST, cookie="smithers_session_7331=good; smithers_session_1=other").token_id == "ci"


def test_who_came_in_is_looked_at_again() -> None:
    auth = tokens(expiresAtMs=NOW + 10)
    door = Door(auth)
    identity = door.connect("good")
    door.keeper.recheck(identity)
    door.now_ms += 10
    with pytest.raises(RpcError, match="expired"):
        door.keeper.recheck(identity)
    for unbound in (Door(None), Door(TrustedProxyAuth())):
        unbound.keeper.recheck(identity)


def test_with_a_trusted_proxy_only_its_headers_count() -> None:
    door = Door(TrustedProxyAuth(allowed_peers=["127.0.0.1"]))
    headers = {"x_user_id": "ann", "x_user_scopes": "run:read", "x_smithers_key": "k", "cookie": "smithers_session=x"}
    assert door.request(**headers, origin="https://elsewhere.example") == Identity("operator", ("run:read",), "ann")
    assert door.connect("root", **headers).user_id == "ann"
    with pytest.raises(RpcError):
        door.connect("root")
    with pytest.raises(RpcError):
        door.keeper.request(raw(**headers), is_tls=False, peer="10.0.0.1")


names = st.sampled_from(
    [
        b"host",
        b"origin",
        b"authorization",
        b"x-smithers-key",
        b"cookie",
        b"x-user-id",
        b"x-user-scopes",
        b"x-forwarded-proto",
        b"Host",
    ]
) | st.binary(max_size=6)
values = st.binary(max_size=20) | st.sampled_from(
    [
        b"localhost",
        b"http://localhost",
        b"Bearer good",
        b"good",
        b"smithers_session=good",
        b"null",
        b"[::1]:1",
        b"%",
        b"a.b.c",
    ]
)


@given(
    headers=st.lists(st.tuples(names, values), max_size=6),
    token=st.none() | st.text(max_size=8),
    peer=st.none() | st.text(max_size=8),
    query=st.dictionaries(st.sampled_from(["token", "next"]), st.text(max_size=8)),
    is_tls=st.booleans(),
    auth=st.sampled_from(
        [
            None,
            tokens(),
            JwtAuth("i", "a", "a secret of thirty-two bytes, at least"),
            TrustedProxyAuth(allowed_peers=["127.0.0.1"]),
            TrustedProxyAuth(default_scopes=[]),
        ]
    ),
)
def test_headers_of_any_kind_let_in_or_raise_an_rpc_error(
    headers: list[tuple[bytes, bytes]],
    token: str | None,
    peer: str | None,
    query: dict[str, str],
    is_tls: bool,
    auth: AuthConfig | None,
) -> None:
    keeper = Doorkeeper(auth, insecure=False, trusts_any_host=False, clock_ms=lambda: NOW)
    with suppress(RpcError):
        keeper.recheck(keeper.request(headers, is_tls=is_tls, peer=peer))
    with suppress(RpcError):
        keeper.upgrade(headers, is_tls=is_tls, peer=peer)
    with suppress(RpcError):
        keeper.recheck(keeper.connect(headers, is_tls=is_tls, peer=peer, token=token))
    with suppress(RpcError):
        found = keeper.hand_off(headers, query, is_tls=is_tls, peer=peer)
        assert all("\n" not in value and "\r" not in value for _, value in found.headers)
