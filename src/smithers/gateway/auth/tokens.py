"""Tokens: opaque bearers and what each is granted. Known by their SHA-256 only; the tokens themselves are not kept."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from smithers.errors import InvalidInput
from smithers.gateway.auth.checks import fields_of, milliseconds, optional_text, text, texts
from smithers.gateway.auth.identity import Identity
from smithers.gateway.problems import RpcError

REFRESH: Final = "smithers token issue"


@dataclass(frozen=True, slots=True)
class TokenGrant:
    """What a token brings.

    Attributes:
        token_id: names the token in records; by default the first 16 hex digits of its SHA-256.
        issued_at_ms: informative. Moments are epoch milliseconds.
        revoked_at_ms: from when on the token is refused; wins over its expiry.
    """

    role: str
    scopes: tuple[str, ...]
    user_id: str | None = None
    token_id: str | None = None
    issued_at_ms: int | None = None
    expires_at_ms: int | None = None
    revoked_at_ms: int | None = None

    @classmethod
    def of(cls, value: TokenGrant | Mapping[str, object], where: str = "grant") -> TokenGrant:
        """A grant whose every field was looked at. Raises `InvalidInput`."""
        if isinstance(value, TokenGrant):
            value = {name: getattr(value, name) for name in cls.__dataclass_fields__}
        if not isinstance(value, Mapping):
            raise InvalidInput(f"{where}: must be an object")
        given = fields_of(where, value, cls.__dataclass_fields__, ("role", "scopes"))
        return cls(
            role=text(f"{where}.role", given["role"]),
            scopes=texts(f"{where}.scopes", given["scopes"]),
            user_id=optional_text(f"{where}.userId", given.get("user_id")),
            token_id=optional_text(f"{where}.tokenId", given.get("token_id")),
            issued_at_ms=milliseconds(f"{where}.issuedAtMs", given.get("issued_at_ms")),
            expires_at_ms=milliseconds(f"{where}.expiresAtMs", given.get("expires_at_ms")),
            revoked_at_ms=milliseconds(f"{where}.revokedAtMs", given.get("revoked_at_ms")),
        )


@dataclass(frozen=True, slots=True)
class _Entry:
    grant: TokenGrant
    token_id: str
    revision: int


class TokenAuth:
    """Authentication by opaque tokens. Tokens may be granted and revoked while the Gateway runs.

    Args:
        tokens: grants by token.
        allowed_origins: pages that may use this Gateway, exactly as browsers name them; empty for any.
    """

    __slots__ = ("_by_digest", "_loaded", "_watchers", "allowed_origins", "on_unknown")

    def __init__(
        self, tokens: Mapping[str, TokenGrant | Mapping[str, object]], *, allowed_origins: Sequence[str] = ()
    ) -> None:
        if not isinstance(tokens, Mapping):
            raise InvalidInput("auth.tokens: must be an object")
        self.allowed_origins = texts("auth.allowedOrigins", allowed_origins)
        self._by_digest: dict[str, _Entry] = {}
        self._loaded: set[str] = set()
        """Those that `load` has let in."""
        self._watchers: list[Callable[[], None]] = []
        self.on_unknown: Callable[[], None] | None = None
        """Called before a token is refused that nobody knows: it may have been granted elsewhere just now."""
        for token, grant in tokens.items():
            self.grant(token, grant)

    def __repr__(self) -> str:
        return f"TokenAuth({len(self._by_digest)} tokens)"

    def grant(self, token: str, grant: TokenGrant | Mapping[str, object]) -> str:
        """Let a token in, or change what it brings; returns its id. Raises `InvalidInput`.

        Connections of the token go on if only moments change; they end if its rights do, or if it was revoked before.
        """
        if not isinstance(token, str) or not token.strip():
            raise InvalidInput("auth.tokens: a token must be a string that is not empty")
        digest = digest_of(token.encode("utf-8", "surrogatepass"))
        token_id = self._let_in(digest, TokenGrant.of(grant, f"auth.tokens[{token_id_of(digest)}]"))
        self._tell()
        return token_id

    def load(self, grants: Mapping[str, TokenGrant]) -> None:
        """Let exactly these in, by the SHA-256 of their tokens, beside those that were granted one by one.

        What an earlier call has let in and this one leaves out is refused from now on.
        """
        for digest in self._loaded - grants.keys():
            self._by_digest.pop(digest, None)
        own = self._by_digest.keys() - self._loaded
        self._loaded = set(grants) - own
        for digest in self._loaded:
            self._let_in(digest, grants[digest])
        self._tell()

    def _let_in(self, digest: str, found: TokenGrant) -> str:
        entry = _Entry(found, found.token_id or token_id_of(digest), 0)
        if (before := self._by_digest.get(digest)) is not None:
            goes_on = before.grant.revoked_at_ms is None and _rights(before) == _rights(entry)
            entry = replace(entry, revision=before.revision + (not goes_on))
        self._by_digest[digest] = entry
        return entry.token_id

    def revoke(self, token_or_id: str, *, at_ms: int = 0) -> bool:
        """Refuse a token, named by itself or by its id, from a moment on; returns whether there is one.

        What it began before stays ended, even if the token is granted again.
        """
        digest = digest_of(token_or_id.encode("utf-8", "surrogatepass"))
        found = [
            (key, entry)
            for key, entry in list(self._by_digest.items())
            if key == digest or token_or_id in (entry.token_id, token_id_of(key))
        ]
        for key, entry in found:
            self._by_digest[key] = replace(entry, grant=replace(entry.grant, revoked_at_ms=at_ms))
        if found:
            self._tell()
        return bool(found)

    def on_change(self, changed: Callable[[], None]) -> Callable[[], None]:
        """Call back after each change of grants, in the thread that makes it. Returns how to end that."""
        self._watchers.append(changed)
        return lambda: self._watchers.remove(changed)

    def next_end_ms(self, now_ms: int) -> int | None:
        """The next moment at which a grant ends by itself."""
        grants = [entry.grant for entry in list(self._by_digest.values())]
        moments = (moment for grant in grants for moment in (grant.expires_at_ms, grant.revoked_at_ms))
        return min((moment for moment in moments if moment is not None and moment > now_ms), default=None)

    def _tell(self) -> None:
        for changed in list(self._watchers):
            changed()

    def verify(self, digest: str, now_ms: int) -> Identity:
        """Who bears the token with this SHA-256. Raises `RpcError` (`UNAUTHORIZED`)."""
        # By digest: how long the look-up takes tells nothing of the tokens that are there.
        if digest not in self._by_digest and self.on_unknown is not None:
            self.on_unknown()
        entry = self._by_digest.get(digest)
        if entry is None:
            raise RpcError("UNAUTHORIZED", "Invalid token")
        _check_moments(entry.grant, now_ms)
        grant = entry.grant
        return Identity(
            grant.role, grant.scopes, grant.user_id, entry.token_id, grant.expires_at_ms, digest, entry.revision
        )

    def recheck(self, identity: Identity, now_ms: int) -> None:
        """Whether an identity of before still holds. Raises `RpcError` (`UNAUTHORIZED`)."""
        if identity.credential is None:
            return
        entry = self._by_digest.get(identity.credential)
        if entry is None:
            raise RpcError("UNAUTHORIZED", "Invalid token")
        _check_moments(entry.grant, now_ms)
        if entry.revision != identity.revision:
            raise RpcError("UNAUTHORIZED", "Token grant has changed; authenticate again.", refresh=REFRESH)


def digest_of(bearer: bytes) -> str:
    """The SHA-256 of a bearer in hex."""
    return hashlib.sha256(bearer).hexdigest()


def token_id_of(digest: str) -> str:
    """The id that a bearer has unless it was given one."""
    return digest[:16]


def _rights(entry: _Entry) -> tuple[object, ...]:
    grant = entry.grant
    return grant.role, grant.scopes, grant.user_id, entry.token_id


def _check_moments(grant: TokenGrant, now_ms: int) -> None:
    if grant.revoked_at_ms is not None and grant.revoked_at_ms <= now_ms:
        raise RpcError("UNAUTHORIZED", "Token has been revoked", refresh=REFRESH)
    if grant.expires_at_ms is not None and grant.expires_at_ms <= now_ms:
        raise RpcError("UNAUTHORIZED", "Token expired; issue a refreshed token.", refresh=REFRESH)
