"""A gateway in a process of its own: `python -m tests.acceptance.gateway.served PORT USERS` prints its port and serves until it
is told to end. With users, it wants a token: `user-0`, `user-1`, …"""

from __future__ import annotations

import asyncio
import signal
import sys

from tests.acceptance.gateway.flow import workflow

from smithers import Gateway


async def main(port: int, users: int) -> None:
    """Serve until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    tokens = {f"user-{n}": {"role": "operator", "scopes": ["*"], "userId": f"user-{n}"} for n in range(users)}
    gateway = Gateway(auth={"mode": "token", "tokens": tokens} if users else None).register("flow", workflow)
    server = await gateway.listen(port=port, host="127.0.0.1")
    sys.stdout.write(f"{server.port}\n")
    sys.stdout.flush()
    await stop.wait()
    await server.close()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2])))
