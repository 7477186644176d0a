"""Searches files for a regular expression, where ripgrep cannot be had. Its own process, so that a pattern that takes
for ever can be killed.

Run by the standard library alone (`python -I -S search_program.py FD SHOWN MAX_BYTES PATTERN`): FD is the folder or file,
opened; SHOWN is its name in the output. As ripgrep does, it leaves out hidden files and files with NUL bytes and
follows no links; unlike it, it knows no ignore files. Exits with 0, with 1 if nothing was found, with 2 for a bad pattern.
"""

from __future__ import annotations

import os
import re
import stat
import sys
from collections.abc import Iterator

_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_MAX_FILE = 64 * 1024 * 1024
_SNIFFED = 8192


def main() -> None:
    """Search and exit."""
    fd, shown, left, text = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4]
    try:
        pattern = re.compile(os.fsencode(text))
    except re.error as error:
        sys.stderr.write(f"bad pattern: {error}\n")
        sys.exit(2)
    found = 0
    for row in _rows(fd, shown, pattern):
        found += 1
        sys.stdout.buffer.write(row[:left])
        left -= len(row)
        if left <= 0:
            break
    sys.stdout.buffer.flush()
    sys.exit(0 if found else 1)


def _rows(fd: int, shown: str, pattern: re.Pattern[bytes]) -> Iterator[bytes]:
    if not stat.S_ISDIR(os.fstat(fd).st_mode):
        yield from _lines(fd, shown, pattern)
        return
    for folder, folders, files, folder_fd in os.fwalk(".", dir_fd=fd, follow_symlinks=False):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        place = os.path.normpath(os.path.join(shown, folder))
        for name in sorted(files):
            if not name.startswith("."):
                try:
                    file = os.open(name, _FLAGS, dir_fd=folder_fd)
                except OSError:  # a link, gone, or not ours to read
                    continue
                try:
                    yield from _lines(file, os.path.join(place, name), pattern)
                finally:
                    os.close(file)


def _lines(fd: int, shown: str, pattern: re.Pattern[bytes]) -> Iterator[bytes]:
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode) or found.st_size > _MAX_FILE:
        return
    with os.fdopen(os.dup(fd), "rb") as file:
        if b"\0" in file.read(_SNIFFED):
            return
        file.seek(0)
        for number, line in enumerate(file, 1):
            line = line.rstrip(b"\r\n")
            if pattern.search(line):
                yield os.fsencode(shown) + b":%d:" % number + line + b"\n"


if __name__ == "__main__":
    main()
