"""Opens files below a root folder so that nothing outside it is reached, whatever changes on the disk meanwhile.

Every path is opened from a descriptor of the root. On Linux the kernel resolves it (`openat2` with `RESOLVE_BENEATH`);
elsewhere, and where links with absolute targets are involved, `_walk` goes component by component without following
links, and resolves those itself. There is no check that a later step trusts.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import stat
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from smithers.errors import ToolFileUnavailable, ToolPathEscape, ToolPathInvalid

_MAX_CHARS = 4096
_MAX_LINKS = 40
_OPENAT2 = 437
_RESOLVE_NO_MAGICLINKS, _RESOLVE_BENEATH = 0x02, 0x08
_O_PATH = getattr(os, "O_PATH", os.O_RDONLY)
_FOLDER = _O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC  # a pipe must not block, a terminal not become ours


class Root:
    """A root folder, held open. Use as a context manager.

    Args:
        path: the folder; may be a symbolic link itself.

    Raises:
        ToolFileUnavailable: it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.real = path.resolve()
        try:
            self._fd = os.open(self.real, _FOLDER)
        except OSError as error:
            raise _unavailable(str(path), error) from error

    def __enter__(self) -> Root:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def relative(self, path: str) -> str:
        """A tool's path as a normal one relative to the root; `"."` is the root.

        Raises:
            ToolPathInvalid, ToolPathEscape
        """
        if not isinstance(path, str) or not path.strip() or "\0" in path or len(path) > _MAX_CHARS:
            raise ToolPathInvalid(f"not a path: {path!r:.200}", {"field": "path"})
        try:
            os.fsencode(path)
        except UnicodeError as error:
            raise ToolPathInvalid(f"not a path: {path!r:.200}", {"field": "path"}) from error
        if not path.startswith("/"):
            below = os.path.normpath(path)
        else:
            normal = os.path.normpath(path)
            below = next((b for base in (self.path, self.real) if (b := _below(str(base), normal)) is not None), "..")
        if below == ".." or below.startswith("../"):
            raise _escape(path)
        return below

    @contextmanager
    def open_file(self, path: str) -> Generator[int]:
        """A descriptor of an existing regular file, for reading. Raises as `relative`, and `ToolFileUnavailable`."""
        fd = self._open(self.relative(path), _READ, path)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise ToolFileUnavailable(f"{path!r} is not a regular file", {"path": path, "reason": "ENOTREG"})
            yield fd
        finally:
            os.close(fd)

    @contextmanager
    def open_any(self, path: str) -> Generator[int]:
        """A descriptor of an existing file or folder, for reading. Raises as `open_file`."""
        fd = self._open(self.relative(path), _READ, path)
        try:
            yield fd
        finally:
            os.close(fd)

    @contextmanager
    def locate(self, path: str, *, create_parents: bool = False) -> Generator[tuple[int, str]]:
        """The folder, as descriptor, and the name of a file that exists or is to be made; links are resolved, the last
        one too. Raises as `open_file`."""
        below = self.relative(path)
        if below == ".":
            raise ToolFileUnavailable(f"{path!r} is a folder", {"path": path, "reason": "EISDIR"})
        with _Walk(self._fd, self.real) as walk:
            try:
                name = walk.to_parent(below, create=create_parents)
            except _Escaped:
                raise _escape(path) from None
            except OSError as error:
                raise _unavailable(path, error) from error
            yield walk.folder, name

    def _open(self, below: str, flags: int, path: str) -> int:
        try:
            if has_openat2():
                try:
                    return _openat2(self._fd, below, flags)
                except OSError as error:
                    # EXDEV: a link leads out, or has an absolute target; EAGAIN: something was renamed meanwhile.
                    if error.errno not in (errno.EXDEV, errno.EAGAIN, errno.ELOOP):
                        raise
            with _Walk(self._fd, self.real) as walk:
                name = walk.to_parent(below)
                return os.open(name, flags | os.O_NOFOLLOW, dir_fd=walk.folder)
        except _Escaped:
            raise _escape(path) from None
        except OSError as error:
            raise _unavailable(path, error) from error


class _Escaped(Exception):
    """A link leads out of the root."""


class _Walk:
    """Goes down from the root one component at a time, following no link but by its own reading of the target.

    The way back up is a stack of descriptors: the kernel is never asked for `..`, so a folder that is moved meanwhile
    does not lead elsewhere.
    """

    def __init__(self, root: int, real: Path) -> None:
        self._stack = [os.dup(root)]
        self._real = real
        self._links = 0

    def __enter__(self) -> _Walk:
        return self

    def __exit__(self, *_: object) -> None:
        self._up_to(0)

    @property
    def folder(self) -> int:
        return self._stack[-1]

    def to_parent(self, below: str, *, create: bool = False) -> str:
        """Go to the folder that holds what `below` names; returns its name there, `"."` for that folder itself."""
        todo = [part for part in below.split("/") if part not in ("", ".")]
        while todo:
            part = todo.pop(0)
            if part == "..":
                if len(self._stack) == 1:
                    raise _Escaped
                self._up_to(len(self._stack) - 1)
                continue
            target = self._link(part)
            if target is not None:
                todo = self._follow(target) + todo
            elif not todo:
                return part
            else:
                self._down(part, create)
        return "."

    def _link(self, name: str) -> str | None:
        try:
            return os.readlink(name, dir_fd=self.folder)
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.ENOENT):  # not a link, or not there
                return None
            raise

    def _follow(self, target: str) -> list[str]:
        self._links += 1
        if self._links > _MAX_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        if target.startswith("/"):
            inside = _below(str(self._real), os.path.normpath(target))
            if inside is None:
                raise _Escaped
            self._up_to(1)
            target = inside
        return [part for part in target.split("/") if part not in ("", ".")]

    def _down(self, name: str, create: bool) -> None:
        if create:
            with suppress(FileExistsError):
                os.mkdir(name, dir_fd=self.folder)
        self._stack.append(os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=self.folder))

    def _up_to(self, depth: int) -> None:
        while len(self._stack) > depth:
            os.close(self._stack.pop())


def _below(base: str, path: str) -> str | None:
    if path == base:
        return "."
    prefix = base.rstrip("/") + "/"
    return path[len(prefix) :] if path.startswith(prefix) else None


def _escape(path: str) -> ToolPathEscape:
    return ToolPathEscape(f"{path!r} leads out of the root folder", {"path": path})


def _unavailable(path: str, error: OSError) -> ToolFileUnavailable:
    reason = errno.errorcode.get(error.errno or 0, "EIO")
    return ToolFileUnavailable(f"{path!r} cannot be opened: {error.strerror}", {"path": path, "reason": reason})


# ── openat2 ────────────────────────────────────────────────────────────────────────────────────────────────────────


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


@cache
def has_openat2() -> bool:
    """Whether the kernel resolves paths below a folder for us (Linux 5.6 and later)."""
    if sys.platform != "linux" or platform.machine() not in (
        "x86_64",
        "aarch64",
        "riscv64",
        "armv7l",
        "ppc64le",
        "s390x",
    ):
        return False
    fd = os.open("/", _FOLDER)
    try:
        os.close(_openat2(fd, ".", _FOLDER))
    except OSError:
        return False
    else:
        return True
    finally:
        os.close(fd)


def _openat2(folder: int, path: str, flags: int) -> int:
    how = _OpenHow(flags, 0, _RESOLVE_BENEATH | _RESOLVE_NO_MAGICLINKS)
    fd: int = _libc().syscall(
        ctypes.c_long(_OPENAT2),
        ctypes.c_int(folder),
        ctypes.c_char_p(os.fsencode(path)),
        ctypes.byref(how),
        ctypes.c_size_t(ctypes.sizeof(how)),
    )
    if fd < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return fd
