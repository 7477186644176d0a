"""Sent: a request's headers, read once. What decides who somebody is may stand there only once."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, TypeAlias
from urllib.parse import unquote_to_bytes

from smithers.gateway.problems import RpcError

Headers: TypeAlias = Iterable[tuple[bytes, bytes]]

_PORT: Final = re.compile(r"(?:\[[^\]]*\]|[^:\[\]]*):([0-9]{1,5})")


@dataclass(frozen=True, slots=True)
class Credential:
    """What somebody shows. `is_cookie` if a browser sent it by itself, on behalf of whatever page."""

    bearer: bytes
    is_cookie: bool = False


class Sent:
    """Headers by lower-case name."""

    __slots__ = ("_values",)

    def __init__(self, headers: Headers) -> None:
        self._values: dict[bytes, list[bytes]] = {}
        for name, value in headers:
            self._values.setdefault(name.lower(), []).append(value)

    def one(self, name: bytes) -> bytes:
        """A header's value, trimmed; empty if it is not there. Raises `RpcError` if it stands there more than once."""
        values = self._values.get(name, ())
        if len(values) > 1:
            # proxies and servers differ in which one they take, so no guess is safe
            raise RpcError("UNAUTHORIZED", f"Header {name.decode('latin-1')} is given more than once")
        return values[0].strip() if values else b""

    def text(self, name: bytes) -> str:
        """The same as text."""
        return self.one(name).decode("latin-1")

    def credential(self) -> Credential | None:
        """What is shown: `x-smithers-key`, else `Authorization`, else the session cookie. Raises `RpcError`."""
        key, authorization = self.one(b"x-smithers-key"), self.one(b"authorization")
        if key:
            return Credential(key)
        if authorization[:7].lower() == b"bearer ":
            authorization = authorization[7:].strip()
        elif authorization.lower() == b"bearer":
            authorization = b""
        if authorization:
            return Credential(authorization)
        cookie = self._cookie(self.cookie_name())
        return Credential(cookie, is_cookie=True) if cookie else None

    def cookie_name(self) -> str:
        """The session cookie's name. It holds the port of `Host`, because browsers share cookies between ports."""
        found = _PORT.fullmatch(self.text(b"host"))
        return f"smithers_session_{found[1]}" if found else "smithers_session"

    def is_forwarded_tls(self) -> bool:
        """Whether the first proxy was spoken to over TLS, as it says."""
        values = self._values.get(b"x-forwarded-proto", [b""])
        return values[0].partition(b",")[0].strip().lower() == b"https"

    def _cookie(self, name: str) -> bytes:
        wanted = name.encode()
        found: set[bytes] = set()
        for header in self._values.get(b"cookie", ()):
            for pair in header.split(b";"):
                key, _, value = pair.strip().partition(b"=")
                if key == wanted and value:
                    found.add(value)
        if len(found) > 1:
            # a neighbour under the same domain can add one of its own, to have somebody work in a foreign session
            raise RpcError("UNAUTHORIZED", "The session cookie is given more than once")
        return unquote_to_bytes(found.pop()) if found else b""
