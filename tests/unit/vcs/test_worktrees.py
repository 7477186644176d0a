"""Worktrees are made once, wherever making one was cut off, and removed only when nothing is lost with them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.unit.vcs.support import Repo

from smithers.errors import WorktreeCreateFailed
from smithers.vcs import worktrees
from smithers.vcs.repository import Repository, require_repository


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    return Repo(tmp_path / "r")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "trees" / "one ü"


def ensure(repo: Repo, path: Path, branch: str | None = "work", base: str = "main", *, may_move: bool = False) -> None:
    assert (
        worktrees.ensure(repo.top, path, branch, base, may_move=may_move)
        == repo.git("rev-parse", "HEAD", cwd=path).strip()
    )


def test_a_worktree_begins_as_its_base_on_a_branch_of_its_own(repo: Repo, path: Path) -> None:
    before = repo.state()
    ensure(repo, path)
    assert repo.files(path) == repo.files()
    assert repo.git("status", "--porcelain", "--branch", cwd=path) == "## work\n"
    assert {**repo.state(), "refs": 0} == {**before, "refs": 0}


def test_without_a_branch_it_has_none(repo: Repo, path: Path) -> None:
    ensure(repo, path, None)
    assert repo.git("branch", "--show-current", cwd=path) == ""
    assert [found.branch for found in worktrees.listed(repo.top)] == ["main", None]


def test_what_is_there_already_is_used_as_it_is(repo: Repo, path: Path) -> None:
    ensure(repo, path)
    (path / "mine").write_text("x")
    repo.write("a.txt", "two\n")
    repo.commit()
    ensure(repo, path)
    assert repo.files(path)["a.txt"] == b"one\n"
    assert (path / "mine").read_text() == "x"


def test_an_untouched_one_is_brought_up_to_its_base(repo: Repo, path: Path) -> None:
    ensure(repo, path)
    repo.write("a.txt", "two\n")
    repo.commit()
    ensure(repo, path, may_move=True)
    assert repo.files(path)["a.txt"] == b"two\n"
    assert repo.git("status", "--porcelain", "--branch", cwd=path) == "## work\n"


@pytest.mark.parametrize("is_committed", [False, True])
def test_one_with_work_in_it_is_not_moved(repo: Repo, path: Path, is_committed: bool) -> None:
    ensure(repo, path)
    (path / "mine").write_text("x")
    if is_committed:
        repo.git("add", "-A", cwd=path)
        repo.git("commit", "-qm", "mine", cwd=path)
    repo.write("a.txt", "two\n")
    repo.commit()
    ensure(repo, path, may_move=True)
    assert repo.files(path)["a.txt"] == b"one\n"
    assert (path / "mine").exists()


def test_a_branch_that_is_there_is_checked_out(repo: Repo, path: Path) -> None:
    repo.git("branch", "work")
    repo.write("a.txt", "two\n")
    repo.commit()
    ensure(repo, path)
    assert repo.files(path)["a.txt"] == b"one\n"


def test_where_there_is_no_main_what_is_checked_out_stands_for_it(repo: Repo, path: Path) -> None:
    repo.git("branch", "-m", "trunk")
    ensure(repo, path)
    with pytest.raises(WorktreeCreateFailed, match="'elsewhere'"):
        ensure(repo, path.parent / "two", "other", "elsewhere")


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("occupied", "something else"),
        ("branch-taken", "checked out at"),
        ("no-folder", "no worktree"),
        ("no-commit", "to begin with"),
    ],
)
def test_what_cannot_be_made_is_a_typed_error(repo: Repo, path: Path, how: str, said: str) -> None:
    match how:
        case "occupied":
            path.mkdir(parents=True)
            (path / "x").touch()
        case "branch-taken":
            repo.git("checkout", "-q", "-b", "work")
        case "no-folder":
            path.parent.write_text("a file")
        case _:
            repo.git("update-ref", "-d", "HEAD")
    with pytest.raises(WorktreeCreateFailed, match=said) as caught:
        ensure(repo, path)
    assert caught.value.details == {"worktreePath": str(path), "vcsType": "git", "branch": "work"}


@pytest.mark.parametrize("name", ["-b", "a..b", "a b", "@{-1}", "--upload-pack=x", ""])
def test_names_that_git_would_take_for_something_else_are_refused(repo: Repo, path: Path, name: str) -> None:
    with pytest.raises(WorktreeCreateFailed):
        ensure(repo, path, name)
    with pytest.raises(WorktreeCreateFailed):
        ensure(repo, path, "work", name)


def test_no_repository_is_a_typed_error(tmp_path: Path) -> None:
    with pytest.raises(WorktreeCreateFailed, match="git init"):
        worktrees.ensure(tmp_path, tmp_path / "w", None, "main", may_move=False)


@pytest.mark.parametrize("branch", ["work", None])
@pytest.mark.parametrize("step", ["_prune", "_add", "_fill", "index"])
def test_making_one_may_be_cut_off_and_begun_again(
    repo: Repo, path: Path, branch: str | None, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Cut(Exception): ...

    with monkeypatch.context() as patched:
        if step == "index":

            def no_index(*_: object) -> None:
                raise Cut

            patched.setattr(Path, "replace", no_index)
        else:
            real: Callable[..., None] = getattr(worktrees, step)

            def cut(*arguments: object) -> None:
                if step != "_fill":
                    real(*arguments)
                raise Cut

            patched.setattr(worktrees, step, cut)
        with pytest.raises(Cut):
            ensure(repo, path, branch)
    ensure(repo, path, branch)
    assert repo.files(path) == repo.files()
    assert repo.git("status", "--porcelain", cwd=path) == ""


def test_what_was_left_locked_or_lost_its_folder_is_made_anew(repo: Repo, path: Path) -> None:
    ensure(repo, path)
    repo.git("worktree", "lock", "--reason", "initializing", str(path))
    for name in repo.files(path):
        (path / name).unlink()
    (path / ".git").unlink()
    ensure(repo, path)
    assert repo.files(path) == repo.files()


def test_removing_takes_the_folder_and_leaves_the_branch(repo: Repo, path: Path) -> None:
    ensure(repo, path)
    (path / "x.log").write_text("ignored")
    assert worktrees.remove(repo.top, path) is None
    assert not path.exists()
    assert [found.path for found in worktrees.listed(repo.top)] == [repo.top]
    assert "work" in repo.git("branch")
    assert worktrees.remove(repo.top, path) is None


def test_unsaved_work_is_kept(repo: Repo, path: Path) -> None:
    ensure(repo, path, None)
    (path / "new").write_text("x")
    assert worktrees.remove(repo.top, path) == "it has changes that are not committed"
    repo.git("add", "-A", cwd=path)
    repo.git("commit", "-qm", "x", cwd=path)
    assert worktrees.remove(repo.top, path) == "it has commits that no branch has"
    assert path.exists()
    repo.git("branch", "saved", cwd=path)
    assert worktrees.remove(repo.top, path) is None
    assert not path.exists()


def test_forced_it_goes_whatever_it_holds(repo: Repo, path: Path) -> None:
    ensure(repo, path)
    (path / "new").write_text("x")
    repo.git("worktree", "lock", str(path))
    assert worktrees.remove(repo.top, path, is_forced=True) is None
    assert not path.exists()


def test_only_a_worktree_of_this_repository_is_one(repo: Repo, tmp_path: Path) -> None:
    other = Repo(tmp_path / "other")
    found: Repository | None = worktrees.find_worktree(require_repository(repo.top), other.top)
    assert found is None
    assert worktrees.remove(repo.top, other.top, is_forced=True) is None
    assert other.top.exists()
