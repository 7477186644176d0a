"""A PostgreSQL of their own for the tests of this folder, because they restart it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.postgres_support import PostgresServer

from smithers.store import open_store


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """A server that nobody else uses."""
    found = PostgresServer()
    yield found
    found.remove()


@pytest.fixture
def database(server: PostgresServer) -> Iterator[str]:
    """The URL of a fresh database."""
    name = server.create_database()
    open_store(server.url(name)).close()
    yield server.url(name)
    server.drop_database(name)
