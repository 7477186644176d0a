"""Sessions: what stands for a bearer, for how long, and how many of them there are."""

from __future__ import annotations

import re

import pytest
from tests.unit.gateway.auth.door import HOST, NOW, Door, raw, refused, tokens

from smithers.gateway.auth.config import AuthConfig, JwtAuth, TokenAuth, TokenGrant, TrustedProxyAuth
from smithers.gateway.auth.identity import Identity
from smithers.gateway.auth.sessions import Sessions
from smithers.gateway.problems import RpcError


def test_a_session_stands_for_its_bearer_and_does_not_tell_it() -> None:
    door = Door(tokens(userId="ann"))
    cookie = door.cookie()
    assert re.fullmatch(r"smithers_session_7331=[A-Za-z0-9_-]{43}", cookie)
    assert door.request(**HOST, cookie=cookie) == door.request(authorization="good")
    assert door.connect(None, **HOST, cookie=cookie).user_id == "ann"
    assert door.request(authorization=cookie.partition("=")[2]).user_id == "ann"
    assert door.cookie() != cookie


@pytest.mark.parametrize(
    ("is_tls", "forwarded", "attributes"),
    [
        (False, "", "HttpOnly; Path=/; SameSite=Lax"),
        (True, "", "HttpOnly; Path=/; SameSite=Lax; Secure"),
        (False, "HTTPS, http", "HttpOnly; Path=/; SameSite=Lax; Secure"),
        (False, "http, https", "HttpOnly; Path=/; SameSite=Lax"),
    ],
)
def test_the_cookie_is_for_this_gateway_and_no_script(is_tls: bool, forwarded: str, attributes: str) -> None:
    headers = raw(**HOST, x_forwarded_proto=forwarded)
    found = Door(tokens()).keeper.hand_off(headers, {"token": "good"}, is_tls=is_tls, peer=None)
    assert dict(found.headers)["set-cookie"].partition("; ")[2] == attributes


def test_a_hand_off_takes_the_query_before_the_headers_and_goes_on_to_next() -> None:
    door = Door(tokens())

    def hand_off(query: dict[str, str], **headers: str) -> str:
        return door.keeper.hand_off(raw(**HOST, **headers), query, is_tls=False, peer=None).html

    assert 'location.replace("/console")' in hand_off({"token": "good", "next": "/console"}, authorization="bad")
    assert 'location.replace("/")' in hand_off({"next": "//evil"}, authorization="good")
    with pytest.raises(RpcError, match="Invalid token"):
        hand_off({"token": "bad"}, authorization="good")
    with pytest.raises(RpcError, match="required"):
        hand_off({"token": ""})
    assert hand_off({"token": ""}, authorization="good")
    with pytest.raises(RpcError, match="Origin"):
        hand_off({}, cookie="smithers_session_7331=good", origin="https://evil.example")


def test_a_hand_off_with_a_session_goes_on_with_it() -> None:
    door = Door(tokens())
    cookie = door.cookie()
    again = door.keeper.hand_off(raw(**HOST, cookie=cookie), {}, is_tls=False, peer=None)
    assert dict(again.headers)["set-cookie"].startswith(cookie + ";")
    assert len(door.keeper.sessions) == 1


@pytest.mark.parametrize("auth", [None, TrustedProxyAuth(default_scopes=["*"])])
def test_without_a_bearer_the_hand_off_sets_no_cookie(auth: AuthConfig | None) -> None:
    found = Door(auth).keeper.hand_off(raw(host="localhost"), {"token": "good"}, is_tls=False, peer=None)
    assert "set-cookie" not in dict(found.headers)


def test_a_session_ends_with_the_term_of_its_token() -> None:
    door = Door(tokens(expiresAtMs=NOW + 10))
    cookie = door.cookie()
    door.now_ms += 9
    assert door.request(**HOST, cookie=cookie)
    door.now_ms += 1
    with pytest.raises(RpcError) as error:
        door.request(**HOST, cookie=cookie)
    assert refused(error) == "Token expired; issue a refreshed token."
    assert error.value.extras == {"refresh": "smithers token issue"}
    assert len(door.keeper.sessions) == 0


def test_a_revoked_token_takes_its_sessions_along_for_good() -> None:
    auth = tokens()
    door = Door(auth)
    used, unused = door.cookie(), door.cookie()
    auth.revoke("ci")
    with pytest.raises(RpcError, match="revoked"):
        door.request(**HOST, cookie=used)
    auth.grant("good", TokenGrant("operator", ("*",), token_id="ci"))
    for cookie in (used, unused):
        with pytest.raises(RpcError):
            door.request(**HOST, cookie=cookie)
    assert door.request(authorization="good")


def test_a_session_of_a_jwt_ends_with_it() -> None:
    import jwt

    claims = {"iss": "i", "aud": "a", "exp": NOW // 1000 + 10, "scope": "run:read"}
    secret = "a secret of thirty-two bytes, at least"
    door = Door(JwtAuth("i", "a", secret, clock_skew_seconds=0))
    cookie = door.cookie(jwt.encode(claims, secret, "HS256"))
    identity = door.request(**HOST, cookie=cookie)
    assert identity.scopes == ("run:read",)
    door.keeper.recheck(identity)
    door.now_ms += 10_000
    with pytest.raises(RpcError, match="JWT has expired"):
        door.keeper.recheck(identity)
    with pytest.raises(RpcError, match="JWT has expired"):
        door.request(**HOST, cookie=cookie)
    with pytest.raises(RpcError, match="required"):
        door.request(**HOST)


def test_sessions_are_bounded_for_all_and_for_each_bearer() -> None:
    sessions = Sessions(limit=4, limit_per_credential=2)
    for number in range(20):
        sessions.begin(Identity(credential=f"bearer {number % 5}"))
        assert len(sessions) <= 4
    for _ in range(20):
        sessions.begin(Identity(credential="greedy"))
    assert len(sessions) == 4
    sessions.end("unknown")


def test_a_greedy_bearer_ends_only_its_own_sessions() -> None:
    door = Door(TokenAuth({"good": TokenGrant("operator", ("*",)), "greedy": TokenGrant("operator", ("*",))}))
    cookie = door.cookie()
    greedy = [door.cookie("greedy") for _ in range(150)][-1]
    assert len(door.keeper.sessions) == 101
    assert door.request(**HOST, cookie=cookie)
    assert door.request(**HOST, cookie=greedy)
