"""Guards: which hosts a Gateway answers to, and which pages may speak to it. They come before any credential."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Final, NoReturn

from smithers.asgi.guards import is_loopback_authority
from smithers.gateway.auth.sent import Sent
from smithers.gateway.problems import RpcError

_ORIGIN: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^\s/\\?#@]+)")
_DEFAULT_PORTS: Final = {"http": ":80", "https": ":443"}


def check_local(sent: Sent) -> None:
    """A Gateway without authentication: asked under a name of this machine, by no page of elsewhere. Raises `RpcError`."""
    host = sent.text(b"host")
    if host and not is_loopback_authority(host):
        raise RpcError("UNAUTHORIZED", "Host is not allowed")
    origin = sent.text(b"origin")
    if origin:
        found = _ORIGIN.fullmatch(origin)
        if found is None or not is_loopback_authority(found[2]):
            _refuse_origin()


def check_listed(sent: Sent, allowed_origins: Collection[str]) -> None:
    """A Gateway that knows its pages: asked by one of them, or by no page. Raises `RpcError`."""
    origin = sent.text(b"origin")
    if allowed_origins and origin and not _is_listed(origin, allowed_origins):
        _refuse_origin()


def check_cookie_origin(sent: Sent, allowed_origins: Collection[str], *, is_tls: bool) -> None:
    """A request with nothing but a cookie: asked by a listed page, one of this host, or by no page. Raises `RpcError`."""
    origin = sent.text(b"origin")
    if not origin or _is_listed(origin, allowed_origins):
        return
    found = _ORIGIN.fullmatch(origin)
    if found is None:
        _refuse_origin()
    scheme, authority = found[1].lower(), found[2].lower()
    port = _DEFAULT_PORTS.get(scheme, "")
    host = sent.text(b"host").lower()
    if not host or authority.removesuffix(port) != host.removesuffix(port) or (is_tls and scheme != "https"):
        _refuse_origin()


def _is_listed(origin: str, allowed_origins: Collection[str]) -> bool:
    # every sandboxed frame and local file is `null`, so listing it cannot mean any one of them
    return origin != "null" and origin in allowed_origins


def _refuse_origin() -> NoReturn:
    raise RpcError("UNAUTHORIZED", "Origin is not allowed")
