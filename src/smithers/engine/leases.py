"""Leases: who owns a run, and whether that owner is still alive.

An owner id is `pid:<pid>:<host>:<start>:<random>`: the pid and its start time tell a dead process from a reused number, the
host tells whether that can be looked up here at all. Liveness of others is judged by heartbeat.
"""

from __future__ import annotations

import hashlib
import os
import socket
import uuid
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from smithers.store.interface import RunRow

HEARTBEAT_MS = 1_000
"""How often an owner marks its runs as alive."""
LEASE_MS = 30_000
"""Silence after which a run may be taken over."""
MIRROR_OWNER = "mirror:"
"""How the owner of a live run is named in a database that only mirrors it; followed by the place of its own one."""
MAX_CLAIMS = 3
"""So many takeovers in a row without a single step fail the run."""


@lru_cache(maxsize=1)
def host_id() -> str:
    """A short name for this host's process table: boots and containers differ."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    parts = [socket.gethostname(), boot.read_text().strip() if boot.exists() else ""]
    with suppress(OSError):
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return hashlib.sha256("|".join(parts).encode()).hexdigest()[:12]


def new_owner_id() -> str:
    """An id for one engine of this process."""
    pid = os.getpid()
    return f"pid:{pid}:{host_id()}:{_start_time(pid)}:{uuid.uuid4().hex[:12]}"


def is_owner_dead(owner: str | None) -> bool:
    """Whether an owner is known to be gone. False when that cannot be known from here."""
    if owner is None:
        return True
    parts = owner.split(":")
    if len(parts) < 5 or parts[0] != "pid" or parts[2] != host_id() or not parts[1].isdigit():
        return False
    pid = int(parts[1])
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    started = _start_time(pid)
    return started != "0" and parts[3] != "0" and started != parts[3]


def is_mirror(run: RunRow) -> bool:
    """Whether a live run is driven in another database and only shown in this one."""
    return (run.runtime_owner_id or "").startswith(MIRROR_OWNER)


def may_take_over(run: RunRow, now_ms: int, lease_ms: int = LEASE_MS) -> bool:
    """Whether a run that is marked as running may be claimed."""
    if is_mirror(run):
        return False
    if run.runtime_owner_id is None or is_owner_dead(run.runtime_owner_id):
        return True
    return now_ms - (run.heartbeat_at_ms or run.started_at_ms or 0) > lease_ms


def _start_time(pid: int) -> str:
    """When a process started, in the kernel's ticks; "ended" if it only waits to be reaped, "0" where it is not known."""
    try:
        # the command may hold spaces and parentheses, so count fields after the last one
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "ended" if fields[0] in ("Z", "X") else fields[19]
    except (OSError, IndexError):
        return "0"
