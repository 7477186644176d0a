"""A bundle says what differs between two checkpoints, the way git does, and applying it gives the other one."""

from __future__ import annotations

import base64
import os
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic_core import to_json
from tests.unit.vcs.support import Repo

from smithers.errors import VcsError
from smithers.vcs import bundles, checkpoints
from smithers.vcs.bundles import Oversized, Patch
from smithers.vcs.checkpoints import Checkpoint, checkpoint_ref, open_repository


def take(folder: Path, name: str) -> Checkpoint:
    return checkpoints.take(open_repository(folder), folder, checkpoint_ref("run", name), "test")


def between(folder: Path, base: str | None, target: str) -> list[Patch]:
    found = bundles.patches_between(open_repository(folder), folder, base, target)
    assert isinstance(found, list)
    return found


def by_path(patches: list[Patch]) -> dict[str, str]:
    return {patch.path: patch.operation for patch in patches}


def apply(patches: list[Patch], to: Repo) -> None:
    """What a receiver of a bundle does."""
    file = to.top.parent / "patch"
    file.write_text("".join(patch.diff for patch in patches), encoding="utf-8", newline="")
    if patches:
        to.git("apply", "--whitespace=nowarn", str(file))


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    return Repo(tmp_path / "r")


def test_a_bundle_is_what_git_diff_says_and_can_be_applied(repo: Repo, tmp_path: Path) -> None:
    repo.write("ö ü.txt", "old\n")
    repo.write("gone.txt", "x\n")
    repo.write("mode.sh", "#!/bin/sh\n")
    repo.write("bin", b"\0\1")
    (repo.top / "kind").symlink_to("a.txt")
    first = take(repo.top, "a")
    copy = Repo(tmp_path / "copy", commit=False)
    for name in repo.files():
        shutil.copy2(repo.top / name, copy.top / name, follow_symlinks=False)
    repo.write("a.txt", "two\nno end")
    repo.write("ö ü.txt", "new\n")
    (repo.top / "gone.txt").unlink()
    (repo.top / "mode.sh").chmod(0o755)
    repo.write("bin", b"\0\2")
    repo.write("deep/new", "diff --git a/x b/x\n")
    repo.write("latin", b"caf\xe9\n")
    repo.write("empty", "")
    (repo.top / "kind").unlink()
    repo.write("kind", "a file now\n")
    second = take(repo.top, "b")

    patches = between(repo.top, first.commit, second.commit)

    assert [p.path for p in patches] == [
        "a.txt",
        "bin",
        "deep/new",
        "empty",
        "gone.txt",
        "kind",
        "kind",
        "latin",
        "mode.sh",
        "ö ü.txt",
    ]
    assert by_path(patches) == {
        "a.txt": "modify",
        "bin": "modify",
        "deep/new": "add",
        "empty": "add",
        "gone.txt": "delete",
        "kind": "add",
        "latin": "add",
        "mode.sh": "modify",
        "ö ü.txt": "modify",
    }
    text = "".join(p.diff for p in patches if p.path not in ("latin", "ö ü.txt"))
    names = ["a.txt", "bin", "deep", "empty", "gone.txt", "kind", "mode.sh"]
    assert text == repo.git(
        "diff", "--binary", "--full-index", "--no-renames", first.commit, second.commit, "--", *names
    )
    assert {p.path: p.binary for p in patches if p.binary is not None} == {"bin": b"\0\2", "latin": b"caf\xe9\n"}
    apply(patches, copy)
    assert copy.files() == repo.files()


def test_the_wire_form_is_the_contracts(repo: Repo) -> None:
    first = take(repo.top, "a")
    repo.write("bin", b"\0\2")
    second = take(repo.top, "b")
    found = bundles.wire_bundle(3, first.commit, between(repo.top, first.commit, second.commit))
    assert (found["seq"], found["baseRef"]) == (3, first.commit)
    [patch] = between(repo.top, first.commit, second.commit)
    wire = patch.wire()
    assert found["patches"] == [wire]
    assert set(wire) == {"path", "operation", "diff", "binaryContent"}
    assert base64.b64decode(str(wire["binaryContent"])) == b"\0\2"
    assert to_json(found)


def test_nothing_that_differs_is_no_patch(repo: Repo) -> None:
    first, second = take(repo.top, "a"), take(repo.top, "b")
    assert between(repo.top, first.commit, second.commit) == []


def test_without_a_base_everything_is_new(repo: Repo) -> None:
    assert by_path(between(repo.top, None, take(repo.top, "a").commit)) == {".gitignore": "add", "a.txt": "add"}


def test_paths_are_those_within_the_folder(repo: Repo) -> None:
    work = repo.top / "sub"
    repo.write("sub/f", "1\n")
    first = take(work, "a")
    repo.write("sub/f", "2\n")
    repo.write("a.txt", "elsewhere\n")
    second = take(work, "b")
    [patch] = between(work, first.commit, second.commit)
    assert patch.path == "f"
    assert patch.diff.startswith("diff --git a/f b/f\n")
    shutil.rmtree(work)
    assert by_path(between(work, first.commit, second.commit)) == {"f": "modify"}


def test_a_name_that_is_no_text_has_one_all_the_same(repo: Repo, tmp_path: Path) -> None:
    first = take(repo.top, "a")
    Path(os.fsdecode(os.fsencode(repo.top) + b"/\xff")).write_text("x\n")
    second = take(repo.top, "b")
    [patch] = between(repo.top, first.commit, second.commit)
    assert patch.path == "\\xff"
    copy = Repo(tmp_path / "copy")
    apply([patch], copy)
    assert copy.files() == repo.files()


@pytest.mark.parametrize("content", [b"x" * 5000 + b"\n", os.urandom(5000)])
def test_what_is_too_large_is_not_sent(repo: Repo, content: bytes) -> None:
    first = take(repo.top, "a")
    repo.write("big", content)
    second = take(repo.top, "b")
    repository = open_repository(repo.top)
    found = bundles.patches_between(repository, repo.top, first.commit, second.commit, max_bytes=2000)
    assert isinstance(found, Oversized)
    assert found.size > 2000
    assert isinstance(bundles.patches_between(repository, repo.top, first.commit, second.commit), list)


def test_the_limit_counts_what_is_sent(repo: Repo) -> None:
    first = take(repo.top, "a")
    repo.write("quotes", '"' * 3000 + "\n")  # each takes two bytes as JSON
    second = take(repo.top, "b")
    found = bundles.patches_between(open_repository(repo.top), repo.top, first.commit, second.commit, max_bytes=5000)
    assert isinstance(found, Oversized)


def test_a_commit_that_is_not_there_is_an_error(repo: Repo) -> None:
    with pytest.raises(VcsError):
        between(repo.top, "0" * 39 + "1", take(repo.top, "a").commit)


NAMES = st.sampled_from(["a", "b", "d/a", "d/b", "d/e/c", "f"])
CONTENTS = st.one_of(st.binary(max_size=40), st.text(max_size=40).map(lambda text: text.encode("utf-8", "replace")))
FILES = st.dictionaries(NAMES, st.tuples(CONTENTS, st.booleans()), max_size=6)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(before=FILES, after=FILES)
def test_applying_a_bundle_to_the_one_gives_the_other(
    tmp_path_factory: pytest.TempPathFactory,
    before: dict[str, tuple[bytes, bool]],
    after: dict[str, tuple[bytes, bool]],
) -> None:
    folder = tmp_path_factory.mktemp("random")
    repo, copy = Repo(folder / "r", commit=False), Repo(folder / "copy", commit=False)

    def lay_out(repo: Repo, files: dict[str, tuple[bytes, bool]]) -> None:
        for name in repo.files():
            (repo.top / name).unlink()
        for name, (content, is_program) in files.items():
            repo.write(name, content).chmod(0o755 if is_program else 0o644)

    lay_out(repo, before)
    lay_out(copy, before)
    first = take(repo.top, "a")
    lay_out(repo, after)
    second = take(repo.top, "b")
    apply(between(repo.top, first.commit, second.commit), copy)
    assert copy.files() == repo.files()
