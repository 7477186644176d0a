"""Runs inside a sandbox as its command, tries to get out, and prints as JSON what it could do. `probe.py` judges.

A program of its own, run by the standard library alone (`python -I -S -c SOURCE SPEC`).
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import socket
import sys

_VSOCK = 40
_VSOCK_HOST = 2
_CLONE_NEWUSER = 0x10000000


def main() -> None:
    """Try everything that SPEC names."""
    spec = json.loads(sys.argv[1])
    found: dict[str, object] = {
        "tcp": _works(lambda: socket.create_connection(("127.0.0.1", spec["tcp"]), 1)),
        "udp": _works(
            lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", spec["udp"]))
        ),
        "abstract": _works(lambda: socket.socket(socket.AF_UNIX).connect("\0" + spec["abstract"])),
        "raw": _works(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)),
        "vsock": _works(lambda: socket.socket(_VSOCK, socket.SOCK_STREAM)),
        "interfaces": [name for _, name in socket.if_nameindex()],
        "loopback": _works(_talk_to_itself),
        "readSecret": _works(lambda: open(spec["secret"]).close()),
        "listOutside": _works(lambda: os.scandir(spec["outside"])),
        "writeOutside": _works(lambda: os.mkdir(f"{spec['outside']}/made")),
        "readShadow": _works(lambda: open("/etc/shadow").close()),
        "writeSystem": _works(lambda: os.mkdir("/usr/smithers-probe")),
        "writeKernel": _works(lambda: os.close(os.open("/proc/sys/kernel/core_pattern", os.O_WRONLY))),
        "writeUnlisted": _works(lambda: os.mkdir(f"{spec['unlisted']}/made")),
        "writeRoot": _works(lambda: os.mkdir("made")),
        "pid": os.getpid(),
        "nestedUserNamespace": _works(_take_namespace),
        "status": _status(),
        "fileBytes": resource.getrlimit(resource.RLIMIT_FSIZE)[0],
        "cpuSeconds": resource.getrlimit(resource.RLIMIT_CPU)[0],
        "openFiles": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        "forks": _fork_up_to(spec["forks"]),
    }
    sys.stdout.write(json.dumps(found))


def _works(action: object) -> bool:
    assert callable(action)
    try:
        action()
    except OSError:
        return False
    return True


def _talk_to_itself() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname(), 2).close()


def _take_namespace() -> None:
    if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWUSER) < 0:
        raise OSError(ctypes.get_errno(), "unshare")


def _status() -> dict[str, str]:
    with open("/proc/self/status") as file:
        pairs = (line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
        wanted = ("NoNewPrivs", "CapEff", "CapPrm", "CapBnd", "Seccomp")
        return {name: value for name, value in pairs if name in wanted}


def _fork_up_to(most: int) -> int:
    """How many children could be had at once."""
    reader, writer = os.pipe()
    made = 0
    for _ in range(most):
        try:
            pid = os.fork()
        except OSError:
            break
        if pid == 0:
            os.close(writer)
            os.read(reader, 1)  # until the parent is through
            os._exit(0)
        made += 1
    os.close(writer)
    for _ in range(made):
        os.wait()
    return made


if __name__ == "__main__":
    main()
