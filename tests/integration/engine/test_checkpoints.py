"""Files that tasks change are stored before the first change and after each attempt; nothing else costs anything."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import BaseModel
from tests.integration.engine.support import SETTINGS, Bench, Row, smithers, within
from tests.unit.vcs.support import Repo

from smithers import CommandAgent, Parallel, Sequence, SmithersWorkflow, Task, Workflow, define_tool, task_runtime
from smithers.components.context import Context
from smithers.components.element import Element
from smithers.store.sql import checkpoints as rows
from smithers.store.sql.checkpoints import CheckpointRow, WorkspaceRow
from smithers.tools.builtins import read, write
from smithers.tools.files import write_file_tool
from smithers.vcs import git

pytestmark = pytest.mark.anyio


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    return Repo(tmp_path / "work ü")


@pytest.fixture
def spawned(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The git commands that are run."""
    found: list[str] = []
    real = git._run  # pyright: ignore[reportPrivateUsage]

    def noted(argv: list[str], *arguments: object, **options: object) -> git.Finished:
        found.append(git._name_of(argv))  # pyright: ignore[reportPrivateUsage]
        return real(argv, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(git, "_run", noted)
    return found


def flow(*elements: Element) -> SmithersWorkflow:
    @smithers
    def files(ctx: Context[object]) -> Element:
        return Workflow("files")[elements]

    return files


def writer(name: str, path: str, text: str) -> Element:
    async def work() -> dict[str, object]:
        await write(path, text)
        return {"text": text}

    return Task(id=name, output=Row)[work]


def stored(bench: Bench, run_id: str = "r") -> list[CheckpointRow]:
    return bench.store.read(lambda c: rows.checkpoints(c, run_id))


def places(bench: Bench, run_id: str = "r") -> list[WorkspaceRow]:
    return bench.store.read(lambda c: rows.workspaces(c, run_id))


async def test_each_attempt_that_changes_files_leaves_a_checkpoint(bench: Bench, repo: Repo) -> None:
    repo.write("a.txt", "dirty before the run\n")
    before = repo.state()
    result = await bench.run(flow(writer("one", "b.txt", "1\n"), writer("two", "a.txt", "2\n")), root_dir=str(repo.top))
    assert result.status == "finished"
    [place] = places(bench)
    assert (place.cwd, place.vcs_type, place.vcs_root) == (str(repo.top), "git", str(repo.top))
    assert repo.git("show", f"{place.base_ref}:a.txt") == "dirty before the run\n"
    first, second = stored(bench)
    assert [(c.node_id, c.attempt, c.position) for c in (first, second)] == [("one", 1, 1), ("two", 1, 2)]
    assert repo.git("show", f"{first.commit_id}:b.txt") == "1\n"
    assert repo.git("show", f"{first.commit_id}:a.txt") == "dirty before the run\n"
    assert repo.git("show", f"{second.commit_id}:a.txt") == "2\n"
    after = repo.state()
    assert {**after, "status": 0, "files": 0} == {**before, "status": 0, "files": 0}


async def test_a_checkpoint_is_there_before_what_comes_after(bench: Bench, repo: Repo) -> None:
    seen: list[int] = []

    async def look() -> dict[str, object]:
        seen.append(len(stored(bench)))
        return {"text": "x"}

    await bench.run(flow(writer("one", "b", "1"), Task(id="two", output=Row)[look]), root_dir=str(repo.top))
    assert seen == [1]
    [found] = stored(bench)
    finished = next(e for e in bench.events() if e["type"] == "NodeFinished" and e["nodeId"] == "one")
    seq = finished["seq"]
    assert isinstance(seq, int)
    frame = "SELECT frame_no FROM _smithers_events WHERE run_id = 'r' AND seq = ?"
    assert bench.store.read(lambda c: c.execute(frame, (seq,)).fetchone()) == (found.frame_no,)  # one commit with it


async def test_a_task_that_touches_no_files_starts_no_process(bench: Bench, repo: Repo, spawned: list[str]) -> None:
    async def work() -> dict[str, object]:
        return {"text": await read("a.txt")}

    result = await bench.run(flow(Task(id="one", output=Row)[work]), root_dir=str(repo.top))
    assert result.status == "finished"
    assert spawned == []
    assert places(bench) == []
    assert stored(bench) == []


async def test_a_failed_attempt_leaves_one_too_and_the_next_its_own(bench: Bench, repo: Repo) -> None:
    tries: list[int] = []

    async def work() -> dict[str, object]:
        tries.append(1)
        await write("b", str(len(tries)))
        if len(tries) == 1:
            raise RuntimeError("not yet")
        return {"text": "x"}

    await bench.run(
        flow(Task(id="one", output=Row, retries=1, retry_policy={"initial_delay_ms": 0})[work]), root_dir=str(repo.top)
    )
    found = stored(bench)
    assert [c.attempt for c in found] == [1, 2]
    assert [repo.git("show", f"{c.commit_id}:b") for c in found] == ["1", "2"]
    assert len(places(bench)) == 1


async def test_a_program_as_an_agent_counts_as_touching_files(bench: Bench, repo: Repo) -> None:
    agent = CommandAgent(["sh", "-c", 'echo x > made; echo \'{"text": "done"}\''], prompt_via="arg", parser="json")
    result = await bench.run(flow(Task(id="one", output=Row, agent=agent)["Make it."]), root_dir=str(repo.top))
    assert result.status == "finished", result.error
    [found] = stored(bench)
    assert repo.git("show", f"{found.commit_id}:made") == "x\n"
    assert "made" not in repo.git("ls-tree", "--name-only", str(places(bench)[0].base_ref))


async def test_work_that_writes_by_itself_may_say_so(bench: Bench, repo: Repo) -> None:
    def work() -> dict[str, object]:
        task_runtime().touches_files()
        repo.write("mine", "x")
        return {"text": "x"}

    def by_function() -> dict[str, object]:
        write_file_tool("other", "y")
        return {"text": "x"}

    await bench.run(
        flow(Task(id="one", output=Row)[work], Task(id="two", output=Row)[by_function]), root_dir=str(repo.top)
    )
    first, second = stored(bench)
    assert repo.git("ls-tree", "--name-only", str(first.commit_id)).split() == [".gitignore", "a.txt", "mine"]
    assert repo.git("show", f"{second.commit_id}:other") == "y"


async def test_a_tool_may_say_that_it_changes_files(bench: Bench, repo: Repo) -> None:
    class Name(BaseModel):
        name: str

    @define_tool(name="make", schema=Name, touches_files=True)
    def make(args: Name) -> str:
        """Makes a file."""
        (task_runtime().root_dir / args.name).write_text("x")
        return args.name

    async def work() -> dict[str, object]:
        return {"text": await make(name="made")}

    await bench.run(flow(Task(id="one", output=Row)[work]), root_dir=str(repo.top))
    [found] = stored(bench)
    assert repo.git("show", f"{found.commit_id}:made") == "x"
    assert "made" not in repo.git("ls-tree", "--name-only", str(places(bench)[0].base_ref))


async def test_tasks_at_once_each_have_theirs_and_one_base(bench: Bench, repo: Repo, spawned: list[str]) -> None:
    tasks = [writer(f"t{n}", f"f{n}", str(n)) for n in range(5)]
    await bench.run(flow(Parallel()[tasks]), root_dir=str(repo.top))
    found = stored(bench)
    assert sorted(c.node_id for c in found) == [f"t{n}" for n in range(5)]
    assert sorted(c.position for c in found) == [1, 2, 3, 4, 5]
    assert spawned.count("commit-tree") == 6
    assert spawned.count("config") == 1
    for c in found:
        assert repo.git("show", f"{c.commit_id}:f{c.node_id[1:]}") == c.node_id[1:]


async def test_without_version_control_everything_else_works(
    bench: Bench, tmp_path: Path, spawned: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "plain"
    folder.mkdir()
    with caplog.at_level(logging.WARNING):
        result = await bench.run(flow(writer("one", "b", "1"), writer("two", "c", "1")), root_dir=str(folder))
    assert result.status == "finished"
    assert (folder / "c").read_text() == "1"
    assert spawned == []
    [place] = places(bench)
    assert place.base_ref is None
    assert [c.commit_id for c in stored(bench)] == [None, None]
    assert all("git init" in str(text) for text in (place.problem, *(c.problem for c in stored(bench))))
    assert len([r for r in caplog.records if "not stored" in r.message]) == 1


async def test_turned_off_nothing_is_stored_and_the_reason_is(bench: Bench, repo: Repo, spawned: list[str]) -> None:
    bench.new_engine(replace(SETTINGS, has_checkpoints=False))
    await bench.run(flow(writer("one", "b", "1")), root_dir=str(repo.top))
    assert spawned == []
    assert "SMITHERS_CHECKPOINTS" in str(stored(bench)[0].problem)


async def test_a_checkpoint_that_fails_is_a_warning_and_no_failure(
    bench: Bench, repo: Repo, caplog: pytest.LogCaptureFixture
) -> None:
    async def work() -> dict[str, object]:
        await write("b", "1")
        (repo.top / ".git" / "objects").rename(repo.top / ".git" / "gone")
        return {"text": "x"}

    with caplog.at_level(logging.WARNING):
        result = await bench.run(flow(Task(id="one", output=Row)[work]), root_dir=str(repo.top))
    assert result.status == "finished"
    [found] = stored(bench)
    assert found.commit_id is None
    assert found.problem
    assert "not stored" in caplog.text


async def test_a_slow_checkpoint_holds_up_nobody_else(
    bench: Bench, repo: Repo, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, begun, gate = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event()
    real = git._run  # pyright: ignore[reportPrivateUsage]

    def held(argv: list[str], *arguments: object, **options: object) -> git.Finished:
        if git._name_of(argv) == "commit-tree" and places(bench):  # pyright: ignore[reportPrivateUsage]
            loop.call_soon_threadsafe(begun.set)
            asyncio.run_coroutine_threadsafe(gate.wait(), loop).result()
        return real(argv, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(git, "_run", held)

    async def other() -> dict[str, object]:
        await begun.wait()
        return {"text": "x"}

    tree = flow(
        Parallel()[
            writer("one", "b", "1"), Sequence()[Task(id="two", output=Row)[other], Task(id="three", output=Row)[other]]
        ]
    )
    handle = await bench.start(tree, root_dir=str(repo.top))
    await bench.seen("NodeFinished", "three")
    assert bench.states()["one"] == "in-progress"
    gate.set()
    assert (await asyncio.wait_for(asyncio.shield(handle.result), 60)).status == "finished"


async def test_a_resumed_run_keeps_its_base(bench: Bench, repo: Repo) -> None:
    gate = asyncio.Event()

    async def hang() -> dict[str, object]:
        gate.set()
        await asyncio.Event().wait()
        return {}

    async def finish() -> dict[str, object]:
        await write("b", "2")
        return {"text": "x"}

    second = [hang, finish]
    tree = flow(writer("one", "b", "1"), Task(id="two", output=Row)[lambda: second.pop(0)()])
    await bench.start(tree, root_dir=str(repo.top))
    await asyncio.wait_for(gate.wait(), 60)
    bench.abandon()
    base = places(bench)
    bench.new_engine()
    result = await bench.resume(tree, force=True)
    assert result.status == "finished"
    assert places(bench) == base
    assert [c.node_id for c in stored(bench)] == ["one", "two"]


def hanging(begun: asyncio.Event) -> SmithersWorkflow:
    """Writes a file and then hangs."""

    async def work() -> dict[str, object]:
        await write("half.txt", "half\n")
        begun.set()
        await asyncio.Event().wait()
        return {}

    return flow(Task(id="one", output=Row)[work])


async def test_an_attempt_that_is_cancelled_with_its_run_leaves_a_checkpoint(bench: Bench, repo: Repo) -> None:
    begun = asyncio.Event()
    handle = await bench.start(hanging(begun), root_dir=str(repo.top))
    await within(begun.wait())

    await bench.store.request_cancel("r", bench.clock.now_ms(), "test")

    assert (await within(asyncio.shield(handle.result))).status == "cancelled"
    [found] = stored(bench)
    assert (found.node_id, found.attempt, found.problem) == ("one", 1, None)
    assert repo.git("show", f"{found.commit_id}:half.txt") == "half\n"


async def test_an_attempt_that_is_stopped_with_its_engine_leaves_a_checkpoint(bench: Bench, repo: Repo) -> None:
    begun = asyncio.Event()
    await bench.start(hanging(begun), root_dir=str(repo.top))
    await within(begun.wait())

    await bench.engine.close()

    assert bench.states() == {"one": "pending"}
    [found] = stored(bench)
    assert (found.node_id, found.attempt) == ("one", 1)
    assert repo.git("show", f"{found.commit_id}:half.txt") == "half\n"
