"""Gateways that end with their test."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.acceptance.gateway.support import GatewayProcess


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[GatewayProcess]:
    """A gateway without auth; it listens."""
    found = GatewayProcess(tmp_path)
    found.start()
    yield found
    found.end(signal.SIGKILL)


@pytest.fixture
def busy_gateway(tmp_path: Path) -> Iterator[GatewayProcess]:
    """A gateway with ten users; it listens."""
    found = GatewayProcess(tmp_path, users=10)
    found.start()
    yield found
    found.end(signal.SIGKILL)
