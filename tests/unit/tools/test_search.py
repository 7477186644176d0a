"""Searching without ripgrep: our own program, which needs no sandbox."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from smithers.errors import (
    InvalidInput,
    ProcessTimeout,
    SmithersError,
    ToolFileUnavailable,
    ToolGrepFailed,
    ToolPathEscape,
)
from smithers.tools import grep, search, tool_context


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(search, "find_ripgrep", lambda: None)
    folder = (tmp_path / "root").resolve()
    (folder / "sub").mkdir(parents=True)
    (tmp_path / "secret.txt").write_text("find me\n")
    with tool_context(folder, max_output_bytes=2000, timeout_ms=20_000):
        yield folder


def find(pattern: str, path: str = ".") -> str:
    return asyncio.run(grep(pattern, path))


def test_matching_lines_have_absolute_names_and_numbers(root: Path) -> None:
    (root / "b.txt").write_text("no\nfind me\r\n")
    (root / "sub" / "a.txt").write_text("find you\n")

    assert find("find (me|you)") == f"{root}/b.txt:2:find me\n{root}/sub/a.txt:1:find you\n"
    assert find("find", "sub") == f"{root}/sub/a.txt:1:find you\n"
    assert find("find", "sub/a.txt") == f"{root}/sub/a.txt:1:find you\n"
    assert find("nowhere") == ""


def test_hidden_and_binary_files_and_links_are_left_out(root: Path) -> None:
    (root / ".hidden").write_text("find me")
    (root / ".git").mkdir()
    (root / ".git" / "x").write_text("find me")
    (root / "binary").write_bytes(b"\0find me")
    (root / "link").symlink_to("../secret.txt")
    (root / "sub" / "up").symlink_to("../..")
    os.mkfifo(root / "pipe")

    assert find("find me") == ""


def test_output_is_bounded(root: Path) -> None:
    (root / "x").write_text("find me\n" * 10_000)

    assert len(find("find")) == 2000


@pytest.mark.parametrize(
    ("pattern", "path", "error"),
    [
        ("(", ".", ToolGrepFailed),
        ("", ".", InvalidInput),
        ("a\0", ".", InvalidInput),
        ("x" * 9000, ".", InvalidInput),
        ("x", "..", ToolPathEscape),
        ("x", "/etc", ToolPathEscape),
        ("x", "missing", ToolFileUnavailable),
    ],
)
def test_a_bad_call_is_a_typed_error(root: Path, pattern: str, path: str, error: type[SmithersError]) -> None:
    with pytest.raises(error):
        find(pattern, path)


def test_a_pattern_that_takes_for_ever_is_killed(root: Path) -> None:
    (root / "x").write_text("a" * 60 + "!\n")

    with tool_context(root, timeout_ms=1000), pytest.raises(ProcessTimeout):
        find("(a+)+$")
