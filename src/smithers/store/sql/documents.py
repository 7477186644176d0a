"""Documents: tickets, plans, specs and proposals by path. Deleting one keeps its row, so that an import does not bring it
back."""

from __future__ import annotations

from typing import NamedTuple

from smithers.store.interface import SqlValue
from smithers.store.sql.locks import lock_name
from smithers.store.sql.session import Session


class DocRow(NamedTuple):
    """A stored document."""

    path: str
    kind: str
    content: str
    content_hash: str
    status: str | None
    updated_at_ms: int
    deleted_at_ms: int | None


_DOC = ", ".join(DocRow._fields)


def lock(connection: Session) -> None:
    """Have no other job change documents until this one is committed: for those that decide from what is stored."""
    lock_name(connection, "documents")


def get(connection: Session, path: str) -> DocRow | None:
    """One document, deleted or not."""
    row = connection.execute(f"SELECT {_DOC} FROM _smithers_docs WHERE path = ?", (path,)).fetchone()
    return None if row is None else DocRow(*row)


def put(connection: Session, row: DocRow) -> None:
    """Store a document in place of what is stored under its path."""
    connection.execute(
        f"INSERT INTO _smithers_docs ({_DOC}) VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (path) DO UPDATE SET "
        "kind = excluded.kind, content = excluded.content, content_hash = excluded.content_hash, "
        "status = excluded.status, updated_at_ms = excluded.updated_at_ms, deleted_at_ms = excluded.deleted_at_ms",
        row,
    )


def page(
    connection: Session, *, kinds: tuple[str, ...], include_deleted: bool, updated_after_ms: int | None, limit: int
) -> list[DocRow]:
    """Documents, the newest change first, then by path; of all kinds if none is given."""
    text, parameters = page_sql(kinds, include_deleted, updated_after_ms)
    return [DocRow(*row) for row in connection.execute(text, (*parameters, limit))]


def page_sql(
    kinds: tuple[str, ...], include_deleted: bool, updated_after_ms: int | None
) -> tuple[str, tuple[SqlValue, ...]]:
    """The statement of `page`, with its parameters but for the limit. Walks an index that is in the list's order."""
    where, parameters = list[str](), list[SqlValue]()
    if not include_deleted:
        where.append("deleted_at_ms IS NULL")
    if kinds:
        # with several kinds the index of one kind would have to be sorted: the function keeps the planner from it
        where.append("kind = ?" if len(kinds) == 1 else f"coalesce(kind, '') IN ({', '.join('?' for _ in kinds)})")
        parameters += kinds
    if updated_after_ms is not None:
        where.append("updated_at_ms > ?")
        parameters.append(updated_after_ms)
    condition = f" WHERE {' AND '.join(where)}" if where else ""
    return f"SELECT {_DOC} FROM _smithers_docs{condition} ORDER BY updated_at_ms DESC, path LIMIT ?", tuple(parameters)
