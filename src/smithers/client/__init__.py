"""Clients of a gateway: `GatewayClient` for async programs, `SyncGatewayClient` for the others.

They speak the published protocol and nothing else, so they work against any gateway that does.
"""

from __future__ import annotations

from smithers.client.client import GatewayClient
from smithers.client.devtools import DevToolsEvent, DevToolsTree
from smithers.client.errors import GatewayConnectionLost, GatewayError
from smithers.client.frames import RunEvent
from smithers.client.sync_client import SyncGatewayClient

__all__ = [
    "DevToolsEvent",
    "DevToolsTree",
    "GatewayClient",
    "GatewayConnectionLost",
    "GatewayError",
    "RunEvent",
    "SyncGatewayClient",
]
