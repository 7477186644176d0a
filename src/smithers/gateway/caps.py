"""Caps: how many streams of changes may be open, in all and by whom."""

from __future__ import annotations

from collections import Counter
from typing import Final

from smithers.gateway.problems import RpcError

MAX_STREAMS: Final = 256
MAX_PER_USER: Final = 32
MAX_PER_CLIENT: Final = 2


class StreamCaps:
    """How many streams are open, in all and by whom."""

    def __init__(self) -> None:
        self.total = 0
        self.users: Counter[str] = Counter()
        self.clients: Counter[str] = Counter()

    def check(self, user: str, client: str | None) -> None:
        """Raises `RpcError` (`RateLimited`) where one more would be too many."""
        for scope, count, limit in (
            ("global", self.total, MAX_STREAMS),
            ("user", self.users[user], MAX_PER_USER),
            ("connection", 0 if client is None else self.clients[client], MAX_PER_CLIENT),
        ):
            if count >= limit:
                raise RpcError(
                    "RateLimited", f"too many streams ({scope}: {limit})", details={"scope": scope, "limit": limit}
                )

    def enter(self, user: str, client: str | None) -> None:
        """Count a stream."""
        self.total += 1
        self.users[user] += 1
        if client is not None:
            self.clients[client] += 1

    def leave(self, user: str, client: str | None) -> None:
        """Count it no more."""
        self.total -= 1
        for counter, name in ((self.users, user), (self.clients, client)):
            if name is not None:
                counter[name] -= 1
                if counter[name] <= 0:
                    del counter[name]
