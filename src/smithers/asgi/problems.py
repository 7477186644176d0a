"""Problems: the one place where an error becomes an HTTP answer, `{"error": {"code", "message", "details"?}}`."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Final

from pydantic_core import to_json
from starlette.responses import Response

from smithers.errors import RequestError, SmithersError, WorkflowLoadFailed, json_safe
from smithers.observability.redaction import scrub, scrub_value

log = logging.getLogger(__name__)

JSON_HEADERS: Final = {"cache-control": "no-store", "x-content-type-options": "nosniff"}

OWN_CODES: Final = frozenset(
    {
        "DB_NOT_CONFIGURED",
        "FORBIDDEN",
        "INPUT_MISMATCH",
        "INVALID_JSON",
        "INVALID_REQUEST",
        "NOT_FOUND",
        "PAYLOAD_TOO_LARGE",
        "RESUME_METADATA_MISMATCH",
        "RUN_ALREADY_EXISTS",
        "RUN_ID_REQUIRED",
        "RUN_NOT_ACTIVE",
        "RUN_NOT_FOUND",
        "RUN_NOT_RESUMABLE",
        "RUN_OWNER_ALIVE",
        "SERVER_ERROR",
        "UNAUTHORIZED",
        "WORKFLOW_PATH_OUTSIDE_ROOT",
    }
)
"""The codes of the HTTP surfaces; another error is an `INVALID_REQUEST` or a `SERVER_ERROR`, by its status."""


def json_response(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """An answer in JSON."""
    return json_text_response(to_json(value, inf_nan_mode="null"), status, headers)


def json_text_response(body: bytes, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """An answer whose JSON is encoded already."""
    if headers:
        return Response(body, status, {**JSON_HEADERS, **headers}, "application/json")
    return _JsonResponse(body, status)


class _JsonResponse(Response):
    """The usual answer; its headers need no encoding."""

    def init_headers(self, headers: Mapping[str, str] | None = None) -> None:
        self.raw_headers = [(b"content-length", str(len(self.body)).encode()), *_RAW_JSON_HEADERS]


_RAW_JSON_HEADERS: Final = [
    (b"content-type", b"application/json"),
    *((name.encode(), value.encode()) for name, value in JSON_HEADERS.items()),
]


def problem(error: Exception) -> tuple[int, dict[str, object]]:
    """The status and the body for an error. What nobody foresaw is logged and answered as a `SERVER_ERROR`."""
    if not isinstance(error, SmithersError):
        log.error("a request failed unexpectedly", exc_info=error)
        return 500, _body("SERVER_ERROR", str(error) or type(error).__name__, {})
    status, code = error.status, error.error_code
    if isinstance(error, WorkflowLoadFailed) and error.__cause__ is not None:
        status = 500  # the file is there but raises: nothing that the request could say better
    if code not in OWN_CODES:
        code = "INVALID_REQUEST" if status < 500 else "SERVER_ERROR"
    if status >= 500:
        log.warning("a request failed", extra={"code": error.error_code})
    return status, _body(code, error.summary, error.details)


def problem_response(error: Exception) -> Response:
    """The answer for an error."""
    status, body = problem(error)
    headers: dict[str, str] = {}
    if status in (408, 413):
        headers["connection"] = "close"  # the rest of the body is not going to be read
    if status == 401 and isinstance(error, RequestError):
        headers["www-authenticate"] = "Bearer"
    return json_response(body, status, headers)


def _body(code: str, message: str, details: Mapping[str, object]) -> dict[str, object]:
    found: dict[str, object] = {"code": code, "message": scrub(message)}
    if details:
        found["details"] = scrub_value(json_safe(details))
    return {"error": found}
