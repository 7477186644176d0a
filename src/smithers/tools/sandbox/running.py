"""Runs one program to its end: deadline, bounded capture, and nothing of it left. What it is wrapped in is `launch.py`'s."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from smithers.errors import ProcessTimeout, TaskAborted, ToolCommandFailed
from smithers.jsons import int_of, object_of

_DRAIN_S = 2.0
"""How long output is waited for after the program has ended."""
_GRACE_S = 0.25
"""How long a program has to end by itself when it is stopped."""
_LOOK_S = 0.05


@dataclass(frozen=True, slots=True)
class Finished:
    """How a program ended: its exit code (negative: the signal that killed it) and the beginning of what it wrote."""

    exit_code: int
    stdout: bytes
    stderr: bytes

    def text(self, max_bytes: int) -> str:
        """What it wrote to both, at most so many bytes of it."""
        return (self.stdout + self.stderr)[:max_bytes].decode("utf-8", "replace")


@dataclass(frozen=True, slots=True, kw_only=True)
class Watching:
    """What is looked at while a program runs.

    Attributes:
        info_fd: where the pid of the first process inside is read from, see `bwrap.py`.
        max_processes: the most processes in its pid namespace; None: the kernel sees to it.
    """

    timeout_s: float
    max_bytes: int
    aborted: threading.Event | None = None
    info_fd: int | None = None
    max_processes: int | None = None


async def run(
    name: str, argv: Sequence[str], *, cwd: Path, env: Mapping[str, str], fds: Sequence[int], watching: Watching
) -> Finished:
    """Run a program to its end. All its process group is gone on return.

    Args:
        name: what it is called in errors.

    Raises:
        ProcessTimeout: it took longer than `timeout_s`; `details["output"]` is what it wrote.
        TaskAborted: `aborted` was set.
        ToolCommandFailed: it had more than `max_processes`.
        OSError: it could not be started.
    """
    loop = asyncio.get_running_loop()
    capture = _Capture(watching.max_bytes)
    transport, _ = await loop.subprocess_exec(
        lambda: capture,
        *argv,
        stdin=asyncio.subprocess.DEVNULL,
        cwd=cwd,
        env=dict(env),
        pass_fds=tuple(fds),
        start_new_session=True,
    )
    needs_stop = True
    try:
        async with asyncio.timeout(watching.timeout_s):
            await _until(capture.exited, watching)
        needs_stop = False
    except TimeoutError as error:
        await _stop(transport, capture, watching)
        needs_stop = False
        output = Finished(0, *capture.output()).text(watching.max_bytes)
        details: dict[str, object] = {"cmd": name, "timeoutMs": int(watching.timeout_s * 1000), "output": output}
        raise ProcessTimeout(f"{name!r} took longer than {watching.timeout_s:g} seconds", details) from error
    finally:
        await _end(transport, capture, watching, needs_stop=needs_stop)
    return Finished(transport.get_returncode() or 0, *capture.output())


async def _until(exited: asyncio.Event, watching: Watching) -> None:
    """Wait for the end, looking now and then at what no event tells."""
    aborted, most = watching.aborted, watching.max_processes
    if aborted is None and most is None:
        await exited.wait()
        return
    while not exited.is_set():
        if aborted is not None and aborted.is_set():
            raise TaskAborted("stopped: the attempt was aborted")
        if most is not None and _count_processes(watching) > most:
            raise ToolCommandFailed(f"stopped: more than {most} processes", {"maxProcesses": most})
        with suppress(TimeoutError):
            async with asyncio.timeout(_LOOK_S):
                await exited.wait()


def _count_processes(watching: Watching) -> int:
    first = _first_inside(watching)
    if first is None:
        return 0
    try:
        wanted = Path(f"/proc/{first}/ns/pid").stat().st_ino
    except OSError:
        return 0
    found = 0
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            with suppress(OSError):
                found += (process / "ns/pid").stat().st_ino == wanted
    return found


def _first_inside(watching: Watching) -> int | None:
    """The pid of the first process inside, which leads a group of its own."""
    if watching.info_fd is None:
        return None
    with suppress(OSError, ValueError):
        return int_of(object_of(json.loads(os.pread(watching.info_fd, 4096, 0))).get("child-pid"))
    return None


async def _stop(transport: asyncio.SubprocessTransport, capture: _Capture, watching: Watching) -> None:
    first = _first_inside(watching)
    group = first if first is not None else transport.get_pid()
    if not capture.exited.is_set() and _signal(group, signal.SIGTERM):
        with suppress(TimeoutError):
            async with asyncio.timeout(_GRACE_S):
                await capture.exited.wait()


async def _end(
    transport: asyncio.SubprocessTransport, capture: _Capture, watching: Watching, *, needs_stop: bool
) -> None:
    """Leave nothing running. A second cancellation shortens the grace, not the kill."""
    try:
        if needs_stop:
            await _stop(transport, capture, watching)
    finally:
        _signal(transport.get_pid(), signal.SIGKILL)
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(_DRAIN_S):
                    await capture.exited.wait()
                    await capture.drained.wait()
        finally:
            transport.close()


def _signal(group: int, number: signal.Signals) -> bool:
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):  # all gone already
        return False
    return True


class _Capture(asyncio.SubprocessProtocol):
    """Keeps the beginning of what a program writes; the rest is taken and dropped, so that it does not block."""

    def __init__(self, max_bytes: int) -> None:
        self.exited = asyncio.Event()
        self.drained = asyncio.Event()
        self._max_bytes = max_bytes
        self._kept = {1: bytearray(), 2: bytearray()}
        self._open = {1, 2}

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        kept = self._kept[fd]
        kept += data[: self._max_bytes - len(kept)]

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        self._open.discard(fd)
        if not self._open:
            self.drained.set()

    def process_exited(self) -> None:
        self.exited.set()

    def output(self) -> tuple[bytes, bytes]:
        return bytes(self._kept[1]), bytes(self._kept[2])
