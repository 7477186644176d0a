"""Problems: the one place where an error becomes a code of the RPC wire, and a code becomes an HTTP status.

The wire has its own spellings, some of them per method; handlers raise the project's errors, and a method says where its
spelling differs from the usual one.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Final

from smithers.errors import (
    AlreadyDecided,
    Forbidden,
    HostForbidden,
    InputMismatch,
    InvalidInput,
    InvalidJson,
    InvalidRequest,
    NodeNotFound,
    NotFound,
    PayloadTooLarge,
    RunAlreadyExists,
    RunNotActive,
    RunNotFound,
    SmithersError,
    Unauthorized,
    json_safe,
)
from smithers.jsons import object_of

log = logging.getLogger(__name__)

API_VERSION: Final = "v1"

STATUS: Final[dict[str, int]] = {
    "UNAUTHORIZED": 401,
    "Unauthorized": 401,
    "FORBIDDEN": 403,
    "Forbidden": 403,
    "NOT_FOUND": 404,
    "METHOD_NOT_FOUND": 404,
    "EXTENSION_METHOD_NOT_FOUND": 404,
    "RUN_NOT_FOUND": 404,
    "RunNotFound": 404,
    "ScoreNotFound": 404,
    "NodeNotFound": 404,
    "AttemptNotFound": 404,
    "IterationNotFound": 404,
    "NodeHasNoOutput": 404,
    "CronNotFound": 404,
    "TicketNotFound": 404,
    "INVALID_REQUEST": 400,
    "InvalidRequest": 400,
    "INVALID_FRAME": 400,
    "INVALID_INPUT": 400,
    "InvalidInput": 400,
    "PROTOCOL_UNSUPPORTED": 400,
    "InvalidRunId": 400,
    "InvalidNodeId": 400,
    "InvalidIteration": 400,
    "InvalidDelta": 400,
    "InvalidFrameNo": 400,
    "ConfirmationRequired": 400,
    "FrameOutOfRange": 400,
    "SeqOutOfRange": 400,
    "SSRF_BLOCKED": 400,
    "MISSING_INPUT_TABLE": 400,
    "AttemptNotFinished": 409,
    "Busy": 409,
    "AlreadyDecided": 409,
    "RUN_NOT_ACTIVE": 409,
    "RUN_ACTIVE": 409,
    "CONFLICT": 409,
    "REVISION_CONFLICT": 409,
    "TIME_TRAVEL_SIDE_EFFECT_BLOCKED": 409,
    "WorkingTreeDirty": 409,
    "ConnectionClosed": 409,
    "RUN_STILL_RUNNING": 409,
    "RUN_OWNER_ALIVE": 409,
    "RUN_NOT_RESUMABLE": 409,
    "DiffTooLarge": 413,
    "PayloadTooLarge": 413,
    "PAYLOAD_TOO_LARGE": 413,
    "RateLimited": 429,
    "BackpressureDisconnect": 429,
    "QUOTA_EXCEEDED": 429,
    "CONNECTION_LIMIT": 429,
    "UnsupportedSandbox": 501,
    "NotAvailable": 501,
}
"""HTTP status by code; a code that is not listed is a 500."""

USUAL: Final[dict[type[SmithersError], str]] = {
    RunNotFound: "NOT_FOUND",
    NodeNotFound: "NOT_FOUND",
    NotFound: "NOT_FOUND",
    RunAlreadyExists: "CONFLICT",
    InputMismatch: "CONFLICT",
    RunNotActive: "RUN_NOT_ACTIVE",
    AlreadyDecided: "AlreadyDecided",
    Forbidden: "FORBIDDEN",
    HostForbidden: "FORBIDDEN",
    Unauthorized: "UNAUTHORIZED",
    InvalidJson: "INVALID_INPUT",
    InvalidRequest: "INVALID_REQUEST",
    InvalidInput: "INVALID_INPUT",
    PayloadTooLarge: "PayloadTooLarge",
}
"""The code for an error, unless its method has another; a subclass is found by its own entry before its base's."""

PASSING: Final = 503
"""The status of errors that may be gone when the same is asked again, such as of a database that is away."""

_FLAT: Final = frozenset({"AlreadyDecided", "RateLimited", "PayloadTooLarge", "EXTENSION_METHOD_NOT_FOUND"})
"""Codes whose details stand beside `code` and `message` instead of below `details`."""


class RpcError(SmithersError):
    """An error in the wire's own terms.

    Args:
        code: the wire's spelling.
        message: one sentence for the person who has to act on it.
        more: keys beside `code` and `message`, as a mapping.
        status: the HTTP status, where it is not the code's.
        extras: keys beside `code` and `message`.
    """

    def __init__(
        self,
        code: str,
        message: str,
        more: Mapping[str, object] | None = None,
        /,
        *,
        status: int | None = None,
        **extras: object,
    ) -> None:
        super().__init__(message, code=code)
        self.extras: dict[str, object] = {**(more or {}), **extras}
        self._http_status = status

    @property
    def http_status(self) -> int:
        """What an HTTP answer with this error has."""
        return self._http_status or STATUS.get(self.error_code, 500)

    def body(self) -> dict[str, object]:
        """The `error` object of a response."""
        return {"version": API_VERSION, "code": self.error_code, "message": self.summary, **self.extras}


def rpc_error_of(error: Exception, codes: Mapping[type[SmithersError], str] | None = None) -> RpcError:
    """Any error as the wire has it. What nobody foresaw is logged and becomes a `SERVER_ERROR` that tells nothing.

    Args:
        codes: the spellings of the method, where they differ from the usual ones.
    """
    if isinstance(error, RpcError):
        return error
    if not isinstance(error, SmithersError):
        log.error("a request failed unexpectedly", exc_info=error)
        return RpcError("SERVER_ERROR", "Internal error")
    code = next(
        (found for kind in type(error).__mro__ if (found := (codes or {}).get(kind) or USUAL.get(kind))),
        None,
    )
    details = object_of(json_safe(error.details))
    extras: dict[str, object] = {}
    if details:
        extras = details if code in _FLAT else {"details": details}
    if code is not None:
        return RpcError(code, error.summary, extras)
    if error.status == PASSING:
        extras["retryable"] = True  # a WebSocket has no status to tell it by
    if error.status >= 500:
        log.warning("a request failed", extra={"code": error.error_code})
    return RpcError(error.error_code, error.summary, extras, status=error.status)
