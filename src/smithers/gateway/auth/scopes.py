"""Scopes: what a list of grants authorises. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from smithers.gateway.problems import RpcError

if TYPE_CHECKING:
    from smithers.gateway.auth.identity import Identity

EVERYTHING: Final = "*"

SCOPES: Final = (
    "run:read",
    "run:write",
    "run:admin",
    "approval:submit",
    "signal:submit",
    "cron:read",
    "cron:write",
    "account:read",
    "memory:read",
    "prompt:read",
    "score:read",
    "ticket:read",
    "ticket:write",
    "observability:read",
)

IMPLIED: Final[dict[str, frozenset[str]]] = {
    "run:admin": frozenset({"run:write", "run:read"}),
    "run:write": frozenset({"run:read"}),
    "cron:write": frozenset({"cron:read"}),
    "ticket:write": frozenset({"ticket:read"}),
}
"""What a scope brings beside itself."""

_EXECUTE: Final = frozenset(
    {"run:read", "run:write", "signal:submit", "cron:read", "cron:write", "ticket:read", "ticket:write"}
)

RANKS: Final[dict[str, frozenset[str]]] = {
    "read": frozenset(scope for scope in SCOPES if scope.endswith(":read")),
    "execute": _EXECUTE,
    "approve": _EXECUTE | {"approval:submit"},
    "admin": frozenset({EVERYTHING}),
}
"""Older grants, and what each stands for."""

_KNOWN: Final = frozenset(SCOPES)


@lru_cache(maxsize=1024)
def _expanded(grants: tuple[str, ...]) -> frozenset[str]:
    found: set[str] = set()
    for grant in map(str.strip, grants):
        if grant:
            found |= {grant} | IMPLIED.get(grant, frozenset()) | RANKS.get(grant, frozenset())
    return frozenset(found)


def expanded(grants: Sequence[str]) -> frozenset[str]:
    """The grants with all that they bring. Strings that are no scope are kept; they authorise nothing here."""
    return _expanded(tuple(grants))


def holds(grants: Sequence[str], scope: str) -> bool:
    """Whether the grants bring a scope. A string that is no scope is held through `*` and `admin` only."""
    found = expanded(grants)
    return EVERYTHING in found or (scope in _KNOWN and scope in found)


def allows(grants: Sequence[str], method: str, scope: str, *, is_extension: bool = False) -> bool:
    """Whether the grants let a method be called, through its scope, its name as it was called, or `<prefix>.*`.

    Names and prefixes never reach methods of extensions, whose names somebody else chose.
    """
    if holds(grants, scope):
        return True
    if is_extension or method.startswith("ext."):
        return False
    found = expanded(grants)
    if method in found:
        return True
    parts = method.split(".")
    return any(".".join(parts[:count]) + ".*" in found for count in range(1, len(parts)))


def require(identity: Identity, method: str, scope: str, *, is_extension: bool = False) -> None:
    """Let a call through. Raises `RpcError` (`FORBIDDEN`) that names the scope."""
    if not allows(identity.scopes, method, scope, is_extension=is_extension):
        raise RpcError("FORBIDDEN", f"Missing required scope {scope} for {method}", requiredScope=scope)
