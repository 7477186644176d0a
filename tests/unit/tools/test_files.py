"""Reading, writing and editing files, and where their paths may lead."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smithers.errors import (
    SmithersError,
    ToolContentTooLarge,
    ToolError,
    ToolFileTooLarge,
    ToolFileUnavailable,
    ToolPatchFailed,
    ToolPatchTooLarge,
    ToolPathEscape,
    ToolPathInvalid,
)
from smithers.tools import edit, edit_file_tool, paths, read, read_file_tool, tool_context, write, write_file_tool
from smithers.tools.paths import Root

EDIT = "@@ -1 +1 @@\n-a\n+b\n"


@pytest.fixture(params=["openat2", "walk"], autouse=True)
def resolver(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel's way of resolving paths and our own."""
    if request.param == "walk":
        monkeypatch.setattr(paths, "has_openat2", lambda: False)


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "root"
    folder.mkdir()
    (tmp_path / "secret.txt").write_text("secret")
    with tool_context(folder, max_output_bytes=1000):
        yield folder


def test_what_was_written_can_be_read_and_edited(root: Path) -> None:
    assert write_file_tool("deep/er/file.txt", "a\nü\n") == "ok"
    assert edit_file_tool("deep/er/file.txt", EDIT) == "ok"
    assert read_file_tool("deep/er/file.txt") == "b\nü\n"
    assert read_file_tool(str(root / "deep" / ".." / "deep/er/file.txt")) == "b\nü\n"
    assert [entry.name for entry in (root / "deep/er").iterdir()] == ["file.txt"]


def test_the_tools_do_what_the_direct_functions_do(root: Path) -> None:
    async def run() -> tuple[str, str, str]:
        return await write("x", "a\n"), await edit("x", EDIT), await read("x")

    assert asyncio.run(run()) == ("ok", "ok", "b\n")


def test_an_overwritten_file_keeps_its_permissions_but_no_others_link(root: Path) -> None:
    (root / "script").write_text("old")
    (root / "script").chmod(0o4750)
    os.link(root / "script", root / "same")

    write_file_tool("script", "new")

    assert (root / "script").stat().st_mode & 0o7777 == 0o750
    assert (root / "same").read_text() == "old"


def test_links_below_the_root_are_followed(root: Path) -> None:
    (root / "real").mkdir()
    (root / "real" / "file").write_text("a\n")
    (root / "relative").symlink_to("real")
    (root / "absolute").symlink_to(root / "real" / "file")
    (root / "up").symlink_to("real/../real/../relative/file")

    for path in ("relative/file", "absolute", "up"):
        assert read_file_tool(path) == "a\n"
    write_file_tool("absolute", "b\n")
    write_file_tool("relative/new", "c")

    assert (root / "absolute").is_symlink()
    assert (root / "real" / "file").read_text() == "b\n"
    assert (root / "real" / "new").read_text() == "c"


def test_the_root_may_be_a_link_itself(root: Path, tmp_path: Path) -> None:
    (tmp_path / "alias").symlink_to(root)

    with tool_context(tmp_path / "alias"):
        write_file_tool(str(tmp_path / "alias" / "x"), "1")
        write_file_tool(str(root / "y"), "2")

    assert (root / "x").read_text() + (root / "y").read_text() == "12"


@pytest.mark.parametrize(
    "path",
    ["..", "../secret.txt", "a/../../secret.txt", "/etc/passwd", "/", "out/secret.txt", "out", "file", "loop/../../x"],
)
def test_nothing_outside_is_reached(root: Path, path: str) -> None:
    (root / "out").symlink_to("..")
    (root / "file").symlink_to(root.parent / "secret.txt")
    (root / "loop").symlink_to("/")

    with pytest.raises(ToolPathEscape):
        read_file_tool(path)
    with pytest.raises(ToolPathEscape):
        write_file_tool(path, "x")
    with pytest.raises(ToolPathEscape):
        edit_file_tool(path, EDIT)

    assert (root.parent / "secret.txt").read_text() == "secret"
    assert sorted(entry.name for entry in root.parent.iterdir()) == ["root", "secret.txt"]


def test_a_folder_beside_the_root_with_a_longer_name_is_outside(root: Path) -> None:
    beside = Path(f"{root}-other")
    beside.mkdir()

    with pytest.raises(ToolPathEscape):
        write_file_tool(str(beside / "x"), "x")


def test_links_of_proc_do_not_lead_out(root: Path) -> None:
    (root / "magic").symlink_to("/proc/self/root/etc/passwd")
    (root / "cwd").symlink_to("/proc/self/cwd")

    for path in ("magic", "cwd/pyproject.toml"):
        with pytest.raises(ToolPathEscape):
            read_file_tool(path)


@pytest.mark.parametrize("path", ["", "  ", "a\0b", "x" * 5000, "\ud800", 7, None])
def test_what_is_no_path_is_refused(root: Path, path: str) -> None:
    with pytest.raises(ToolPathInvalid):
        read_file_tool(path)
    with pytest.raises(ToolPathInvalid):
        write_file_tool(path, "x")
    with pytest.raises(ToolPathInvalid):
        edit_file_tool(path, EDIT)


def test_what_is_no_regular_file_is_refused_without_blocking(root: Path) -> None:
    (root / "folder").mkdir()
    os.mkfifo(root / "pipe")
    (root / "round").symlink_to("round")

    for path in ("missing", "folder", "pipe", ".", "missing/x", "round"):
        with pytest.raises(ToolFileUnavailable):
            read_file_tool(path)
        with pytest.raises(ToolFileUnavailable):
            edit_file_tool(path, EDIT)
    for path in ("folder", "pipe", ".", "round", "pipe/x"):
        with pytest.raises(ToolFileUnavailable):
            write_file_tool(path, "x")


def test_sizes_are_bounded_to_the_byte(root: Path) -> None:
    (root / "fits").write_bytes(b"x" * 1000)
    (root / "large").write_bytes(b"a\n" * 501)

    assert len(read_file_tool("fits")) == 1000
    with pytest.raises(ToolFileTooLarge):
        read_file_tool("large")
    with pytest.raises(ToolFileTooLarge):
        edit_file_tool("large", EDIT)
    assert write_file_tool("written", "ü" * 500) == "ok"
    with pytest.raises(ToolContentTooLarge):
        write_file_tool("not-written", "ü" * 501)
    with pytest.raises(ToolPatchTooLarge):
        edit_file_tool("fits", EDIT + " " * 1000)
    write_file_tool("edited", "a\n" + "x" * 998)
    with pytest.raises(ToolFileTooLarge):
        edit_file_tool("edited", "@@ -1 +1 @@\n-a\n+aaaa\n")
    assert not (root / "not-written").exists()


def test_a_patch_that_does_not_fit_changes_nothing(root: Path) -> None:
    (root / "file").write_bytes(b"x\n\xff\n")

    with pytest.raises(ToolPatchFailed):
        edit_file_tool("file", EDIT)

    assert (root / "file").read_bytes() == b"x\n\xff\n"
    assert [entry.name for entry in root.iterdir()] == ["file"]


def test_bytes_that_are_not_utf8_are_kept_by_an_edit(root: Path) -> None:
    (root / "file").write_bytes(b"a\n\xff\xfe\n")

    edit_file_tool("file", EDIT)

    assert (root / "file").read_bytes() == b"b\n\xff\xfe\n"
    assert read_file_tool("file") == "b\n\ufffd\ufffd\n"


def test_a_file_that_changes_during_an_edit_is_left_alone(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "file").write_text("a\n")

    def meanwhile(text: str, patch: str) -> str:
        (root / "file").write_text("changed by another\n")
        return "b\n"

    monkeypatch.setattr("smithers.tools.files.apply_patch", meanwhile)

    with pytest.raises(ToolPatchFailed):
        edit_file_tool("file", EDIT)

    assert (root / "file").read_text() == "changed by another\n"


def test_a_root_that_is_not_there_is_a_typed_error(root: Path) -> None:
    shutil.rmtree(root)

    with pytest.raises(ToolFileUnavailable):
        read_file_tool("x")


@given(st.lists(st.sampled_from(["..", ".", "a", "b", "", "link", "out"]), min_size=1, max_size=8).map("/".join))
def test_whatever_the_path_nothing_outside_changes(path: str) -> None:
    base = Path(os.environ.get("TMPDIR", "/tmp")) / f"smithers-paths-{os.getpid()}"
    shutil.rmtree(base, ignore_errors=True)
    (base / "root" / "a").mkdir(parents=True)
    (base / "root" / "link").symlink_to("a")
    (base / "root" / "out").symlink_to("..")
    try:
        with tool_context(base / "root"), suppress(ToolError):
            write_file_tool(path, "x")
        assert [entry.name for entry in base.iterdir()] == ["root"]
    finally:
        shutil.rmtree(base)


def test_descriptors_are_closed_again(root: Path) -> None:
    (root / "out").symlink_to("..")
    before = len(list(Path("/proc/self/fd").iterdir()))

    for path in ("a/b", "out/x", "missing/../a/b"):
        with suppress(SmithersError):
            write_file_tool(path, "x")
        with suppress(SmithersError):
            read_file_tool(path)

    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_root_knows_its_paths_by_either_name(root: Path, tmp_path: Path) -> None:
    (tmp_path / "alias").symlink_to(root)

    with Root(tmp_path / "alias") as opened:
        assert opened.relative(str(tmp_path / "alias" / "x" / ".." / "y")) == "y"
        assert opened.relative(str(root.resolve())) == "."
        assert opened.relative("./x//y/") == "x/y"
