"""The desk: orders things, follows an order to its end, decides what waits.

python examples/gateway/desk.py URL                 # decides: whatever costs less than 1000 is agreed to
python examples/gateway/desk.py URL desk 2          # orders two desks, and follows that order while deciding
"""

from __future__ import annotations

import asyncio
import os
import re
import sys

from smithers import GatewayClient

AGREED_BELOW = 1000


async def order(client: GatewayClient, item: str, count: int) -> None:
    """Order something, and tell of it until it has been shipped."""
    run = await client.launch_run("orders", input={"item": item, "count": count})
    async for event in client.stream_run_events(str(run["runId"])):
        if event.event == "approval.requested":
            await decide(client)
        if event.event == "node.finished":
            print(f"{event.payload['nodeId']} is done", flush=True)
        if event.is_last:
            print(f"the order has {event.payload['status']}", flush=True)


async def decide(client: GatewayClient) -> None:
    """Decide everything that waits."""
    for waiting in await client.list_approvals():
        title = str(waiting["requestTitle"])
        found = re.search(r"for (\d+)\?", title)
        agrees = found is not None and int(found[1]) < AGREED_BELOW
        await client.submit_approval(
            str(waiting["runId"]), str(waiting["nodeId"]), approved=agrees, iteration=int(str(waiting["iteration"]))
        )
        print(f"{title} {'yes' if agrees else 'no'}", flush=True)


async def main(url: str, *wanted: str) -> None:
    """Order, if anything is wanted, else decide once."""
    token = os.environ.get("ORDERS_TOKEN", "desk-token")  # noqa: TID251 - a program of its own, not a part of the package
    async with GatewayClient(url, token=token) as client:
        if wanted:
            await order(client, wanted[0], int(wanted[1]) if len(wanted) > 1 else 1)
        else:
            await decide(client)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
