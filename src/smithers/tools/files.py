"""Reading, writing and editing one file below the root folder. Paths are resolved by `paths.py`, patches by `patch.py`.

These are the direct functions; the tools of the same names, which are recorded in the journal, are in `builtins.py`.
"""

from __future__ import annotations

import os
import secrets
import stat
from contextlib import suppress

from smithers.errors import (
    ToolContentTooLarge,
    ToolError,
    ToolFileTooLarge,
    ToolFileUnavailable,
    ToolPatchFailed,
    ToolPatchTooLarge,
)
from smithers.tools.context import current_context
from smithers.tools.patch import apply_patch
from smithers.tools.paths import Root

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


def read_file_tool(path: str) -> str:
    """The text of a file; bytes that are not UTF-8 become U+FFFD.

    Raises:
        ToolPathInvalid, ToolPathEscape, ToolFileUnavailable: see `Root`.
        ToolFileTooLarge: it has more than `max_output_bytes`; nothing of it is returned.
    """
    context = current_context()
    with Root(context.root_dir) as root, root.open_file(path) as fd:
        return _read(fd, path, context.max_output_bytes).decode("utf-8", "replace")


def write_file_tool(path: str, content: str) -> str:
    """Make or replace a file, and the folders that it is in; returns `"ok"`. Readers see the old or the new file whole.

    Raises:
        ToolPathInvalid, ToolPathEscape, ToolFileUnavailable: see `Root`.
        ToolContentTooLarge: more than `max_output_bytes`.
    """
    context = current_context()
    data = _encode(content, "content", context.max_output_bytes, ToolContentTooLarge)
    with Root(context.root_dir) as root, root.locate(path, create_parents=True) as (folder, name):
        context.touch()
        _replace(folder, name, data, path, _stat(folder, name))
    return "ok"


def edit_file_tool(path: str, patch: str) -> str:
    """Apply a unified diff to an existing file; returns `"ok"`. The names in the diff are ignored.

    Raises:
        ToolPathInvalid, ToolPathEscape, ToolFileUnavailable: see `Root`.
        ToolPatchTooLarge, ToolFileTooLarge: more than `max_output_bytes`.
        ToolPatchFailed: it does not fit, or the file was changed meanwhile; the file is as it was.
    """
    context = current_context()
    limit = context.max_output_bytes
    _encode(patch, "patch", limit, ToolPatchTooLarge)
    with Root(context.root_dir) as root, root.locate(path) as (folder, name):
        before, data = _open_and_read(folder, name, path, limit)
        # surrogateescape keeps bytes that are not UTF-8 as they are
        text = apply_patch(data.decode("utf-8", "surrogateescape"), patch)
        new = text.encode("utf-8", "surrogateescape")
        if len(new) > limit:
            raise ToolFileTooLarge(f"{path!r} would have {len(new)} bytes", {"path": path, "maxBytes": limit})
        context.touch()
        now = _stat(folder, name)
        if now is None or _version(now) != _version(before):
            raise ToolPatchFailed(f"{path!r} was changed while it was edited; read it again", {"path": path})
        _replace(folder, name, new, path, now)
    return "ok"


def _open_and_read(folder: int, name: str, path: str, limit: int) -> tuple[os.stat_result, bytes]:
    try:
        fd = os.open(name, _OPEN, dir_fd=folder)
    except OSError as error:
        raise ToolFileUnavailable(f"{path!r} cannot be opened: {error.strerror}", {"path": path}) from error
    try:
        return os.fstat(fd), _read(fd, path, limit)
    finally:
        os.close(fd)


def _read(fd: int, path: str, limit: int) -> bytes:
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode):
        raise ToolFileUnavailable(f"{path!r} is not a regular file", {"path": path, "reason": "ENOTREG"})
    size, data = found.st_size, b""
    if size <= limit:
        with os.fdopen(os.dup(fd), "rb") as file:
            data = file.read(limit + 1)  # it may grow while it is read
        size = max(size, len(data))
    if size > limit:
        details = {"path": path, "sizeBytes": size, "maxBytes": limit}
        raise ToolFileTooLarge(f"{path!r} has {size} bytes, more than {limit}", details)
    return data


def _encode(text: str, name: str, limit: int, too_large: type[ToolError]) -> bytes:
    data = text.encode("utf-8", "replace")  # half a surrogate pair has no bytes
    if len(data) > limit:
        details = {"field": name, "sizeBytes": len(data), "maxBytes": limit}
        raise too_large(f"{name} has {len(data)} bytes, more than {limit}", details)
    return data


def _stat(folder: int, name: str) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _version(found: os.stat_result) -> tuple[int, int, int]:
    return found.st_ino, found.st_size, found.st_mtime_ns


def _replace(folder: int, name: str, data: bytes, path: str, old: os.stat_result | None) -> None:
    """Put a new file in the place of what is there, in one step; never through a link."""
    if old is not None and not stat.S_ISREG(old.st_mode):
        raise ToolFileUnavailable(f"{path!r} is not a regular file", {"path": path, "reason": "ENOTREG"})
    temporary = f".{secrets.token_hex(8)}.tmp"
    try:
        fd = os.open(temporary, _CREATE, 0o666, dir_fd=folder)
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(data)
                if old is not None:
                    os.fchmod(fd, old.st_mode & 0o777)
            os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary, dir_fd=folder)
            raise
    except OSError as error:
        details = {"path": path, "reason": str(error.errno)}
        raise ToolFileUnavailable(f"{path!r} cannot be written: {error.strerror}", details) from error
