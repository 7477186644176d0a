"""`diff` of files, `snapshots`, `restore`, `revert`, `worktree`: as a person and as a program see them."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.cli.support import HEAD, Cli, at
from tests.unit.vcs.support import Repo

FLOW = """
from smithers import Worktree, define_tool, write

async def first():
    await write("made.txt", "one\\n")
    return {"n": 1}

async def second():
    await write("made.txt", "two\\n")
    await write("other.bin", "\\0")
    return {"n": 2}

async def undo(context):
    note("undone")

class Order(BaseModel):
    sku: str = "tea"

@define_tool(name="order", schema=Order, side_effect=True, revert=undo)
async def order(args):
    return "ordered"

async def third():
    await order()
    return {"n": 3}

async def apart():
    await write("apart.txt", "x\\n")
    return {"n": 3}

@smithers
def files(ctx):
    return Workflow(name="files")[
        Task(id="a", output=outputs.output)[first],
        Task(id="b", output=outputs.output)[second],
        Task(id="idle", output=outputs.output)[lambda: {"n": 0}],
        ctx.input.get("buy") and Task(id="buy", output=outputs.output)[third],
        ctx.input.get("tree") and Worktree("../tree", branch="tree")[Task(id="w", output=outputs.output)[apart]],
    ]
"""


@pytest.fixture
def repo(cli: Cli) -> Repo:
    (cli.folder / "files.py").write_text(HEAD + FLOW)
    repo = Repo(cli.folder / "work")
    assert cli("up", "files.py", "--run-id", "r", "--root", "work").code == 0
    return repo


def test_what_a_step_has_changed_is_a_patch(cli: Cli, repo: Repo, tmp_path: Path) -> None:
    found = cli("diff", "r", "b")
    assert found.code == 0
    assert "-one\n+two\n" in found.out
    copy = Repo(tmp_path / "copy")
    copy.write("made.txt", "one\n")
    (tmp_path / "patch").write_text(found.out)
    copy.git("apply", str(tmp_path / "patch"))
    assert copy.files() == repo.files()
    assert at(cli("diff", "r", "a", "--format", "json").json, "patches", 0, "path") == "made.txt"


def test_how_much_has_changed_is_a_table(cli: Cli, repo: Repo) -> None:
    found = cli("diff", "r", "b", "--stat")
    assert found.out.splitlines()[1].split() == ["modify", "+1", "-1", "made.txt"]
    assert found.out.endswith("2 files changed\n")


def test_what_a_run_has_changed_in_all(cli: Cli, repo: Repo) -> None:
    found = cli("diff", "r")
    assert "+++ b/made.txt" in found.out
    assert "+two" in found.out
    assert "one" not in found.out


def test_what_has_no_difference_says_why(cli: Cli, repo: Repo) -> None:
    idle = cli("diff", "r", "idle")
    assert (idle.code, "AttemptNotFinished" in idle.err) == (4, True)
    assert cli("diff", "r", "nope").code == 4
    assert cli("up", "files.py", "--run-id", "plain", "--root", ".").code == 0
    plain = cli("diff", "plain", "a")
    assert (plain.code, "git init" in plain.err) == (4, True)


def test_the_checkpoints_of_a_run_are_listed(cli: Cli, repo: Repo) -> None:
    found = cli("snapshots", "r")
    assert [line.split()[:3] for line in found.out.splitlines()[1:]] == [["1", "a", "1"], ["2", "b", "1"]]
    told = cli("snapshots", "r", "b", "--format", "json").json
    assert at(told, "snapshots", 0, "nodeId") == "b"
    assert at(told, "snapshots", 0, "cwd") == str(repo.top)
    assert cli("snapshots", "nope").code == 4


def test_files_go_back_and_the_users_own_are_kept(cli: Cli, repo: Repo) -> None:
    found = cli("restore", "r", "a")
    assert found.code == 0
    assert repo.files()["made.txt"] == b"one\n"
    assert "other.bin" in found.out
    assert cli("restore", "r", "a").out.endswith("is like that already\n")
    repo.write("mine", "x")
    refused = cli("restore", "r", "b")
    assert (refused.code, "WorkingTreeDirty" in refused.err) == (4, True)
    forced = cli("restore", "r", "b", "--force")
    assert "mine" not in repo.files()
    kept = forced.out.splitlines()[-1].rpartition(" ")[2]
    assert repo.git("show", f"{kept}:mine") == "x"


@pytest.mark.parametrize("line", ["rewind r 1 --yes", "timetravel r -n b"])
def test_nothing_is_undone_outside_if_files_cannot_be_put_back(cli: Cli, repo: Repo, line: str) -> None:
    command, _, *rest = line.split()
    assert cli("up", "files.py", "--run-id", "s", "--root", "work", "--input", '{"buy": true}').code == 0
    repo.write("mine", "x")

    refused = cli(command, "s", *rest)

    assert (refused.code, "WorkingTreeDirty" in refused.err, ": mine;" in refused.err) == (4, True, True)
    assert not (cli.folder / "done.txt").exists()
    forced = cli(command, "s", *rest, "--force")
    assert forced.code == 0
    assert (cli.folder / "done.txt").read_text() == "undone\n"
    (kept,) = [line.split()[-1] for line in forced.out.splitlines() if "are kept: git" in line]
    assert repo.git("show", f"{kept}:mine") == "x"


def test_a_program_is_told_what_files_were_kept(cli: Cli, repo: Repo) -> None:
    repo.write("mine", "x")

    told = cli("rewind", "r", "1", "--yes", "--force", "--format", "json").json

    assert at(told, "keptFiles", 0, "cwd") == str(repo.top)
    assert repo.git("show", f"{at(told, 'keptFiles', 0, 'commit')}:mine") == "x"


def test_a_replay_that_cannot_put_files_back_makes_no_run(cli: Cli, repo: Repo) -> None:
    repo.write("mine", "x")
    line = ("replay", "r", "--frame", "1", "--restore-vcs", "--new-run-id", "f")

    refused = cli(*line)

    assert (refused.code, "WorkingTreeDirty" in refused.err) == (4, True)
    assert cli("inspect", "f").code == 4
    done = cli(*line, "--force")
    assert done.code == 0
    assert "are kept: git" in done.out
    assert '"restoreVcs": true' in cli("events", "f", "--format", "json").out


def test_what_a_fork_has_from_another_run_is_shown_by_that_run(cli: Cli, repo: Repo) -> None:
    assert cli("fork", "r", "--new-run-id", "f").code == 0

    refused = cli("diff", "f", "a")

    assert refused.code == 4
    assert "it was made in run 'r'" in refused.err


def test_a_revert_is_noted_in_the_run(cli: Cli, repo: Repo) -> None:
    told = cli("revert", "r", "a", "--format", "json").json
    assert told["changed"] == ["made.txt", "other.bin"]
    assert "RevertFinished" in cli("events", "r").out


def test_worktrees_are_listed_and_pruned(cli: Cli, repo: Repo) -> None:
    assert cli("worktree", "list").out == "no worktrees\n"
    assert cli("up", "files.py", "--run-id", "t", "--root", "work", "--input", '{"tree": true}').code == 0
    assert at(cli("worktree", "list", "--format", "json").json, "worktrees", 0, "path") == str(cli.folder / "tree")
    assert "not committed" in cli("worktree", "list").out
    assert "kept" in cli("worktree", "prune").out
    assert "would be removed" in cli("worktree", "prune", "--force", "--dry-run").out
    assert (cli.folder / "tree").exists()
    assert cli("worktree", "prune", "--force", "--older-than", "1h").out == "nothing to remove\n"
    assert "removed" in cli("worktree", "prune", "--force", "--run", "t").out
    assert not (cli.folder / "tree").exists()


def test_checkpoints_can_be_removed(cli: Cli, repo: Repo) -> None:
    assert cli("snapshots", "r", "--forget").out == "3 removed\n"
    assert repo.git("for-each-ref", "refs/smithers") == ""
    assert "no checkpoints" in cli("snapshots", "r").out
    assert cli("diff", "r", "a").code == 4
    assert cli("diff", "r").code == 4
