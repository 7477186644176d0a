"""Guards: who may ask. Tokens, compared in constant time, and the Host and Origin check of a server that has none."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

from smithers.errors import HostForbidden, Unauthorized

Headers = Iterable[tuple[bytes, bytes]]

LOOPBACK_BINDS = frozenset({"127.0.0.1", "::1", "localhost", "::ffff:127.0.0.1"})
"""Addresses that a server may listen on without a token."""


@dataclass(frozen=True, slots=True)
class Guard:
    """Lets a request through, or raises.

    Attributes:
        token: what a request must carry; None or empty asks for nothing.
        trusts_any_host: without a token, whether requests for and from other hosts are answered.
    """

    token: str | None = None
    trusts_any_host: bool = False

    def check(self, headers: Headers) -> None:
        """Raises `Unauthorized` or `HostForbidden`."""
        if self.token:
            if not self._has_token(headers):
                raise Unauthorized("a valid token is required")
            return
        if self.trusts_any_host:
            return
        for name, value in headers:
            if name == b"host" and value and not is_loopback_authority(value.decode("latin-1")):
                raise HostForbidden("Host is not allowed")
            if name == b"origin" and not is_loopback_origin(value.decode("latin-1")):
                raise HostForbidden("Origin is not allowed")

    def _has_token(self, headers: Headers) -> bool:
        found = False
        for name, value in headers:
            if name == b"x-smithers-key":
                given = value
            elif name == b"authorization":
                given = value[7:].strip() if value[:7].lower() == b"bearer " else value
            else:
                continue
            # no early end: how long this takes does not tell which header was right
            found |= same_secret(given, (self.token or "").encode())
        return found


def same_secret(given: bytes, wanted: bytes) -> bool:
    """Whether two secrets are the same, in a time that tells neither where they differ nor how long they are."""
    return hmac.compare_digest(hashlib.sha256(given).digest(), hashlib.sha256(wanted).digest())


def is_loopback_authority(authority: str) -> bool:
    """Whether a Host header (`name`, `name:port`, `[v6]:port`) names this machine."""
    text = authority.strip().lower()
    if text.startswith("["):
        name, closed, rest = text[1:].partition("]")
        if not closed or (rest and not (rest.startswith(":") and rest[1:].isdigit())):
            return False
    elif text.count(":") == 1:
        name, _, port = text.partition(":")
        if port and not port.isdigit():
            return False
    else:
        name = text  # an IPv6 address without brackets keeps its last group
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped == ipaddress.IPv4Address("127.0.0.1")
    return address.is_loopback


def is_loopback_origin(origin: str) -> bool:
    """Whether an Origin header names a page of this machine. `null` and what is no URL do not."""
    try:
        parts = urlsplit(origin.strip())
    except ValueError:
        return False
    return bool(parts.scheme and parts.netloc) and "@" not in parts.netloc and is_loopback_authority(parts.netloc)
