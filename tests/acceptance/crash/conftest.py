"""Fixtures of the crash tests: servers of processes, one pair for each test worker."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.acceptance.crash.zygote import Zygote


@pytest.fixture(scope="session")
def zygotes() -> Iterator[tuple[Zygote, Zygote]]:
    """Two servers of processes, which stay for all tests of a worker."""
    servers = Zygote(), Zygote()
    yield servers
    for server in servers:
        server.close()


@pytest.fixture
def zygote(zygotes: tuple[Zygote, Zygote]) -> Iterator[Zygote]:
    """Makes processes."""
    yield zygotes[0]
    zygotes[0].clear()


@pytest.fixture
def other_zygote(zygotes: tuple[Zygote, Zygote]) -> Iterator[Zygote]:
    """Makes processes beside those of `zygote`."""
    yield zygotes[1]
    zygotes[1].clear()
