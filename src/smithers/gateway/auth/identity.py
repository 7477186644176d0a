"""Identity: what the Gateway knows of a caller once they are authenticated."""

from __future__ import annotations

from dataclasses import dataclass, field

from smithers.control.caller import Caller
from smithers.gateway.auth.scopes import expanded


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a caller is, and what they were granted.

    Attributes:
        scopes: the grants as they were given; `smithers.gateway.auth.scopes` says what they authorise.
        token_id: names the credential without telling it.
        expires_at_ms: when the credential ends, clock skew included, in epoch milliseconds; None for never.
        credential: the SHA-256 of the bearer in hex; None if there was none. For `Doorkeeper.recheck`.
        revision: which version of the credential's grant was seen. For `Doorkeeper.recheck`.
    """

    role: str = "operator"
    scopes: tuple[str, ...] = ("*",)
    user_id: str | None = None
    token_id: str | None = None
    expires_at_ms: int | None = None
    credential: str | None = field(default=None, repr=False, compare=False)
    revision: int = field(default=0, repr=False, compare=False)

    @property
    def stream_owner(self) -> str:
        """Whom streams are counted for."""
        return self.user_id or self.token_id or self.role or "anonymous"


def caller(identity: Identity) -> Caller:
    """The caller that the control layer judges by: implied scopes are written out, strings that are no scope are kept."""
    scopes = tuple(sorted(expanded(identity.scopes)))
    return Caller(user=identity.user_id, role=identity.role, scopes=scopes, token_id=identity.token_id)
