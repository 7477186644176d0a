"""Documents: tickets, plans, specs and proposals that people and workflows share, kept by path; and their import from a
folder of Markdown files."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from smithers.control.control import Control
from smithers.errors import InvalidInput, TicketNotFound
from smithers.store.sql import documents as table
from smithers.store.sql.documents import DocRow
from smithers.store.sql.session import Session

log = logging.getLogger(__name__)
Wire = dict[str, object]

KINDS: Final = ("ticket", "plan", "spec", "proposal")
MAX_DOCS: Final = 10_000
DEFAULT_DOCS: Final = 4_096
MAX_PATH: Final = 1_024
MAX_STATUS: Final = 256
MAX_CONTENT_BYTES: Final = 4_194_304
MAX_FILES: Final = 10_000


def content_hash(content: str) -> str:
    """The SHA-256 of a document's text, in hexadecimal."""
    return hashlib.sha256(content.encode()).hexdigest()


# ── lists ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def list_docs(
    control: Control,
    *,
    kind: str | None = None,
    include_deleted: bool = False,
    updated_after_ms: int | None = None,
    limit: int = DEFAULT_DOCS,
) -> list[Wire]:
    """Documents (`DocRow`), the newest change first, then by path.

    Args:
        updated_after_ms: only what was changed later than that.
        limit: at most so many, held to 1 … `MAX_DOCS`.
    """
    kinds, most = () if kind is None else (kind,), max(1, min(limit, MAX_DOCS))
    rows = await control.store.aread(
        lambda c: table.page(
            c, kinds=kinds, include_deleted=include_deleted, updated_after_ms=updated_after_ms, limit=most
        )
    )
    return [doc_wire(row) for row in rows]


async def find(control: Control, path: str) -> DocRow | None:
    """The document at a path, deleted or not; None if there never was one."""
    return await control.store.aread(lambda c: table.get(c, path))


async def list_tickets(control: Control, *, kind: str | None = None) -> list[Wire]:
    """Documents that are tickets, plans, specs or proposals (`TicketRow`), the newest change first. Raises
    `InvalidInput`."""
    kinds = KINDS if kind is None else (_kind(kind),)
    rows = await control.store.aread(
        lambda c: table.page(c, kinds=kinds, include_deleted=False, updated_after_ms=None, limit=MAX_DOCS)
    )
    return [ticket_wire(row) for row in rows]


def ticket_wire(row: DocRow) -> Wire:
    """A ticket, as it is sent."""
    return {
        "path": row.path,
        "kind": row.kind,
        "content": row.content,
        "contentHash": row.content_hash,
        "status": row.status,
        "updatedAtMs": row.updated_at_ms,
    }


def doc_wire(row: DocRow) -> Wire:
    """A document, as it is sent."""
    return {**ticket_wire(row), "deletedAtMs": row.deleted_at_ms}


# ── changes ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def put_ticket(
    control: Control, path: str, content: str, *, kind: str | None = None, status: str | None = None
) -> Wire:
    """Store a ticket, or replace the one under this path; a deleted one is there again. Gives it (`TicketRow`).

    What is left out stays as it is, and is a `ticket` without status in a new one. Raises `InvalidInput`.
    """
    _check_path(path)
    _check_content(content)
    _check_status(status)
    wanted = None if kind is None else _kind(kind)
    now = control.clock.now_ms()

    def job(connection: Session) -> DocRow:
        table.lock(connection)
        before = table.get(connection, path)
        row = DocRow(
            path,
            wanted or ("ticket" if before is None or before.kind not in KINDS else before.kind),
            content,
            content_hash(content),
            before.status if status is None and before is not None else status,
            now,
            None,
        )
        table.put(connection, row)
        return row

    return ticket_wire(await control.store.awrite(job))


async def update_ticket(control: Control, path: str, *, content: str | None = None, status: str | None = None) -> Wire:
    """Change a ticket's text or status. Gives it (`TicketRow`). Raises `InvalidInput` or `TicketNotFound`."""
    if content is not None:
        _check_content(content)
    _check_status(status)
    now = control.clock.now_ms()

    def job(connection: Session) -> DocRow:
        table.lock(connection)
        row = _require_live(connection, path)._replace(updated_at_ms=now)
        if content is not None:
            row = row._replace(content=content, content_hash=content_hash(content))
        if status is not None:
            row = row._replace(status=status)
        table.put(connection, row)
        return row

    return ticket_wire(await control.store.awrite(job))


async def delete_ticket(control: Control, path: str) -> Wire:
    """Delete a ticket: `{path, deleted}`. Its row stays, so that an import does not bring it back. Raises
    `TicketNotFound`."""
    now = control.clock.now_ms()

    def job(connection: Session) -> None:
        table.lock(connection)
        table.put(connection, _require_live(connection, path)._replace(updated_at_ms=now, deleted_at_ms=now))

    await control.store.awrite(job)
    return {"path": path, "deleted": True}


def _require_live(connection: Session, path: str) -> DocRow:
    row = table.get(connection, path)
    if row is None or row.deleted_at_ms is not None or row.kind not in KINDS:
        raise TicketNotFound(f"there is no ticket {path!r:.200}", {"path": path})
    return row


def _kind(kind: str) -> str:
    if kind not in KINDS:
        raise InvalidInput(f"kind must be one of {', '.join(KINDS)}, not {kind!r:.80}", {"field": "kind"})
    return kind


def _check_path(path: str) -> None:
    if not 0 < len(path) <= MAX_PATH or not path.isprintable() or not path.strip():
        raise InvalidInput(f"path must have 1 to {MAX_PATH} printable characters", {"field": "path"})


def _check_status(status: str | None) -> None:
    if status is not None and len(status) > MAX_STATUS:
        raise InvalidInput(f"status must have at most {MAX_STATUS} characters", {"field": "status"})


def _check_content(content: str) -> None:
    try:
        size = len(content.encode())
    except UnicodeEncodeError as error:
        raise InvalidInput("content holds half a surrogate pair", {"field": "content"}) from error
    if size > MAX_CONTENT_BYTES:
        raise InvalidInput(f"content has {size} bytes; at most {MAX_CONTENT_BYTES} are kept", {"field": "content"})


# ── the folder of tickets ──────────────────────────────────────────────────────────────────────────────────────────


class TicketFile(NamedTuple):
    """A Markdown file: its name without the ending, and its text."""

    path: str
    content: str


def read_tickets(folder: Path) -> list[TicketFile]:
    """The `*.md` files of a folder, by name; links, and files that are too large or no UTF-8 text, are left out with a
    warning. Nothing for a folder that is not there."""
    found: list[TicketFile] = []
    try:
        files = sorted(file for file in folder.iterdir() if file.suffix == ".md" and not file.name.startswith("."))
    except (FileNotFoundError, NotADirectoryError):
        return []
    for file in files[:MAX_FILES]:
        name, text = file.name, read_text(file, MAX_CONTENT_BYTES)
        if text is not None and len(name) <= MAX_PATH and name.isprintable():
            found.append(TicketFile(name.removesuffix(".md"), text[0]))
    return found


def read_text(file: Path, most: int) -> tuple[str, os.stat_result] | None:
    """A plain file's text; None, with a warning, for a link, or one that is too large or no UTF-8 text.

    It is looked at after it was opened, without following a link, so that nobody can exchange it in between.
    """
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as opened:
            status = os.fstat(descriptor)
            data = opened.read(most + 1) if stat.S_ISREG(status.st_mode) else None
    except OSError as error:
        log.warning("a file cannot be read", extra={"file": file.name, "reason": error.strerror})
        return None
    if data is None or len(data) > most:
        log.warning("a file is left out", extra={"file": file.name, "reason": "too large, or no plain file"})
        return None
    try:
        return data.decode(), status
    except UnicodeDecodeError:
        log.warning("a file is left out", extra={"file": file.name, "reason": "no UTF-8 text"})
        return None


def import_plan(files: Sequence[TicketFile], stored: dict[str, DocRow], now_ms: int) -> list[DocRow]:
    """The rows to write for files: those that are new or have changed. Pure.

    A new one has the status `todo`. A deleted one comes back when its file has changed since, not before.
    """
    rows: list[DocRow] = []
    for path, content in files:
        digest, before = content_hash(content), stored.get(path)
        if before is None:
            rows.append(DocRow(path, "ticket", content, digest, "todo", now_ms, None))
        elif before.content_hash != digest:
            rows.append(before._replace(content=content, content_hash=digest, updated_at_ms=now_ms, deleted_at_ms=None))
    return rows


async def import_tickets(control: Control, folder: Path) -> list[str]:
    """Bring the documents up to date with the Markdown files of a folder; nothing goes the other way. Gives the paths that
    were written."""
    files = await asyncio.to_thread(read_tickets, folder)
    now = control.clock.now_ms()

    def plan(connection: Session) -> list[DocRow]:
        stored = {file.path: row for file in files if (row := table.get(connection, file.path)) is not None}
        return import_plan(files, stored, now)

    def job(connection: Session) -> list[DocRow]:
        table.lock(connection)
        rows = plan(connection)
        for row in rows:
            table.put(connection, row)
        return rows

    if not await control.store.aread(plan):  # most of the time
        return []
    return [row.path for row in await control.store.awrite(job)]
