"""Nothing inside a sandbox reads or writes outside the root folder, and it sees no other process."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from smithers.tools.sandbox.running import Finished

Inside = Callable[..., Finished]
TRY = """
import os, sys
def attempt(action):
    try:
        found = action()
    except OSError:
        return
    print("ESCAPED", found)
"""


def test_files_outside_the_root_cannot_be_read(inside: Inside, root: Path) -> None:
    source = TRY + "for path in sys.argv[1:]: attempt(lambda: open(path).read())"

    done = inside(
        source, root.parent / "secret.txt", "/etc/shadow", "/etc/gshadow", "/proc/1/root/etc/shadow", __file__
    )

    assert (done.exit_code, done.stdout) == (0, b"")


def test_homes_and_the_folders_above_the_root_show_nothing_of_theirs(inside: Inside, root: Path) -> None:
    marks = {"project", "..", "."}
    source = "import os, sys\nfor path in sys.argv[1:]:\n    print(os.listdir(path) if os.path.exists(path) else [])"

    done = inside(source, root.parent, Path.home() / ".ssh", "/home", "/var", "/mnt")

    above, ssh, homes, var, mnt = (eval(line) for line in done.stdout.decode().splitlines())
    assert set(above) <= marks
    assert ssh == homes == mnt == []
    assert var == ["tmp"]


@pytest.mark.parametrize(
    "path",
    [
        "{outside}",
        "link",
        "folder/secret.txt",
        "/proc/self/root{outside}",
        "/proc/1/root{outside}",
        "/proc/1/cwd/x",
        "/x",
    ],
)
def test_writing_through_links_and_proc_changes_nothing_outside(inside: Inside, root: Path, path: str) -> None:
    secret = root.parent / "secret.txt"
    (root / "link").symlink_to(secret)
    (root / "folder").symlink_to(root.parent)

    inside("import sys; open(sys.argv[1], 'w').write('changed')", path.format(outside=secret))

    assert secret.read_text() == "the secret"
    assert sorted(entry.name for entry in root.parent.iterdir()) == ["project", "secret.txt"]
    assert not Path("/x").exists()


def test_links_made_inside_lead_nowhere(inside: Inside, root: Path) -> None:
    source = TRY + (
        "os.symlink(sys.argv[1], 'soft'); attempt(lambda: open('soft').read())\n"
        "attempt(lambda: os.link(sys.argv[1], 'hard'))\n"
        "attempt(lambda: os.rename('soft', '/usr/soft'))\n"
        "os.chdir('..'); os.chdir('..'); attempt(lambda: open(sys.argv[1]).read())"
    )

    done = inside(source, root.parent / "secret.txt")

    assert (done.exit_code, done.stdout) == (0, b"")


def test_the_system_is_read_only(inside: Inside) -> None:
    places = ("/usr/made", "/bin/made", "/etc/made", "/made", "/root/made", "/dev/made", "/run/made", "/sys/made")
    source = TRY + "for path in sys.argv[1:]: attempt(lambda: os.mkdir(path))"

    assert inside(source, *places).stdout == b""


def test_the_root_and_a_private_tmp_can_be_written(inside: Inside, root: Path) -> None:
    done = inside("open('made', 'w').write('x'); open('/tmp/smithers-made', 'w').write('y')")

    assert done.exit_code == 0, done.stderr
    assert (root / "made").read_text() == "x"
    assert not Path("/tmp/smithers-made").exists()


def test_other_processes_are_neither_seen_nor_signalled(inside: Inside) -> None:
    source = TRY + (
        "print(sorted(int(p) for p in os.listdir('/proc') if p.isdigit()))\n"
        "attempt(lambda: os.kill(int(sys.argv[1]), 0))"
    )

    done = inside(source, os.getpid())

    assert done.stdout == b"[1, 2]\n"


def test_the_first_process_cannot_be_traced_or_looked_into(inside: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMITHERS_TEST_SECRET", "the secret")
    source = TRY + (
        "import ctypes; libc = ctypes.CDLL(None, use_errno=True)\n"
        "for pid in (1, os.getppid()): print(libc.ptrace(16, pid, None, None))\n"
        "attempt(lambda: os.listdir('/proc/1/root/work'))\n"
        "for name in ('environ', 'cmdline'):\n"
        "    try: print(b'the secret' in open(f'/proc/1/{name}', 'rb').read())\n"
        "    except OSError: print(False)"
    )

    done = inside(source)

    assert done.stdout == b"-1\n-1\nFalse\nFalse\n", done.stderr


def test_nothing_of_our_environment_is_passed_on(inside: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMITHERS_TEST_SECRET", "the secret")

    done = inside("import os; print(sorted(os.environ))")

    assert set(eval(done.stdout)) <= {"HOME", "LANG", "PATH", "TERM", "TMPDIR", "LC_CTYPE"}


def test_privileges_cannot_be_gained(inside: Inside) -> None:
    source = TRY + (
        "import ctypes, subprocess; libc = ctypes.CDLL(None, use_errno=True)\n"
        "for call in (lambda: libc.unshare(0x10000000), lambda: libc.mount(b'x', b'/tmp', b'tmpfs', 0, None),\n"
        "             lambda: libc.chroot(b'/tmp'), lambda: libc.setns(0, 0), lambda: libc.umount2(b'/proc', 2)):\n"
        "    print(call())\n"
        "attempt(lambda: os.mknod('device', 0o60666, os.makedev(254, 0)))\n"
        "attempt(lambda: os.setgroups([0, 1]))\n"
        "attempt(lambda: os.setuid(0) if os.getuid() else os.setuid(1))\n"
        "import shutil; shutil.copy('/bin/cat', 'cat')\n"
        "status = subprocess.run(['./cat', '/proc/self/status'], capture_output=True, text=True).stdout\n"
        "print([line.split()[1] for line in status.splitlines() if line.startswith(('CapEff', 'CapBnd', 'NoNew'))])\n"
    )

    done = inside(source)

    assert done.stdout.decode().splitlines() == ["-1"] * 5 + ["['0000000000000000', '0000000000000000', '1']"], (
        done.stderr
    )


def test_no_file_that_runs_as_its_owner_can_be_left_behind(inside: Inside, root: Path) -> None:
    source = TRY + (
        "import shutil; shutil.copy('/bin/sh', 'sh')\n"
        "attempt(lambda: os.chmod('sh', 0o4755)); attempt(lambda: os.chmod('sh', 0o2755))\n"
        "attempt(lambda: os.open('made', os.O_CREAT | os.O_WRONLY, 0o4755))\n"
        "os.chmod('sh', 0o755); os.mkdir('folder', 0o755)\n"
    )

    done = inside(source)

    assert (done.exit_code, done.stdout) == (0, b""), done.stderr
    assert all(entry.stat().st_mode & 0o6000 == 0 for entry in root.iterdir())


def test_the_kernels_settings_cannot_be_changed(inside: Inside) -> None:
    places = ("/proc/sys/kernel/core_pattern", "/proc/sys/vm/drop_caches", "/proc/sysrq-trigger", "/proc/1/mem")
    source = TRY + "for path in sys.argv[1:]: attempt(lambda: os.open(path, os.O_WRONLY))"  # opened, never written to

    assert inside(source, *places).stdout == b""


def test_output_can_be_written_by_the_names_of_the_standard_streams(inside: Inside) -> None:
    assert inside("", argv=["sh", "-c", "echo out >/dev/stdout; echo null >/dev/null"]).stdout == b"out\n"


def test_no_descriptor_of_ours_is_passed_on(inside: Inside) -> None:
    done = inside("import os; print([fd for fd in range(3, 1000) if os.path.exists(f'/proc/self/fd/{fd}')])")

    assert done.stdout == b"[]\n"
