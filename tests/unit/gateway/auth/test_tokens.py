"""Opaque tokens: who gets in, who no longer does, and what happens to those who are in."""

from __future__ import annotations

import hashlib

import pytest

from smithers.gateway.auth.identity import Identity
from smithers.gateway.auth.tokens import TokenAuth, TokenGrant, digest_of
from smithers.gateway.problems import RpcError

NOW = 1_000_000
REFRESH = {"refresh": "smithers token issue"}


def verify(auth: TokenAuth, token: str, now_ms: int = NOW) -> Identity:
    return auth.verify(digest_of(token.encode()), now_ms)


def refusal(auth: TokenAuth, token: str, now_ms: int = NOW) -> tuple[str, dict[str, object]]:
    with pytest.raises(RpcError) as refused:
        verify(auth, token, now_ms)
    assert refused.value.error_code == "UNAUTHORIZED"
    return refused.value.summary, refused.value.extras


def auth_of(**grant: object) -> TokenAuth:
    return TokenAuth({"good": {"role": "operator", "scopes": [" run:read "], **grant}})


def test_a_token_brings_its_grant_and_an_id_from_its_hash() -> None:
    found = verify(auth_of(userId="ann", expiresAtMs=NOW + 1), "good")
    assert found == Identity(
        "operator", ("run:read",), "ann", hashlib.sha256(b"good").hexdigest()[:16], expires_at_ms=NOW + 1
    )
    assert verify(auth_of(tokenId="ci"), "good").token_id == "ci"


@pytest.mark.parametrize(
    "token",
    [
        "bad",
        "",
        "good ",
        "GOOD",
        "__proto__",
        "constructor",
        "toString",
        "__class__",
        hashlib.sha256(b"good").hexdigest(),
    ],
)
def test_what_is_no_token_is_refused(token: str) -> None:
    assert refusal(auth_of(), token) == ("Invalid token", {})


def test_moments_are_the_first_instant_of_refusal_and_revocation_wins() -> None:
    expiring = auth_of(expiresAtMs=NOW)
    assert verify(expiring, "good", NOW - 1)
    assert refusal(expiring, "good") == ("Token expired; issue a refreshed token.", REFRESH)
    both = auth_of(expiresAtMs=NOW - 10, revokedAtMs=NOW)
    assert refusal(both, "good") == ("Token has been revoked", REFRESH)
    assert refusal(both, "good", NOW - 1)[0].startswith("Token expired")


@pytest.mark.parametrize("named_by", ["good", "ci", hashlib.sha256(b"good").hexdigest()[:16]])
def test_a_token_is_revoked_by_itself_or_by_its_id(named_by: str) -> None:
    auth = auth_of(tokenId="ci")
    seen = verify(auth, "good")
    assert auth.revoke(named_by)
    assert refusal(auth, "good") == ("Token has been revoked", REFRESH)
    with pytest.raises(RpcError, match="revoked"):
        auth.recheck(seen, NOW)
    assert not auth.revoke("unknown")


def test_a_revocation_ahead_waits_for_its_moment() -> None:
    auth = auth_of()
    seen = verify(auth, "good")
    auth.revoke("good", at_ms=NOW + 5)
    auth.recheck(seen, NOW + 4)
    with pytest.raises(RpcError, match="revoked"):
        auth.recheck(seen, NOW + 5)


def test_who_was_revoked_stays_out_when_the_token_is_granted_again() -> None:
    auth = auth_of()
    seen = verify(auth, "good")
    auth.revoke("good")
    auth.grant("good", TokenGrant("operator", ("run:read",)))
    assert verify(auth, "good")
    with pytest.raises(RpcError, match="has changed"):
        auth.recheck(seen, NOW)


def test_who_is_in_stays_for_a_longer_term_but_not_with_old_rights() -> None:
    auth = auth_of(expiresAtMs=NOW + 1)
    seen = verify(auth, "good")
    auth.grant("good", TokenGrant("operator", ("run:read",), expires_at_ms=NOW + 100))
    auth.recheck(seen, NOW + 50)
    auth.grant("good", TokenGrant("operator", ("cron:read",), expires_at_ms=NOW + 100))
    with pytest.raises(RpcError, match="has changed"):
        auth.recheck(seen, NOW)


def test_an_identity_without_a_bearer_has_nothing_to_recheck() -> None:
    auth_of().recheck(Identity(role="system"), NOW)
    with pytest.raises(RpcError, match="Invalid token"):
        auth_of().recheck(Identity(credential="of another gateway"), NOW)
