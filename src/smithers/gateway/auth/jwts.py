"""JWTs: bearers that another party signed. Verified in the order of the contract, with its messages.

An algorithm never comes from the token alone: it must be one of the configured ones, and secrets and public keys are
apart, so that neither `none` nor a public key taken for a secret can pass.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import logging
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn, Protocol, cast

from pydantic_core import from_json

from smithers.errors import InvalidInput
from smithers.gateway.auth.checks import seconds, text, texts
from smithers.gateway.auth.identity import Identity
from smithers.gateway.auth.tokens import REFRESH, digest_of, token_id_of
from smithers.gateway.problems import RpcError
from smithers.jsons import list_of, text_of

if TYPE_CHECKING:
    from smithers.gateway.auth.keys import Key

log = logging.getLogger(__name__)

PUBLIC_KEY_ALGORITHMS: Final = frozenset({"RS256", "ES256", "EdDSA"})
MAX_JWT_BYTES: Final = 16_384
MIN_SECRET_BYTES: Final = 32
FAR_S: Final = 10**12
"""Some 30,000 years, in seconds."""

_SEGMENT: Final = re.compile(rb"[A-Za-z0-9_-]+")
_BETWEEN: Final = re.compile(r"[\s,]+")


class _Keys(Protocol):
    def current(self) -> tuple[Key, ...]: ...


@dataclass(frozen=True, slots=True)
class JwtAuth:
    """Authentication by JWTs.

    Attributes:
        issuer: what `iss` must be.
        audience: `aud` must hold one of these.
        secret: the key of HS256.
        algorithms: what tokens may be signed with: HS256, RS256, ES256, EdDSA.
        keys: public keys in PEM, one or several by `kid`.
        jwks_file: a file with public keys, read again when it changes; instead of `keys`.
        default_scopes: the grants of a token that names none.
        clock_skew_seconds: how far the issuer's clock may be off.
        required_claims: claims that a token must have beside `iss`, `aud` and `exp`.
        allowed_origins: pages that may use this Gateway, exactly as browsers name them; empty for any.
    """

    issuer: str
    audience: str | Sequence[str]
    secret: str | None = field(default=None, repr=False)
    algorithms: Sequence[str] = ("HS256",)
    keys: str | Mapping[str, str] | None = field(default=None, repr=False)
    jwks_file: str | Path | None = None
    scopes_claim: str = "scope"
    role_claim: str = "role"
    user_claim: str = "sub"
    default_role: str = "operator"
    default_scopes: Sequence[str] = ()
    clock_skew_seconds: float = 60
    required_claims: Sequence[str] = ()
    allowed_origins: Sequence[str] = ()
    _audiences: tuple[str, ...] = field(init=False, repr=False, compare=False, default=())
    _public_keys: _Keys | None = field(init=False, repr=False, compare=False, default=None)

    def __post_init__(self) -> None:
        """Looks at every field. Raises `InvalidInput`."""
        text("auth.issuer", self.issuer)
        set_field = object.__setattr__
        is_single = isinstance(self.audience, str)
        audiences = (text("auth.audience", self.audience),) if is_single else texts("auth.audience", self.audience)
        if not audiences:
            raise InvalidInput("auth.audience: must name an audience")
        set_field(self, "_audiences", audiences)
        for name, where in (("scopes_claim", "scopesClaim"), ("role_claim", "roleClaim"), ("user_claim", "userClaim")):
            text(f"auth.{where}", getattr(self, name))
        text("auth.defaultRole", self.default_role)
        set_field(self, "default_scopes", texts("auth.defaultScopes", self.default_scopes))
        set_field(self, "clock_skew_seconds", seconds("auth.clockSkewSeconds", self.clock_skew_seconds))
        set_field(self, "required_claims", texts("auth.requiredClaims", self.required_claims))
        set_field(self, "allowed_origins", texts("auth.allowedOrigins", self.allowed_origins))
        set_field(self, "algorithms", texts("auth.algorithms", self.algorithms))
        self._check_algorithms()
        set_field(self, "_public_keys", self._load_keys())

    def _check_algorithms(self) -> None:
        wanted = set(self.algorithms)
        if not wanted or wanted - PUBLIC_KEY_ALGORITHMS - {"HS256"}:
            raise InvalidInput("auth.algorithms: must be of HS256, RS256, ES256, EdDSA")
        if ("HS256" in wanted) != (self.secret is not None):
            raise InvalidInput("auth.secret: is required for HS256, and for nothing else")
        if self.secret is not None:
            text("auth.secret", self.secret)
            if "-----BEGIN" in self.secret:
                raise InvalidInput("auth.secret: is a key in PEM; public keys go into auth.keys")
            if len(self.secret.encode()) < MIN_SECRET_BYTES:
                log.warning("the JWT secret is short; give it at least %d bytes", MIN_SECRET_BYTES)
        given = (self.keys is not None) + (self.jwks_file is not None)
        if given != bool(wanted & PUBLIC_KEY_ALGORITHMS):
            raise InvalidInput("auth.keys: RS256, ES256 and EdDSA need either keys or jwksFile, HS256 needs neither")

    def _load_keys(self) -> _Keys | None:
        if self.keys is None and self.jwks_file is None:
            return None
        from smithers.gateway.auth.keys import FixedKeys, JwksFile

        if self.jwks_file is not None:
            if not isinstance(self.jwks_file, str | Path):
                raise InvalidInput("auth.jwksFile: must be a path")
            return JwksFile(Path(self.jwks_file), "auth.jwksFile")
        if not isinstance(self.keys, str | Mapping) or not self.keys:
            raise InvalidInput("auth.keys: must be a PEM text, or PEM texts by kid")
        named = () if isinstance(self.keys, str) else self.keys.items()
        if not all(isinstance(kid, str) and isinstance(pem, str) for kid, pem in named):
            raise InvalidInput("auth.keys: must be a PEM text, or PEM texts by kid")
        return FixedKeys(self.keys, "auth.keys")

    def verify(self, token: bytes, now_ms: int) -> Identity:
        """Who bears this token. Raises `RpcError` (`UNAUTHORIZED`)."""
        parts = token.split(b".")
        if len(token) > MAX_JWT_BYTES or len(parts) != 3:
            _refuse("Malformed JWT")
        header, claims = _object(parts[0]), _object(parts[1])
        if header is None or claims is None or not parts[2]:
            _refuse("Malformed JWT")
        algorithm = text_of(header.get("alg"))
        if algorithm is None or algorithm not in self.algorithms:
            _refuse("Unsupported JWT algorithm")
        if "crit" in header:
            _refuse("Unsupported JWT header crit")  # it says that who does not know it must refuse
        signed = token[: len(parts[0]) + 1 + len(parts[1])]
        signature = decoded(parts[2])
        if signature is None or not self._is_signed(algorithm, header.get("kid"), signed, signature):
            _refuse("JWT signature verification failed")
        expires_at_ms = self._check_claims(claims, now_ms)
        digest = digest_of(token)
        return Identity(
            role=text_of(claims.get(self.role_claim)) or self.default_role,
            scopes=split_scopes(claims.get(self.scopes_claim)) or tuple(self.default_scopes),
            user_id=text_of(claims.get(self.user_claim)) or None,
            token_id=token_id_of(digest),
            expires_at_ms=expires_at_ms,
            credential=digest,
        )

    def recheck(self, identity: Identity, now_ms: int) -> None:
        """Whether an identity of before still holds. Raises `RpcError` (`UNAUTHORIZED`)."""
        if identity.expires_at_ms is not None and identity.expires_at_ms <= now_ms:
            raise RpcError("UNAUTHORIZED", "JWT has expired", refresh=REFRESH)

    def _is_signed(self, algorithm: str, kid: object, signed: bytes, signature: bytes) -> bool:
        if algorithm == "HS256":
            wanted = hmac.digest((self.secret or "").encode(), signed, hashlib.sha256)
            return self.secret is not None and hmac.compare_digest(wanted, signature)
        keys = self._public_keys.current() if self._public_keys is not None else ()
        return any(
            key.verify(signed, signature)
            for key in keys
            if key.algorithm == algorithm and (kid is None or key.kid is None or key.kid == kid)
        )

    def _check_claims(self, claims: dict[str, object], now_ms: int) -> int:
        if claims.get("iss") != self.issuer:
            _refuse("JWT issuer did not match")
        audience = claims.get("aud")
        if not any(one in self._audiences for one in ([audience] if isinstance(audience, str) else list_of(audience))):
            _refuse("JWT audience did not match")
        skew_ms = math.ceil(self.clock_skew_seconds * 1000)
        expires_ms = _moment_ms(claims.get("exp"))
        if expires_ms is None:
            _refuse("JWT is missing a valid exp claim")
        if now_ms - skew_ms >= expires_ms:
            raise RpcError("UNAUTHORIZED", "JWT has expired", refresh=REFRESH)
        begins_ms = _moment_ms(claims.get("nbf"))
        if begins_ms is not None and now_ms + skew_ms < begins_ms:
            _refuse("JWT is not active yet")
        for name in self.required_claims:
            if claims.get(name) is None:
                _refuse(f"JWT is missing the {name} claim")
        return expires_ms + skew_ms


def split_scopes(value: object) -> tuple[str, ...]:
    """Grants from a list of strings, or from a string that separates them by spaces or commas."""
    texts_found = _BETWEEN.split(value) if isinstance(value, str) else [text_of(item) or "" for item in list_of(value)]
    return tuple(found for one in texts_found if (found := one.strip()))


def decoded(segment: bytes) -> bytes | None:
    """The bytes of a segment, or None unless it is base64url without padding, written in the one canonical way."""
    if not _SEGMENT.fullmatch(segment):
        return None
    try:
        found = base64.urlsafe_b64decode(segment + b"=" * (-len(segment) % 4))
    except binascii.Error:
        return None
    # the last character has bits that stand for nothing: two spellings of one signature would be two token ids
    return found if base64.urlsafe_b64encode(found).rstrip(b"=") == segment else None


def _object(segment: bytes) -> dict[str, object] | None:
    raw = decoded(segment)
    if raw is None:
        return None
    try:
        value: object = from_json(raw, allow_inf_nan=False)
    except ValueError:
        return None
    return cast("dict[str, object]", value) if isinstance(value, dict) else None


def _moment_ms(value: object) -> int | None:
    # what is further away than anybody's clock goes is as good as never; no timer takes numbers of any size
    if isinstance(value, int) and not isinstance(value, bool):
        return max(-FAR_S, min(value, FAR_S)) * 1000
    if isinstance(value, float) and math.isfinite(value):
        return math.ceil(max(-FAR_S, min(value, FAR_S)) * 1000)
    return None


def _refuse(message: str) -> NoReturn:
    raise RpcError("UNAUTHORIZED", message)
