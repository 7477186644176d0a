"""Checkpoints hold what the files were, give it back, and leave everything of the user's alone."""

from __future__ import annotations

import os
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.unit.vcs.support import Repo

from smithers.errors import VcsError, VcsNotFound, WorkingTreeDirty
from smithers.vcs import checkpoints, git
from smithers.vcs.checkpoints import Checkpoint, Restored, checkpoint_ref, open_repository
from smithers.vcs.repository import find_repository, head_commit


def take(folder: Path, name: str = "n", max_bytes: int = checkpoints.MAX_BYTES) -> Checkpoint:
    ref = checkpoint_ref("run", name)
    return checkpoints.take(open_repository(folder), folder, ref, "test", max_bytes=max_bytes)


def restore(folder: Path, to: Checkpoint, *known: Checkpoint, is_forced: bool = False) -> Restored:
    trees = [found.tree for found in (to, *known)]
    ref = checkpoint_ref("run", "safety")
    repository = open_repository(folder)
    return checkpoints.restore(repository, folder, to.commit, known=trees, is_forced=is_forced, safety_ref=ref)


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    return Repo(tmp_path / "a folder ü")


def changed(repo: Repo) -> None:
    """All kinds of changes, some of them staged."""
    repo.write("a.txt", "two\n")
    repo.write("new.txt", "new\n")
    repo.write("staged.txt", "staged\n")
    repo.git("add", "staged.txt")
    repo.write("staged.txt", "and changed\n")
    repo.write("deep/er/ö.bin", bytes(range(256)))
    repo.write("x.log", "ignored\n")
    (repo.top / "link").symlink_to("nowhere")
    repo.write("run.sh", "#!/bin/sh\n").chmod(0o755)


def test_a_checkpoint_touches_nothing_of_the_users(repo: Repo) -> None:
    changed(repo)
    repo.git("stash", "list")
    before = repo.state()
    take(repo.top)
    after = repo.state()
    assert after == before
    assert repo.git("stash", "list") == ""


def test_a_checkpoint_holds_all_files_but_ignored_ones(repo: Repo) -> None:
    changed(repo)
    found = take(repo.top)
    listed = repo.git("ls-tree", "-r", "-z", "--name-only", found.commit).split("\0")
    assert set(listed) - {""} == set(repo.files()) - {"x.log"}
    assert repo.git("show", f"{found.commit}:staged.txt") == "and changed\n"
    assert "100755" in repo.git("ls-tree", found.commit, "run.sh")
    assert repo.git("rev-parse", f"{found.commit}^").strip() == repo.git("rev-parse", "HEAD").strip()
    assert repo.git("rev-parse", found.ref).strip() == found.commit


def test_equal_files_have_equal_trees(repo: Repo) -> None:
    changed(repo)
    first, second = take(repo.top, "a"), take(repo.top, "b")
    assert first.tree == second.tree
    assert first.ref != second.ref
    assert checkpoints.take_tree(open_repository(repo.top), repo.top) == first.tree


def test_going_back_brings_every_file_back_and_keeps_ignored_ones(repo: Repo) -> None:
    changed(repo)
    kept, target = repo.files(), take(repo.top, "a")
    (repo.top / "new.txt").unlink()
    (repo.top / "link").unlink()
    (repo.top / "link").mkdir()
    repo.write("link/inside", "a folder where a link was")
    repo.write("a.txt", "three\n")
    (repo.top / "run.sh").chmod(0o644)
    repo.write("added.txt", "to go\n")
    later = take(repo.top, "b")
    index = repo.git("ls-files", "--stage")

    done = restore(repo.top, target, later)

    assert repo.files() == kept
    assert (repo.top / "run.sh").stat().st_mode & stat.S_IXUSR
    assert set(done.changed) == {"new.txt", "link", "link/inside", "a.txt", "run.sh", "added.txt"}
    assert done.safety is None
    assert repo.git("ls-files", "--stage") == index
    assert restore(repo.top, target).changed == ()


def test_what_no_checkpoint_holds_is_not_written_over(repo: Repo) -> None:
    target = take(repo.top, "a")
    repo.write("a.txt", "the user's\n")
    repo.write("b.txt", "the user's too\n")
    before = repo.files()
    with pytest.raises(WorkingTreeDirty, match=r"a\.txt, b\.txt") as caught:
        restore(repo.top, target)
    assert caught.value.details["changed"] == ["a.txt", "b.txt"]
    assert repo.files() == before

    done = restore(repo.top, target, is_forced=True)

    assert done.safety is not None
    assert repo.git("show", f"{done.safety.ref}:b.txt") == "the user's too\n"
    assert "b.txt" not in repo.files()
    restore(repo.top, done.safety, target)
    assert repo.files() == before


def test_only_what_would_be_lost_is_named(repo: Repo) -> None:
    target = take(repo.top, "a")
    repo.write("of-the-run.txt", "1\n")
    later = take(repo.top, "b")
    repo.write("mine.txt", "x\n")

    with pytest.raises(WorkingTreeDirty) as caught:
        restore(repo.top, target, later)

    assert caught.value.details["changed"] == ["mine.txt"]


def test_whether_files_can_be_put_back_is_found_out_without_touching_them(repo: Repo) -> None:
    target = take(repo.top, "a")
    repo.write("a.txt", "the user's\n")
    before = repo.files()
    repository, ref = open_repository(repo.top), checkpoint_ref("run", "safety")

    found = checkpoints.restore(
        repository, repo.top, target.commit, known=[target.tree], is_forced=True, safety_ref=ref, is_trial=True
    )

    assert (found.changed, found.safety) == (("a.txt",), None)
    assert repo.files() == before
    assert "safety" not in repo.git("for-each-ref")


def test_an_ignored_file_in_the_way_is_kept_too(repo: Repo) -> None:
    repo.write("out.txt", "of the checkpoint\n")
    target = take(repo.top, "a")
    repo.write(".gitignore", "out.txt\n*.log\n")
    repo.write("out.txt", "ignored by now\n")
    later = take(repo.top, "b")
    with pytest.raises(WorkingTreeDirty):
        restore(repo.top, target, later)
    done = restore(repo.top, target, later, is_forced=True)
    assert done.safety is not None
    assert repo.git("show", f"{done.safety.ref}:out.txt") == "ignored by now\n"
    assert repo.files()["out.txt"] == b"of the checkpoint\n"


def test_a_checkpoint_of_a_folder_is_about_that_folder(repo: Repo) -> None:
    work = repo.top / "sub" / "inner"
    repo.write("sub/inner/f", "1\n")
    target = take(work, "a")
    repo.write("sub/inner/f", "2\n")
    repo.write("sub/inner/g", "2\n")
    repo.write("a.txt", "the user's\n")
    assert take(work, "b").tree != target.tree
    later = take(work, "b")

    done = restore(work, target, later)

    assert sorted(done.changed) == ["f", "g"]
    assert repo.files(work) == {"f": b"1\n"}
    assert repo.files()["a.txt"] == b"the user's\n"  # elsewhere nothing is touched
    repo.write("a.txt", "changed again\n")
    assert restore(work, target).changed == ()


def test_a_folder_that_did_not_exist_then_is_emptied_and_stays(repo: Repo) -> None:
    work = repo.top / "work"
    work.mkdir()
    target = take(work, "a")
    repo.write("work/deep/f", "1\n")
    later = take(work, "b")
    restore(work, target, later)
    assert list(work.iterdir()) == []


def test_a_repository_without_a_commit_will_do(tmp_path: Path) -> None:
    repo = Repo(tmp_path / "new", commit=False)
    repo.write("f", "1\n")
    before = repo.state()
    target = take(repo.top, "a")
    assert repo.state() == before
    assert repo.git("cat-file", "-p", target.commit).count("parent") == 0
    (repo.top / "f").unlink()
    restore(repo.top, target, take(repo.top, "b"))
    assert repo.files() == {"f": b"1\n"}


@pytest.mark.parametrize("options", [("--object-format=sha256",), ("--separate-git-dir=../elsewhere",)])
def test_other_layouts_will_do(tmp_path: Path, options: tuple[str, ...]) -> None:
    repo = Repo(tmp_path / "r", options=options)
    repo.write("a.txt", "two\n")
    assert repo.git("show", f"{take(repo.top).commit}:a.txt") == "two\n"


def test_an_added_worktree_is_a_workspace_of_its_own(repo: Repo) -> None:
    other = repo.top.parent / "other"
    repo.git("worktree", "add", "-q", str(other))
    (other / "w.txt").write_text("there\n")
    before = repo.git("status", "--porcelain", cwd=other)
    found = take(other)
    assert repo.git("show", f"{found.commit}:w.txt") == "there\n"
    assert repo.git("status", "--porcelain", cwd=other) == before
    assert repo.git("status", "--porcelain") == ""


def test_a_submodule_is_kept_as_the_commit_that_it_is_at(repo: Repo, tmp_path: Path) -> None:
    library = Repo(tmp_path / "library")
    repo.git("-c", "protocol.file.allow=always", "submodule", "add", "-q", str(library.top), "lib")
    repo.commit()
    (repo.top / "lib" / "a.txt").write_text("dirty\n")
    repo.write("own.txt", "own\n")
    before = repo.state()
    target = take(repo.top, "a")
    assert repo.state() == before
    assert "160000 commit" in repo.git("ls-tree", target.commit, "lib")
    (repo.top / "own.txt").unlink()
    restore(repo.top, target, take(repo.top, "b"))
    assert (repo.top / "own.txt").exists()
    assert (repo.top / "lib" / "a.txt").read_text() == "dirty\n"


def test_a_repository_inside_is_no_part_of_it(repo: Repo) -> None:
    inner = Repo(repo.top / "inner")
    kept = inner.files()
    target = take(repo.top, "a")
    inner.write("a.txt", "changed\n")
    assert take(repo.top, "b").tree == target.tree
    assert "inner" not in repo.git("ls-tree", "-r", "--name-only", target.commit)
    assert set(inner.files()) == set(kept)


@pytest.mark.parametrize("cone", ["--cone", "--no-cone"])
def test_a_sparse_checkout_keeps_what_is_not_checked_out(repo: Repo, cone: str) -> None:
    repo.write("in/f", "1\n")
    repo.write("out/g", "1\n")
    repo.commit()
    repo.git("sparse-checkout", "set", cone, "--sparse-index" if cone == "--cone" else "--no-sparse-index", "in")
    assert not (repo.top / "out").exists()
    repo.write("in/f", "2\n")
    before = repo.state()
    target = take(repo.top, "a")
    assert repo.state() == before
    assert repo.git("show", f"{target.commit}:out/g") == "1\n"
    repo.write("in/f", "3\n")
    restore(repo.top, target, take(repo.top, "b"))
    assert repo.files()["in/f"] == b"2\n"
    assert not (repo.top / "out").exists()


def test_a_split_index_is_read(repo: Repo) -> None:
    repo.git("update-index", "--split-index")
    repo.write("b.txt", "b\n")
    repo.git("add", "b.txt")
    before = repo.state()
    assert repo.git("show", f"{take(repo.top).commit}:b.txt") == "b\n"
    assert repo.state() == before


def test_an_index_that_cannot_be_read_is_done_without(repo: Repo) -> None:
    (repo.top / ".git" / "index").write_bytes(b"DIRC nonsense")
    repo.write("a.txt", "two\n")
    assert repo.git("show", f"{take(repo.top).commit}:a.txt") == "two\n"


def test_a_conflict_is_stored_as_the_files_are(repo: Repo) -> None:
    repo.git("checkout", "-q", "-b", "other")
    repo.write("a.txt", "theirs\n")
    repo.commit()
    repo.git("checkout", "-q", "main")
    repo.write("a.txt", "ours\n")
    repo.write("sub/f", "1\n")
    repo.commit()
    repo.git("merge", "other", fails=False)
    before = repo.state()
    found = take(repo.top)
    inside = take(repo.top / "sub", "b")
    assert repo.state() == before
    assert "<<<<<<<" in repo.git("show", f"{found.commit}:a.txt")
    assert repo.git("show", f"{inside.commit}:sub/f") == "1\n"


def test_a_change_in_the_moment_of_the_index_is_seen(repo: Repo) -> None:
    file = repo.write("a.txt", "aaa\n")
    repo.git("add", "a.txt")
    index = (repo.top / ".git" / "index").stat()
    file.write_text("bbb\n")  # same size, and by its times from when the index was written
    os.utime(file, ns=(index.st_mtime_ns, index.st_mtime_ns))
    assert repo.git("show", f"{take(repo.top).commit}:a.txt") == "bbb\n"


def test_folders_and_links_may_change_places(repo: Repo) -> None:
    repo.write("d/f", "1\n")
    repo.write("e", "file\n")
    repo.commit()
    kept, target = repo.files(), take(repo.top, "a")
    (repo.top / "d" / "f").unlink()
    (repo.top / "d").rmdir()
    (repo.top / "d").symlink_to(repo.top.parent)
    (repo.top / "e").unlink()
    repo.write("e/f/g", "folder\n")
    later = take(repo.top, "b")
    assert set(repo.git("ls-tree", "-r", "--name-only", later.commit).split()) == {".gitignore", "a.txt", "d", "e/f/g"}
    restore(repo.top, target, later)
    assert repo.files() == kept


def test_names_may_be_anything(repo: Repo) -> None:
    names = [b"-x", b"new\nline", b"tab\t", b'quo"te', b"\xff\xfe", b"*?[a]", b":(top)", b"back\\slash", "ü".encode()]
    for name in names:
        (Path(os.fsdecode(os.fsencode(repo.top) + b"/" + name))).write_text("x")
    kept, target = repo.files(), take(repo.top, "a")
    for name in names:
        Path(os.fsdecode(os.fsencode(repo.top) + b"/" + name)).unlink()
    restore(repo.top, target, take(repo.top, "b"))
    assert repo.files() == kept


def test_too_much_is_refused_with_the_way_out(repo: Repo) -> None:
    repo.write("big", b"x" * 2000)
    with pytest.raises(VcsError, match="gitignore") as caught:
        take(repo.top, max_bytes=1000)
    assert caught.value.details == {"sizeBytes": 2000, "maxBytes": 1000}
    assert repo.git("for-each-ref", "refs/smithers") == ""
    repo.write(".gitignore", "big\n")
    take(repo.top, max_bytes=1000)


def test_many_at_once_do_not_disturb_each_other(repo: Repo) -> None:
    for number in range(50):
        repo.write(f"f{number}", f"{number}\n" * 100)
    before = repo.state()
    start = threading.Barrier(6)

    def one(number: int) -> Checkpoint:
        start.wait()
        return take(repo.top, f"n{number}")

    with ThreadPoolExecutor(6) as threads:
        found = list(threads.map(one, range(6)))
    assert len({c.tree for c in found}) == 1
    assert len({c.ref for c in found}) == 6
    assert repo.state() == before


def test_the_checkpoints_of_a_run_are_let_go_of_and_no_others(repo: Repo) -> None:
    repository = open_repository(repo.top)
    other = checkpoints.take(repository, repo.top, checkpoint_ref("run2", "a"), "m")
    repo.git("update-ref", "refs/smithers/run/a-0-1", "HEAD")  # as they were called before
    repo.git("symbolic-ref", "refs/smithers/run/link", "refs/heads/main")
    kept = [take(repo.top, "a").ref, "refs/smithers/run/a-0-1", take(repo.top, "b").ref, "refs/smithers/run/link"]
    assert checkpoints.refs_of(repository, "run") == sorted(kept)
    checkpoints.forget(repository, kept)
    refs = repo.git("for-each-ref", "--format=%(refname)").split()
    assert refs == ["refs/heads/main", other.ref]


def test_no_checkpoint_takes_the_place_of_another(repo: Repo) -> None:
    first = take(repo.top, "a")
    repo.write("a.txt", "changed\n")
    second = take(repo.top, "a")
    repo.git("reflog", "expire", "--expire=now", "--all")
    repo.git("gc", "-q", "--prune=now")
    assert repo.git("show", f"{first.commit}:a.txt") == "one\n"
    assert repo.git("show", f"{second.commit}:a.txt") == "changed\n"
    assert first.ref != second.ref


def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(repo: Repo) -> None:
    for name in ("HEAD", "index", "packed-refs", "config"):
        (repo.top / ".git" / name).unlink(missing_ok=True)
        os.mkfifo(repo.top / ".git" / name)
    found = find_repository(repo.top)
    assert found is not None
    assert head_commit(found) is None


def test_runs_and_nodes_of_any_name_have_refs_of_their_own(repo: Repo) -> None:
    names = ["a", "A", "a b", "a_b", "ü", "..", "a.lock", "x" * 300, "x" * 301, "a:b@{1}", "-a", "a@@b=1", "\ud800"]
    refs = {checkpoint_ref(name, name) for name in names}
    assert len(refs) == len(names)
    for ref in refs:
        repo.git("check-ref-format", ref)


def test_no_repository_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    assert find_repository(tmp_path) is None
    with pytest.raises(VcsError, match="git init"):
        open_repository(tmp_path)


def test_without_git_the_error_says_so(repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(VcsNotFound, match="install"):
        open_repository(repo.top)


def test_a_command_that_takes_too_long_is_stopped(repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    with git.Scratch(open_repository(repo.top)) as scratch:
        monkeypatch.setattr(git, "TIMEOUT_S", 0.05)
        monkeypatch.setattr(git, "_git", lambda: ["sleep"])
        monkeypatch.setattr(git.Scratch, "_kept", list[str])
        with pytest.raises(VcsError, match="stopped"):
            scratch.git("60")


def test_what_is_checked_out_is_read_from_files(repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    head = repo.git("rev-parse", "HEAD").strip()
    repo.git("worktree", "add", "-q", "--detach", "../loose")
    repo.git("checkout", "-q", "-b", "feature/x")
    for _ in range(2):
        monkeypatch.setenv("PATH", "/nowhere")
        for folder in (repo.top, repo.top.parent / "loose"):
            found = find_repository(folder)
            assert found is not None
            assert head_commit(found) == head
        monkeypatch.undo()
        repo.git("pack-refs", "--all")


def test_a_link_that_leads_in_circles_is_no_commit(repo: Repo) -> None:
    (repo.top / ".git" / "HEAD").write_text("ref: refs/heads/loop\n")
    (repo.top / ".git" / "refs" / "heads" / "loop").write_text("ref: refs/heads/loop\n")
    found = find_repository(repo.top)
    assert found is not None
    assert head_commit(found) is None


def test_the_store_of_a_jj_workspace_is_used_without_jj(tmp_path: Path) -> None:
    top, store = tmp_path / "w", tmp_path / "store.git"
    Repo(top, commit=False).git("init", "-q", "--bare", str(store))
    (top / ".git" / "HEAD").unlink()
    (top / ".jj" / "repo" / "store").mkdir(parents=True)
    (top / ".jj" / "repo" / "store" / "git_target").write_text("../../../../store.git")
    (top / "f").write_text("1\n")
    found = open_repository(top)
    assert (found.kind, found.common_dir) == ("jj", store)
    target = take(top, "a")
    (top / "f").write_text("2\n")
    restore(top, target, take(top, "b"))
    assert (top / "f").read_text() == "1\n"


def test_who_wants_to_know_is_told_how_long_each_git_command_takes_until_it_is_gone(repo: Repo) -> None:
    told: list[tuple[str, float]] = []

    class Meter:
        def note(self, name: str, milliseconds: float) -> None:
            told.append((name, milliseconds))

    meter = Meter()
    git.time_commands(meter.note)
    take(repo.top)
    assert told
    assert {name for name, _ in told} == {"vcs.duration_ms"}
    assert all(milliseconds > 0 for _, milliseconds in told)
    del meter
    told.clear()
    take(repo.top, "other")
    assert not told
