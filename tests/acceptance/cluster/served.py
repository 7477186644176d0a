"""A gateway in a process of its own: `python -m tests.acceptance.cluster.served FILE DB PORT ACTIVE` serves the workflow of a
file from a database, starting at most so many runs at once itself, and prints its port. Ends with SIGTERM."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

from smithers import Gateway
from smithers.engine.loading import load_workflow

KEY = "flow"


async def main(file: Path, db: str, port: int, active: int) -> None:
    """Serve until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    workflow = load_workflow(file)
    workflow.db = db
    gateway = Gateway(max_active_runs=active).register(KEY, workflow, entry_file=file)
    server = await gateway.listen(port=port, host="127.0.0.1")
    sys.stdout.write(f"{server.port}\n")
    sys.stdout.flush()
    await stop.wait()
    await server.close()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
