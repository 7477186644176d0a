"""A doorkeeper for tests, and what is sent to it."""

from __future__ import annotations

import pytest

from smithers.gateway.auth.config import AuthConfig, TokenAuth
from smithers.gateway.auth.doorkeeper import Doorkeeper
from smithers.gateway.auth.identity import Identity
from smithers.gateway.problems import RpcError

NOW = 1_000_000
HOST = {"host": "gateway.example:7331"}


class Door:
    """A doorkeeper with a clock to turn, asked with headers as a mapping or as pairs."""

    def __init__(
        self,
        auth: AuthConfig | None,
        *,
        insecure: bool = False,
        trusts: bool = False,
        origins: str = "",
        is_tls: bool = False,
    ) -> None:
        self.now_ms = NOW
        self.is_tls = is_tls
        self.keeper = Doorkeeper(
            auth,
            insecure=insecure,
            trusts_any_host=trusts,
            allowed_origins=origins.split(),
            clock_ms=lambda: self.now_ms,
        )

    def request(self, *pairs: tuple[str, str], **headers: str) -> Identity:
        return self.keeper.request(raw(*pairs, **headers), is_tls=self.is_tls, peer="127.0.0.1")

    def upgrade(self, *pairs: tuple[str, str], **headers: str) -> None:
        self.keeper.upgrade(raw(*pairs, **headers), is_tls=self.is_tls, peer="127.0.0.1")

    def connect(self, token: str | None, **headers: str) -> Identity:
        return self.keeper.connect(raw(**headers), is_tls=self.is_tls, peer="127.0.0.1", token=token)

    def cookie(self, token: str = "good", **headers: str) -> str:
        """Begin a session; the pair that a browser sends from then on."""
        found = self.keeper.hand_off(raw(**(HOST | headers)), {"token": token}, is_tls=False, peer=None)
        return dict(found.headers)["set-cookie"].partition(";")[0]


def raw(*pairs: tuple[str, str], **headers: str) -> list[tuple[bytes, bytes]]:
    every = [*((name.replace("_", "-"), value) for name, value in headers.items()), *pairs]
    return [(name.encode(), value.encode("utf-8")) for name, value in every]


def tokens(**grant: object) -> TokenAuth:
    return TokenAuth({"good": {"role": "operator", "scopes": ["*"], "tokenId": "ci", **grant}})


def refused(error: pytest.ExceptionInfo[RpcError]) -> str:
    assert error.value.error_code == "UNAUTHORIZED"
    assert error.value.http_status == 401
    return error.value.summary
