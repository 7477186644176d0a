"""Makes a sandbox by namespaces alone, and runs a command in it. For machines without bubblewrap.

A program of its own, run by the standard library alone (`python -I -S namespaces_program.py SPEC`). It takes new user,
mount, process, network, IPC and host name namespaces, builds the view on a tmpfs, makes that the root, gives up every
capability, and runs the command below a first process that reaps what the command leaves. It exits as the command
does, or with 125 if the sandbox cannot be made.
"""

from __future__ import annotations

import ctypes
import fcntl
import marshal
import os
import struct
import sys

_NEWNS, _NEWUTS, _NEWIPC, _NEWUSER, _NEWPID, _NEWNET = (
    0x20000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000,
)  # fmt: skip
_NEWCGROUP = 0x2000000
_RDONLY, _NOSUID, _NODEV, _REMOUNT, _BIND, _REC, _PRIVATE = 1, 2, 4, 32, 4096, 16384, 1 << 18
_KEPT = _NOSUID | _NODEV
_DETACH = 2
_SIGKILL = 9
_ESCAPES = ((b"\\040", b" "), (b"\\011", b"\t"), (b"\\012", b"\n"), (b"\\134", b"\\"))
_PR_SET_PDEATHSIG, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT = 1, 24, 38, 47
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41, "riscv64": 41}
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_LINKS = (("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2"))
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1
_NEW = "/tmp"
"""Where the new root is built: a folder that every system has; hidden in our own mount namespace only."""

_libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    """Do what SPEC says; does not return."""
    spec = marshal.loads(bytes.fromhex(sys.argv[1]))
    try:
        _die_with_parent()
        _leave(share_network=spec["network"])
        pid = os.fork()
        if pid == 0:
            _enter(spec["mounts"], share_network=spec["network"])
            _reap(_start(spec["command"]))
        os.write(spec["info"], b'{"child-pid": %d}' % pid)
        os._exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) & 0xFF)
    except Exception as error:
        os.write(2, f"sandbox: {type(error).__name__}: {error}\n".encode())
        os._exit(125)


def _leave(*, share_network: bool) -> None:
    """Take namespaces of our own; in the user namespace we are who we were, and nobody else exists."""
    uid, gid = os.getuid(), os.getgid()
    network = 0 if share_network else _NEWNET
    _check(_libc.unshare(_NEWUSER | _NEWNS | _NEWPID | _NEWIPC | _NEWUTS | _NEWCGROUP | network), "unshare")
    for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


def _enter(mounts: list[list[str]], *, share_network: bool) -> None:
    """Become the first process inside: everything else inside dies with it."""
    _die_with_parent()
    os.setsid()
    _build(mounts)
    if not share_network:
        _bring_up_loopback()
    _give_up_capabilities()


def _start(command: list[str]) -> int:
    pid = os.fork()
    if pid == 0:
        os.execv(command[0], command)
    return pid


def _reap(pid: int) -> None:
    """Wait for what ends inside, and end as the command does."""
    os.closerange(0, 4096)
    while True:
        found, status = os.wait()
        if found == pid:
            code = os.waitstatus_to_exitcode(status)
            os._exit(code if code >= 0 else 128 - code)


def _check(result: int, what: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _die_with_parent() -> None:
    _check(_libc.prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0), "die with parent")


# ── the view ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    result = _libc.mount(
        source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), options.encode() or None
    )
    _check(result, f"mount {target}")


def _build(mounts: list[list[str]]) -> None:
    _mount("none", "/", "", _REC | _PRIVATE)
    # The old root stays reachable below the new one until the last bind is made.
    _mount("tmpfs", _NEW, "tmpfs", _NOSUID | _NODEV, "mode=755,size=16m")
    os.mkdir(f"{_NEW}/.old")
    os.chdir(_NEW)
    _check(_libc.syscall(_PIVOT_ROOT[os.uname().machine], b".", b".old"), "pivot_root")
    os.chdir("/")
    seals: list[str] = []
    for kind, place, what in mounts:
        if kind == "seal":
            seals.append(place)
        else:
            _add(kind, place, what)
    _check(_libc.umount2(b"/.old", _DETACH), "umount")
    os.rmdir("/.old")
    for place in seals:
        _remount(place, _RDONLY)


def _add(kind: str, place: str, what: str) -> None:
    if kind == "link":
        os.makedirs(os.path.dirname(place), exist_ok=True)
        os.symlink(what, place)
    elif kind == "text":
        os.makedirs(os.path.dirname(place), exist_ok=True)
        with open(place, "w") as file:
            file.write(what)
    elif kind in ("read", "write"):
        source = f"/.old{what}"
        _make(place, is_folder=os.path.isdir(source))
        _mount(source, place, "", _BIND | _REC)
        for below in _mounted_below(place):
            _remount(below, _RDONLY if kind == "read" else 0)
    else:
        _make(place, is_folder=True)
        if kind == "proc":
            _mount("proc", place, "proc", _NOSUID | _NODEV)
        elif kind == "tmpfs":
            mode = "1777" if place in ("/tmp", "/dev/shm") else "755"
            _mount("tmpfs", place, "tmpfs", _NOSUID | _NODEV, f"mode={mode},size={what}")
        else:
            _devices(place)


def _make(place: str, *, is_folder: bool) -> None:
    if is_folder:
        os.makedirs(place, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(place), exist_ok=True)
        with open(place, "a"):
            pass


def _devices(place: str) -> None:
    _mount("tmpfs", place, "tmpfs", _NOSUID, "mode=755,size=1m")
    for name in _DEVICES:
        if os.path.exists(f"/.old/dev/{name}"):
            _make(f"{place}/{name}", is_folder=False)
            _mount(f"/.old/dev/{name}", f"{place}/{name}", "", _BIND)
    for name, target in _LINKS:
        os.symlink(target, f"{place}/{name}")


def _mounted_below(place: str) -> list[str]:
    """A mount and those below it, which came with it. The table writes spaces and the like as octal numbers."""
    with open("/.old/proc/self/mountinfo", "rb") as file:
        names = [line.split(b" ")[4] for line in file]
    for written, meant in _ESCAPES:
        names = [name.replace(written, meant) for name in names]
    places = map(os.fsdecode, names)
    return [name for name in places if name == place or name.startswith(place + "/")]


def _remount(place: str, flags: int) -> None:
    """Change the flags of a mount, keeping those that the kernel does not let us take away."""
    found = os.statvfs(place).f_flag & (1 | 2 | 4 | 8 | 1024 | 2048 | 4096)
    kept = found & 15
    kept |= (1024 if found & 1024 else 0) | (2048 if found & 2048 else 0) | ((1 << 21) if found & 4096 else 0)
    devices = 0 if place.startswith("/dev") else _NODEV
    _mount("none", place, "", _REMOUNT | _BIND | kept | flags | _NOSUID | devices)


def _bring_up_loopback() -> None:
    handle: int = _libc.socket(2, 2, 0)
    _check(handle, "socket")
    request = struct.pack("16sh14x", b"lo", 0)
    flags = struct.unpack("16sh14x", fcntl.ioctl(handle, _SIOCGIFFLAGS, request))[1]
    fcntl.ioctl(handle, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | _IFF_UP))
    os.close(handle)


def _give_up_capabilities() -> None:
    _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    _libc.prctl(_PR_CAP_AMBIENT, 4, 0, 0, 0)
    for number in range(64):
        if _libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0) < 0:
            break
    header, nothing = struct.pack("=Ii", 0x20080522, 0), bytes(24)
    _check(_libc.capset(header, nothing), "capset")


if __name__ == "__main__":
    main()
