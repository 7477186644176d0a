"""Trusted proxies: callers that a proxy in front has authenticated, and told of in headers.

Safe only behind a proxy that strips these headers from what it receives. `allowed_peers` makes sure that nobody reaches
the Gateway around the proxy.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from smithers.errors import InvalidInput
from smithers.gateway.auth.checks import optional_text, texts
from smithers.gateway.auth.identity import Identity
from smithers.gateway.auth.jwts import split_scopes
from smithers.gateway.auth.sent import Sent
from smithers.gateway.problems import RpcError

_Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

DEFAULT_HEADERS: Final = ("x-user-id", "x-user-scopes", "x-user-role")
TOKEN_ID_HEADER: Final = b"x-smithers-token-id"

_HEADER: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")


@dataclass(frozen=True, slots=True)
class TrustedProxyAuth:
    """Authentication by headers.

    Attributes:
        trusted_headers: names of the headers with user, scopes and role; missing positions have their default.
        default_role: the role of a caller without one; `operator` by default.
        default_scopes: the grants of a caller without any; None refuses such callers.
        allowed_peers: addresses and networks (CIDR) that proxies connect from; None for any.
        allowed_origins: pages that may use this Gateway, exactly as browsers name them; empty for any.
    """

    trusted_headers: Sequence[str] = DEFAULT_HEADERS
    default_role: str | None = None
    default_scopes: Sequence[str] | None = None
    allowed_peers: Sequence[str] | None = None
    allowed_origins: Sequence[str] = ()
    _networks: tuple[_Network, ...] = field(init=False, repr=False, compare=False, default=())

    def __post_init__(self) -> None:
        """Looks at every field. Raises `InvalidInput`."""
        names = texts("auth.trustedHeaders", self.trusted_headers)
        if len(names) != len(self.trusted_headers) or len(names) > len(DEFAULT_HEADERS):
            raise InvalidInput("auth.trustedHeaders: must name at most three headers: user, scopes, role")
        names = tuple(name.lower() for name in names) + DEFAULT_HEADERS[len(names) :]
        if len(set(names)) != len(names) or not all(_HEADER.fullmatch(name) for name in names):
            raise InvalidInput("auth.trustedHeaders: must be different names of headers")
        set_field = object.__setattr__
        set_field(self, "trusted_headers", names)
        optional_text("auth.defaultRole", self.default_role)
        if self.default_scopes is not None:
            set_field(self, "default_scopes", texts("auth.defaultScopes", self.default_scopes))
        if self.allowed_peers is not None:
            peers = texts("auth.allowedPeers", self.allowed_peers)
            set_field(self, "allowed_peers", peers)
            set_field(self, "_networks", tuple(_network(peer) for peer in peers))
        set_field(self, "allowed_origins", texts("auth.allowedOrigins", self.allowed_origins))

    def identify(self, sent: Sent, peer: str | None) -> Identity:
        """Who the proxy says is asking. Raises `RpcError` (`UNAUTHORIZED`).

        Args:
            peer: the address of the other end; None if it has none.
        """
        if self.allowed_peers is not None and not self._is_proxy(peer):
            raise RpcError("UNAUTHORIZED", "Peer is not a trusted proxy")
        user, scopes, role = (sent.text(name.encode()) for name in self.trusted_headers)
        grants = split_scopes(scopes)
        if not grants:
            if self.default_scopes is None:
                raise RpcError("UNAUTHORIZED", "The trusted proxy sent no scopes")
            grants = tuple(self.default_scopes)
        return Identity(
            role=role or self.default_role or "operator",
            scopes=grants,
            user_id=user or None,
            token_id=sent.text(TOKEN_ID_HEADER) or None,
        )

    def _is_proxy(self, peer: str | None) -> bool:
        try:
            address = ipaddress.ip_address(peer or "")
        except ValueError:
            return False
        mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
        return any((mapped or address) in network for network in self._networks)


def _network(peer: str) -> _Network:
    try:
        return ipaddress.ip_network(peer)
    except ValueError as error:
        raise InvalidInput("auth.allowedPeers: must be addresses or networks such as 10.0.0.0/8") from error
