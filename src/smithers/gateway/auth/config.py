"""Config: the ways to authenticate, typed, or as a mapping with the contract's keys (or ours)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias, cast

from smithers.errors import InvalidInput
from smithers.gateway.auth.checks import fields_of
from smithers.gateway.auth.jwts import JwtAuth
from smithers.gateway.auth.proxies import TrustedProxyAuth
from smithers.gateway.auth.tokens import TokenAuth, TokenGrant

__all__ = ["AuthConfig", "JwtAuth", "TokenAuth", "TokenGrant", "TrustedProxyAuth", "parse_auth"]

AuthConfig: TypeAlias = TokenAuth | JwtAuth | TrustedProxyAuth

_JWT_FIELDS = frozenset(name for name in JwtAuth.__dataclass_fields__ if not name.startswith("_"))
_PROXY_FIELDS = frozenset(name for name in TrustedProxyAuth.__dataclass_fields__ if not name.startswith("_"))


def parse_auth(value: AuthConfig | Mapping[str, object] | None) -> AuthConfig | None:
    """How a Gateway authenticates. Raises `InvalidInput` that names the field; secrets are in no message."""
    if value is None or isinstance(value, TokenAuth | JwtAuth | TrustedProxyAuth):
        return value
    if not isinstance(value, Mapping):
        raise InvalidInput("auth: must be an object with a mode")
    given = {key: item for key, item in value.items() if key != "mode"}
    match value.get("mode"):
        case "token":
            found = fields_of("auth", given, ("tokens", "allowed_origins"), ("tokens",))
            tokens = cast("Mapping[str, Mapping[str, object]]", found.pop("tokens"))
            return TokenAuth(tokens, **found)  # type: ignore[arg-type]
        case "jwt":
            # every field is looked at by the class itself
            return JwtAuth(**fields_of("auth", given, _JWT_FIELDS, ("issuer", "audience")))  # type: ignore[arg-type]
        case "trusted-proxy":
            return TrustedProxyAuth(**fields_of("auth", given, _PROXY_FIELDS, ()))  # type: ignore[arg-type]
        case _:
            raise InvalidInput("auth.mode: must be token, jwt or trusted-proxy")
