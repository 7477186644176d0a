"""A full disk: what is stored already can still be read, and what could not be mirrored is, once there is room."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import pytest
from tests.conformance.http.support import TOKEN, Client, Folder, client_of

from smithers import Settings, start_server
from smithers.store import open_store
from smithers.store.sql.store import SqlStore

FAST = Settings(durability="normal", heartbeat_ms=200)


def bound(store: SqlStore, pages: int) -> None:
    """Let a database grow to so many pages only; SQLite then says that the disk is full."""
    store.write(lambda c: c.execute(f"PRAGMA max_page_count = {pages}").fetchall())


def listed(client: Client) -> list[str]:
    answer = client.http.get("/v1/runs")
    assert answer.status_code == 200, answer.text
    return [run["runId"] for run in answer.json()]


def test_runs_are_listed_as_they_were_last_while_nothing_can_be_mirrored(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, db = Folder(tmp_path / "flows"), tmp_path / "server.db"
    with (
        start_server(port=0, settings=FAST, db=db, auth_token=TOKEN) as server,
        client_of(server.url, folder) as client,
    ):
        first = client.start("first")
        client.until(first, "finished")
        assert listed(client) == [first]
        store = open_store(db)  # the server's own: it is open in this process
        with caplog.at_level(logging.WARNING, "smithers.control.mirror"):
            bound(store, 1)
            others = [client.start(many=20) for _ in range(10)]
            for run_id in others:
                client.until(run_id, "finished")
            deadline = time.monotonic() + 60
            while not any("mirrored" in record.getMessage() for record in caplog.records):
                assert first in listed(client)
                assert time.monotonic() < deadline
        assert first in listed(client)
        assert set(listed(client)) < {first, *others}
        bound(store, 1_000_000)
        assert set(listed(client)) == {first, *others}
        store.close()
