"""Runs inside the sandbox, before the command: gives up what is left to give up, then becomes the command.

A program of its own, run by the standard library alone (`python -I -S inner.py SPEC`), because the sandbox sees nothing
of this package but this file. SPEC is a marshalled dictionary in hexadecimal, see `launch.py`: every module imported
here makes every command start later, and those for JSON and signals take longer than the rest together.

It writes to the descriptor `status`: `+` before the command is executed, then `!` and an error number if it cannot be;
or, when a limit cannot be set, why. The descriptor closes as the command begins, so the command cannot write to it.
"""

from __future__ import annotations

import ctypes
import marshal
import os
import resource
import struct
import sys

_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP = 38, 22
_O_PATH = 0o10000000
_IGNORED_BY_PYTHON = (13, 25)  # SIGPIPE, SIGXFSZ

# Landlock: system calls, rights by the version of the interface that brought them.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1, 2, 4, 8
_READ = _EXECUTE | _READ_FILE | _READ_DIR
_FILE_RIGHTS = _EXECUTE | _WRITE_FILE | _READ_FILE | 1 << 14 | 1 << 15
_SCOPE_ABSTRACT_UNIX, _SCOPE_SIGNAL = 1, 2

# seccomp: AUDIT_ARCH value, and the system calls that are looked at or refused.
_NEW_MOUNT_API = (428, 429, 430, 431, 432, 433, 442)
_EVERYWHERE = (425, 438, *_NEW_MOUNT_API)  # io_uring_setup, pidfd_getfd
_ARCHES: dict[str, tuple[int, int, int, int, tuple[int, ...]]] = {
    # socket, clone, ioctl; then ptrace, process_vm_*, mount, umount2, pivot_root, chroot, unshare, setns, bpf,
    # perf_event_open, keyctl, add_key, request_key, userfaultfd, kexec_*, *_module, reboot, swap*, acct, quotactl,
    # open_by_handle_at, syslog, clock_settime, settimeofday; iopl and ioperm where they exist
    "x86_64": (
        0xC000003E, 41, 56, 16,
        (101, 310, 311, 165, 166, 155, 161, 272, 308, 321, 298, 250, 248, 249, 323, 246, 320, 175, 313, 176, 169, 167,
         168, 163, 179, 304, 103, 227, 164, 172, 173),
    ),
    "aarch64": (
        0xC00000B7, 198, 220, 29,
        (117, 270, 271, 40, 39, 41, 51, 97, 268, 280, 241, 219, 217, 218, 282, 104, 294, 105, 273, 106, 142, 224, 225,
         89, 60, 265, 116, 112, 170),
    ),
}  # fmt: skip
_CLONE3, _OPENAT2 = 435, 437
# A file that runs as its owner would give whoever finds it in the root folder, outside, the rights that we have. By
# machine: chmod, fchmod, fchmodat, fchmodat2, creat, mknod, mknodat with their mode's position; open and openat with
# their flags' position, which the mode comes after.
_MODES: dict[str, tuple[tuple[int, int], ...]] = {
    "x86_64": ((90, 1), (91, 1), (268, 2), (452, 2), (85, 1), (133, 1), (259, 2)),
    "aarch64": ((52, 1), (53, 2), (452, 2), (33, 2)),
}
_OPENS: dict[str, tuple[tuple[int, int], ...]] = {"x86_64": ((2, 1), (257, 2)), "aarch64": ((56, 2),)}
_SETS_ID = 0o6000
_CREATES = 0o20000100
"""O_CREAT and O_TMPFILE: only with them the mode means anything."""
_CLONE_NEW = 0x7E020080
"""Every flag of clone() that makes a namespace."""
_FAMILIES = (1, 2, 10, 16)
"""Unix, IPv4, IPv6 and netlink sockets. Others leave the network namespace, such as those to a virtual machine's host."""
_TERMINAL_INPUT = (0x5412, 0x541C)

_libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    """Do what SPEC says; does not return."""
    spec = marshal.loads(bytes.fromhex(sys.argv[1]))
    status: int = spec["status"]
    os.set_inheritable(status, False)
    try:
        os.chdir(spec["cwd"])
        for name, value in spec["rlimits"].items():
            _limit(getattr(resource, name), value)
        _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
        if spec["landlock"] is not None:
            _landlock(spec["landlock"]["read"], spec["landlock"]["write"])
        if spec["seccomp"]:
            _seccomp()
        for number in _IGNORED_BY_PYTHON:  # the command would inherit that
            _libc.signal(number, None)
        _close_all_but(status)
        os.write(status, b"+")
    except Exception as error:
        os.write(status, f"{type(error).__name__}: {error}".encode())
        os._exit(125)
    try:
        os.execvpe(spec["argv"][0], spec["argv"], spec["env"])
    except (OSError, ValueError) as error:
        os.write(status, f"!{getattr(error, 'errno', None) or 22}".encode())
        os._exit(127)


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def _limit(kind: int, value: int) -> None:
    hard = resource.getrlimit(kind)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (value, value))


def _close_all_but(kept: int) -> None:
    os.closerange(3, kept)
    os.closerange(kept + 1, 4096)


# ── Landlock ───────────────────────────────────────────────────────────────────────────────────────────────────────


def landlock_abi() -> int:
    """The version of the kernel's Landlock interface; 0: none."""
    version: int = _libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(1))
    return max(version, 0)


def _landlock(readable: list[str], writable: list[str]) -> None:
    """From here on, only these paths are reached, whatever the mounts show. Does nothing where there is no Landlock."""
    abi = landlock_abi()
    if abi == 0:
        return
    bits = 13 + (abi >= 2) + (abi >= 3) + (abi >= 5)  # moving between folders, truncating, device ioctls
    handled = (1 << bits) - 1
    scoped = _SCOPE_ABSTRACT_UNIX | _SCOPE_SIGNAL if abi >= 6 else 0
    attributes = struct.pack("=QQQ", handled, 0, scoped)[: 24 if abi >= 6 else 8]
    ruleset = _check(
        _libc.syscall(_CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), ctypes.c_uint32(0)), "landlock"
    )
    _allow(ruleset, "/", _READ_DIR & handled)
    for path in readable:
        _allow(ruleset, path, _READ & handled)
    for path in writable:
        _allow(ruleset, path, handled)
    _check(_libc.syscall(_RESTRICT_SELF, ctypes.c_int(ruleset), ctypes.c_uint32(0)), "landlock")
    os.close(ruleset)


def _allow(ruleset: int, path: str, rights: int) -> None:
    try:
        fd = os.open(path, _O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    if not os.path.isdir(path):
        rights &= _FILE_RIGHTS
    rule = struct.pack("=Qi", rights, fd)
    result: int = _libc.syscall(_ADD_RULE, ctypes.c_int(ruleset), ctypes.c_int(1), rule, ctypes.c_uint32(0))
    _check(result, f"landlock {path}")
    os.close(fd)


# ── seccomp ────────────────────────────────────────────────────────────────────────────────────────────────────────

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_EPERM, _ENOSYS = 1, 38
_NUMBER, _ARCH, _ARG0, _ARG1 = 0, 4, 16, 24
"""Where the call's number, machine and first arguments (low halves, little endian) are in what the filter looks at."""

_Step = tuple[int, int, int, int]


def seccomp_program(machine: str) -> list[_Step] | None:
    """The filter for a machine as (code, if true, if false, value); None for a machine that it is not written for."""
    if machine not in _ARCHES:
        return None
    arch, socket, clone, ioctl, refused = _ARCHES[machine]
    refuse = (_RETURN, 0, 0, _ERRNO | _EPERM)
    steps: list[_Step] = [
        (_LOAD, 0, 0, _ARCH),
        (_EQUAL, 1, 0, arch),
        (_RETURN, 0, 0, _KILL),  # a program for another machine would get past the numbers below
        (_LOAD, 0, 0, _NUMBER),
    ]
    if machine == "x86_64":
        steps += [(_AT_LEAST, 0, 1, 0x40000000), (_RETURN, 0, 0, _ERRNO | _ENOSYS)]
    for number in (*_EVERYWHERE, *refused):
        steps += [(_EQUAL, 0, 1, number), refuse]
    # These have their flags in memory, where no filter can look; the C library and programs fall back to older ones.
    for number in (_CLONE3, _OPENAT2):
        steps += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ERRNO | _ENOSYS)]
    steps += [(_EQUAL, 0, 3, clone), (_LOAD, 0, 0, _ARG0), (_ANY_BIT, 0, 1, _CLONE_NEW), refuse]
    steps += [(_LOAD, 0, 0, _NUMBER), (_EQUAL, 0, 4, ioctl), (_LOAD, 0, 0, _ARG1)]
    steps += [(_EQUAL, 1, 0, _TERMINAL_INPUT[0]), (_EQUAL, 0, 1, _TERMINAL_INPUT[1]), refuse]
    for number, argument in _MODES[machine]:
        steps += [(_LOAD, 0, 0, _NUMBER), (_EQUAL, 0, 3, number), (_LOAD, 0, 0, _ARG0 + 8 * argument)]
        steps += [(_ANY_BIT, 0, 1, _SETS_ID), refuse]
    for number, flags in _OPENS[machine]:
        steps += [(_LOAD, 0, 0, _NUMBER), (_EQUAL, 0, 5, number), (_LOAD, 0, 0, _ARG0 + 8 * flags)]
        steps += [
            (_ANY_BIT, 0, 3, _CREATES),
            (_LOAD, 0, 0, _ARG0 + 8 * (flags + 1)),
            (_ANY_BIT, 0, 1, _SETS_ID),
            refuse,
        ]
    steps += [(_LOAD, 0, 0, _NUMBER), (_EQUAL, 0, len(_FAMILIES) + 2, socket), (_LOAD, 0, 0, _ARG0)]
    steps += [(_EQUAL, len(_FAMILIES) - at, 0, family) for at, family in enumerate(_FAMILIES)]
    return [*steps, refuse, (_RETURN, 0, 0, _ALLOW)]


def _seccomp() -> None:
    program = seccomp_program(os.uname().machine)
    if program is None:
        return
    code = b"".join(struct.pack("=HBBI", *step) for step in program)
    buffer = ctypes.create_string_buffer(code, len(code))
    filters = struct.pack("@HP", len(program), ctypes.addressof(buffer))
    _check(_libc.prctl(_PR_SET_SECCOMP, 2, filters, 0, 0), "seccomp")


if __name__ == "__main__":
    main()
