"""Named pipes: how a test waits for a process, and holds it, without looking at the clock."""

from __future__ import annotations

import os
import select
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from tests.acceptance.crash.workflows import HOLD
from tests.acceptance.crash.zygote import PATIENCE_S, Zygote

T = TypeVar("T")


class Reins:
    """The pipes of a folder: `entered`, by which a task says that it runs, and `gate`, which lets it go on."""

    def __init__(self, folder: Path) -> None:
        self._hold = folder / HOLD
        self._gate = folder / "gate"
        entered = folder / "entered"
        os.mkfifo(entered)
        os.mkfifo(self._gate)
        self._hold.touch()
        # Opened for both, so that neither opening waits nor a pipe ends when its writer leaves.
        self._entered = os.open(entered, os.O_RDWR | os.O_NONBLOCK)
        self._opened_gate = os.open(self._gate, os.O_RDWR | os.O_NONBLOCK)

    def until_entered(self) -> None:
        """Wait until somebody says so."""
        ready, _, _ = select.select([self._entered], [], [], PATIENCE_S)
        assert ready, "nobody has come this far"
        os.read(self._entered, 1000)

    def hold_no_more(self) -> None:
        """Who comes from now on is not held."""
        self._hold.unlink(missing_ok=True)

    def let_go(self) -> None:
        """Whoever is held may go on, if anybody is: a process that comes back may see first that it has lost the run."""
        os.write(self._opened_gate, b"go" * 50)  # a byte for each

    def close(self) -> None:
        """Give the pipes back."""
        os.close(self._entered)
        os.close(self._opened_gate)


def first_to_end(one: Zygote, other: Zygote) -> tuple[Zygote, Zygote]:
    """Wait until the process of one of the two has ended: (that one, the other)."""
    ready, _, _ = select.select([one, other], [], [], PATIENCE_S)
    assert ready, "neither process has ended"
    return (one, other) if ready[0] is one else (other, one)


def insist(attempt: Callable[[], T | None], times: int = 2000) -> T:
    """Try until there is a result; each try takes its own while."""
    for _ in range(times):
        if (found := attempt()) is not None:
            return found
    raise AssertionError("never happened")
