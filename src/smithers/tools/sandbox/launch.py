"""Runs a command in a sandbox: puts policy, launcher, limits and `inner.py` together.

Which launcher this machine can use is `probe.py`'s to find out; how a process is run and ended is `running.py`'s.
"""

from __future__ import annotations

import asyncio
import marshal
import os
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path

from smithers.errors import ToolSandboxUnavailable
from smithers.tools.sandbox import bwrap, cgroups, namespaces
from smithers.tools.sandbox.policy import INNER, INNER_PLACE, Policy, environment, python
from smithers.tools.sandbox.running import Finished, Watching, run

Prepare = Callable[[Policy, list[str], int], AbstractContextManager[tuple[list[str], tuple[int, ...]]]]
LAUNCHERS: dict[str, Prepare] = {bwrap.NAME: bwrap.prepare, namespaces.NAME: namespaces.prepare}
"""What can start a command in isolation, the preferred one first."""
OFF = "off"
"""The launcher that isolates nothing: chosen explicitly, never fallen back to."""
_ENTER_GROUPS = 'while [ "$1" != -- ]; do echo 0 >"$1" || exit 125; shift; done; shift; exec "$@"'
_OUTER_ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A program and its arguments; no shell is involved. `environment` is added to the sandbox's own."""

    argv: Sequence[str]
    cwd: Path
    environment: dict[str, str]
    timeout_s: float
    max_bytes: int
    aborted: threading.Event | None = None


async def launch(launcher: str, policy: Policy, command: Command) -> Finished:
    """Run a command under a policy, by the launcher of that name.

    Raises:
        FileNotFoundError, PermissionError, OSError: the program cannot be executed inside.
        ToolSandboxUnavailable: the sandbox could not be set up; the command has not run.
        ProcessTimeout, TaskAborted: it was stopped.
    """
    stack = ExitStack()
    try:
        status, info = _scratch(stack), _scratch(stack)
        bounds = policy.bounds
        is_isolated = launcher != OFF
        groups: list[str] = []
        bounded: frozenset[str] = frozenset()
        if is_isolated:
            groups, bounded = stack.enter_context(cgroups.group(bounds.processes, bounds.memory_bytes))
        counts = is_isolated and os.getuid() != 0 and "pids" not in bounded
        spec: dict[str, object] = {
            "argv": list(command.argv),
            "cwd": str(command.cwd),
            "env": environment(command.environment),
            "status": status,
            "rlimits": bounds.rlimits(
                timeout_s=command.timeout_s, bounds_processes=counts, bounds_memory="memory" not in bounded
            ),
            "landlock": policy.landlock() if is_isolated else None,
            "seccomp": is_isolated,
        }
        inner = [python(), "-I", "-S", INNER_PLACE if is_isolated else str(INNER), marshal.dumps(spec).hex()]
        argv: list[str] = inner
        fds: tuple[int, ...] = ()
        if is_isolated:
            argv, fds = stack.enter_context(LAUNCHERS[launcher](policy, inner, info))
        if groups:
            argv = ["/bin/sh", "-c", _ENTER_GROUPS, "sh", *groups, "--", *argv]
        watching = Watching(
            timeout_s=command.timeout_s,
            max_bytes=command.max_bytes,
            aborted=command.aborted,
            info_fd=info,
            max_processes=bounds.processes if is_isolated and not counts and "pids" not in bounded else None,
        )
        done = await run(
            command.argv[0], argv, cwd=Path("/"), env=_OUTER_ENVIRONMENT, fds=(status, info, *fds), watching=watching
        )
        _check(os.pread(status, 4096, 0).decode("utf-8", "replace"), launcher, done)
        return done
    finally:
        # Removing the control groups waits for the kernel, a few milliseconds.
        closing = asyncio.get_running_loop().run_in_executor(None, stack.close)
        await asyncio.shield(closing)


def _scratch(stack: ExitStack) -> int:
    """A file without a name that the sandbox's set-up reports in."""
    fd = os.memfd_create("smithers")
    stack.callback(os.close, fd)
    return fd


def _check(status: str, launcher: str, done: Finished) -> None:
    """Tell a command that failed from a sandbox that did."""
    if status == "+":
        return
    if status.startswith("+!"):
        number = int(status[2:])
        raise OSError(number, os.strerror(number))
    reason = status or done.stderr.decode("utf-8", "replace").strip() or f"exit code {done.exit_code}"
    raise ToolSandboxUnavailable(
        f"the sandbox could not be set up ({launcher}): {reason[:500]}", {"launcher": launcher, "reason": reason[:2000]}
    )
