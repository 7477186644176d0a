"""One server for the conformance tests of a module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.conformance.http.support import TOKEN, Client, Folder, client_of

from smithers import Settings, start_server

FAST = Settings(durability="normal", heartbeat_ms=200)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    return Folder(tmp_path_factory.mktemp("flows"))


@pytest.fixture(scope="module")
def client(folder: Folder) -> Iterator[Client]:
    with (
        start_server(port=0, db=folder.db, auth_token=TOKEN, root_dir=folder.path, settings=FAST) as server,
        client_of(server.url, folder) as found,
    ):
        yield found
