"""Checkpoints stay in their repository whatever history does, until somebody lets go of them."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

import pytest
from tests.integration.engine.support import Bench, Row, smithers
from tests.integration.engine.test_going_back import THREE, flow, frame_after, patches_of, writer
from tests.unit.vcs.support import Repo

from smithers import Subflow, Workflow
from smithers.components.context import Context
from smithers.components.element import Element
from smithers.control import checkpoints, diffs
from smithers.control.caller import Caller
from smithers.control.checkpoints import Restorer
from smithers.control.control import Control
from smithers.control.travel.forking import fork
from smithers.control.travel.resetting import retry_task
from smithers.control.travel.rewinding import rewind
from smithers.engine.workspaces import Workspaces
from smithers.errors import AttemptNotFinished, RunActive, RunNotFound, StorageError, VcsError
from smithers.store.sql import checkpoints as rows
from smithers.store.sql.checkpoints import CheckpointRow, WorkspaceRow
from smithers.store.sql.session import Session
from smithers.vcs import checkpoints as stored

BOTH_DATABASES = True
pytestmark = pytest.mark.anyio
OWNER = Caller("ann", role="admin", scopes=("*",))


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    return Repo(tmp_path / "work")


@pytest.fixture
def control(bench: Bench) -> Control:
    return Control(bench.store, clock=bench.clock)


def tidy(repo: Repo) -> None:
    """Have git take away whatever nothing names."""
    repo.git("reflog", "expire", "--expire=now", "--all")
    repo.git("gc", "-q", "--prune=now")


def refs(repo: Repo, run_id: str = "r") -> list[str]:
    """What keeps a run's checkpoints."""
    return repo.git("for-each-ref", "--format=%(objectname)", f"refs/smithers/{run_id}/").split()


async def commits(control: Control, run_id: str = "r") -> dict[str, str]:
    """The commits of a run's checkpoints, by node: of several the last."""
    return {c.node_id: str(c.commit_id) for c in await checkpoints.snapshots(control, run_id)}


async def go_back(bench: Bench, control: Control, frame_no: int | None = None) -> None:
    """Take run r back to a frame, or to after its first node, with its files."""
    at = frame_after(bench, "one") if frame_no is None else frame_no
    await rewind(control, "r", at, caller=OWNER, confirm=True, force=True, restore=Restorer(control, is_forced=True))


async def forget(control: Control, repo: Repo) -> None:
    """Let go of run r's checkpoints, of which none is left then."""
    kept = refs(repo)
    assert await checkpoints.forget(control, "r") == len(kept) > 0
    assert refs(repo) == []


async def test_what_a_rewind_took_back_is_kept_though_the_same_attempts_are_made_again(
    bench: Bench, control: Control, repo: Repo
) -> None:
    repo.write("f", "before the run\n")
    await bench.run(THREE, root_dir=str(repo.top))
    before = await commits(control)
    await go_back(bench, control)
    repo.write("mine", "x")
    await bench.resume(THREE)
    after = await commits(control)
    tidy(repo)
    assert before.keys() == after.keys()
    assert before["three"] != after["three"]
    assert repo.git("show", f"{before['three']}:f") == "3\n"
    for commit in (*before.values(), *after.values()):
        repo.git("cat-file", "-e", commit)
    await checkpoints.restore(control, "r", "two")


async def test_a_fork_needs_nothing_that_its_parent_holds(bench: Bench, control: Control, repo: Repo) -> None:
    await bench.run(THREE, root_dir=str(repo.top))
    made = await fork(control, "r", frame_after(bench, "one"), caller=OWNER, new_run_id="f")
    assert (await commits(control, "f"), refs(repo, "f")) == ({}, [])  # it begins with none
    await bench.resume(THREE, "f", root_dir=str(repo.top))
    shown = await diffs.node_diff(control, "f", "three")

    await go_back(bench, control)
    await bench.resume(THREE)
    await forget(control, repo)
    tidy(repo)

    assert [patch["path"] for patch in patches_of(shown)] == ["f"]
    assert await commits(control, "r") == {}
    for commit in (shown["baseRef"], *(await commits(control, "f")).values()):
        repo.git("cat-file", "-e", str(commit))
    await checkpoints.restore(control, "f", "two", is_forced=True)
    assert repo.files()["f"] == b"2\n"
    await diffs.run_diff(control, "f")
    restore = Restorer(control)
    await rewind(control, "f", made.frame_no, caller=OWNER, confirm=True, force=True, restore=restore)
    assert [place.cwd for place in restore.done] == [str(repo.top)]


async def test_a_fork_whose_repository_is_gone_goes_on_and_says_why_nothing_is_stored(
    bench: Bench, control: Control, repo: Repo
) -> None:
    await bench.run(THREE, root_dir=str(repo.top))
    shutil.rmtree(repo.top / ".git")
    await fork(control, "r", frame_after(bench, "one"), caller=OWNER, new_run_id="f")
    assert (await bench.resume(THREE, "f", root_dir=str(repo.top))).status == "finished"
    for node_id, error, why in (("one", AttemptNotFinished, "made in run 'r'"), ("two", VcsError, "git init")):
        with pytest.raises(error, match=why):
            await diffs.node_diff(control, "f", node_id)


async def test_a_step_that_is_done_again_takes_nothing_of_what_it_had_left_before(
    bench: Bench, control: Control, repo: Repo
) -> None:
    await bench.run(THREE, root_dir=str(repo.top))
    await retry_task(control, "r", "two", caller=OWNER, force=True)
    await bench.resume(THREE)
    tidy(repo)
    found = await checkpoints.snapshots(control, "r", "two")
    assert [c.attempt for c in found] == [1, 2]
    for each in (1, 2):
        await checkpoints.restore(control, "r", "two", attempt=each)


async def test_what_a_forced_rewind_writes_over_is_kept_whatever_comes_after(
    bench: Bench, control: Control, repo: Repo, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bench.run(THREE, root_dir=str(repo.top))
    repo.write("mine", "1\n")

    def fails(c: object, row: CheckpointRow) -> None:
        raise StorageError("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(rows, "add_safety", fails)
        with pytest.raises(StorageError):  # between the ref and the row
            await go_back(bench, control)
    assert "mine" not in repo.files()
    repo.write("mine", "2\n")
    await go_back(bench, control)
    await bench.resume(THREE)
    tidy(repo)

    kept = repo.git("for-each-ref", "--format=%(refname)", "refs/smithers/r/safety*").split()
    assert {repo.git("show", f"{ref}:mine") for ref in kept} == {"1\n", "2\n"}
    assert (await commits(control))[""] in refs(repo)
    await forget(control, repo)


async def test_those_kept_for_safety_at_once_are_all_on_record(bench: Bench) -> None:
    row = CheckpointRow("r", "", 0, 0, 0, 0, 1, "/x", "a", "t", None, rows.SAFETY, None, 1)
    for each in (row, row._replace(commit_id="b")):
        await bench.store.awrite(partial(rows.add_safety, row=each))
    found = bench.store.read(lambda c: rows.checkpoints(c, "r"))
    assert [(c.seq, c.commit_id) for c in found] == [(1, "a"), (2, "b")]


async def test_of_two_that_find_a_folder_at_once_both_keep_it_and_one_counts(
    bench: Bench, repo: Repo, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = (Workspaces(bench.store, "r", repo.top, bench.clock.now_ms) for _ in range(2))
    real = stored.take

    def take(*arguments: object, **options: object) -> stored.Checkpoint:
        monkeypatch.setattr(stored, "take", real)
        one.begin(repo.top)
        repo.write("f", "of the first one\n")
        return real(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(stored, "take", take)
    other.begin(repo.top)
    tidy(repo)
    [place] = bench.store.read(lambda c: rows.workspaces(c, "r"))
    assert "f" not in repo.git("ls-tree", "--name-only", str(place.base_ref)).split()
    assert len(refs(repo)) == 2


async def test_what_was_kept_before_it_was_on_record_is_forgotten_with_the_run(
    bench: Bench, control: Control, repo: Repo, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = rows.add_workspace

    def fails(c: Session, row: WorkspaceRow) -> WorkspaceRow:
        if row.base_ref is not None:
            raise StorageError("the disk is full")
        return real(c, row)

    monkeypatch.setattr(rows, "add_workspace", fails)
    await bench.run(THREE, root_dir=str(repo.top))
    assert len(refs(repo)) == 1
    await forget(control, repo)


async def test_checkpoints_under_their_former_names_are_found_and_forgotten(
    bench: Bench, control: Control, repo: Repo
) -> None:
    await bench.run(THREE, root_dir=str(repo.top))
    for line in repo.git("for-each-ref", "--format=%(objectname) %(refname)", "refs/smithers").splitlines():
        commit, ref = line.split()
        repo.git("update-ref", ref.removesuffix(f".{commit}"), commit)
        repo.git("update-ref", "-d", ref)
    await go_back(bench, control)
    await bench.resume(THREE)
    tidy(repo)
    assert len(refs(repo)) == 6  # nothing was written over
    await checkpoints.restore(control, "r", "one")
    await forget(control, repo)


async def test_what_cannot_be_removed_now_is_gone_back_to_no_more_and_removed_later(
    bench: Bench, control: Control, repo: Repo
) -> None:
    await bench.run(THREE, root_dir=str(repo.top))
    lock = repo.write(f".git/refs/smithers/r/{refs_named(repo, 'one')}.lock", "")
    with pytest.raises(VcsError, match="lock"):
        await checkpoints.forget(control, "r")
    assert (await commits(control), len(refs(repo))) == ({}, 4)
    lock.unlink()
    assert await checkpoints.forget(control, "r") == 4


def refs_named(repo: Repo, node_id: str) -> str:
    """The name of the ref of a node's checkpoint."""
    return repo.git("for-each-ref", "--format=%(refname:lstrip=3)", f"refs/smithers/r/{node_id}-*").strip()


async def test_a_subflow_that_a_rewind_has_removed_is_forgotten_with_its_parent(
    bench: Bench, control: Control, repo: Repo
) -> None:
    @smithers
    def inner(ctx: Context[object]) -> Element:
        return Workflow("inner")[writer("in", f="inner\n")]

    whole = flow(writer("one", f="1\n"), Subflow(id="sub", workflow=inner, output=Row))
    other = flow(writer("one", f="1\n"), writer("instead", f="2\n"))
    child = "r:child:sub:0"
    await bench.run(whole, root_dir=str(repo.top))
    assert len(repo.git("for-each-ref", "refs/smithers").splitlines()) == 4
    with pytest.raises(RunNotFound):
        await checkpoints.forget(control, "sub")
    await go_back(bench, control, 1)
    with pytest.raises(RunActive):
        await checkpoints.forget(control, "r")
    assert await bench.resume(other, accept_workflow_change=True)
    with pytest.raises(RunNotFound):
        await checkpoints.snapshots(control, child)
    assert len(repo.git("for-each-ref", "refs/smithers").splitlines()) == len(refs(repo)) + 2
    await checkpoints.forget(control, "r")
    assert repo.git("for-each-ref", "refs/smithers") == ""
    assert await checkpoints.forget(control, child) == 0
