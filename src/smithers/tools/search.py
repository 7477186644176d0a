"""Searches the files below the root folder: with ripgrep inside a sandbox, else with `search_program.py`.

ripgrep opens files by name, so only a sandbox keeps it inside the root folder while somebody swaps links; our own
program opens by descriptor and needs none.
"""

from __future__ import annotations

import os
import shutil
import stat
from functools import cache
from pathlib import Path

from smithers.errors import InvalidInput, ProcessTimeout, ToolGrepFailed, ToolSandboxUnavailable
from smithers.tools.command import run_isolated
from smithers.tools.context import ToolContext, current_context
from smithers.tools.paths import Root
from smithers.tools.sandbox.policy import python
from smithers.tools.sandbox.running import Finished, Watching, run

_PROGRAM = Path(__file__).with_name("search_program.py")
_MAX_PATTERN = 8192
_NOTHING_FOUND = 1


async def grep_tool(pattern: str, path: str = ".") -> str:
    """The lines that match a regular expression, as `file:line:text` with absolute file names; `""` if there are none.

    Hidden and binary files are left out. With ripgrep installed the pattern is in its dialect, and what .gitignore names
    is left out too; else it is in Python's. At most `max_output_bytes` are returned.

    Raises:
        InvalidInput: the pattern is empty, too long, or holds a zero character.
        ToolPathInvalid, ToolPathEscape, ToolFileUnavailable: see `Root`.
        ToolGrepFailed: the pattern is no regular expression, or a file cannot be read.
        ProcessTimeout: it took longer than `timeout_ms`.
    """
    context = current_context()
    if not isinstance(pattern, str) or not pattern or len(pattern) > _MAX_PATTERN or "\0" in pattern:
        raise InvalidInput(f"pattern must be 1 to {_MAX_PATTERN} characters", {"field": "pattern"})
    with Root(context.root_dir) as root, root.open_any(path) as fd:
        shown = str(root.real / root.relative(path)).removesuffix("/.")
        try:
            done = await _search(context, root, fd, pattern, shown)
        except ProcessTimeout as error:
            error.details |= {"pattern": pattern, "path": path}
            raise
    if done.exit_code == _NOTHING_FOUND:
        return ""
    if done.exit_code and not done.stdout:
        reason = done.stderr.decode("utf-8", "replace").strip()[:2000]
        raise ToolGrepFailed(f"the search failed: {reason}", {"pattern": pattern, "path": path, "stderr": reason})
    return done.stdout.decode("utf-8", "replace")


async def _search(context: ToolContext, root: Root, fd: int, pattern: str, shown: str) -> Finished:
    ripgrep = find_ripgrep()
    if ripgrep is not None and context.sandbox != "off":
        # -H: with the name also where the path is one file
        argv = [ripgrep, "--no-config", "--color=never", "--no-heading", "-nH", "--", pattern, shown]
        try:
            return await run_isolated(context, argv, root=root.real, cwd=root.real, is_writable=False)
        except ToolSandboxUnavailable:  # our own program reaches no further without
            pass
    if not (stat.S_ISDIR(os.fstat(fd).st_mode) or stat.S_ISREG(os.fstat(fd).st_mode)):
        return Finished(2, b"", b"not a regular file or folder")
    limit = context.max_output_bytes
    watching = Watching(timeout_s=context.timeout_ms / 1000, max_bytes=limit, aborted=context.aborted)
    argv = [python(), "-I", "-S", str(_PROGRAM), str(fd), shown, str(limit), pattern]
    return await run("grep", argv, cwd=Path("/"), env={}, fds=(fd,), watching=watching)


@cache
def find_ripgrep() -> str | None:
    """The path of ripgrep, if it is where the sandbox shows it."""
    return shutil.which("rg", path="/usr/local/bin:/usr/bin:/bin")
