"""Going back to a checkpoint: files are what they were then, and nothing that no checkpoint holds is lost."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import cast

import pytest
from tests.integration.engine.support import Bench, Row, smithers
from tests.unit.vcs.support import Repo

from smithers import SmithersWorkflow, Task, Workflow, Worktree
from smithers.components.context import Context
from smithers.components.element import Element
from smithers.control import checkpoints, diffs, worktrees
from smithers.control.caller import Caller
from smithers.control.checkpoints import Restorer
from smithers.control.control import Control
from smithers.control.travel.rewinding import rewind
from smithers.errors import AttemptNotFound, NodeNotFound, RunActive, RunNotFound, VcsError, WorkingTreeDirty
from smithers.store.sql import checkpoints as rows
from smithers.tools.builtins import write

BOTH_DATABASES = True
pytestmark = pytest.mark.anyio


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    return Repo(tmp_path / "work")


@pytest.fixture
def control(bench: Bench) -> Control:
    return Control(bench.store, clock=bench.clock)


def flow(*elements: Element) -> SmithersWorkflow:
    @smithers
    def files(ctx: Context[object]) -> Element:
        return Workflow("files")[elements]

    return files


def writer(name: str, **files: str) -> Element:
    async def work() -> dict[str, object]:
        for path, text in files.items():
            await write(path, text)
        return {"text": name}

    return Task(id=name, output=Row)[work]


THREE = flow(writer("one", f="1\n"), writer("two", f="2\n", g="2\n"), writer("three", f="3\n"))


def patches_of(bundle: dict[str, object]) -> list[dict[str, str]]:
    return cast("list[dict[str, str]]", bundle["patches"])


def frame_after(bench: Bench, node_id: str) -> int:
    return next(c.frame_no for c in bench.store.read(lambda s: rows.checkpoints(s, "r", node_id)))


async def test_to_what_an_attempt_left(bench: Bench, control: Control, repo: Repo) -> None:
    await bench.run(THREE, root_dir=str(repo.top))
    done = await checkpoints.restore(control, "r", "one")
    assert (done.changed, done.safety) == (("f", "g"), None)
    assert repo.files()["f"] == b"1\n"
    assert "g" not in repo.files()
    await checkpoints.restore(control, "r", "three", is_told=True)  # and forward again
    assert repo.files()["g"] == b"2\n"
    started, finished = bench.events()[-2:]
    assert [started["type"], finished["type"]] == ["RevertStarted", "RevertFinished"]
    assert finished["success"] is True
    assert started["jjPointer"] == finished["jjPointer"]
    assert bench.row().status == "finished"


async def test_what_a_user_has_changed_since_is_kept(bench: Bench, control: Control, repo: Repo) -> None:
    await bench.run(THREE, root_dir=str(repo.top))
    repo.write("f", "the user's\n")
    with pytest.raises(WorkingTreeDirty):
        await checkpoints.restore(control, "r", "one", is_told=True)
    assert bench.events()[-1]["success"] is False
    assert repo.files()["f"] == b"the user's\n"
    done = await checkpoints.restore(control, "r", "one", is_forced=True)
    assert repo.git("show", f"{done.safety}:f") == "the user's\n"
    [safety] = [c for c in await checkpoints.snapshots(control, "r") if c.source == "safety"]
    assert safety.commit_id == done.safety
    assert (await checkpoints.restore(control, "r", "three")).safety is None  # all of it is stored by now


async def test_to_a_frame_or_to_before_an_attempt(bench: Bench, control: Control, repo: Repo) -> None:
    repo.write("f", "before the run\n")
    await bench.run(THREE, root_dir=str(repo.top))
    restore = Restorer(control)
    assert await restore("r", frame_after(bench, "two")) == 1
    assert (repo.files()["f"], repo.files()["g"]) == (b"2\n", b"2\n")
    assert await restore("r", 0) == 1
    assert repo.files()["f"] == b"before the run\n"
    assert await restore("r", 0, ("three", 0, 1)) == 1
    assert repo.files()["f"] == b"2\n"
    assert await restore("r", 0, ("one", 0, 1)) == 1
    assert repo.files()["f"] == b"before the run\n"


async def test_a_rewind_takes_the_files_along_and_drops_what_is_gone(
    bench: Bench, control: Control, repo: Repo
) -> None:
    await bench.run(THREE, root_dir=str(repo.top))
    await diffs.node_diff(control, "r", "two")
    await diffs.node_diff(control, "r", "three")
    owner = Caller("ann", role="admin", scopes=("*",))
    done = await rewind(
        control, "r", frame_after(bench, "one"), caller=owner, confirm=True, force=True, restore=Restorer(control)
    )
    assert (done.reverted_sandboxes, done.invalidated_diffs) == (1, 2)
    assert repo.files()["f"] == b"1\n"
    assert "g" not in repo.files()
    assert [c.node_id for c in await checkpoints.snapshots(control, "r")] == ["one"]
    result = await bench.resume(THREE)
    assert result.status == "finished"
    assert (repo.files()["f"], repo.files()["g"]) == (b"3\n", b"2\n")
    assert [c.node_id for c in await checkpoints.snapshots(control, "r")] == ["one", "two", "three"]


async def test_what_has_not_changed_since_is_left_alone(bench: Bench, control: Control, repo: Repo) -> None:
    await bench.run(THREE, root_dir=str(repo.top))
    repo.write("mine", "x")
    assert await Restorer(control)("r", frame_after(bench, "three")) == 0
    assert "mine" in repo.files()
    with pytest.raises(WorkingTreeDirty):
        await Restorer(control)("r", 0)
    assert await Restorer(control, is_forced=True)("r", 0) == 1
    assert "mine" not in repo.files()


async def test_worktrees_are_put_back_each_in_its_place(bench: Bench, control: Control, repo: Repo) -> None:
    tree = flow(Worktree("../one", branch="one")[writer("a", f="a\n")], writer("b", f="b\n"))
    await bench.run(tree, root_dir=str(repo.top))
    one = repo.top.parent / "one"
    assert await Restorer(control)("r", 0) == 2
    assert "f" not in repo.files()
    assert "f" not in repo.files(one)


async def test_without_version_control_there_is_nothing_to_put_back(
    bench: Bench, control: Control, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "plain").mkdir()
    await bench.run(THREE, root_dir=str(tmp_path / "plain"))
    restore = Restorer(control)
    caplog.clear()
    await restore.check("r", 0)
    assert await restore("r", 0) == 0
    assert [record.getMessage()[:24] for record in caplog.records] == ["files are not put back: "]
    with pytest.raises(VcsError, match="git init"):
        await checkpoints.restore(control, "r", "one")


async def test_what_is_not_there_is_a_typed_error(bench: Bench, control: Control, repo: Repo) -> None:
    tree = flow(writer("one", f="1\n"), Task(id="idle", output=Row)[lambda: {"text": "x"}])
    await bench.run(tree, root_dir=str(repo.top))
    for error, asked in (
        (RunNotFound, ("nope", "one", 0)),
        (NodeNotFound, ("r", "nope", 0)),
        (AttemptNotFound, ("r", "idle", 0)),
        (AttemptNotFound, ("r", "one", 3)),
    ):
        with pytest.raises(error):
            await checkpoints.restore(control, *asked)
    with pytest.raises(AttemptNotFound):
        await checkpoints.restore(control, "r", "one", attempt=2)
    with pytest.raises(AttemptNotFound):
        await Restorer(control)("r", 0, ("one", 0, 9))
    with pytest.raises(RunNotFound):
        await checkpoints.snapshots(control, "nope")


async def test_a_run_under_way_is_not_disturbed(bench: Bench, control: Control, repo: Repo) -> None:
    gate = asyncio.Event()

    async def hold() -> dict[str, object]:
        await gate.wait()
        return {"text": "x"}

    tree = flow(writer("one", f="1\n"), Task(id="two", output=Row)[hold])
    handle = await bench.start(tree, root_dir=str(repo.top))
    await bench.seen("NodeStarted", "two")
    with pytest.raises(RunActive):
        await checkpoints.restore(control, "r", "one")
    with pytest.raises(RunActive):
        await diffs.run_diff(control, "r")
    assert len(patches_of(await diffs.node_diff(control, "r", "one"))) == 1
    gate.set()
    await asyncio.wait_for(asyncio.shield(handle.result), 60)


async def test_a_node_is_compared_with_its_last_attempt_else_with_what_was_before(
    bench: Bench, control: Control, repo: Repo
) -> None:
    tries: list[int] = []

    async def twice() -> dict[str, object]:
        tries.append(1)
        await write("f", f"try {len(tries)}\n")
        if len(tries) == 1:
            raise RuntimeError
        return {"text": "x"}

    retrying = Task(id="two", output=Row, retries=1, retry_policy={"initial_delay_ms": 0})[twice]
    repo.write("mine", "not the run's\n")
    await bench.run(flow(writer("one", f="1\n"), retrying), root_dir=str(repo.top))
    first, second = await diffs.node_diff(control, "r", "one"), await diffs.node_diff(control, "r", "two")
    found = {c.attempt: c for c in await checkpoints.snapshots(control, "r", "two")}
    base = bench.store.read(lambda c: rows.workspaces(c, "r"))[0].base_ref
    assert first["baseRef"] == base
    assert second["baseRef"] == found[1].commit_id
    assert "-try 1\n+try 2\n" in str(second["patches"]).replace("\\n", "\n")
    whole = await diffs.run_diff(control, "r")
    assert [patch["path"] for patch in patches_of(whole)] == ["f"]
    assert whole["baseRef"] == base


async def test_a_difference_is_computed_once(
    bench: Bench, control: Control, repo: Repo, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bench.run(THREE, root_dir=str(repo.top))
    first = await diffs.node_diff(control, "r", "two")
    monkeypatch.setenv("PATH", "/nowhere")
    assert await diffs.node_diff(control, "r", "two") == first
    with pytest.raises(VcsError, match="not installed"):
        await diffs.node_diff(control, "r", "one")
    dropped = await bench.store.awrite(lambda c: rows.forget_after(c, "r", frame_after(bench, "one")))
    assert dropped == 1
    assert [c.node_id for c in await checkpoints.snapshots(control, "r")] == ["one"]


async def test_a_run_in_several_folders_has_one_difference(bench: Bench, control: Control, repo: Repo) -> None:
    tree = flow(writer("b", f="b\n"), Worktree("../one", branch="one")[writer("a", f="a\n")])
    await bench.run(tree, root_dir=str(repo.top))
    found = await diffs.run_diff(control, "r")
    paths = [(patch["path"], patch["diff"].splitlines()[0]) for patch in patches_of(found)]
    assert sorted(paths) == [("f", "diff --git a/f b/f"), ("one/f", "diff --git a/one/f b/one/f")]
    (repo.top.parent / "one").rename(repo.top.parent / "moved")
    assert await diffs.run_diff(control, "r") == found  # its files are in the repository, not in the folder


async def test_worktrees_are_pruned_when_nobody_needs_them(bench: Bench, control: Control, repo: Repo) -> None:
    tree = flow(Worktree("../one", branch="one")[writer("a", f="a\n")])
    await bench.run(tree, root_dir=str(repo.top))
    [found] = await worktrees.worktrees(control)
    assert (found.run_id, found.branch, found.unsaved) == ("r", "one", "it has changes that are not committed")
    assert (await worktrees.prune(control))[0].unsaved is not None
    assert await worktrees.prune(control, is_forced=True, older_than_ms=1_000) == []
    [would] = await worktrees.prune(control, is_forced=True, is_dry=True)
    assert would.unsaved is None
    one = repo.top.parent / "one"
    assert one.exists()
    repo.git("add", "-A", cwd=one)
    repo.git("commit", "-qm", "x", cwd=one)
    [gone] = await worktrees.prune(control)
    assert gone.unsaved is None
    assert not one.exists()
    assert await worktrees.worktrees(control) == []


async def test_a_worktree_of_a_run_under_way_is_not_pruned(bench: Bench, control: Control, repo: Repo) -> None:
    gate = asyncio.Event()

    async def hold() -> dict[str, object]:
        await gate.wait()
        return {"text": "x"}

    handle = await bench.start(flow(Worktree("../one")[Task(id="a", output=Row)[hold]]), root_dir=str(repo.top))
    await bench.seen("NodeStarted", "a")
    async with asyncio.timeout(60):
        while not await worktrees.worktrees(control):  # noqa: ASYNC110 - nobody tells of it
            await asyncio.sleep(0.01)
    assert await worktrees.prune(control, is_forced=True) == []
    gate.set()
    assert (await asyncio.wait_for(asyncio.shield(handle.result), 60)).status == "finished"
    assert not (repo.top.parent / "one").exists()
