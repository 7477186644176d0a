"""The parts of the sandbox that need no kernel to be tested: the seccomp filter, control groups, bounds."""

from __future__ import annotations

from pathlib import Path

import pytest

from smithers.errors import ToolSandboxUnavailable
from smithers.tools.sandbox import cgroups, probe
from smithers.tools.sandbox.inner import seccomp_program
from smithers.tools.sandbox.policy import Bounds, Policy, environment

ALLOW, KILL, EPERM, ENOSYS = 0x7FFF0000, 0x80000000, 0x50001, 0x50026
X86 = 0xC000003E


def decide(
    machine: str, number: int, arg0: int = 0, arg1: int = 0, arg2: int = 0, arg3: int = 0, arch: int = X86
) -> int:
    """What the kernel would answer: runs the filter."""
    program = seccomp_program(machine)
    assert program is not None
    data = {0: number, 4: arch, 16: arg0 & 0xFFFFFFFF, 24: arg1 & 0xFFFFFFFF, 32: arg2, 40: arg3}
    at = value = 0
    while True:
        code, if_true, if_false, k = program[at]
        at += 1
        match code:
            case 0x20:
                value = data[k]
            case 0x06:
                return k
            case 0x15:
                at += if_true if value == k else if_false
            case 0x35:
                at += if_true if value >= k else if_false
            case 0x45:
                at += if_true if value & k else if_false
            case _:
                raise AssertionError(code)


@pytest.mark.parametrize(
    ("number", "arg0", "arg1", "answer"),
    [
        (0, 0, 0, ALLOW),  # read
        (59, 0, 0, ALLOW),  # execve
        (101, 0, 0, EPERM),  # ptrace
        (165, 0, 0, EPERM),  # mount
        (272, 0, 0, EPERM),  # unshare
        (425, 0, 0, EPERM),  # io_uring_setup
        (438, 0, 0, EPERM),  # pidfd_getfd
        (435, 0, 0, ENOSYS),  # clone3
        (56, 0x11, 0, ALLOW),  # clone: fork
        (56, 0x10000000, 0, EPERM),  # clone: user namespace
        (56, 0x00020000, 0, EPERM),  # clone: mount namespace
        (16, 1, 0x5401, ALLOW),  # ioctl: TCGETS
        (16, 1, 0x5412, EPERM),  # ioctl: TIOCSTI
        (16, 1, 0x541C, EPERM),  # ioctl: TIOCLINUX
        (41, 1, 0, ALLOW),  # socket: Unix
        (41, 2, 0, ALLOW),  # socket: IPv4
        (41, 10, 0, ALLOW),  # socket: IPv6
        (41, 16, 0, ALLOW),  # socket: netlink
        (41, 17, 0, EPERM),  # socket: packet
        (41, 40, 0, EPERM),  # socket: vsock
        (0x40000000 | 41, 2, 0, ENOSYS),  # x32
    ],
)
def test_the_filter_lets_through_what_programs_need_and_no_more(number: int, arg0: int, arg1: int, answer: int) -> None:
    assert decide("x86_64", number, arg0, arg1) == answer


@pytest.mark.parametrize(
    ("number", "arguments", "answer"),
    [
        (90, (0, 0o755), ALLOW),  # chmod
        (90, (0, 0o4755), EPERM),
        (91, (0, 0o2755), EPERM),  # fchmod
        (268, (0, 0, 0o4755), EPERM),  # fchmodat
        (452, (0, 0, 0o4755), EPERM),  # fchmodat2
        (85, (0, 0o4755), EPERM),  # creat
        (2, (0, 0o101, 0o4755), EPERM),  # open to create
        (2, (0, 0o101, 0o644), ALLOW),
        (2, (0, 0, 0o4755), ALLOW),  # open to read: what is in the mode's place means nothing
        (257, (0, 0, 0o101, 0o4755), EPERM),  # openat
        (257, (0, 0, 0, 0o4755), ALLOW),
        (437, (0, 0, 0, 0), ENOSYS),  # openat2
    ],
)
def test_the_filter_refuses_files_that_run_as_their_owner(number: int, arguments: tuple[int, ...], answer: int) -> None:
    assert decide("x86_64", number, *arguments) == answer


def test_the_filter_is_for_the_machine_that_it_was_written_for() -> None:
    assert decide("x86_64", 0, arch=0x40000003) == KILL  # a 32-bit program
    assert decide("aarch64", 198, 40, arch=0xC00000B7) == EPERM  # socket: vsock
    assert decide("aarch64", 63, arch=0xC00000B7) == ALLOW  # read
    assert seccomp_program("sparc") is None


@pytest.mark.parametrize(
    ("files", "wrote"),
    [
        (("pids.max", "memory.max"), {"pids.max": "7", "memory.max": "1000"}),
        (("pids.max",), {"pids.max": "7"}),
        ((), {}),
    ],
)
def test_control_groups_are_made_with_what_the_machine_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: tuple[str, ...], wrote: dict[str, str]
) -> None:
    """The kernel fills a new group with files; here a `mkdir` that does so stands for it."""
    mkdir, rmdir = Path.mkdir, Path.rmdir

    def make(self: Path, *args: object, **options: object) -> None:
        existed = self.exists()
        mkdir(self, *args, **options)  # type: ignore[arg-type]
        if not existed:
            for name in files:
                (self / name).write_text("max")

    def remove(self: Path) -> None:
        for file in self.iterdir():
            file.unlink()
        rmdir(self)

    monkeypatch.setattr(Path, "mkdir", make)
    monkeypatch.setattr(Path, "rmdir", remove)

    with cgroups.group(7, 1000, tmp_path) as (entries, bounded):
        found = {file.name: file.read_text() for entry in entries for file in Path(entry).parent.iterdir()}

    assert found == wrote
    assert bounded == {name.partition(".")[0] for name in wrote}
    assert list(tmp_path.iterdir()) == []


def test_without_control_groups_memory_and_processes_are_resource_limits() -> None:
    limits = Bounds(processes=5, memory_bytes=100).rlimits(timeout_s=2, bounds_processes=True, bounds_memory=True)

    assert (limits["RLIMIT_NPROC"], limits["RLIMIT_DATA"], limits["RLIMIT_CORE"]) == (5, 100, 0)
    assert limits["RLIMIT_CPU"] >= 4


def test_the_view_has_one_writable_folder_and_no_secrets(tmp_path: Path) -> None:
    mounts = list(Policy(root=tmp_path).mounts())

    assert [mount.place for mount in mounts if mount.kind == "write"] == [str(tmp_path)]
    places = {mount.place for mount in mounts if mount.kind != "seal"}
    assert not places & {"/", "/etc", "/home", "/root", "/var", "/run", "/sys", "/etc/shadow", "/etc/ssl", "/opt"}
    assert "/etc/resolv.conf" not in places
    assert mounts[-1].kind == "seal"
    assert not [m for m in Policy(root=tmp_path, is_writable=False).mounts() if m.kind == "write"]


def test_the_environment_is_made_and_not_inherited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "the secret")

    assert set(environment({"SMITHERS_RUN_ID": "r"})) == {"PATH", "HOME", "TMPDIR", "LANG", "TERM", "SMITHERS_RUN_ID"}


def test_other_systems_than_linux_fail_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "_proven", {})
    monkeypatch.setattr("sys.platform", "darwin")

    with pytest.raises(ToolSandboxUnavailable) as caught:
        probe.choose(False)

    assert 'sandbox="off"' in str(caught.value.details["wayOut"])
