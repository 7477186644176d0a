"""Trusted proxies: whom their headers name, and what is refused rather than guessed."""

from __future__ import annotations

import pytest

from smithers.gateway.auth.identity import Identity
from smithers.gateway.auth.proxies import TrustedProxyAuth
from smithers.gateway.auth.sent import Headers, Sent
from smithers.gateway.problems import RpcError

FULL: list[tuple[bytes, bytes]] = [
    (b"x-user-id", b"ann"),
    (b"x-user-scopes", b"run:read, cron:read  approval:submit"),
    (b"x-user-role", b"reviewer"),
    (b"x-smithers-token-id", b"t-1"),
]


def identify(auth: TrustedProxyAuth, headers: Headers, peer: str | None = None) -> Identity:
    return auth.identify(Sent(headers), peer)


def test_the_headers_say_who_it_is() -> None:
    scopes = ("run:read", "cron:read", "approval:submit")
    assert identify(TrustedProxyAuth(), FULL) == Identity("reviewer", scopes, "ann", "t-1")


def test_renamed_headers_replace_the_usual_ones() -> None:
    auth = TrustedProxyAuth(trusted_headers=["X-Remote-User", "X-Groups"])
    headers = [(b"X-REMOTE-USER", b"bob"), (b"x-groups", b"run:read"), *FULL]
    assert identify(auth, headers) == Identity("reviewer", ("run:read",), "bob", "t-1")


@pytest.mark.parametrize("scopes", [[], [(b"x-user-scopes", b"")], [(b"x-user-scopes", b" , ")]])
def test_without_scopes_the_default_counts_or_nobody_comes_in(scopes: list[tuple[bytes, bytes]]) -> None:
    assert identify(TrustedProxyAuth(default_scopes=["run:read"]), scopes) == Identity("operator", ("run:read",))
    assert identify(TrustedProxyAuth(default_scopes=[]), scopes).scopes == ()
    with pytest.raises(RpcError) as refused:
        identify(TrustedProxyAuth(), scopes)
    assert refused.value.error_code == "UNAUTHORIZED"


def test_roles_have_a_default() -> None:
    headers = FULL[:2]
    assert identify(TrustedProxyAuth(), headers).role == "operator"
    assert identify(TrustedProxyAuth(default_role="viewer"), headers).role == "viewer"


@pytest.mark.parametrize("name", [name for name, _ in FULL])
def test_a_header_given_twice_names_nobody(name: bytes) -> None:
    with pytest.raises(RpcError, match="more than once"):
        identify(TrustedProxyAuth(), [*FULL, (name, b"root")])


@pytest.mark.parametrize("peer", ["10.1.2.3", "::ffff:10.1.2.3", "fd00::1"])
def test_listed_proxies_are_believed(peer: str) -> None:
    assert identify(TrustedProxyAuth(allowed_peers=["10.0.0.0/8", "fd00::/8"]), FULL, peer).user_id == "ann"


@pytest.mark.parametrize("peer", ["11.0.0.1", "::ffff:11.0.0.1", "fe80::1", "", "10.0.0.1:80", "proxy", None])
def test_others_are_not(peer: str | None) -> None:
    with pytest.raises(RpcError, match="not a trusted proxy"):
        identify(TrustedProxyAuth(allowed_peers=["10.0.0.0/8", "fd00::/8"]), FULL, peer)


def test_an_empty_list_of_proxies_believes_nobody() -> None:
    with pytest.raises(RpcError, match="not a trusted proxy"):
        identify(TrustedProxyAuth(allowed_peers=[]), FULL, "127.0.0.1")
