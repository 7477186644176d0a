"""Documents: created, replaced, deleted and revived by path; imported from a folder in one direction only."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from smithers.control.control import Control
from smithers.control.documents import (
    KINDS,
    delete_ticket,
    import_tickets,
    list_docs,
    list_tickets,
    put_ticket,
    update_ticket,
)
from smithers.errors import InvalidInput, TicketNotFound
from smithers.store import open_store
from smithers.store.sql import documents, reads
from smithers.testing import VirtualClock

BOTH_DATABASES = True


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def control(db: str, clock: VirtualClock) -> Iterator[Control]:
    store = open_store(db, durability="normal")
    yield Control(store, clock=clock)
    store.close()


def paths(rows: list[dict[str, object]]) -> list[object]:
    return [row["path"] for row in rows]


def test_a_ticket_is_stored_with_the_hash_of_its_text(control: Control, clock: VirtualClock) -> None:
    ticket = asyncio.run(put_ticket(control, "a/b", "# Größe", kind="plan"))

    assert ticket == {
        "path": "a/b",
        "kind": "plan",
        "content": "# Größe",
        "contentHash": hashlib.sha256("# Größe".encode()).hexdigest(),
        "status": None,
        "updatedAtMs": clock.now_ms(),
    }
    assert asyncio.run(list_tickets(control)) == [ticket]
    assert asyncio.run(list_docs(control)) == [{**ticket, "deletedAtMs": None}]


def test_replacing_a_ticket_keeps_the_kind_and_status_that_are_not_given(control: Control) -> None:
    async def run() -> None:
        await put_ticket(control, "a", "1", kind="spec", status="todo")
        assert (await put_ticket(control, "a", ""))["kind"] == "spec"
        found = await put_ticket(control, "a", "2", status="done")
        assert (found["kind"], found["status"], found["content"]) == ("spec", "done", "2")

    asyncio.run(run())


def test_an_update_renews_the_time_and_changes_only_what_is_given(control: Control, clock: VirtualClock) -> None:
    async def run() -> None:
        before = await put_ticket(control, "a", "1", status="todo")
        clock.advance(5)
        after = await update_ticket(control, "a", status="done")
        assert after == {**before, "status": "done", "updatedAtMs": clock.now_ms()}
        assert (await update_ticket(control, "a", content="2"))["contentHash"] == hashlib.sha256(b"2").hexdigest()

    asyncio.run(run())


def test_a_deleted_ticket_is_gone_until_it_is_created_again(control: Control) -> None:
    async def run() -> None:
        await put_ticket(control, "a", "1", kind="plan")
        assert await delete_ticket(control, "a") == {"path": "a", "deleted": True}
        assert await list_tickets(control) == []
        assert paths(await list_docs(control)) == []
        assert paths(await list_docs(control, include_deleted=True)) == ["a"]
        for refused in (
            delete_ticket(control, "a"),
            update_ticket(control, "a", content="2"),
            delete_ticket(control, "x"),
        ):
            with pytest.raises(TicketNotFound):
                await refused
        assert (await put_ticket(control, "a", "3"))["kind"] == "plan"
        assert paths(await list_tickets(control)) == ["a"]

    asyncio.run(run())


@pytest.mark.parametrize(
    ("path", "content", "kind"),
    [("", "x", None), ("a\nb", "x", None), ("a", "x", "conflict"), ("a", "\ud800", None), ("a" * 1_025, "x", None)],
)
def test_what_no_ticket_can_hold_is_refused(control: Control, path: str, content: str, kind: str | None) -> None:
    with pytest.raises(InvalidInput):
        asyncio.run(put_ticket(control, path, content, kind=kind))
    assert asyncio.run(list_docs(control)) == []


def test_lists_have_the_newest_change_first_and_then_go_by_path(control: Control, clock: VirtualClock) -> None:
    async def run() -> None:
        await put_ticket(control, "b", "", kind="plan")
        await put_ticket(control, "a", "")
        first = clock.now_ms()
        clock.advance(1)
        await put_ticket(control, "c", "")
        assert paths(await list_tickets(control)) == ["c", "a", "b"]
        assert paths(await list_docs(control, updated_after_ms=first)) == ["c"]
        assert paths(await list_docs(control, kind="ticket", limit=1)) == ["c"]
        assert paths(await list_docs(control, limit=-5)) == ["c"]
        assert paths(await list_tickets(control, kind="plan")) == ["b"]
        with pytest.raises(InvalidInput):
            await list_tickets(control, kind="conflict")

    asyncio.run(run())


@pytest.mark.sqlite
@pytest.mark.parametrize("kinds", [(), ("plan",), KINDS])
@pytest.mark.parametrize("include_deleted", [False, True])
@pytest.mark.parametrize("after", [None, 5])
def test_a_page_reads_no_more_than_it_gives(
    control: Control, kinds: tuple[str, ...], include_deleted: bool, after: int | None
) -> None:
    text, parameters = documents.page_sql(kinds, include_deleted, after)

    def plan(c: reads.Session) -> list[str]:
        return [str(row[3]) for row in c.execute("EXPLAIN QUERY PLAN " + text, (*parameters, 10))]

    (step,) = control.store.read(plan)
    assert "USING INDEX" in step


# ── the folder ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_files_become_tickets_and_are_read_again_when_they_change(control: Control, tmp_path: Path) -> None:
    folder = tmp_path / "tickets"
    folder.mkdir()
    (folder / "one.md").write_text("1")
    (folder / "two.txt").write_text("no ticket")
    (folder / ".hidden.md").write_text("no ticket")

    async def run() -> None:
        assert await import_tickets(control, folder) == ["one"]
        assert await import_tickets(control, folder) == []
        await update_ticket(control, "one", status="done")
        (folder / "one.md").write_text("2")
        assert await import_tickets(control, folder) == ["one"]
        (ticket,) = await list_tickets(control)
        assert (ticket["content"], ticket["status"], ticket["kind"]) == ("2", "done", "ticket")

    asyncio.run(run())


def test_new_files_are_to_do(control: Control, tmp_path: Path) -> None:
    (tmp_path / "one.md").write_text("1")

    asyncio.run(import_tickets(control, tmp_path))

    assert asyncio.run(list_tickets(control))[0]["status"] == "todo"


def test_an_unchanged_file_does_not_bring_a_deleted_ticket_back_but_a_changed_one_does(
    control: Control, tmp_path: Path
) -> None:
    (tmp_path / "one.md").write_text("1")

    async def run() -> None:
        await import_tickets(control, tmp_path)
        await delete_ticket(control, "one")
        assert await import_tickets(control, tmp_path) == []
        assert await list_tickets(control) == []
        (tmp_path / "one.md").write_text("2")
        assert await import_tickets(control, tmp_path) == ["one"]
        assert paths(await list_tickets(control)) == ["one"]

    asyncio.run(run())


def test_links_pipes_folders_and_binary_files_are_left_out(control: Control, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    folder = tmp_path / "tickets"
    folder.mkdir()
    (folder / "link.md").symlink_to(secret)
    (folder / "folder.md").mkdir()
    (folder / "binary.md").write_bytes(b"\xff\xfe")
    os.mkfifo(folder / "pipe.md")
    (folder / "good.md").write_text("good")

    assert asyncio.run(import_tickets(control, folder)) == ["good"]


def test_a_folder_that_is_not_there_has_no_tickets(control: Control, tmp_path: Path) -> None:
    assert asyncio.run(import_tickets(control, tmp_path / "none")) == []
