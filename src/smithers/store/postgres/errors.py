"""What PostgreSQL and libpq say, in this project's terms. Messages never repeat a password."""

from __future__ import annotations

import psycopg
from psycopg import pq

from smithers.errors import StorageBusy, StorageError, StorageFull, StorageReadOnly, StorageUnreachable

DEADLOCK = "40P01"
SERIALIZATION = "40001"
LOCK_TIMEOUT = "55P03"
STALE_PLAN = "0A000"
NO_SUCH_PLAN = "26000"

REPEATABLE = frozenset({DEADLOCK, SERIALIZATION, LOCK_TIMEOUT})
"""States after which the same transaction may well succeed."""

STALE_PLANS = frozenset({STALE_PLAN, NO_SUCH_PLAN})
"""States that say that a prepared statement has to be made anew."""

_UNREACHABLE = ("08", "57P", "25P03")
_FULL = frozenset({"53100"})
_READ_ONLY = frozenset({"25006", "42501"})
_BUSY = frozenset({LOCK_TIMEOUT, DEADLOCK, SERIALIZATION, "57014", "53300"})

_NO_ROOM = ("too many clients", "too many connections", "remaining connection slots")
"""What PostgreSQL says when all its connections are in use: that passes."""


class ServerError(StorageError):
    """The server refused a statement; `state` is its five-letter SQLSTATE."""

    def __init__(self, state: str, message: str) -> None:
        super().__init__(f"the database refused: {message}", {"sqlstate": state})
        self.state = state


def refusal(state: str, message: str) -> StorageError:
    """The error for a statement that the server refused, with its SQLSTATE."""
    cause = ServerError(state, message)
    details: dict[str, object] = {"sqlstate": state}
    if state.startswith(_UNREACHABLE):
        error: StorageError = StorageUnreachable(f"the database server ended the connection: {message}", details)
    elif state in _FULL:
        error = StorageFull(f"the disk that holds the database is full: {message}", details)
    elif state in _READ_ONLY:
        error = StorageReadOnly(f"the database may not be written: {message}", details)
    elif state in _BUSY:
        error = StorageBusy(f"another process held what had to be written for too long: {message}", details)
    else:
        return cause
    error.__cause__ = cause
    return error


def state_of(error: BaseException) -> str | None:
    """The SQLSTATE behind an error of `refusal`."""
    if isinstance(error, ServerError):
        return error.state
    return error.__cause__.state if isinstance(error.__cause__, ServerError) else None


def lost(message: str) -> StorageUnreachable:
    """The error for a connection that has gone."""
    return StorageUnreachable(f"the connection to the database was lost: {_one_line(message)}")


def may_be_refused(error: StorageUnreachable, conninfo: str) -> bool:
    """Whether a server takes connections, but not this one: then it is the address that is not right.

    A connection that fails has no SQLSTATE, and a server speaks the language that it was told to. So the server is asked
    whether it takes connections at all, which it answers without letting anybody in; one that starts or ends says no.
    """
    cause = error.__cause__
    if not isinstance(cause, psycopg.OperationalError) or isinstance(cause, psycopg.errors.ConnectionTimeout):
        return False
    if any(text in str(cause) for text in _NO_ROOM):
        return False
    return pq.PGconn.ping(conninfo.encode()) == pq.Ping.OK


def storage_error(exc: BaseException) -> StorageError:
    """What psycopg's exception means. A `StorageError` is returned as it is; the cause is kept."""
    if isinstance(exc, StorageError):
        return exc
    if isinstance(exc, psycopg.Error) and exc.sqlstate is not None:
        error = refusal(exc.sqlstate, _one_line(str(exc)))
    elif isinstance(exc, psycopg.OperationalError):
        error = StorageUnreachable(f"the database cannot be reached: {_one_line(str(exc))}")
    else:
        error = StorageError(f"the database refused: {type(exc).__name__}: {_one_line(str(exc))}")
    if error.__cause__ is None:
        error.__cause__ = exc
    return error


def _one_line(message: str) -> str:
    return " ".join(message.split())
