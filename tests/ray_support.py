"""A real Ray cluster for tests: one node with two CPUs a test process, started when the first test asks. It ends with the
process that started it, however that ends."""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator

import pytest

_STOP_S = 30
_PR_SET_PDEATHSIG = 1


@pytest.fixture(scope="session")
def ray_address() -> Iterator[str]:
    """The address of a cluster with nothing else on it."""
    if importlib.util.find_spec("ray") is None:
        pytest.skip("the extra `ray` is not installed")
    quiet = {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "RAY_SIGTERM_GRACE_PERIOD_SECONDS": "2"}
    os.environ.update(quiet)  # this process becomes a part of the cluster
    with tempfile.TemporaryDirectory(prefix="smithers-ray-", ignore_cleanup_errors=True) as folder:
        port = _free_port()
        options = {
            "node-ip-address": "127.0.0.1",
            "port": port,
            "num-cpus": 2,
            "object-store-memory": 80_000_000,
            "include-dashboard": "false",
            "temp-dir": folder,
        }
        head = subprocess.Popen(
            [sys.executable, "-u", "-m", "ray.scripts.scripts", "start", "--head", "--block"]
            + [f"--{name}={value}" for name, value in options.items()],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=folder,
            preexec_fn=_end_with_parent,
        )
        assert head.stdout is not None
        try:
            said = ""
            while "Ray runtime started" not in said:
                line = head.stdout.readline()
                assert line, f"Ray did not start: {said}"
                said += line
            yield f"127.0.0.1:{port}"
            importlib.import_module("ray").shutdown()
        finally:
            head.terminate()
            head.communicate(timeout=_STOP_S)


def _end_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
