"""The five built-in tools: `read`, `write`, `edit`, `grep`, `bash`. Each call is recorded in the journal, if there is one.

What they do is in `files.py`, `search.py` and `command.py`, whose functions bypass the journal.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Sequence

from smithers.tools.command import BashOptions, bash_tool
from smithers.tools.files import edit_file_tool, read_file_tool, write_file_tool
from smithers.tools.journal import ToolSpec, recorded
from smithers.tools.search import grep_tool

_READ = ToolSpec(name="read", description="Read a text file below the root folder.")
_GREP = ToolSpec(name="grep", description="Search files below the root folder for a regular expression.")
_WRITE = ToolSpec(name="write", description="Make or replace a file below the root folder.", side_effect=True)
_EDIT = ToolSpec(
    name="edit",
    description="Apply a unified diff to one file below the root folder.",
    side_effect=True,
    idempotent=False,
    contained=lambda context: context.is_in_own_folder,
)
_BASH = ToolSpec(
    name="bash",
    description="Run a program in the root folder.",
    side_effect=True,
    idempotent=False,
    contained=lambda context: context.is_isolated,
)


async def read(path: str) -> str:
    """Read a text file.

    Args:
        path: relative to the root folder, or inside it.
    """
    return await recorded(_READ, {"path": path}, lambda _ctx: asyncio.to_thread(read_file_tool, path))


async def write(path: str, content: str) -> str:
    """Make or replace a file, with the folders that it is in; returns "ok".

    Args:
        path: relative to the root folder, or inside it.
        content: all of the new text.
    """
    arguments = {"path": path, **_digest("content", content)}
    return await recorded(_WRITE, arguments, lambda _ctx: asyncio.to_thread(write_file_tool, path, content))


async def edit(path: str, patch: str) -> str:
    """Change an existing file by a unified diff; returns "ok". A diff that does not fit changes nothing.

    Args:
        path: relative to the root folder, or inside it; file names in the diff are ignored.
        patch: a unified diff of one file, with @@ lines.
    """
    arguments = {"path": path, **_digest("patch", patch)}
    return await recorded(_EDIT, arguments, lambda _ctx: asyncio.to_thread(edit_file_tool, path, patch))


async def grep(pattern: str, path: str = ".") -> str:
    """Search files for a regular expression; returns lines `file:line:text`, or nothing.

    Args:
        pattern: the regular expression.
        path: the file or folder to search, relative to the root folder or inside it.
    """
    return await recorded(_GREP, {"pattern": pattern, "path": path}, lambda _ctx: grep_tool(pattern, path))


async def bash(cmd: str, args: Sequence[str] | None = None, opts: BashOptions | None = None) -> str:
    """Run a program, without a shell; returns what it wrote to standard output and standard error.

    Args:
        cmd: the program, or a whole line such as "echo hi" if args is left out; it is split into words, and pipes,
            variables and the like mean nothing in it. For a shell, run "bash" with ["-c", "..."].
        args: its arguments.
        opts: cwd is the folder to run in.
    """
    arguments = {"cmd": cmd, "args": args, "opts": opts}
    return await recorded(_BASH, arguments, lambda _ctx: bash_tool(cmd, args, opts))


def _digest(name: str, text: object) -> dict[str, object]:
    """What the journal keeps of a text that may be large, or secret."""
    data = text.encode("utf-8", "replace") if isinstance(text, str) else b""
    return {f"{name}Sha256": hashlib.sha256(data).hexdigest(), f"{name}Bytes": len(data)}


tools: dict[str, Callable[..., Awaitable[str]]] = {
    "read": read,
    "write": write,
    "edit": edit,
    "grep": grep,
    "bash": bash,
}
"""The five by name."""
