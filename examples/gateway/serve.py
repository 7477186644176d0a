"""A gateway for orders: started by a webhook, by a schedule or by a call; followed and decided by whoever has a token.

    python examples/gateway/serve.py --port 7331          # tells its address, and stays until Ctrl-C
    python examples/gateway/desk.py http://127.0.0.1:7331 # in another terminal: decides what waits

The tokens and the webhook's secret come from the environment (`ORDERS_TOKEN`, `ORDERS_VIEWER`, `ORDERS_SECRET`); those of
the example are for this machine only.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
from pathlib import Path

from orders import LIMIT, PRICES

from smithers import Gateway, TokenAuth, TokenGrant, WebhookConfig, load_workflow

HERE = Path(__file__).parent


def make_gateway() -> Gateway:
    """The gateway: one workflow, one webhook, one schedule, and a method of our own."""
    env = os.environ  # noqa: TID251 - a program of its own, not a part of the package
    auth = TokenAuth(
        {
            env.get("ORDERS_TOKEN", "desk-token"): TokenGrant("desk", ("approve",), user_id="desk"),
            env.get("ORDERS_VIEWER", "viewer-token"): TokenGrant("viewer", ("run:read",)),
        }
    )
    file = HERE / "orders.py"
    return (
        Gateway(auth=auth, workspace_root=HERE)
        .register(
            "orders",
            load_workflow(file),
            entry_file=file.resolve(),
            schedule="0 6 * * 1",  # a lamp every Monday
            webhook=WebhookConfig(env.get("ORDERS_SECRET", "example"), delivery_header="x-delivery"),
        )
        .extend("shop", {"resources": {"prices": lambda _params, _context: {"prices": PRICES, "limit": LIMIT}}})
    )


async def main(port: int) -> None:
    """Serve until a signal comes; runs are parked then, and the next gateway goes on with them."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with await make_gateway().listen(port=port, host="127.0.0.1") as server:
        print(server.url, flush=True)
        await stop.wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Serve orders.")
    parser.add_argument("--port", type=int, default=7331)
    asyncio.run(main(parser.parse_args().port))
