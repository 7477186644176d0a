"""Runs one command for `bash`: checks what was asked for, picks the isolation, words the outcome."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import shlex
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from typing_extensions import TypedDict  # before Python 3.12 Pydantic needs this one

from smithers.errors import InvalidInput, ProcessTimeout, ToolCommandFailed, ToolFileUnavailable
from smithers.tools.context import ToolContext, current_context
from smithers.tools.network import check_command
from smithers.tools.paths import Root
from smithers.tools.sandbox.launch import OFF, Command, launch
from smithers.tools.sandbox.policy import Policy
from smithers.tools.sandbox.probe import ensure
from smithers.tools.sandbox.running import Finished

log = logging.getLogger(__name__)

_MAX_LINE = 8192
_MAX_ARGS = 128
_MAX_CWD = 1024
_READING = {"GIT_OPTIONAL_LOCKS": "0"}
"""Has git not even try to refresh its index, where it may only read."""
_IS_READ_ONLY = "Read-only file system"
_NOT_FOUND, _NOT_EXECUTABLE = 127, 126


class BashOptions(TypedDict, total=False):
    """Options of `bash`: `cwd` is the folder to run in, relative to the root folder or inside it."""

    cwd: str


async def bash_tool(cmd: str, args: Sequence[str] | None = None, opts: BashOptions | None = None) -> str:
    """Run a program and return what it wrote: standard output, then standard error, together at most
    `max_output_bytes`. No shell is involved; for one, run `bash` with `["-c", "…"]`.

    Args:
        cmd: the program; its name or path. Without `args` it may be a whole line, `"echo hi"`: it is split into words as
            a shell would, and nothing else in it has a meaning.

    Raises:
        InvalidInput: an argument is empty, too long or of the wrong type.
        ToolPathInvalid, ToolPathEscape, ToolFileUnavailable: the `cwd` does not do.
        ToolNetworkDisabled, ToolGitRemoteDisabled: it would need the network, which is off.
        ToolSandboxUnavailable: this machine cannot isolate commands; nothing was run.
        ToolCommandFailed: it ended with another exit code than 0, or was not found.
        ProcessTimeout: it took longer than `timeout_ms`; all its processes were killed.
    """
    context = current_context()
    argv = _argv(cmd, args)
    if not context.allow_network:
        check_command(argv[0], argv[1:])
    with Root(context.root_dir) as root:
        cwd = _folder(root, opts)
        if context.on_touch is not None:
            await asyncio.to_thread(context.touch)
        return await _run(context, argv, root.real, cwd)


async def run_isolated(
    context: ToolContext, argv: Sequence[str], *, root: Path, cwd: Path, is_writable: bool = True
) -> Finished:
    """Run a command as the context says: in a sandbox, or without one if that was chosen.

    Raises:
        OSError: it cannot be executed.
        ToolSandboxUnavailable, ProcessTimeout, TaskAborted
    """
    if context.sandbox == "off":
        _warn_once()
    launcher = OFF if context.sandbox == "off" else await ensure(context.allow_network)
    beside = (context.git_dir,) if context.git_dir is not None else ()
    policy = Policy(root=root, allow_network=context.allow_network, is_writable=is_writable, readable=beside)
    command = Command(
        argv=argv,
        cwd=cwd,
        environment=context.environment() | {"SMITHERS_ROOT_DIR": str(root)} | (_READING if beside else {}),
        timeout_s=context.timeout_ms / 1000,
        max_bytes=context.max_output_bytes,
        aborted=context.aborted,
    )
    return await launch(launcher, policy, command)


async def _run(context: ToolContext, argv: list[str], root: Path, cwd: Path) -> str:
    details: dict[str, object] = {"cmd": argv[0], "args": argv[1:]}
    try:
        done = await run_isolated(context, argv, root=root, cwd=cwd)
    except ProcessTimeout as error:
        error.details |= details
        raise
    except OSError as error:
        code = _NOT_FOUND if error.errno == errno.ENOENT else _NOT_EXECUTABLE
        raise ToolCommandFailed(
            f"{argv[0]!r} cannot be executed: {error.strerror}", {**details, "exitCode": code, "output": ""}
        ) from error
    output = done.text(context.max_output_bytes)
    if done.exit_code:
        failed = {**details, "exitCode": done.exit_code, "output": output}
        raise ToolCommandFailed(f"{argv[0]!r} ended with exit code {done.exit_code}{_hint(context, output)}", failed)
    return output


def _hint(context: ToolContext, output: str) -> str:
    """What a program is told that has tried to change the repository of a worktree."""
    if context.git_dir is None or context.sandbox == "off" or _IS_READ_ONLY not in output or ".git" not in output:
        return ""
    return (
        ": the repository of this worktree may be read here, but not changed (git add and commit included); "
        "files that are left changed are stored when the task ends"
    )


def _argv(cmd: str, args: Sequence[str] | None) -> list[str]:
    if not isinstance(cmd, str) or not cmd.strip():
        raise InvalidInput("cmd is empty; it must be the program to run", {"field": "cmd"})
    if args is None or (not args and not isinstance(args, str)):
        argv = _split(cmd) if any(character.isspace() for character in cmd) else [cmd]
    elif isinstance(args, str) or not all(isinstance(argument, str) for argument in args):
        raise InvalidInput("args must be a list of strings", {"field": "args"})
    else:
        argv = [cmd, *args]
    if len(argv) - 1 > _MAX_ARGS:
        raise InvalidInput(f"args has {len(argv) - 1} entries, more than {_MAX_ARGS}", {"field": "args"})
    if sum(map(len, argv)) + len(argv) - 1 > _MAX_LINE:
        raise InvalidInput(f"the command line is longer than {_MAX_LINE} characters", {"field": "args"})
    for argument in argv:
        if "\0" in argument or not _can_encode(argument):
            raise InvalidInput("an argument holds a character that no argument can have", {"field": "args"})
    return argv


def _split(cmd: str) -> list[str]:
    try:
        argv = shlex.split(cmd)
    except ValueError as error:
        raise InvalidInput(f"cmd cannot be split into words: {error}", {"field": "cmd"}) from error
    if not argv or not argv[0]:
        raise InvalidInput("cmd is empty; it must be the program to run", {"field": "cmd"})
    return argv


def _can_encode(text: str) -> bool:
    try:
        os.fsencode(text)
    except UnicodeError:
        return False
    return True


def _folder(root: Root, opts: Mapping[str, object] | None) -> Path:
    """The folder to run in, by its real name. Inside a sandbox it leads nowhere else, whatever happens to it."""
    if opts is None:
        return root.real
    if not isinstance(opts, Mapping) or set(opts) - {"cwd"}:
        raise InvalidInput("opts must be an object, and knows only cwd", {"field": "opts"})
    cwd = opts.get("cwd")
    if cwd is None:
        return root.real
    if not isinstance(cwd, str) or not cwd or len(cwd) > _MAX_CWD:
        raise InvalidInput(f"opts.cwd must be 1 to {_MAX_CWD} characters", {"field": "opts.cwd"})
    with root.open_any(cwd) as fd:
        if not Path(f"/proc/self/fd/{fd}").is_dir():
            raise ToolFileUnavailable(f"{cwd!r} is not a folder", {"path": cwd, "reason": "ENOTDIR"})
    return root.real / root.relative(cwd)


@cache
def _warn_once() -> None:
    log.warning(
        "TOOL_NETWORK_ISOLATION_UNENFORCED: commands run without isolation, because sandbox is off",
    )
