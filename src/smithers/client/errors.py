"""Errors: what a gateway answered, or that it did not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from smithers.errors import SmithersError

_PASSING: Final = frozenset(
    {
        "BackpressureDisconnect",
        "CONNECTION_LIMIT",
        "ConnectionClosed",
        "Internal",
        "QUOTA_EXCEEDED",
        "RateLimited",
        "SERVER_ERROR",
    }
)
"""Codes of what may be different soon, asked again."""
_PASSING_STATUS: Final = frozenset({408, 425, 429, 500, 502, 503, 504})


class GatewayError(SmithersError):
    """A gateway refused a request. `error_code` is the code that it sent.

    Attributes:
        http_status: the answer's status; None over a WebSocket.
        body: the whole error object, with what the code says more.
    """

    code, retryable = "GATEWAY_ERROR", False

    def __init__(self, body: Mapping[str, object], http_status: int | None = None) -> None:
        code, message = body.get("code"), body.get("message")
        super().__init__(
            message if isinstance(message, str) and message else "the gateway refused the request",
            {key: value for key, value in body.items() if key not in ("version", "code", "message")},
            code=code if isinstance(code, str) and code else None,
        )
        self.body = dict(body)
        self.http_status = http_status

    @property
    def required_scope(self) -> str | None:
        """The scope that was missing, if one was."""
        found = self.body.get("requiredScope")
        return found if isinstance(found, str) else None

    @property
    def is_passing(self) -> bool:
        """Whether the same request may be answered soon: the gateway is full, or busy, or has a problem of its own, as
        with its database."""
        if self.body.get("retryable") is True:
            return True
        if self._code is None:
            return self.http_status in _PASSING_STATUS
        return self._code in _PASSING


class GatewayConnectionLost(SmithersError):
    """The gateway cannot be reached, or hung up in the middle."""

    code = "GATEWAY_CONNECTION_LOST"
