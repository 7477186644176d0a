"""A process that decides: for each line `RUN NODE` it approves, and answers with the moment from which
that was durable, in monotonic nanoseconds."""

from __future__ import annotations

import sys
import time

from smithers.errors import NodeNotFound
from smithers.store import open_store
from smithers.store.interface import ApprovalRow
from smithers.store.sql import requests
from smithers.store.sql.session import Session


def approve(_: ApprovalRow) -> tuple[bool, str | None, str | None, str | None]:
    """Say yes."""
    return True, None, "benchmark", None


def main() -> None:
    """Read decisions from stdin until it ends."""
    store = open_store(sys.argv[1])
    for line in sys.stdin:
        run_id, node_id = line.split()

        def decide(session: Session, run_id: str = run_id, node_id: str = node_id) -> None:
            requests.decide(session, run_id, node_id, 0, time.time_ns() // 1_000_000, approve)

        while True:
            try:
                store.write(decide)
                break
            except NodeNotFound:  # the run has not come to this approval yet
                time.sleep(0.005)
        sys.stdout.write(f"{time.monotonic_ns()}\n")
        sys.stdout.flush()
    store.close()


if __name__ == "__main__":
    main()
