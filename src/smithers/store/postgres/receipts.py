"""Receipts: how a writer whose connection was lost during a commit finds out whether it was committed.

A writer has one row, and each of its transactions that changes anything writes the transaction's number there. After a
new connection the row tells which was the last that came through. Each transaction also holds a lock of the writer's from
before its first statement until it ends, and has been told so before its commit is sent; the row is read under the same
lock, so not before a transaction that the server has not given up yet has ended one way or the other. The row is ordinary
data, so the answer is right on whichever server is connected to: after a crash, and on a copy that has taken over and may
lack the last commits.
"""

from __future__ import annotations

import secrets
import uuid
from typing import Final

from smithers.errors import StorageError
from smithers.store.postgres.link import Answer, Link
from smithers.store.postgres.session import PostgresSession
from smithers.store.sql.session import SILENT

TABLE: Final = """
CREATE TABLE IF NOT EXISTS _smitherspg_receipts (
    writer TEXT PRIMARY KEY,
    number BIGINT NOT NULL,
    written_at TIMESTAMPTZ NOT NULL DEFAULT now()
) WITH (fillfactor = 50)
"""
"""Only PostgreSQL has it, and it is no part of a workspace, so it is not copied with one."""

_ENTER = f"INSERT {SILENT} INTO _smitherspg_receipts (writer, number) VALUES (?, 0) ON CONFLICT (writer) DO NOTHING"
# whoever died without leaving; who is alive and has been silent for so long may lose an answer, not data
_TIDY = f"DELETE {SILENT} FROM _smitherspg_receipts WHERE written_at < now() - interval '7 days'"
_LEAVE = f"DELETE {SILENT} FROM _smitherspg_receipts WHERE writer = ?"
_NOTE = f"""
INSERT {SILENT} INTO _smitherspg_receipts (writer, number) SELECT ?, ? WHERE pg_current_xact_id_if_assigned() IS NOT NULL
ON CONFLICT (writer) DO UPDATE SET number = excluded.number, written_at = now()
"""
_LAST = "SELECT number FROM _smitherspg_receipts WHERE writer = ?"
_LOCK = "SELECT pg_advisory_xact_lock(?)"


class Receipts:
    """The receipts of one writer, whatever its connection."""

    def __init__(self) -> None:
        self._writer = str(uuid.uuid4())
        self._lock = secrets.randbits(63)
        self._number = 0

    def enter(self, link: Link) -> None:
        """Have a row. To be called for each new connection."""
        session = PostgresSession(link)
        session.execute(_TIDY)
        session.execute(_ENTER, (self._writer,))
        link.sync()
        link.read_all()

    def hold(self, session: PostgresSession) -> Answer:
        """Begin a transaction by taking the lock. The answer is to be read before the commit is sent."""
        session.execute("BEGIN")
        return session.execute(_LOCK, (self._lock,))

    def note(self, session: PostgresSession) -> None:
        """Write a receipt into this transaction, which is about to be committed; nothing if it has changed nothing."""
        self._number += 1
        session.execute(_NOTE, (self._writer, self._number))

    def was_committed(self, link: Link) -> bool | None:
        """Whether the transaction with the last receipt was committed, on a new connection; None if there is no telling."""
        session = PostgresSession(link)
        self.hold(session)
        row = session.execute(_LAST, (self._writer,)).fetchone()
        session.execute("ROLLBACK")
        link.sync()
        link.read_all()
        return None if row is None else int(row[0]) == self._number

    def leave(self, link: Link) -> None:
        """Remove the row: this writer ends."""
        try:
            PostgresSession(link).execute(_LEAVE, (self._writer,))
            link.sync()
            link.read_all()
        except StorageError:  # it is removed some day by somebody else
            return
