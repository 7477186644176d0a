"""Runs an external program for an agent: own process group, deadlines, bounded capture. Reading it is `stream.py`'s.

No process outlives `run_process`: whatever ends it (exit, deadline, cancellation), the whole group is killed.
"""

from __future__ import annotations

import asyncio
import codecs
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from smithers.errors import ProcessIdleTimeout, ProcessSpawnFailed, ProcessTimeout

_STREAMS = {1: "stdout", 2: "stderr"}
_DRAIN_S = 2.0
"""How long output is waited for after the program has ended."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one run: seconds in all and of silence, bytes kept of each stream, seconds between TERM and KILL."""

    timeout_s: float | None = None
    idle_timeout_s: float | None = None
    max_output_bytes: int = 4_000_000
    grace_s: float = 2.0


@dataclass(frozen=True, slots=True)
class Finished:
    """How a program ended: its exit code (negative: the signal that killed it) and the end of what it wrote."""

    exit_code: int
    stdout: str
    stderr: str


async def run_process(
    argv: Sequence[str],
    *,
    stdin: bytes | None,
    cwd: Path,
    env: Mapping[str, str],
    limits: Limits,
    on_text: Callable[[str, str], None],
) -> Finished:
    """Run a program to its end.

    Args:
        stdin: what it reads; None: nothing.
        on_text: takes each piece of output as it comes, with the stream's name.

    Raises:
        ProcessSpawnFailed: it could not be started.
        ProcessTimeout: it ran for longer than `limits.timeout_s`.
        ProcessIdleTimeout: it wrote nothing for `limits.idle_timeout_s`.
    """
    loop = asyncio.get_running_loop()
    watch = _Watch(on_text, limits.max_output_bytes)
    try:
        transport, _ = await loop.subprocess_exec(
            lambda: watch,
            *argv,
            stdin=asyncio.subprocess.DEVNULL if stdin is None else asyncio.subprocess.PIPE,
            cwd=cwd,
            env=dict(env),
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        details = {"command": argv[0], "cwd": str(cwd)}
        raise ProcessSpawnFailed(f"{argv[0]!r} could not be started in {str(cwd)!r}: {error}", details) from error
    try:
        if stdin is not None:
            pipe = cast("asyncio.WriteTransport", transport.get_pipe_transport(0))
            pipe.write(stdin)
            pipe.write_eof()
        await _wait(watch, argv[0], limits)
    finally:
        await _end(transport, watch, limits.grace_s)
    return Finished(transport.get_returncode() or 0, watch.tail("stdout"), watch.tail("stderr"))


async def _wait(watch: _Watch, command: str, limits: Limits) -> None:
    total, idle = asyncio.timeout(limits.timeout_s), asyncio.timeout(limits.idle_timeout_s)
    try:
        async with total, idle:
            watch.on_output = lambda: _restart(idle, limits.idle_timeout_s)
            await watch.exited.wait()
    except TimeoutError as error:
        if total.expired():
            details: dict[str, object] = {"command": command, "timeoutMs": int((limits.timeout_s or 0) * 1000)}
            raise ProcessTimeout(f"{command!r} took longer than {limits.timeout_s:g} seconds", details) from error
        details = {"command": command, "idleTimeoutMs": int((limits.idle_timeout_s or 0) * 1000)}
        raise ProcessIdleTimeout(f"{command!r} wrote nothing for {limits.idle_timeout_s:g} seconds", details) from error


def _restart(idle: asyncio.Timeout, seconds: float | None) -> None:
    if seconds is not None and not idle.expired():
        with suppress(RuntimeError):  # output that comes after the wait is over
            idle.reschedule(asyncio.get_running_loop().time() + seconds)


async def _end(transport: asyncio.SubprocessTransport, watch: _Watch, grace_s: float) -> None:
    """Leave nothing of the group running. A second cancellation shortens the grace, not the kill."""
    group = transport.get_pid()
    try:
        if not watch.exited.is_set():
            _signal(group, signal.SIGTERM)
            with suppress(TimeoutError):
                async with asyncio.timeout(grace_s):
                    await watch.exited.wait()
    finally:
        _signal(group, signal.SIGKILL)
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(_DRAIN_S):
                    await watch.exited.wait()
                    await watch.drained.wait()
        finally:
            transport.close()


def _signal(group: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):  # all gone already
        os.killpg(group, number)


class _Watch(asyncio.SubprocessProtocol):
    """Takes what the program writes and sees it end, also while a descendant still holds its output open."""

    def __init__(self, on_text: Callable[[str, str], None], max_bytes: int) -> None:
        self.exited = asyncio.Event()
        self.drained = asyncio.Event()
        self.on_output: Callable[[], None] = lambda: None
        self._on_text = on_text
        self._max_bytes = max_bytes
        self._tails = {name: bytearray() for name in _STREAMS.values()}
        self._decoders = {name: codecs.getincrementaldecoder("utf-8")("replace") for name in _STREAMS.values()}
        self._open = set(_STREAMS)

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        name = _STREAMS[fd]
        self.on_output()
        tail = self._tails[name]
        tail += data
        if len(tail) > 2 * self._max_bytes:  # trimmed seldom, so that a flood costs linear time
            del tail[: -self._max_bytes]
        if text := self._decoders[name].decode(data):
            self._on_text(text, name)

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        self._open.discard(fd)
        if fd in _STREAMS and (rest := self._decoders[_STREAMS[fd]].decode(b"", final=True)):
            self._on_text(rest, _STREAMS[fd])
        if not self._open:
            self.drained.set()

    def process_exited(self) -> None:
        self.exited.set()

    def tail(self, name: str) -> str:
        """The end of a stream, at most `max_bytes` of it."""
        return bytes(self._tails[name][-self._max_bytes :]).decode("utf-8", "replace") if self._max_bytes else ""
