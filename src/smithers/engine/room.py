"""Room for agents: how many agent attempts may still begin in this process, and which runs wait for that."""

from __future__ import annotations

from collections.abc import Callable, Hashable


class AgentRoom:
    """Room that runs share, given to the one that has waited longest.

    Args:
        size: at most so many agent attempts at once.
    """

    def __init__(self, size: int) -> None:
        self.free = size
        self._starving: dict[Hashable, Callable[[], None]] = {}

    def take(self) -> None:
        """An agent attempt begins."""
        self.free -= 1

    def give(self) -> None:
        """An agent attempt has ended: let a run that waits for room go on."""
        self.free += 1
        self.offer()

    def offer(self) -> None:
        """Let the run that has waited longest look for room; one that does not take it offers it on."""
        if self._starving and self.free > 0:
            run = next(iter(self._starving))
            self._starving.pop(run)()

    def starve(self, run: Hashable, poke: Callable[[], None]) -> None:
        """A run has agents that wait for room; it is poked when there is some."""
        self._starving[run] = poke

    def forget(self, run: Hashable) -> None:
        """A run has ended; what it waited for goes to the next."""
        self._starving.pop(run, None)
        self.offer()
