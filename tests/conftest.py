"""What every test shares: no network beyond this machine, no real model, asyncio as the one event loop."""

from __future__ import annotations

import ipaddress
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest
from hypothesis import settings
from tests.postgres_support import empty_postgres_url as empty_postgres_url
from tests.postgres_support import postgres_line as postgres_line
from tests.postgres_support import postgres_server as postgres_server
from tests.postgres_support import postgres_template as postgres_template
from tests.postgres_support import postgres_url as postgres_url
from tests.ray_support import ray_address as ray_address

pytest_plugins = ["tests.databases"]

# Shared machines stall now and then; a slow example is not a wrong one. On CI Hypothesis loads its own profile, whose
# examples are the same on every run.
settings.register_profile("smithers", deadline=None)
if "CI" not in os.environ:
    settings.load_profile("smithers")


@pytest.fixture(autouse=True, scope="session")
def _own_repository_is_left_alone() -> Iterator[None]:
    """Tasks work in the current folder unless told otherwise: their checkpoints must not go into this project's own
    repository, which to them is none."""
    from smithers.vcs import repository

    own, found_at = Path(__file__).resolve().parents[1], repository._at  # pyright: ignore[reportPrivateUsage]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(repository, "_at", lambda top: None if top == own else found_at(top))  # pyright: ignore
        yield


class NetworkForbidden(RuntimeError):
    """A test tried to reach another machine."""


_TO_AN_ADDRESS = frozenset({"socket.connect", "socket.sendto", "socket.sendmsg"})


def _is_this_machine(host: object) -> bool:
    if host is None:
        return True
    name = host.decode("ascii", "replace") if isinstance(host, bytes) else str(host)
    try:
        return name in ("", "localhost") or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _refuse_other_machines(event: str, args: tuple[object, ...]) -> None:
    """Audit hook. It sees every library's sockets, also those made in threads."""
    if event in _TO_AN_ADDRESS:
        # The address of a Unix socket is text, and such a socket cannot leave this machine.
        host = cast("tuple[object, ...]", args[1])[0] if isinstance(args[1], tuple) else None
    elif event == "socket.getaddrinfo":
        host = args[0]
    else:
        return
    if not _is_this_machine(host):
        raise NetworkForbidden(f"{event} for {host!r}: tests reach this machine only")


sys.addaudithook(_refuse_other_machines)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Have pydantic-ai refuse real models with its own, clearer error, without importing it for tests that do not."""
    del item
    if models := sys.modules.get("pydantic_ai.models"):
        vars(models)["ALLOW_MODEL_REQUESTS"] = False


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Run tests marked `anyio` on asyncio only: the engine is written for it."""
    return "asyncio"
