"""Somebody swaps files and folders for links while tools work on them: nothing outside is read or written."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from smithers.errors import ToolError
from smithers.tools import edit_file_tool, grep_tool, paths, read_file_tool, tool_context, write_file_tool

ROUNDS = 300
MOST_ROUNDS = 100_000


@contextmanager
def swapping(root: Path, name: str, target: Path) -> Generator[None]:
    """Within it, `root / name` is the real thing at one moment and a link to `target` at the next."""
    real, aside, link = root / name, root / f"{name}.aside", root / f"{name}.link"
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            with suppress(OSError):
                link.symlink_to(target)
                real.rename(aside)
                link.rename(real)
                real.unlink()
                aside.rename(real)

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@pytest.fixture(params=["openat2", "walk"], autouse=True)
def resolver(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel's way of resolving paths and our own."""
    if request.param == "walk":
        monkeypatch.setattr(paths, "has_openat2", lambda: False)


def test_reading_never_leaves_the_root(root: Path) -> None:
    (root / "file").write_text("inside")
    (root / "folder").mkdir()
    (root / "folder" / "secret.txt").write_text("inside")
    seen: set[str] = set()
    refused: set[str] = set()

    with (
        tool_context(root),
        swapping(root, "file", root.parent / "secret.txt"),
        swapping(root, "folder", root.parent),
    ):
        for number in range(MOST_ROUNDS):
            for path in ("file", "folder/secret.txt"):
                try:
                    seen.add(read_file_tool(path))
                except ToolError as error:
                    refused.add(error.error_code)
            if number > ROUNDS and seen and "TOOL_PATH_ESCAPE" in refused:
                break

    assert seen == {"inside"}
    assert refused <= {"TOOL_PATH_ESCAPE", "TOOL_FILE_UNAVAILABLE"}


def test_writing_and_editing_never_leave_the_root(root: Path) -> None:
    outside = root.parent / "secret.txt"
    (root / "file").write_text("inside\n")
    (root / "folder").mkdir()

    with tool_context(root), swapping(root, "file", outside), swapping(root, "folder", root.parent):
        for number in range(ROUNDS):
            for path in ("file", "folder/secret.txt", f"folder/new{number % 5}/x"):
                with suppress(ToolError):
                    write_file_tool(path, "changed\n")
            with suppress(ToolError):
                edit_file_tool("file", "@@ -1 +1 @@\n-changed\n+edited\n")

    assert outside.read_text() == "the secret"
    assert sorted(entry.name for entry in root.parent.iterdir()) == ["project", "secret.txt"]


def test_searching_never_leaves_the_root(root: Path) -> None:
    (root / "folder").mkdir()
    (root / "folder" / "inside.txt").write_text("not the one")

    found: set[str] = set()

    async def search() -> None:
        for _ in range(8):
            with suppress(ToolError):
                found.add(await grep_tool("the .*", "folder"))

    with tool_context(root), swapping(root, "folder", root.parent):
        asyncio.run(search())

    assert not any("the secret" in text for text in found)
