"""Nothing inside a sandbox gets out by the kernel's side doors, by what the launcher holds, or by what it leaves behind."""

from __future__ import annotations

import ctypes
import platform
import secrets
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from smithers.tools.sandbox.running import Finished

Inside = Callable[..., Finished]
SYSCALL = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
def call(*arguments):
    ctypes.set_errno(0)
    result = libc.syscall(*[ctypes.c_long(a) if isinstance(a, int) else a for a in arguments])
    print(result, ctypes.get_errno())
"""
TRY = """
import os, sys
def attempt(action):
    try:
        found = action()
    except OSError:
        return
    print("ESCAPED", found)
"""
REFUSED = "-1 1"
"""What a system call gives that is refused: EPERM."""
BY_MACHINE = {
    "x86_64": {"bpf": 321, "perf_event_open": 298, "keyctl": 250, "add_key": 248, "request_key": 249,
               "userfaultfd": 323, "ptrace": 101, "process_vm_readv": 310, "mount": 165, "pivot_root": 155,
               "kexec_load": 246, "init_module": 175, "open_by_handle_at": 304, "unshare": 272, "setns": 308},
    "aarch64": {"bpf": 280, "perf_event_open": 241, "keyctl": 219, "add_key": 217, "request_key": 218,
                "userfaultfd": 282, "ptrace": 117, "process_vm_readv": 270, "mount": 40, "pivot_root": 41,
                "kexec_load": 104, "init_module": 105, "open_by_handle_at": 265, "unshare": 97, "setns": 268},
}  # fmt: skip
EVERYWHERE = {"io_uring_setup": 425, "open_tree": 428, "move_mount": 429, "fsopen": 430, "fsmount": 432,
              "pidfd_getfd": 438, "mount_setattr": 442}  # fmt: skip


def has_heard(listener: socket.socket) -> bool:
    listener.setblocking(False)
    try:
        listener.accept()[0].close()
    except OSError:
        return False
    return True


@pytest.mark.parametrize("name", [*EVERYWHERE, *BY_MACHINE["x86_64"]])
def test_side_doors_of_the_kernel_are_refused_whatever_they_are_asked_for(inside: Inside, name: str) -> None:
    known = EVERYWHERE | BY_MACHINE.get(platform.machine(), {})
    if name not in known:
        pytest.skip(f"no number of {name} for {platform.machine()}")

    done = inside(SYSCALL + "call(int(sys.argv[1]), 0, 0, 0, 0, 0)", known[name])

    assert done.stdout.decode().strip() == REFUSED, done.stderr


def test_numbers_of_another_machine_are_no_way_around(inside: Inside) -> None:
    if platform.machine() != "x86_64":
        pytest.skip("machine code for x86-64")
    # getpid by the 32-bit entry: its number is another call's in the filter's table, so any use ends the program
    source = (
        "import ctypes, mmap, sys; sys.stdout.write('before\\n'); sys.stdout.flush()\n"
        "page = mmap.mmap(-1, 4096, prot=7)\n"
        "page.write(bytes.fromhex('b814000000cd80c3'))\n"
        "print(ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))())"
    )
    done = inside(source)
    assert (done.exit_code != 0, done.stdout) == (True, b"before\n")

    assert inside(SYSCALL + "call(0x40000000 + 39)").stdout == b"-1 38\n"


def test_nothing_is_typed_into_a_terminal(inside: Inside) -> None:
    source = TRY + (
        "import ctypes; libc = ctypes.CDLL(None, use_errno=True)\n"
        "attempt(lambda: os.open('/dev/tty', os.O_RDWR))\n"
        "for request in (0x5412, 0x541C, 0x5412 | 1 << 32):\n"  # the kernel looks at the lower half only
        "    print(libc.ioctl(0, ctypes.c_ulong(request), ctypes.c_char_p(b'x')), ctypes.get_errno())\n"
    )

    assert inside(source).stdout.decode().splitlines() == [REFUSED] * 3


def test_sockets_by_path_outside_the_root_are_not_reached(inside: Inside, root: Path) -> None:
    with (
        socket.socket(socket.AF_UNIX) as server,
        tempfile.TemporaryDirectory(prefix="s-") as folder,  # a socket's path has to be short
    ):
        server.bind(f"{folder}/s")
        server.listen()
        (root / "link").symlink_to(f"{folder}/s")
        places = ("/run/dbus/system_bus_socket", "/var/run/docker.sock", "/run/systemd/private")
        source = TRY + "import socket\nfor path in sys.argv[1:]: attempt(lambda: socket.socket(1).connect(path))"

        done = inside(source, f"{folder}/s", f"/proc/1/root{folder}/s", "link", *places)

        assert (done.exit_code, done.stdout) == (0, b""), done.stderr
        assert not has_heard(server)


@pytest.fixture
def segment() -> Iterator[int]:
    """A System V shared memory segment of this machine, found by its key."""
    libc = ctypes.CDLL(None, use_errno=True)
    key = secrets.randbelow(1 << 30) + 1
    id = libc.shmget(key, 4096, 0o1666)
    if id < 0:
        pytest.skip("no System V shared memory here")
    yield key
    libc.shmctl(id, 0, None)


def test_shared_memory_of_this_machine_is_not_there(inside: Inside, segment: int) -> None:
    source = (
        "import ctypes, os, sys; libc = ctypes.CDLL(None, use_errno=True)\n"
        "print(libc.shmget(int(sys.argv[1]), 0, 0o600), os.path.exists('/dev/shm/' + sys.argv[2]))"
    )
    name = f"smithers-{secrets.token_hex(8)}"
    shared = Path("/dev/shm", name)
    if shared.parent.is_dir():
        shared.write_text("the secret")
    try:
        assert inside(source, segment, name).stdout == b"-1 False\n"
    finally:
        shared.unlink(missing_ok=True)


def test_what_the_first_process_holds_cannot_be_opened(inside: Inside) -> None:
    source = TRY + (
        "for pid in {1, os.getppid()}:\n"
        "    for fd in range(64):\n"
        "        attempt(lambda: os.open(f'/proc/{pid}/fd/{fd}', os.O_WRONLY))\n"
        "    attempt(lambda: os.open(f'/proc/{pid}/mem', os.O_RDWR))\n"
        "    attempt(lambda: os.listdir(f'/proc/{pid}/map_files'))\n"
    )

    assert inside(source).stdout == b""


def test_the_outcome_of_a_command_cannot_be_forged_by_what_it_writes(inside: Inside) -> None:
    source = "import os\nfor fd in range(3, 64):\n    try: os.write(fd, b'!2')\n    except OSError: pass\nprint('ran')"

    done = inside(source)

    assert (done.exit_code, done.stdout) == (0, b"ran\n")


def test_a_library_to_preload_is_neither_passed_on_nor_read_from_the_root(
    inside: Inside, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "evil.so").write_bytes(b"\x7fELF")
    for name in ("LD_PRELOAD", "LD_LIBRARY_PATH", "LD_AUDIT", "PYTHONPATH", "PYTHONSTARTUP", "BASH_ENV", "ENV"):
        monkeypatch.setenv(name, str(root / "evil.so"))

    done = inside("import os; print([n for n in os.environ if n.startswith(('LD_', 'PYTHON', 'BASH_ENV', 'ENV'))])")

    assert (done.stdout, done.stderr) == (b"[]\n", b"")


def test_what_one_command_leaves_does_not_change_how_the_next_is_kept_in(inside: Inside, root: Path) -> None:
    planted = ("bwrap", "python3", "python", "sh", "env", "sitecustomize.py", "usercustomize.py", "os.py", "ctypes.py",
               "marshal.py", "struct.py", "encodings.py", "pyvenv.cfg", "python3._pth")  # fmt: skip
    source = (
        "import os, sys\n"
        "for name in sys.argv[1:]:\n"
        "    open(name, 'w').write('#!/bin/sh\\ntouch hijacked\\n' if '.' not in name else 'open(\"hijacked\", \"w\")')\n"
        "    os.chmod(name, 0o755)\n"
    )
    assert inside(source, *planted).exit_code == 0

    done = inside(TRY + "attempt(lambda: open(sys.argv[1]).read()); print('kept')", root.parent / "secret.txt")

    assert (done.stdout, (root / "hijacked").exists()) == (b"kept\n", False), done.stderr


def test_programs_that_run_as_their_owner_gain_nothing(inside: Inside) -> None:
    source = (
        "import glob, os, subprocess\n"
        "found = [p for f in ('/bin', '/usr/bin', '/usr/sbin') for p in glob.glob(f + '/*')\n"
        "         if os.path.isfile(p) and os.stat(p).st_mode & 0o4000]\n"
        "status = [line.split()[1] for line in open('/proc/self/status') if line.startswith('NoNewPrivs')]\n"
        "flags = {os.statvfs(p).f_flag & os.ST_NOSUID for p in found}\n"
        "print(status, 0 in flags)"
    )

    assert inside(source).stdout == b"['1'] False\n"


def test_no_time_priority_or_name_of_the_machine_can_be_changed(inside: Inside) -> None:
    source = TRY + (
        "import socket, time\n"
        "attempt(lambda: socket.sethostname('evil'))\n"
        "attempt(lambda: time.clock_settime(time.CLOCK_REALTIME, 0))\n"
        "attempt(lambda: os.nice(-5))\n"
        "attempt(lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(50)))\n"
        "attempt(lambda: open('/proc/self/oom_score_adj', 'w').write('-1000'))\n"
    )

    assert inside(source).stdout == b"", "a right of the machine is left"
