"""Doorkeeper: who may come in. Every door asks here first, and the checks have one order:

Host, Origin, the origin of a request that has only a cookie, and then the credential.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager

from smithers.gateway.auth.checks import texts
from smithers.gateway.auth.config import AuthConfig, TokenAuth, TrustedProxyAuth
from smithers.gateway.auth.guards import check_cookie_origin, check_listed, check_local
from smithers.gateway.auth.hand_off import HandOff, cookie_header, page, safe_next
from smithers.gateway.auth.identity import Identity
from smithers.gateway.auth.sent import Credential, Headers, Sent
from smithers.gateway.auth.sessions import Sessions
from smithers.gateway.auth.tokens import digest_of
from smithers.gateway.problems import RpcError

ANYBODY = Identity()
"""Whoever gets past the guards of a Gateway without authentication."""


class Doorkeeper:
    """Lets callers in, or raises `RpcError`.

    Args:
        auth: how callers are authenticated; None lets everybody in who asks from this machine.
        insecure: without `auth`, lets everybody in from everywhere; means nothing with it.
        trusts_any_host: the same, from the environment.
        allowed_origins: pages that may use this Gateway, beside those that `auth` names.
        clock_ms: the time, in epoch milliseconds.
        refused: told of everybody who is not let in, by `http` or `websocket`.
    """

    def __init__(
        self,
        auth: AuthConfig | None,
        *,
        insecure: bool,
        trusts_any_host: bool,
        allowed_origins: Sequence[str] = (),
        clock_ms: Callable[[], int],
        refused: Callable[[str], None] = lambda _transport: None,
    ) -> None:
        self._auth = auth
        self._is_guarded = auth is None and not insecure and not trusts_any_host
        named = () if auth is None else auth.allowed_origins
        self._allowed_origins = frozenset((*texts("allowedOrigins", allowed_origins), *named))
        self._clock_ms = clock_ms
        self._refused = refused
        self.sessions = Sessions()

    def request(self, headers: Headers, *, is_tls: bool, peer: str | None) -> Identity:
        """Who makes an HTTP request. Raises `RpcError` (`UNAUTHORIZED`)."""
        sent = Sent(headers)
        with self._counted("http"):
            return self._identify(sent, self._check(sent, None, is_tls=is_tls), peer)[0]

    def upgrade(self, headers: Headers, *, is_tls: bool, peer: str | None) -> None:
        """Whether a WebSocket may be opened; its `connect` authenticates. Raises `RpcError`."""
        del peer  # judged with the credential
        with self._counted("websocket"):
            self._check(Sent(headers), None, is_tls=is_tls)

    def connect(self, headers: Headers, *, is_tls: bool, peer: str | None, token: str | None) -> Identity:
        """Who connects over a WebSocket. Raises `RpcError` (`UNAUTHORIZED`).

        Args:
            headers: those of the upgrade.
            token: what the request itself brought; stands before the headers, even if it is empty.
        """
        sent = Sent(headers)
        with self._counted("websocket"):
            return self._identify(sent, self._check(sent, token, is_tls=is_tls), peer)[0]

    def recheck(self, identity: Identity) -> None:
        """Whether somebody who came in may stay. Cheap: for each frame and tick. Raises `RpcError` (`UNAUTHORIZED`)."""
        if self._auth is not None and not isinstance(self._auth, TrustedProxyAuth):
            self._auth.recheck(identity, self._clock_ms())

    def on_change(self, changed: Callable[[], None]) -> Callable[[], None]:
        """Call back after grants were changed or taken away, in whichever thread. Returns how to end that."""
        return self._auth.on_change(changed) if isinstance(self._auth, TokenAuth) else lambda: None

    def next_end_ms(self, now_ms: int) -> int | None:
        """When the next grant ends by itself; a JWT's end is with who bears it (`Identity.expires_at_ms`)."""
        return self._auth.next_end_ms(now_ms) if isinstance(self._auth, TokenAuth) else None

    def hand_off(self, headers: Headers, query: Mapping[str, str], *, is_tls: bool, peer: str | None) -> HandOff:
        """The answer to `GET /v1/auth/session`: a session for the bearer in `token`, and on to `next`. Raises `RpcError`."""
        sent = Sent(headers)
        with self._counted("http"):
            credential = self._check(sent, query.get("token") or None, is_tls=is_tls)
            identity, session_id = self._identify(sent, credential, peer)
        cookie = None
        if identity.credential is not None:
            cookie = cookie_header(
                sent.cookie_name(),
                session_id or self.sessions.begin(identity),
                is_secure=is_tls or sent.is_forwarded_tls(),
            )
        return page(safe_next(query.get("next")), cookie=cookie)

    @contextmanager
    def _counted(self, transport: str) -> Generator[None]:
        try:
            yield
        except RpcError:
            self._refused(transport)
            raise

    def _check(self, sent: Sent, token: str | None, *, is_tls: bool) -> Credential | None:
        """All that comes before the credential, and the credential as it was sent."""
        sent.one(b"host")
        if self._is_guarded:
            check_local(sent)
        if self._auth is None:
            return None
        check_listed(sent, self._allowed_origins)
        if isinstance(self._auth, TrustedProxyAuth):
            return None
        credential = sent.credential()
        if token is not None:
            return Credential(token.encode("utf-8", "surrogatepass"))
        if credential is not None and credential.is_cookie:
            check_cookie_origin(sent, self._allowed_origins, is_tls=is_tls)
        return credential

    def _identify(self, sent: Sent, credential: Credential | None, peer: str | None) -> tuple[Identity, str | None]:
        """Who it is, and the id of their session if that is what they showed."""
        if self._auth is None:
            return ANYBODY, None
        if isinstance(self._auth, TrustedProxyAuth):
            return self._auth.identify(sent, peer), None
        if credential is None or not credential.bearer:
            raise RpcError("UNAUTHORIZED", "A bearer token is required")
        now_ms = self._clock_ms()
        digest = digest_of(credential.bearer)
        if (known := self.sessions.find(digest)) is not None:
            try:
                self._auth.recheck(known, now_ms)  # a session is worth what its bearer is worth by now
            except RpcError:
                self.sessions.end(digest)
                raise
            return known, credential.bearer.decode("ascii")
        if isinstance(self._auth, TokenAuth):
            return self._auth.verify(digest, now_ms), None
        return self._auth.verify(credential.bearer, now_ms), None
