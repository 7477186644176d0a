"""Errors of databases."""

from __future__ import annotations

from smithers.errors.base import SmithersError


class StorageError(SmithersError):
    """The database refused; nothing of the request was written."""

    code, status = "STORAGE_ERROR", 500


class StorageBusy(StorageError):
    """Another process held the database's write lock for too long."""

    code, status = "DB_WRITE_FAILED", 503


class StorageSaturated(StorageError):
    """All connections to the database stayed in use for too long."""

    code, status = "STORAGE_ERROR", 503


class StorageUnreachable(StorageError):
    """The database server cannot be reached, or cut the connection; nothing of the request was written."""

    code, status = "STORAGE_ERROR", 503


class StorageRefused(StorageUnreachable):
    """The database server answers, but lets nobody in with this address: its password, user or database is not right."""

    code, status = "STORAGE_ERROR", 500


class OutcomeUnknown(StorageError):
    """The connection was cut while a commit was under way: the request was written wholly or not at all."""

    code, status = "STORAGE_ERROR", 503


class StorageReadOnly(StorageError):
    """The database file or its folder cannot be written."""

    code = "DB_WRITE_FAILED"


class StorageFull(StorageError):
    """The disk is full."""

    code, status = "DB_WRITE_FAILED", 507


class StorageCorrupt(StorageError):
    """The file is not a database, or is damaged."""

    code = "STORAGE_ERROR"


class StoreNotFound(StorageError):
    """There is no database at this place."""

    code, status = "CLI_DB_NOT_FOUND", 404


class MigrationRequired(StorageError):
    """The database was written by a newer version of this project."""

    code = "SMITHERS_MIGRATION_REQUIRED"


class MalformedOutputRow(StorageError):
    """A stored row holds something that its column cannot hold."""

    code = "MalformedOutputRow"


class IncompatibleSchema(StorageError):
    """An output table holds a column of another type than the model has now."""

    code, status = "DB_MISSING_COLUMNS", 409
