"""What the containment tests share: a root folder, and the launchers that this machine can use.

On CI isolation is required: a machine that has none fails these tests instead of skipping them.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from smithers.tools.sandbox.launch import LAUNCHERS, Command, launch
from smithers.tools.sandbox.policy import Bounds, Policy, python
from smithers.tools.sandbox.probe import Trial, try_out
from smithers.tools.sandbox.running import Finished

Inside = Callable[..., Finished]


@cache
def _trial(launcher: str) -> Trial:
    return try_out(launcher)


def _require(launcher: str) -> None:
    missing = _trial(launcher).missing
    if missing:
        reason = f"{launcher}: {', '.join(missing)}"
        if os.environ.get("CI") == "true" and launcher == next(iter(LAUNCHERS)):
            pytest.fail(f"CI needs isolation, and this machine cannot enforce it: {reason}")
        pytest.skip(reason)


@pytest.fixture(autouse=True)
def isolation() -> None:
    """Every test of this folder needs the preferred launcher."""
    _require(next(iter(LAUNCHERS)))


@pytest.fixture(params=list(LAUNCHERS))
def launcher(request: pytest.FixtureRequest) -> str:
    """Each launcher that this machine can use."""
    name: str = request.param
    _require(name)
    return name


@pytest.fixture
def bounds_processes(launcher: str) -> None:
    if not _trial(launcher).holds["processes"]:
        pytest.skip("no kernel limit on processes here; a watcher takes its place")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    (tmp_path / "secret.txt").write_text("the secret")
    return folder


@pytest.fixture
def inside(launcher: str, root: Path) -> Inside:
    """Runs a Python program in the sandbox, with arguments."""

    def run(
        source: str,
        *arguments: object,
        bounds: Bounds | None = None,
        timeout_s: float = 60,
        allow_network: bool = False,
        argv: list[str] | None = None,
    ) -> Finished:
        policy = Policy(root=root.resolve(), allow_network=allow_network, bounds=bounds or Bounds())
        command = Command(
            argv=argv or [python(), "-I", "-S", "-c", source, *map(str, arguments)],
            cwd=root.resolve(),
            environment={},
            timeout_s=timeout_s,
            max_bytes=50_000,
        )
        return asyncio.run(launch(launcher, policy, command))

    return run


@pytest.fixture
def bash_path() -> str:
    path = shutil.which("bash", path="/usr/bin:/bin")
    if path is None:
        pytest.skip("there is no bash here")
    return path
