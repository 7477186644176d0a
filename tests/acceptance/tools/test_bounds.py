"""Processes, memory, time, files and output of a command are bounded, and nothing of it is left over."""

from __future__ import annotations

import asyncio
import fcntl
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from smithers.errors import ProcessTimeout, TaskAborted, ToolCommandFailed
from smithers.tools import bash, tool_context
from smithers.tools.sandbox import cgroups
from smithers.tools.sandbox.policy import MIB, Bounds
from smithers.tools.sandbox.running import Finished

Inside = Callable[..., Finished]


def wait_for_lock(path: Path) -> bool:
    """Whether nobody holds a lock on the file any more, a moment after the kill."""
    deadline = time.monotonic() + 60
    with path.open("a") as file:
        while time.monotonic() < deadline:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(0.005)
            else:
                return True
    return False


async def exists(path: Path) -> None:
    """Wait for a file that the command makes."""
    async with asyncio.timeout(60):
        while not path.exists():  # noqa: ASYNC110, ASYNC240 - nothing but the file tells
            await asyncio.sleep(0.005)


HOLD = "import fcntl; lock = open('lock', 'w'); fcntl.flock(lock, fcntl.LOCK_EX)\n"


@pytest.mark.usefixtures("bounds_processes")
def test_forks_end_at_the_limit(inside: Inside) -> None:
    source = (
        "import os, sys, time\n"
        "made = 0\n"
        "try:\n"
        "    for _ in range(100):\n"
        "        if os.fork() == 0: time.sleep(60); os._exit(0)\n"
        "        made += 1\n"
        "except OSError: pass\n"
        "print(made)\n"
    )

    done = inside(source, bounds=Bounds(processes=16))

    assert 0 < int(done.stdout) < 16


@pytest.mark.usefixtures("bounds_processes")
def test_a_fork_bomb_is_contained_and_removed(inside: Inside, root: Path) -> None:
    source = HOLD + "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass"

    with pytest.raises(ProcessTimeout):
        inside(source, bounds=Bounds(processes=24), timeout_s=1)

    assert wait_for_lock(root / "lock")


@pytest.mark.skipif(os.getuid() != 0, reason="only root's processes are not bounded by the kernel without groups")
def test_without_a_kernel_limit_too_many_processes_are_seen_and_killed(
    inside: Inside, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(_root: Path) -> dict[str, Path]:
        return {}

    monkeypatch.setattr(cgroups, "places", none)
    source = HOLD + "import os, time\nfor _ in range(40):\n    if os.fork() == 0: time.sleep(60)\ntime.sleep(60)"

    with pytest.raises(ToolCommandFailed, match="more than 16 processes"):
        inside(source, bounds=Bounds(processes=16))

    assert wait_for_lock(root / "lock")


def test_memory_is_bounded(inside: Inside) -> None:
    done = inside(
        "b = bytearray(1024 * 1024 * 1024); b[::4096] = b'x' * len(b[::4096])", bounds=Bounds(memory_bytes=192 * MIB)
    )

    assert done.exit_code != 0


@pytest.mark.skipif("memory" not in cgroups.places(), reason="memory of all processes together needs control groups")
def test_memory_of_all_processes_together_is_bounded(inside: Inside) -> None:
    source = (
        "import os\n"
        "for _ in range(8):\n"
        "    if os.fork() == 0:\n"
        "        try: b = bytearray(60 * 1024 * 1024); b[::4096] = b'x' * len(b[::4096])\n"
        "        except MemoryError: os._exit(1)\n"
        "        os.wait() if False else __import__('time').sleep(60)\n"
        "codes = [os.wait()[1] for _ in range(2)]\n"
        "print(codes)\n"
    )

    done = inside(source, bounds=Bounds(memory_bytes=192 * MIB))

    assert done.exit_code != 0 or 0 not in eval(done.stdout)


def test_files_and_the_private_tmp_are_bounded(inside: Inside) -> None:
    source = (
        "import sys\n"
        "for path in ('big', '/tmp/big', '/dev/shm/big'):\n"
        "    try:\n"
        "        with open(path, 'wb') as f: f.write(bytes(8 << 20))\n"
        "    except OSError as e: print(e.errno)\n"
    )
    bounds = Bounds(file_bytes=4 * MIB, tmp_bytes=2 * MIB)

    done = inside("import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n" + source, bounds=bounds)

    assert done.stdout == b"27\n28\n28\n"  # file too large; no space left


def test_a_spinning_command_is_killed_at_its_timeout(inside: Inside, root: Path) -> None:
    started = time.monotonic()

    with pytest.raises(ProcessTimeout):
        inside(HOLD + "while True: pass", timeout_s=1)

    assert time.monotonic() - started < 40
    assert wait_for_lock(root / "lock")


def test_what_a_command_leaves_behind_ends_with_it(inside: Inside, root: Path) -> None:
    source = (
        HOLD + "import os, time\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    if os.fork() == 0:\n"
        "        for fd in (0, 1, 2): os.close(fd)\n"
        "        time.sleep(600)\n"
        "    os._exit(0)\n"
        "print('done')\n"
    )

    assert inside(source).stdout == b"done\n"

    assert wait_for_lock(root / "lock")


def test_endless_output_is_cut_and_does_not_block(root: Path) -> None:
    async def run() -> str:
        with tool_context(root, max_output_bytes=1000):
            return await bash("head", ["-c", "50000000", "/dev/zero"])

    assert len(asyncio.run(run())) == 1000


def test_cancelling_the_caller_kills_the_command(root: Path) -> None:
    async def run() -> None:
        with tool_context(root):
            task = asyncio.create_task(bash("flock", ["lock", "sh", "-c", "touch started; sleep 600"]))
            await exists(root / "started")
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(run())

    assert wait_for_lock(root / "lock")


def test_setting_aborted_kills_the_command(root: Path) -> None:
    async def run() -> None:
        with tool_context(root) as context:
            context.aborted = threading.Event()
            task = asyncio.create_task(bash("flock", ["lock", "sh", "-c", "touch started; sleep 600"]))
            await exists(root / "started")
            context.aborted.set()
            with pytest.raises(TaskAborted):
                await task

    asyncio.run(run())

    assert wait_for_lock(root / "lock")


def test_a_stopped_command_has_a_moment_to_clean_up(root: Path) -> None:
    async def run() -> None:
        with tool_context(root, timeout_ms=3000):
            await bash("sh", ["-c", "trap 'touch cleaned; exit' TERM; touch started; while :; do sleep 0.02; done"])

    with pytest.raises(ProcessTimeout):
        asyncio.run(run())

    assert (root / "cleaned").exists()
