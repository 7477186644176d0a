"""Handshake: what a client says when it connects, and what it is told. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast
from uuid import uuid4

from smithers.gateway.problems import RpcError

if TYPE_CHECKING:
    from smithers.gateway.auth.identity import Identity
    from smithers.gateway.config import GatewayOptions


@dataclass(frozen=True, slots=True)
class Hello:
    """What a client has said.

    Attributes:
        token: its credential, if it sent one here.
        subscribe: the runs that it asks for; None for all, and so is, for events, an empty list.
    """

    token: str | None
    subscribe: tuple[str, ...] | None

    @property
    def runs(self) -> frozenset[str] | None:
        """The runs whose events it wants; None for all."""
        return frozenset(self.subscribe) if self.subscribe else None


def read_connect(params: object, protocol: int) -> Hello:
    """The parameters of `connect`.

    Raises:
        RpcError: `INVALID_REQUEST` for missing fields, `INVALID_INPUT` for numbers that are none, `PROTOCOL_UNSUPPORTED`.
    """
    if not isinstance(params, dict):
        raise RpcError("INVALID_REQUEST", "connect needs minProtocol, maxProtocol and client")
    fields = cast("Mapping[str, object]", params)
    missing = [name for name in ("minProtocol", "maxProtocol", "client") if fields.get(name) is None]
    if missing:
        raise RpcError("INVALID_REQUEST", f"connect needs {', '.join(missing)}", field=missing[0])
    if not isinstance(fields["client"], dict):
        raise RpcError("INVALID_REQUEST", "client must be an object", field="client")
    least, most = _number(fields, "minProtocol"), _number(fields, "maxProtocol")
    subscribe = _subscribe(fields.get("subscribe"))
    auth = fields.get("auth")
    if auth is not None and not isinstance(auth, dict):
        raise RpcError("INVALID_REQUEST", "auth must be an object", field="auth")
    token = cast("Mapping[str, object]", auth or {}).get("token")
    if not least <= protocol <= most:
        raise RpcError("PROTOCOL_UNSUPPORTED", f"this gateway speaks protocol {protocol}", protocol=protocol)
    return Hello(token if isinstance(token, str) else None, subscribe)


def _number(fields: Mapping[str, object], name: str) -> int:
    value = fields[name]
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise RpcError("INVALID_INPUT", f"{name} must be a whole number above 0", field=name)
    return value


def _subscribe(value: object) -> tuple[str, ...] | None:
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(item, str) for item in cast("list[object]", value)):
        raise RpcError("INVALID_REQUEST", "subscribe must be a list of run ids", field="subscribe")
    return tuple(cast("list[str]", value))


def hello_payload(
    options: GatewayOptions,
    gateway: Mapping[str, object],
    identity: Identity,
    snapshot: Mapping[str, object],
    state_version: int,
) -> dict[str, object]:
    """What a client is told that has connected."""
    return {
        "protocol": options.protocol,
        "features": list(options.features),
        "identity": gateway,
        "policy": {"heartbeatMs": options.heartbeat_ms},
        "auth": {
            "sessionToken": str(uuid4()),
            "role": identity.role,
            "scopes": list(identity.scopes),
            "userId": identity.user_id,
            "tokenId": identity.token_id,
        },
        "snapshot": {
            "runs": snapshot.get("runs", []),
            "approvals": snapshot.get("approvals", []),
            "stateVersion": state_version,
        },
    }
