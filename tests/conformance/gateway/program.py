"""A gateway as a program of its own, for tests that kill it: `program.py <database>`. Says where it listens."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from tests.conformance.gateway.flows import workflows

from smithers.gateway.gateway import Gateway


async def main(db: Path) -> None:
    """Listen until killed."""
    gateway = Gateway(max_frames_per_second=100_000)
    for key, workflow in workflows(db).items():
        gateway.register(key, workflow)
    server = await gateway.listen(port=0)
    sys.stdout.write(server.url + "\n")
    sys.stdout.flush()
    await server.wait()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
