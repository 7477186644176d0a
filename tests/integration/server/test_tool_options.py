"""What a server says about the tools of the runs that it starts is stored with each of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic_core import from_json
from tests.conformance.http.support import TOKEN, Folder, client_of

from smithers import Settings, SmithersDb, start_server
from smithers.errors import InvalidInput
from smithers.store.sql import reads

FAST = Settings(durability="normal", heartbeat_ms=200)


def test_runs_of_a_server_have_its_tool_options(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "flows")
    with (
        start_server(
            port=0,
            db=folder.db,
            auth_token=TOKEN,
            root_dir=folder.path,
            sandbox="off",
            max_output_bytes=500,
            tool_timeout_ms=900,
            settings=FAST,
        ) as server,
        client_of(server.url, folder) as client,
    ):
        client.until(client.start("r"), "finished")
    db = SmithersDb(folder.db)
    _, config = db.store.read(lambda c: reads.spec(c, "r"))
    db.close()
    stored = from_json(config)
    assert stored | {"sandbox": "off", "maxOutputBytes": 500, "toolTimeoutMs": 900} == stored


def test_tool_options_that_cannot_be_are_refused_before_anything_is_bound(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="max_output_bytes"):
        start_server(port=0, max_output_bytes=0, settings=FAST)
    with pytest.raises(InvalidInput, match="tool_timeout_ms"):
        start_server(port=0, tool_timeout_ms=3_600_001, settings=FAST)
