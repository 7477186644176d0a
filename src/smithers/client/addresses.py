"""Addresses: where a gateway is, as one is told it and as the two transports want it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit, urlunsplit

from smithers.errors import InvalidInput

UNIX: Final = "unix:"
LOCAL: Final = "http://localhost"
"""How a request names its host where the socket is a file."""


@dataclass(frozen=True, slots=True)
class Address:
    """A gateway's address.

    Attributes:
        url: as it is shown.
        base: what paths are put behind.
        socket: the file of its Unix socket; None where it is reached over TCP.
    """

    url: str
    base: str
    socket: str | None = None

    @property
    def websocket(self) -> str:
        """Where its WebSocket is."""
        return "ws" + self.base.removeprefix("http") + "/"


def address_of(url: str) -> Address:
    """Read an address: `http://…`, `https://…` or `unix:/path/of/socket`. Raises `InvalidInput`."""
    if url.startswith(UNIX):
        path = url.removeprefix(UNIX)
        path = path.removeprefix("//") if path.startswith("///") else path
        if not path or "\0" in path:
            raise InvalidInput("url must name a socket after unix:, as unix:/run/gateway.sock")
        return Address(f"{UNIX}{path}", LOCAL, path)
    try:
        parts = urlsplit(url)
        is_usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_usable, parts = False, urlsplit("")
    if parts.username is not None or parts.password is not None:
        raise InvalidInput("url must not hold credentials; give the token by itself")
    if not is_usable:
        raise InvalidInput(f"url must begin with http://, https:// or unix:, not {url!r:.120}")
    found = urlunsplit((parts.scheme, parts.netloc, parts.path.rstrip("/"), "", ""))
    return Address(found, found)
