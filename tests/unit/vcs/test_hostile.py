"""Nothing that a repository says can have a program run, and dying in the middle leaves the repository as it was."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.unit.vcs.support import Repo

from smithers.settings import environment_with
from smithers.vcs import bundles, checkpoints, worktrees
from smithers.vcs.checkpoints import checkpoint_ref, open_repository

PROGRAMS = (
    "core.fsmonitor",
    "core.sshCommand",
    "core.askPass",
    "core.pager",
    "core.editor",
    "core.gitProxy",
    "core.alternateRefsCommand",
    "sequence.editor",
    "gpg.program",
    "gpg.ssh.program",
    "credential.helper",
    "diff.external",
    "diff.evil.command",
    "diff.evil.textconv",
    "merge.evil.driver",
    "filter.evil.clean",
    "filter.evil.smudge",
    "filter.evil.process",
    "uploadpack.packObjectsHook",
    "remote.origin.uploadpack",
    "remote.origin.vcs",
    "interactive.diffFilter",
    "difftool.evil.cmd",
    "pager.diff",
    "alias.diff-tree",
    "alias.write-tree",
)
HOOKS = (
    "applypatch-msg",
    "pre-commit",
    "prepare-commit-msg",
    "commit-msg",
    "post-commit",
    "post-checkout",
    "post-merge",
    "post-rewrite",
    "post-index-change",
    "reference-transaction",
    "pre-auto-gc",
    "fsmonitor-watchman",
    "sendemail-validate",
)


class Trap:
    """A program that leaves a mark when it is run."""

    def __init__(self, folder: Path) -> None:
        self.mark = folder / "was-run"
        self.program = folder / "trap"
        self.program.write_text(f'#!/bin/sh\necho "$0 $*" >> "{self.mark}"\ncat\nexit 0\n')
        self.program.chmod(0o755)

    def set_in(self, repo: Repo, git_dir: Path | None = None) -> None:
        """Have a repository's configuration, hooks and attributes name it wherever a program can be named."""
        git_dir = git_dir or repo.top / ".git"
        for key in PROGRAMS:
            repo.git("config", "--file", str(git_dir / "config"), key, str(self.program))
        for key, value in (
            ("filter.evil.required", "true"),
            ("commit.gpgSign", "true"),
            ("core.hooksPath", str(self.hooks(git_dir))),
            ("extensions.partialClone", "origin"),
            ("remote.origin.promisor", "true"),
            ("remote.origin.url", "/nowhere"),
            ("protocol.allow", "always"),
            ("submodule.recurse", "true"),
            ("gc.auto", "1"),
            ("core.repositoryFormatVersion", "1"),
        ):
            repo.git("config", "--file", str(git_dir / "config"), key, value)
        (git_dir / "info").mkdir(exist_ok=True)
        (git_dir / "info" / "attributes").write_text("* filter=evil diff=evil merge=evil\n")

    def hooks(self, git_dir: Path) -> Path:
        folder = git_dir / "hooks"
        folder.mkdir(exist_ok=True)
        for name in HOOKS:
            (folder / name).unlink(missing_ok=True)
            (folder / name).symlink_to(self.program)
        return folder

    def check(self) -> None:
        assert not self.mark.exists(), self.mark.read_text()


@pytest.fixture
def trap(tmp_path: Path) -> Trap:
    return Trap(tmp_path)


def everything(repo: Repo, tmp_path: Path) -> None:
    """All that this package does with a repository."""
    repository = open_repository(repo.top)
    first = checkpoints.take(repository, repo.top, checkpoint_ref("r", "a"), "m")
    repo.write("a.txt", "changed\n")
    repo.write("b.bin", b"\0\xff")
    (repo.top / "gone.txt").unlink()
    second = checkpoints.take(repository, repo.top, checkpoint_ref("r", "b"), "m")
    patches = bundles.patches_between(repository, repo.top, first.commit, second.commit)
    assert isinstance(patches, list)
    assert [p.path for p in patches] == ["a.txt", "b.bin", "gone.txt"]
    known = [first.tree, second.tree]
    checkpoints.restore(
        repository, repo.top, first.commit, known=known, is_forced=False, safety_ref=checkpoint_ref("r", "s")
    )
    assert (repo.top / "gone.txt").read_text() == "x\n"
    kept = checkpoints.refs_of(repository, "r")
    assert len(kept) == 2
    checkpoints.forget(repository, kept)
    assert checkpoints.refs_of(repository, "r") == []
    path = tmp_path / "tree"
    worktrees.ensure(repo.top, path, "work", "main", may_move=False)
    (path / "a.txt").write_text("x")
    worktrees.ensure(repo.top, path, "work", "main", may_move=True)
    assert worktrees.remove(repo.top, path)
    worktrees.listed(repo.top)
    worktrees.remove(repo.top, path, is_forced=True)


def test_plain_git_would_run_them(tmp_path: Path, trap: Trap) -> None:
    repo = Repo(tmp_path / "r")
    repo.write(".gitattributes", "* filter=evil diff=evil\n")
    repo.commit()
    trap.set_in(repo)
    for command in (["status"], ["diff", "HEAD"], ["add", "-A"], ["update-ref", "refs/heads/x", "HEAD"]):
        repo.write("a.txt", " ".join(command))
        repo.git(*command, fails=False)
        assert trap.mark.exists(), command
        trap.mark.unlink()


def test_no_program_that_a_repository_names_is_run(tmp_path: Path, trap: Trap) -> None:
    repo = Repo(tmp_path / "r")
    repo.write("gone.txt", "x\n")
    repo.write(".gitattributes", "* filter=evil diff=evil merge=evil ident\n")
    repo.commit()
    trap.set_in(repo)
    everything(repo, tmp_path)
    trap.check()


def test_no_program_that_an_included_file_or_a_worktree_names_is_run(tmp_path: Path, trap: Trap) -> None:
    repo = Repo(tmp_path / "r")
    repo.write("gone.txt", "x\n")
    repo.commit()
    (repo.top / ".git" / "config.worktree").touch()
    for key in PROGRAMS:
        for file in ("evil.config", "config.worktree"):
            repo.git("config", "--file", str(repo.top / ".git" / file), key, str(trap.program))
    repo.git("config", "extensions.worktreeConfig", "true")
    repo.git("config", "include.path", "evil.config")
    everything(repo, tmp_path)
    trap.check()


def test_no_program_that_a_submodule_names_is_run(tmp_path: Path, trap: Trap) -> None:
    library = Repo(tmp_path / "library")
    repo = Repo(tmp_path / "r")
    repo.git("-c", "protocol.file.allow=always", "submodule", "add", "-q", str(library.top), "lib")
    repo.write("gone.txt", "x\n")
    repo.commit()
    (repo.top / "lib" / "a.txt").write_text("dirty\n")
    trap.set_in(repo, repo.top / ".git" / "modules" / "lib")
    everything(repo, tmp_path)
    trap.check()


def test_a_missing_object_is_not_fetched(tmp_path: Path, trap: Trap) -> None:
    repo = Repo(tmp_path / "r")
    repo.write("gone.txt", "x\n")
    repo.commit()
    repo.write("b.txt", "b\n")
    blob = repo.git("rev-parse", "HEAD:a.txt").strip()
    (repo.top / ".git" / "objects" / blob[:2] / blob[2:]).unlink()
    trap.set_in(repo)
    found = checkpoints.take(open_repository(repo.top), repo.top, checkpoint_ref("r", "a"), "m")
    assert found.commit
    trap.check()


CHILD = """
import os, signal, sys
from pathlib import Path
from smithers.vcs import checkpoints, git
folder, after = Path(sys.argv[1]), int(sys.argv[2])
run, count = git._run, 0
def counted(*arguments, **options):
    global count
    count += 1
    if count == after:
        os.kill(os.getpid(), signal.SIGKILL)
    return run(*arguments, **options)
git._run = counted
repository = checkpoints.open_repository(folder)
checkpoints.take(repository, folder, checkpoints.checkpoint_ref("r", "a"), "m")
"""


@pytest.mark.parametrize("after", range(2, 8))
def test_dying_between_two_steps_leaves_the_repository_as_it_was(tmp_path: Path, after: int) -> None:
    repo = Repo(tmp_path / "r")
    repo.write("a.txt", "two\n")
    repo.write("new.txt", "new\n")
    before = repo.state()
    command = [sys.executable, "-c", CHILD, str(repo.top), str(after)]
    done = subprocess.run(command, check=False, capture_output=True, env=environment_with(TMPDIR=str(tmp_path)))
    assert done.returncode in (0, -signal.SIGKILL), done.stderr.decode()
    assert (done.returncode == 0) == (after > 6)  # so that a further step is noticed here
    assert repo.state() == before
    found = checkpoints.take(open_repository(repo.top), repo.top, checkpoint_ref("r", "a"), "m")
    assert repo.git("show", f"{found.ref}:new.txt") == "new\n"
    assert repo.state() == before


def test_dying_while_files_are_stored_leaves_the_repository_as_it_was(tmp_path: Path) -> None:
    repo = Repo(tmp_path / "r")
    for number in range(1500):
        repo.write(f"d{number % 20}/f{number}", os.urandom(3000).hex())
    before = repo.state()
    known = len(list((repo.top / ".git" / "objects").glob("??")))
    environment = environment_with(TMPDIR=str(tmp_path))  # what a killed process leaves there is the system's to remove
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(repo.top), "99"], start_new_session=True, env=environment
    )
    give_up = time.monotonic() + 60
    while len(list((repo.top / ".git" / "objects").glob("??"))) <= known + 5 and time.monotonic() < give_up:
        pass
    os.kill(child.pid, signal.SIGKILL)  # git itself goes on to its end, as it does when its parent dies
    assert child.wait(30) == -signal.SIGKILL
    assert repo.git("for-each-ref", "refs/smithers") == ""
    found = checkpoints.take(open_repository(repo.top), repo.top, checkpoint_ref("r", "a"), "m")
    assert repo.git("ls-tree", "-r", "--name-only", found.ref).count("\n") == 1502
    assert repo.state() == before
