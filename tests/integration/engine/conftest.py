"""A real engine on a real database, in virtual time."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from tests.integration.engine.support import Bench


@pytest.fixture
async def bench(db: str, anyio_backend: str) -> AsyncIterator[Bench]:
    """One engine on one database, with a virtual clock."""
    del anyio_backend
    found = Bench(db)
    yield found
    await found.close()
