"""Tasks in a Worktree work in a folder of their own, which is made once and goes again when nothing is lost with it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.integration.engine.support import Bench, Row, smithers
from tests.unit.vcs.support import Repo

from smithers import Sequence, SmithersWorkflow, Task, Workflow, Worktree, task_runtime
from smithers.components.composites import Subflow
from smithers.components.context import Context
from smithers.components.element import Element
from smithers.errors import (
    DuplicateId,
    InvalidElement,
    ToolCommandFailed,
    ToolSandboxUnavailable,
    WorktreeEmptyPath,
)
from smithers.graph.frames import decode_frame
from smithers.graph.tree import TreeNode
from smithers.store.sql import checkpoints as rows
from smithers.store.sql import reads
from smithers.testing import ScriptedAgent
from smithers.tools.builtins import bash, write
from smithers.tools.sandbox.probe import ensure

pytestmark = pytest.mark.anyio


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    return Repo(tmp_path / "work")


def flow(*elements: Element) -> SmithersWorkflow:
    @smithers
    def trees(ctx: Context[object]) -> Element:
        return Workflow("trees")[elements]

    return trees


def where(name: str = "where") -> Element:
    async def work() -> dict[str, object]:
        return {"text": str(task_runtime().root_dir)}

    return Task(id=name, output=Row)[work]


def writer(name: str, path: str = "made", text: str = "x\n") -> Element:
    async def work() -> dict[str, object]:
        await write(path, text)
        return {"text": text}

    return Task(id=name, output=Row)[work]


async def test_tasks_inside_work_there_and_others_do_not(bench: Bench, repo: Repo) -> None:
    tree = flow(
        Worktree("../one", branch="work", id="w")[where("a"), Sequence()[where("b"), Worktree("../two")[where("c")]]],
        where("d"),
    )
    result = await bench.run(tree, root_dir=str(repo.top))
    assert result.status == "finished", result.error
    above = repo.top.parent
    texts = {bench.attempts(n)[0].node_id: t for n, t in zip("abcd", bench.texts(), strict=True)}
    assert set(bench.texts()) == {str(above / "one"), str(above / "two"), str(repo.top)}
    assert texts["d"] == str(repo.top)


async def test_the_sandbox_of_tools_follows(bench: Bench, repo: Repo) -> None:
    async def look() -> dict[str, object]:
        await write("made", "x\n")
        return {"text": await bash("sh", ["-c", "pwd; ls"])}

    tree = flow(Worktree("../one", branch="work")[Task(id="a", output=Row)[look]])
    result = await bench.run(tree, root_dir=str(repo.top), sandbox="off")
    assert result.status == "finished", result.error
    one = repo.top.parent / "one"
    assert bench.texts() == [f"{one}\na.txt\nmade\n"]
    assert not (repo.top / "made").exists()
    assert one.exists()  # it holds work that is not committed
    [found] = bench.store.read(lambda c: rows.checkpoints(c, "r"))
    assert found.cwd == str(one)
    assert repo.git("show", f"{found.commit_id}:made") == "x\n"
    assert repo.git("status", "--porcelain") == ""


async def test_an_agent_is_told_its_folder(bench: Bench, repo: Repo) -> None:
    agent = ScriptedAgent(Row, {"output": Row(text="ok"), "files": {"made": "x\n"}})
    tree = flow(Worktree("../one")[Task(id="a", output=Row, agent=agent)["Make it."]])
    result = await bench.run(tree, root_dir=str(repo.top))
    assert result.status == "finished", result.error
    assert agent.calls[0].root_dir == repo.top.parent / "one"
    assert (repo.top.parent / "one" / "made").exists()
    assert str(repo.top.parent / "one") in agent.last_prompt()


async def test_one_that_holds_nothing_is_removed_after_a_successful_run(bench: Bench, repo: Repo) -> None:
    tree = flow(Worktree("../one", branch="work")[where("a")], Worktree("../two", branch="more")[writer("b")])
    await bench.run(tree, root_dir=str(repo.top))
    assert not (repo.top.parent / "one").exists()
    assert (repo.top.parent / "two").exists()
    assert [r.cwd for r, _ in bench.store.read(rows.worktrees)] == [str(repo.top.parent / "two")]
    assert "work" in repo.git("branch")


async def test_all_are_kept_if_that_is_asked_for(bench: Bench, repo: Repo) -> None:
    tree = flow(Worktree("../one", branch="work")[where("a")])
    await bench.run(tree, root_dir=str(repo.top), keep_worktrees=True)
    assert (repo.top.parent / "one").exists()


async def test_a_failed_run_keeps_all(bench: Bench, repo: Repo) -> None:
    def broken() -> dict[str, object]:
        raise ValueError

    tree = flow(Worktree("../one")[Task(id="a", output=Row, retries=0)[broken]])
    assert (await bench.run(tree, root_dir=str(repo.top))).status == "failed"
    assert (repo.top.parent / "one").exists()


async def test_tasks_at_once_share_one(bench: Bench, repo: Repo) -> None:
    tree = flow(Worktree("../one", branch="work")[[writer(f"t{n}", f"f{n}") for n in range(5)]])
    assert (await bench.run(tree, root_dir=str(repo.top))).status == "finished"
    assert {f"f{n}" for n in range(5)} <= set(repo.files(repo.top.parent / "one"))


async def test_a_resumed_run_finds_it_as_it_was(bench: Bench, repo: Repo) -> None:
    begun = asyncio.Event()

    async def hang() -> dict[str, object]:
        begun.set()
        await asyncio.Event().wait()
        return {}

    async def finish() -> dict[str, object]:
        return {"text": (task_runtime().root_dir / "made").read_text()}

    second = [hang, finish]
    tree = flow(
        Worktree("../one", branch="work")[Sequence()[writer("a"), Task(id="b", output=Row)[lambda: second.pop(0)()]]]
    )
    await bench.start(tree, root_dir=str(repo.top))
    await asyncio.wait_for(begun.wait(), 60)
    bench.abandon()
    repo.write("later.txt", "x")
    repo.commit()  # its base moves on; a run that is under way keeps its own
    bench.new_engine()
    result = await bench.resume(tree, force=True)
    assert result.status == "finished", result.error
    assert bench.texts()[-1] == "x\n"
    assert not (repo.top.parent / "one" / "later.txt").exists()


async def test_a_run_of_its_own_inside_works_there_too(bench: Bench, repo: Repo) -> None:
    inner = flow(where("inside"))
    tree = flow(Worktree("../one", branch="work")[Subflow(id="sub", workflow=inner, output=Row)])
    result = await bench.run(tree, root_dir=str(repo.top))
    assert result.status in ("finished", "failed")
    assert bench.texts("r:child:sub:0") == [str(repo.top.parent / "one")]


async def test_what_cannot_be_made_fails_its_tasks_only(bench: Bench, repo: Repo, tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "x").touch()
    tree = flow(
        Worktree(tmp_path / "taken")[Task(id="a", output=Row, retries=0, continue_on_fail=True)[lambda: {"text": "x"}]],
        where("b"),
    )
    result = await bench.run(tree, root_dir=str(repo.top))
    assert result.status == "finished"
    [attempt] = bench.attempts("a")
    assert "WORKTREE_CREATE_FAILED" in str(attempt.error_json)
    assert "something else" in str(attempt.error_json)


async def test_without_a_repository_the_error_says_so(bench: Bench, tmp_path: Path) -> None:
    tree = flow(Worktree("one")[Task(id="a", output=Row, retries=0)[lambda: {"text": "x"}]])
    result = await bench.run(tree, root_dir=str(tmp_path))
    assert result.status == "failed"
    assert "git init" in str(result.error)


def test_mistakes_are_told_where_they_are_made() -> None:
    for path in ("", "  "):
        with pytest.raises(WorktreeEmptyPath):
            Worktree(path, skip_if=True)
    for name in ("-b", "", "a\nb"):
        with pytest.raises(InvalidElement):
            Worktree("x", branch=name)
        with pytest.raises(InvalidElement):
            Worktree("x", base_branch=name)
    with pytest.raises(InvalidElement):
        Worktree(7)  # type: ignore[arg-type]


async def test_two_of_one_id_are_refused_and_their_names_are_their_own(bench: Bench, repo: Repo) -> None:
    twice = flow(Worktree("../a", id="w")[where("a")], Worktree("../b", id="w")[where("b")])
    result = await bench.run(twice, root_dir=str(repo.top))
    assert DuplicateId.code in str(result.error)
    shared = flow(Worktree("../a", id="a")[where("a")])
    assert (await bench.run(shared, run_id="r2", root_dir=str(repo.top))).status == "finished"


async def test_a_workflow_can_ask_for_the_folder(bench: Bench, repo: Repo) -> None:
    seen: list[object] = []

    @smithers
    def asking(ctx: Context[object]) -> Element:
        seen.append((ctx.resolve_worktree_path("../one"), ctx.worktree_path("w")))
        return Workflow("asking")[Worktree("../one", id="w")[where("a")], where("b")]

    await bench.run(asking, root_dir=str(repo.top))
    assert seen[0] == (str(repo.top.parent / "one"), None)
    assert seen[-1] == (str(repo.top.parent / "one"), str(repo.top.parent / "one"))


async def test_the_frame_shows_it(bench: Bench, repo: Repo) -> None:
    await bench.run(flow(Worktree("../one", branch="work", id="w")[where("a")]), root_dir=str(repo.top))
    frames = bench.store.read(lambda c: reads.frames(c, "r"))
    tree = decode_frame(frames[0].encoding, frames[0].tree, None)
    assert tree is not None
    [child] = tree.children
    assert isinstance(child, TreeNode)
    assert (child.tag, dict(child.props)) == ("smithers:worktree", {"branch": "work", "id": "w", "path": "../one"})


# ── git in the sandbox ─────────────────────────────────────────────────────────────────────────────────────────────


async def in_sandbox(bench: Bench, repo: Repo, *commands: list[str]) -> list[str]:
    """What commands say in a worktree, one after the other; of one that fails, how it failed."""
    said: list[str] = []

    async def work() -> dict[str, object]:
        await write("a.txt", "changed\n")
        for command in commands:
            try:
                said.append(await bash(command[0], command[1:]))
            except ToolCommandFailed as error:
                said.append(f"{error.summary}\n{error.details['output']}")
        return {"text": "x"}

    try:
        await ensure(allow_network=False)
    except ToolSandboxUnavailable:
        pytest.skip("this machine cannot isolate commands")
    tree = flow(Worktree("../one", branch="work")[Task(id="a", output=Row)[work]])
    assert (await bench.run(tree, root_dir=str(repo.top))).status == "finished"
    return said


async def test_git_reads_in_a_sandboxed_worktree(bench: Bench, repo: Repo) -> None:
    status, diff, log, branch = await in_sandbox(
        bench,
        repo,
        ["git", "status", "--short"],
        ["git", "diff"],
        ["git", "log", "--format=%s"],
        ["git", "branch", "--show-current"],
    )

    assert status == " M a.txt\n"
    assert "-one\n+changed\n" in diff
    assert (log, branch) == ("work\n", "work\n")


async def test_nothing_in_a_sandboxed_worktree_changes_the_repository(bench: Bench, repo: Repo) -> None:
    hook = str(repo.top / ".git" / "hooks" / "post-commit")
    before = {path: path.stat().st_mtime_ns for path in (repo.top / ".git" / "hooks", repo.top / ".git" / "config")}

    add, planted, configured, listed = await in_sandbox(
        bench,
        repo,
        ["git", "add", "a.txt"],
        ["sh", "-c", f"echo evil > {hook}"],
        ["git", "config", "core.fsmonitor", "evil"],
        ["ls", str(repo.top)],
    )

    assert "may be read here, but not changed (git add and commit included)" in add
    assert "Read-only file system" in planted
    assert "ended with exit code" in configured
    assert "a.txt" not in listed  # beside its git directory nothing of the repository is there
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert not Path(hook).exists()  # noqa: ASYNC240


async def test_a_worktree_that_says_it_is_of_another_repository_shows_nothing_of_that(
    bench: Bench, repo: Repo, tmp_path: Path
) -> None:
    secret = Repo(tmp_path / "secret")
    pointer = f"gitdir: {secret.top / '.git'}"

    _, looked, again = await in_sandbox(
        bench,
        repo,
        ["sh", "-c", f"rm -f .git && echo {pointer!r} > .git"],
        ["git", "log"],
        ["ls", str(secret.top / ".git")],
    )

    assert "ended with exit code" in looked
    assert "ended with exit code" in again
