"""A `smithers` process whose wall clock is set: SIGUSR1 puts it five minutes ahead of the machine's, SIGUSR2 as much behind.
`python -m tests.acceptance.cluster.launcher ARGUMENTS…` is `smithers ARGUMENTS…` otherwise."""

from __future__ import annotations

import signal
import time
from types import FrameType

STEP_S = 300
_time, _time_ns = time.time, time.time_ns
_shift_s = 0


def _shift(number: int, _frame: FrameType | None) -> None:
    global _shift_s
    _shift_s = STEP_S if number == signal.SIGUSR1 else -STEP_S


def main() -> None:
    """Run the command line with a clock that can be set."""
    signal.signal(signal.SIGUSR1, _shift)
    signal.signal(signal.SIGUSR2, _shift)
    time.time = lambda: _time() + _shift_s
    time.time_ns = lambda: _time_ns() + _shift_s * 1_000_000_000
    from smithers.cli.app import main as smithers

    smithers()


if __name__ == "__main__":
    main()
