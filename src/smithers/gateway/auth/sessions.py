"""Sessions: random ids that browsers keep as a cookie, so that the bearer itself is in no browser. In memory only."""

from __future__ import annotations

import secrets
from collections import deque
from typing import Final

from smithers.gateway.auth.identity import Identity
from smithers.gateway.auth.tokens import digest_of

MAX_SESSIONS: Final = 10_000
MAX_PER_CREDENTIAL: Final = 100


class Sessions:
    """Sessions by the SHA-256 of their id. The oldest end when too many newer ones begin.

    Args:
        limit: how many there may be; the oldest ends first.
        limit_per_credential: how many one bearer may have, so that nobody pushes everybody else out.
    """

    __slots__ = ("_by_credential", "_by_digest", "_limit", "_limit_per_credential")

    def __init__(self, *, limit: int = MAX_SESSIONS, limit_per_credential: int = MAX_PER_CREDENTIAL) -> None:
        self._limit = limit
        self._limit_per_credential = limit_per_credential
        self._by_digest: dict[str, Identity] = {}
        self._by_credential: dict[str, deque[str]] = {}

    def __len__(self) -> int:
        return len(self._by_digest)

    def begin(self, identity: Identity) -> str:
        """Begin a session for somebody who has just shown their bearer; returns its id, which is kept nowhere here."""
        owner = identity.credential or ""
        own = self._by_credential.setdefault(owner, deque())
        if len(own) >= self._limit_per_credential:
            self.end(own[0])
        elif len(self._by_digest) >= self._limit:
            self.end(next(iter(self._by_digest)))
        session_id = secrets.token_urlsafe(32)
        digest = digest_of(session_id.encode())
        self._by_digest[digest] = identity
        self._by_credential.setdefault(owner, own).append(digest)
        return session_id

    def find(self, digest: str) -> Identity | None:
        """Whose session has this id, by the id's SHA-256. Whether they may still come in is for the caller to recheck."""
        return self._by_digest.get(digest)

    def end(self, digest: str) -> None:
        """End a session, if it is there."""
        identity = self._by_digest.pop(digest, None)
        if identity is None:
            return
        owner = identity.credential or ""
        own = self._by_credential[owner]
        own.remove(digest)
        if not own:
            del self._by_credential[owner]
