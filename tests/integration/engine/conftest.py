"""A real engine on a SQLite file, in virtual time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.integration.engine.support import Bench


@pytest.fixture
async def bench(tmp_path: Path, anyio_backend: str) -> AsyncIterator[Bench]:
    """One engine on one file, with a virtual clock."""
    del anyio_backend
    found = Bench(tmp_path / "runs.db")
    yield found
    await found.close()
