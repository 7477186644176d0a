"""Call: what a method's handler gets beside its parameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias

from smithers.gateway.auth.identity import Identity

if TYPE_CHECKING:
    from smithers.control.control import Control
    from smithers.control.hosting import Place
    from smithers.gateway.services import Services


WhenGone: TypeAlias = Callable[[Callable[[], None]], Callable[[], None]]
"""Has something called once a caller is gone, at once if they are; gives how to forget that."""


def never(call: Callable[[], None]) -> Callable[[], None]:
    """`WhenGone` of a caller who is waited for whatever happens."""
    return lambda: None


class Socket(Protocol):
    """A WebSocket connection, as methods see it."""

    @property
    def connection_id(self) -> str:
        """Names the connection."""
        ...

    def follow_run(self, run_id: str) -> None:
        """Add a run to what this connection is told of, if it named runs when it connected."""
        ...

    def may_see(self, run_id: str) -> bool:
        """Whether the connection's list of runs, if it gave one, holds this one."""
        ...

    def when_gone(self, call: Callable[[], None], /) -> Callable[[], None]:
        """See `WhenGone`."""
        ...


@dataclass(slots=True)
class RpcCall:
    """One call of a method.

    Attributes:
        method: the name it was called by.
        socket: the connection that it came over; None over HTTP.
        when_gone: tells of the end of the caller's connection.
    """

    services: Services
    identity: Identity
    method: str
    request_id: str
    socket: Socket | None = None
    when_gone: WhenGone = never

    async def place(self, run_id: str) -> Place:
        """The database that a run lives in. Raises `RunNotFound`."""
        return await self.services.hosting.find(run_id)

    async def control(self, run_id: str) -> Control:
        """The requests to a run's database. Raises `RunNotFound`."""
        return (await self.place(run_id)).control

    def follow_run(self, run_id: str) -> None:
        """Tell the caller's connection of this run from now on."""
        if self.socket is not None:
            self.socket.follow_run(run_id)
