"""The launcher for machines without bubblewrap: the same policy, carried out by `namespaces_program.py`."""

from __future__ import annotations

import dataclasses
import marshal
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from smithers.tools.sandbox.policy import Policy, python

NAME = "namespaces"
PROGRAM = Path(__file__).with_name("namespaces_program.py")


@contextmanager
def prepare(policy: Policy, command: list[str], info_fd: int) -> Generator[tuple[list[str], tuple[int, ...]]]:
    """As `bwrap.prepare`."""
    spec = {
        "mounts": [list(dataclasses.astuple(mount)) for mount in policy.mounts()],
        "network": policy.allow_network,
        "info": info_fd,
        "command": command,
    }
    yield [python(), "-I", "-S", str(PROGRAM), marshal.dumps(spec).hex()], ()
