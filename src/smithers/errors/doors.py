"""Errors of requests over HTTP."""

from __future__ import annotations

from smithers.errors.base import SmithersError


class RequestError(SmithersError):
    """A request over HTTP cannot be answered as it was made."""

    code, status, retryable = "INVALID_REQUEST", 400, False


class InvalidRequest(RequestError):
    """A field, parameter or header of a request does not fit; the message names it."""


class InvalidJson(RequestError):
    """A request's body is not JSON."""

    code = "INVALID_JSON"


class RunIdRequired(RequestError):
    """A run is to be resumed, and none is named."""

    code = "RUN_ID_REQUIRED"


class DbNotConfigured(RequestError):
    """The server was started without a database of its own, which this route needs."""

    code = "DB_NOT_CONFIGURED"


class Unauthorized(RequestError):
    """A request carries no valid token or signature."""

    code, status = "UNAUTHORIZED", 401


class HostForbidden(RequestError):
    """A server without a token answers only requests that are addressed to, and come from, this machine."""

    code, status = "FORBIDDEN", 403


class NotFound(RequestError):
    """There is nothing at this path."""

    code, status = "NOT_FOUND", 404


class CronNotFound(NotFound):
    """No schedule with this id is stored."""


class TicketNotFound(NotFound):
    """No document is stored under this path, or it was deleted."""


class ScoreNotFound(NotFound):
    """The run has no score with this id."""

    code = "ScoreNotFound"


class AccountsFileInvalid(RequestError):
    """The file that lists agent accounts cannot be read as one."""

    code, status = "ACCOUNTS_FILE_INVALID", 500


class StateConflict(RequestError):
    """The request fits, but not the state that its object is in."""

    status = 409


class PayloadTooLarge(RequestError):
    """A request's body is larger than the server takes."""

    code, status = "PAYLOAD_TOO_LARGE", 413


class QueueFull(RequestError):
    """Too many accepted requests wait to be worked off."""

    code, status, retryable = "SERVER_ERROR", 503, True


class QuotaExceeded(RequestError):
    """There is no room for another run, and as many as may wait for room do so already."""

    code, status, retryable = "QUOTA_EXCEEDED", 429, True


class ServerInsecureBind(RequestError):
    """A server without a token was to listen beyond this machine."""

    code = "SERVER_INSECURE_BIND"


class ServeInsecureBind(ServerInsecureBind):
    """A run without a token was to be served beyond this machine."""

    code = "SERVE_INSECURE_BIND"


class GatewayInsecureBind(ServerInsecureBind):
    """A gateway without a token was to listen beyond this machine."""

    code = "GATEWAY_INSECURE_BIND"


class ServerIntegrationsRequireDb(RequestError):
    """Webhooks were configured for a server without a database of its own."""

    code = "SERVER_INTEGRATIONS_REQUIRE_DB"
