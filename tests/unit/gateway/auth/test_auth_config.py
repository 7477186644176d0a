"""How authentication is configured: both spellings of keys, every mistake named, no secret shown."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import pytest

from smithers.errors import InvalidInput
from smithers.gateway.auth.config import JwtAuth, TokenAuth, TokenGrant, TrustedProxyAuth, parse_auth

SECRET = "a secret of thirty-two bytes, at least"
JWT: dict[str, object] = {"mode": "jwt", "issuer": "https://issuer", "audience": "gateway", "secret": SECRET}


def token(**grant: object) -> dict[str, object]:
    return {"mode": "token", "tokens": {"s3cret-t0ken": {"role": "operator", "scopes": ["*"], **grant}}}


def test_nothing_and_typed_values_pass_through() -> None:
    auth = TokenAuth({})
    assert parse_auth(None) is None
    assert parse_auth(auth) is auth


def test_keys_may_be_of_either_spelling() -> None:
    camel = parse_auth({**JWT, "clockSkewSeconds": -5, "scopesClaim": "scp", "defaultScopes": [" run:read ", ""]})
    snake = parse_auth({**JWT, "clock_skew_seconds": 0, "scopes_claim": "scp", "default_scopes": ["run:read"]})
    assert camel == snake
    proxy = parse_auth({"mode": "trusted-proxy", "trustedHeaders": ["X-User"], "defaultRole": "viewer"})
    assert isinstance(proxy, TrustedProxyAuth)
    assert proxy.trusted_headers == ("x-user", "x-user-scopes", "x-user-role")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("token", "auth: must be an object"),
        ({}, "auth.mode: must be"),
        ({"mode": "none"}, "auth.mode: must be"),
        ({"mode": "token"}, "auth.tokens: is required"),
        ({"mode": "token", "tokens": []}, "auth.tokens: must be an object"),
        ({"mode": "token", "tokens": {}, "secret": "x"}, "unknown field 'secret'"),
        ({"mode": "token", "tokens": {}, "allowedOrigins": "https://a"}, "auth.allowedOrigins: must be a list"),
        ({"mode": "token", "tokens": {7: {}}}, "a token must be a string"),
        ({"mode": "token", "tokens": {" ": {}}}, "a token must be a string that is not empty"),
        ({"mode": "token", "tokens": {"t": None}}, "must be an object"),
        ({"mode": "token", "tokens": {"t": {"role": "x"}}}, "scopes: is required"),
        (token(scopes="*"), "scopes: must be a list"),
        (token(scopes=[1]), "scopes: must be a list"),
        (token(role=""), "role: must be a string"),
        (token(userId=7), "userId: must be a string"),
        (token(expiresAtMs="tomorrow"), "expiresAtMs: must be a whole number"),
        (token(revokedAtMs=True), "revokedAtMs: must be a whole number"),
        (token(ExpiresAtMs=1), "unknown field 'ExpiresAtMs'"),
        (token(expiresAtMs=1, expires_at_ms=1), "expiresAtMs: is given twice"),
        ({**JWT, "issuer": None}, "auth.issuer: is required"),
        ({**JWT, "issuer": 7}, "auth.issuer: must be a string"),
        ({**JWT, "audience": []}, "auth.audience: must name"),
        ({**JWT, "audience": 7}, "auth.audience: must be a list"),
        ({**JWT, "secret": ""}, "auth.secret: must be a string that is not empty"),
        ({**JWT, "secret": None}, "auth.secret: is required for HS256"),
        ({**JWT, "secret": "-----BEGIN PUBLIC KEY-----"}, "auth.secret: is a key in PEM"),
        ({**JWT, "algorithms": ["none"]}, "auth.algorithms: must be of"),
        ({**JWT, "algorithms": []}, "auth.algorithms: must be of"),
        ({**JWT, "algorithms": ["RS256"], "keys": "x"}, "auth.secret: is required for HS256, and for nothing else"),
        ({**JWT, "algorithms": ["HS256", "RS256"]}, "auth.keys: RS256"),
        ({**JWT, "keys": "x"}, "HS256 needs neither"),
        ({**JWT, "clockSkewSeconds": "60"}, "auth.clockSkewSeconds: must be a number"),
        ({**JWT, "clockSkewSeconds": float("nan")}, "auth.clockSkewSeconds: must be a number"),
        ({**JWT, "roleClaim": ""}, "auth.roleClaim: must be"),
        ({**JWT, "_public_keys": None}, "unknown field"),
        ({"mode": "trusted-proxy", "trustedHeaders": ["a", "b", "c", "d"]}, "at most three"),
        ({"mode": "trusted-proxy", "trustedHeaders": ["a", ""]}, "at most three"),
        ({"mode": "trusted-proxy", "trustedHeaders": ["x-user-role"]}, "different names"),
        ({"mode": "trusted-proxy", "trustedHeaders": ["a: b"]}, "different names"),
        ({"mode": "trusted-proxy", "allowedPeers": ["10.0.0.1/8"]}, "auth.allowedPeers: must be"),
        ({"mode": "trusted-proxy", "defaultScopes": "*"}, "auth.defaultScopes: must be a list"),
    ],
)
def test_a_mistake_is_named_and_no_token_is_told(value: Mapping[str, object], message: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        parse_auth(value)
    assert message in refused.value.summary
    assert "s3cret-t0ken" not in refused.value.summary


def test_no_secret_is_in_a_repr_or_kept_in_clear() -> None:
    auth = parse_auth(token())
    assert isinstance(auth, TokenAuth)
    assert "s3cret" not in repr(auth)
    assert not any("s3cret" in repr(getattr(auth, name)) for name in TokenAuth.__slots__)
    assert SECRET not in repr(parse_auth(JWT))


def test_typed_classes_look_at_their_fields_too() -> None:
    with pytest.raises(InvalidInput, match="role"):
        TokenAuth({"t": TokenGrant(role="", scopes=("*",))})
    with pytest.raises(InvalidInput, match="secret"):
        JwtAuth(issuer="i", audience="a", secret=" ")


def test_a_short_secret_is_taken_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert parse_auth({**JWT, "secret": "short"}) is not None
    assert "secret is short" in caplog.text
    assert "'short'" not in caplog.text


def test_public_keys_must_be_there_and_public(tmp_path: Path) -> None:
    base = {key: value for key, value in JWT.items() if key != "secret"} | {"algorithms": ["RS256"]}
    broken = tmp_path / "keys.json"
    broken.write_text("{}")
    mistakes: list[dict[str, object]] = [
        {"keys": "no PEM"},
        {"keys": {}},
        {"keys": {"a": 7}},
        {"keys": 7},
        {"jwksFile": 7},
        {"jwksFile": str(tmp_path / "missing.json")},
        {"jwksFile": broken},
    ]
    for extra in mistakes:
        with pytest.raises(InvalidInput, match=r"auth\.(keys|jwksFile): "):
            parse_auth({**base, **extra})
