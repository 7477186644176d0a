"""What a sandboxed command may see and use: mounts, limits, environment. How that is enforced is the launchers'.

The view: the root folder (writable, at its own path), the operating system's programs and libraries and the Python that
runs us (read-only), the few files of /etc that programs need, private /tmp, /dev and /proc. Nothing else is there.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Literal

INNER = Path(__file__).with_name("inner.py")
INNER_PLACE = "/run/smithers/inner.py"
_FOLDERS = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/nix/store", "/gnu/store")
_ETC = (
    "alternatives", "ca-certificates", "ca-certificates.conf", "debian_version", "gai.conf", "host.conf", "ld.so.cache",
    "ld.so.conf", "ld.so.conf.d", "localtime", "magic", "mime.types", "nsswitch.conf", "os-release", "perl",
    "pki/tls/certs", "protocols", "services", "shells", "ssl/certs", "ssl/openssl.cnf", "terminfo", "timezone",
)  # fmt: skip
_ETC_NETWORK = ("hosts", "resolv.conf")
_HOSTS = "127.0.0.1 localhost\n::1 localhost\n"
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Mount:
    """One thing in the view, mounted in order. `what` is the source, the link's target, the text, or a size in bytes."""

    kind: Literal["read", "write", "link", "text", "tmpfs", "proc", "dev", "seal"]
    place: str
    what: str = ""


@dataclass(frozen=True, slots=True)
class Bounds:
    """Limits of one command. Memory and processes are of all its processes where cgroups can be had; else memory is of
    each process. CPU time, file size and open files are of each process."""

    processes: int = 256
    memory_bytes: int = 4096 * MIB
    file_bytes: int = 1024 * MIB
    open_files: int = 1024
    tmp_bytes: int = 512 * MIB

    def rlimits(self, *, timeout_s: float, bounds_processes: bool, bounds_memory: bool) -> dict[str, int]:
        """As resource limits.

        Args:
            bounds_processes: False where something else bounds them.
            bounds_memory: as well.
        """
        limits = {
            "RLIMIT_CORE": 0,
            "RLIMIT_CPU": int(timeout_s * (os.cpu_count() or 1)) + 2,  # the time of all its threads
            "RLIMIT_FSIZE": self.file_bytes,
            "RLIMIT_NOFILE": self.open_files,
        }
        if bounds_processes:
            limits["RLIMIT_NPROC"] = self.processes
        if bounds_memory:
            # What is writable and private counts as data; address space that is only reserved does not. Some programs
            # reserve a great deal of it, so its own limit is far off and only bounds shared memory.
            limits |= {"RLIMIT_DATA": self.memory_bytes, "RLIMIT_AS": 16 * self.memory_bytes}
        return limits


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What one command may do.

    Attributes:
        root: real path of the folder that it may write below.
        is_writable: False shows the root folder read-only.
        readable: real paths of folders beside it that may be read.
        unlisted: a private folder that mounts allow to write to and Landlock does not: the probe's.
    """

    root: Path
    allow_network: bool = False
    is_writable: bool = True
    readable: tuple[Path, ...] = ()
    bounds: Bounds = field(default_factory=Bounds)
    unlisted: str | None = None

    def mounts(self) -> Iterator[Mount]:
        """The view, in the order in which it is to be mounted."""
        yield from _system()
        for name in (*_ETC, *(_ETC_NETWORK if self.allow_network else ())):
            source = Path("/etc", name)
            if source.exists():
                yield Mount("read", f"/etc/{name}", str(source.resolve()))
        yield Mount("text", "/etc/passwd", _passwd())
        yield Mount("text", "/etc/group", _group())
        if not self.allow_network:
            yield Mount("text", "/etc/hosts", _HOSTS)
        size = str(self.bounds.tmp_bytes)
        yield Mount("proc", "/proc")
        yield Mount("dev", "/dev")
        yield Mount("tmpfs", "/dev/shm", size)
        yield Mount("tmpfs", "/tmp", size)
        yield Mount("link", "/var/tmp", "/tmp")
        if self.unlisted is not None:
            yield Mount("tmpfs", self.unlisted, size)
        yield Mount("read", INNER_PLACE, str(INNER))
        for folder in self.readable:
            yield Mount("read", str(folder), str(folder))
        yield Mount("write" if self.is_writable else "read", str(self.root), str(self.root))
        # Root's processes own /proc/sys even where they have no capability, and writing there reaches the whole machine.
        yield Mount("seal", "/proc")
        yield Mount("seal", "/dev")
        yield Mount("seal", "/")

    def landlock(self) -> dict[str, list[str]]:
        """The same view as paths that may be read, and that may be written too."""
        readable = [mount.place for mount in self.mounts() if mount.kind in ("read", "text", "proc")]
        writable = ["/tmp", "/dev", *([str(self.root)] if self.is_writable else ())]
        return {"read": readable, "write": writable}


def environment(extra: dict[str, str]) -> dict[str, str]:
    """All the variables that a command gets: nothing of this process's own is passed on."""
    folder = str(Path(python()).parent)
    path = _PATH if folder in _PATH.split(":") else f"{_PATH}:{folder}"
    return {"PATH": path, "HOME": "/tmp", "TMPDIR": "/tmp", "LANG": "C.UTF-8", "TERM": "dumb", **extra}


@cache
def python() -> str:
    """The interpreter that runs us, without the links that a virtual environment puts before it."""
    return os.path.realpath(sys.executable)


@cache
def _system() -> tuple[Mount, ...]:
    found: list[Mount] = []
    for folder in map(Path, _FOLDERS):
        if folder.is_symlink():
            found.append(Mount("link", str(folder), str(folder.readlink())))
        elif folder.is_dir():
            found.append(Mount("read", str(folder), str(folder)))
    prefix = Path(sys.base_prefix).resolve()
    # Not where that would show more than an installation of Python.
    if not prefix.is_relative_to("/usr") and not Path.home().is_relative_to(prefix) and len(prefix.parts) > 2:
        found.append(Mount("read", str(prefix), str(prefix)))
    return tuple(found)


@cache
def _passwd() -> str:
    uid, gid = os.getuid(), os.getgid()
    own = f"user:x:{uid}:{gid}::/tmp:/bin/sh\n" if uid else ""
    return f"root:x:0:0::/tmp:/bin/sh\n{own}nobody:x:65534:65534::/nonexistent:/usr/sbin/nologin\n"


@cache
def _group() -> str:
    gid = os.getgid()
    own = f"user:x:{gid}:\n" if gid else ""
    return f"root:x:0:\n{own}nogroup:x:65534:\n"
