"""Finds out, by trying, what isolation this machine can enforce. Nothing is believed that a program inside did not show.

`ensure` picks the launcher for commands; `report` is for `smithers doctor`.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import secrets
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from smithers.errors import SmithersError, ToolSandboxUnavailable
from smithers.jsons import int_of, object_of
from smithers.tools.sandbox import bwrap, cgroups, inner
from smithers.tools.sandbox.launch import LAUNCHERS, Command, launch
from smithers.tools.sandbox.policy import Bounds, Policy, python

_PROGRAM = Path(__file__).with_name("probe_program.py")
_TIMEOUT_S = 20.0
_PROCESSES = 32
_UNLISTED = "/run/unlisted"
_WAY_OUT = (
    "Install bubblewrap (Debian and Ubuntu: apt-get install bubblewrap) and allow user namespaces; or, knowing that "
    'commands can then reach everything that this process can, turn isolation off with sandbox="off".'
)
_proven: dict[bool, str] = {}
_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class Trial:
    """What a launcher could be seen to enforce. `missing` is what it must and did not, in words."""

    launcher: str
    holds: Mapping[str, bool]
    missing: tuple[str, ...]


async def ensure(allow_network: bool) -> str:
    """The launcher that was seen to isolate; tried out at the first call in a process.

    Raises:
        ToolSandboxUnavailable: there is none; `details["missing"]` says what each could not enforce.
    """
    if (known := _proven.get(allow_network)) is not None:
        return known
    return await asyncio.to_thread(choose, allow_network)


def choose(allow_network: bool) -> str:
    with _lock:
        if (known := _proven.get(allow_network)) is not None:
            return known
        missing: dict[str, list[str]] = {}
        for launcher in LAUNCHERS:
            trial = try_out(launcher, allow_network=allow_network)
            if not trial.missing:
                _proven[allow_network] = launcher
                return launcher
            missing[launcher] = list(trial.missing)
    reasons = "; ".join(f"{name}: {', '.join(found)}" for name, found in missing.items())
    raise ToolSandboxUnavailable(
        f"this machine cannot isolate commands ({reasons}). {_WAY_OUT}", {"missing": missing, "wayOut": _WAY_OUT}
    )


def try_out(launcher: str, *, allow_network: bool = False) -> Trial:
    """Run the probe by a launcher, in a thread that has no event loop."""
    if sys.platform != "linux":
        return Trial(launcher, {}, (f"{sys.platform} is not supported, only Linux is",))
    if launcher == bwrap.NAME and bwrap.find_bwrap() is None:
        return Trial(launcher, {}, ("bubblewrap is not installed",))
    try:
        found, has_heard = _run(launcher, allow_network)
    except (SmithersError, OSError, ValueError) as error:
        return Trial(launcher, {}, (str(error),))
    return _judge(launcher, found, allow_network=allow_network, has_heard=has_heard)


def _run(launcher: str, allow_network: bool) -> tuple[dict[str, object], bool]:
    """What the program inside printed, and whether something of it arrived out here."""
    name = f"smithers-{secrets.token_hex(8)}"
    with (
        tempfile.TemporaryDirectory(prefix="smithers-probe-") as folder,
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
        socket.socket(socket.AF_UNIX) as unix,
    ):
        udp.bind(("127.0.0.1", 0))
        unix.bind("\0" + name)
        unix.listen()
        root, outside = Path(folder).resolve() / "root", Path(folder).resolve() / "outside"
        root.mkdir()
        outside.mkdir()
        secret = outside / "secret"
        secret.write_text(name)
        spec = {
            "tcp": tcp.getsockname()[1],
            "udp": udp.getsockname()[1],
            "abstract": name,
            "secret": str(secret),
            "outside": str(outside),
            "unlisted": _UNLISTED,
            "forks": _PROCESSES + 8,
        }
        policy = Policy(root=root, allow_network=allow_network, bounds=Bounds(processes=_PROCESSES), unlisted=_UNLISTED)
        source = _PROGRAM.read_text(encoding="utf-8")
        argv = [python(), "-I", "-S", "-c", source, json.dumps(spec)]
        command = Command(argv=argv, cwd=root, environment={}, timeout_s=_TIMEOUT_S, max_bytes=100_000)
        done = asyncio.run(launch(launcher, policy, command))
        if done.exit_code:
            raise ValueError(f"the probe ended with {done.exit_code}: {done.text(500)}")
        found = object_of(json.loads(done.stdout))
        found["madeOutside"] = (outside / "made").exists()
        found["madeInRoot"] = (root / "made").exists()
        return found, _has_heard(tcp) or _has_heard(udp)


def _has_heard(listener: socket.socket) -> bool:
    listener.setblocking(False)
    try:
        if listener.type == socket.SOCK_STREAM:
            listener.accept()[0].close()
        else:
            listener.recv(1)
    except OSError:
        return False
    return True


def _judge(launcher: str, found: dict[str, object], *, allow_network: bool, has_heard: bool) -> Trial:
    status = object_of(found["status"])
    escapes = ("readSecret", "listOutside", "writeOutside", "madeOutside", "readShadow", "writeSystem", "writeKernel")
    # That a datagram could be sent says nothing, it may have stayed inside; so it counts where it arrives.
    reached = any(found[name] for name in ("tcp", "abstract", "raw", "vsock")) or has_heard
    holds = {
        "network": not reached and found["interfaces"] == ["lo"],
        "loopback": bool(found["loopback"]),
        "files": not any(found[name] for name in escapes) and bool(found["writeRoot"] and found["madeInRoot"]),
        "pidNamespace": (int_of(found["pid"]) or 1 << 30) < 10,
        "noNewPrivileges": status.get("NoNewPrivs") == "1",
        "capabilities": {status.get(name) for name in ("CapEff", "CapPrm", "CapBnd")} == {"0" * 16},
        "landlock": not found["writeUnlisted"],
        "seccomp": status.get("Seccomp") == "2" and not found["nestedUserNamespace"] and not found["vsock"],
        "rlimits": all((int_of(found[n]) or -1) > 0 for n in ("fileBytes", "cpuSeconds", "openFiles")),
        "processes": (int_of(found["forks"]) or 0) <= _PROCESSES,
    }
    required = {
        "network": "the network is reachable",
        "loopback": "there is no loopback",
        "files": "files outside the root folder are reachable, or the folder is not writable",
        "pidNamespace": "other processes are visible",
        "noNewPrivileges": "privileges can be gained",
        "capabilities": "capabilities are left",
        "rlimits": "resource limits are not set",
    }
    if allow_network:
        del required["network"]
    return Trial(launcher, holds, tuple(text for name, text in required.items() if not holds[name]))


# ── the report ─────────────────────────────────────────────────────────────────────────────────────────────────────


def report() -> dict[str, object]:
    """What this machine can enforce for `bash`, each thing as a program inside a sandbox showed it; takes a second.

    Keys: `platform`, `kernel`, `bubblewrap` (version or null), `landlockAbi`, `seccompFilter`, `cgroups`, `launcher`
    (the one that commands run by, or null), `isEnforced`, `missing` and `launchers`: what each was seen to enforce.
    `processes` is false where no kernel limit holds; too many are then found by looking, and killed.
    """
    trials = [_in_thread(name) for name in LAUNCHERS]
    chosen = next((trial.launcher for trial in trials if not trial.missing), None)
    return {
        "platform": sys.platform,
        "kernel": platform.release(),
        "bubblewrap": _bubblewrap_version(),
        "landlockAbi": inner.landlock_abi() if sys.platform == "linux" else 0,
        "seccompFilter": inner.seccomp_program(platform.machine()) is not None,
        "cgroups": sorted(cgroups.places()),
        "isRoot": os.getuid() == 0,
        "launcher": chosen,
        "isEnforced": chosen is not None,
        "launchers": {t.launcher: {"holds": dict(t.holds), "missing": list(t.missing)} for t in trials},
        "wayOut": None if chosen else _WAY_OUT,
    }


def _in_thread(launcher: str) -> Trial:
    """The caller may have an event loop running."""
    found: list[Trial] = []
    thread = threading.Thread(target=lambda: found.append(try_out(launcher)))
    thread.start()
    thread.join()
    return found[0]


@cache
def _bubblewrap_version() -> str | None:
    path = bwrap.find_bwrap()
    if path is None:
        return None
    done = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=10, check=False, env={})
    return done.stdout.strip().removeprefix("bubblewrap ") or None
