"""`smithers gateway` and `smithers cron`, as far as they go without a gateway: which files, what is refused, schedules."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.unit.cli.support import Cli

from smithers import Gateway
from smithers.cli.gateway_files import ServedFiles, find_files
from smithers.cli.gateway_host import reachable
from smithers.errors import InvalidInput, WorkflowLoadFailed


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """State files of its own for each test."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.delenv("SMITHERS_API_KEY", raising=False)


# ── files ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_files_are_served_by_their_names_or_given_ones(cli: Cli) -> None:
    cli.write("one", "gate")
    one, gate = cli.folder / "one.py", cli.folder / "gate.py"

    assert find_files(cli.folder, [Path("one.py")], []) == {"one": one}
    assert find_files(cli.folder, [Path("one.py")], ["first=one.py", "g=gate.py"]) == {"first": one, "g": gate}
    assert find_files(cli.folder, [], ["g=gate.py"]) == {"g": gate}


def test_without_files_those_of_the_workspace_are_served(cli: Cli) -> None:
    folder = cli.folder / ".smithers" / "workflows"
    folder.mkdir(parents=True)
    for name in ("b.py", "a.py", "_shared.py", "notes.md"):
        (folder / name).touch()

    assert list(find_files(cli.folder, [], [])) == ["a", "b"]


@pytest.mark.parametrize(
    ("given", "names", "problem"),
    [
        ([], [], "no workflow to serve"),
        (["gone.py"], [], "there is no workflow file gone.py"),
        (["one.py", "sub/one.py"], [], "both be served as 'one'"),
        (["one.py"], ["x=gone.py"], "there is no workflow file gone.py"),
        ([], ["one.py"], "KEY=FILE"),
    ],
)
def test_files_that_cannot_be_meant_are_refused(cli: Cli, given: list[str], names: list[str], problem: str) -> None:
    cli.write("one")
    (cli.folder / "sub").mkdir()
    (cli.folder / "sub" / "one.py").touch()

    with pytest.raises(InvalidInput, match=problem):
        find_files(cli.folder, [Path(name) for name in given], names)


def test_a_file_that_was_changed_is_served_anew_and_a_broken_one_as_it_was(cli: Cli) -> None:
    cli.write("one")
    file = cli.folder / "one.py"
    told: list[str] = []

    async def use() -> None:
        served, gateway = ServedFiles({"one": file}, None, told.append), Gateway()
        await served.register_all(gateway, frozenset({file}))
        await served.refresh(gateway, "one")
        assert told == []
        good = file.read_text()
        file.write_text(good.replace('"a"', '"b"'))
        await served.refresh(gateway, "one")
        assert [text for text in told if "has changed" in text] == told
        file.write_text("(")
        await served.refresh(gateway, "one")
        await served.refresh(gateway, "one")
        assert len(told) == 2
        assert "served as it was" in told[1]
        assert served.status() == {"workflowsLoaded": 1, "workflowsTotal": 1}

    asyncio.run(use())


def test_of_a_workspace_what_cannot_be_loaded_is_left_out_but_a_given_file_must_be_in_order(cli: Cli) -> None:
    cli.write("one")
    (cli.folder / "broken.py").write_text("(")
    files = {name: cli.folder / f"{name}.py" for name in ("broken", "one")}
    told: list[str] = []

    async def use() -> None:
        served = ServedFiles(files, None, told.append)
        await served.register_all(Gateway(), frozenset())
        assert served.status() == {"workflowsLoaded": 1, "workflowsTotal": 2}
        assert "it is left out" in told[0]
        with pytest.raises(WorkflowLoadFailed):
            await ServedFiles(files, None, told.append).register_all(Gateway(), frozenset(files.values()))

    asyncio.run(use())


# ── what is refused ────────────────────────────────────────────────────────────────────────────────────────────────


def test_beyond_this_machine_a_token_is_needed(cli: Cli) -> None:
    cli.write("one")
    refused = cli("gateway", "one.py", "--host", "0.0.0.0")

    assert refused.code == 4
    assert "GATEWAY_INSECURE_BIND" in refused.err


@pytest.mark.parametrize("flags", [["--port", "70000"], ["--idle-timeout", "soon"], ["--backend", "oracle"]])
def test_options_that_cannot_be_are_refused(cli: Cli, flags: list[str]) -> None:
    cli.write("one")

    assert cli("gateway", "one.py", *flags).code == 4


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--backend", "postgres"], "--db postgresql://"),
        (["--backend", "postgres", "--db", "runs.db"], "--db postgresql://"),
        (["--backend", "sqlite", "--db", "postgresql://u:secret-word@host/x"], "leave one of them out"),
    ],
)
def test_a_backend_that_the_address_is_not_of_is_refused(cli: Cli, flags: list[str], says: str) -> None:
    cli.write("one")
    refused = cli("gateway", "one.py", *flags)

    assert refused.code == 4
    assert says in refused.err
    assert "secret-word" not in refused.err


def test_without_a_gateway_status_and_stop_say_so(cli: Cli) -> None:
    status = cli("gateway", "status", "--format", "json")
    assert (status.code, status.json["running"], status.json["url"]) == (1, False, None)
    assert cli("gateway", "stop").code == 0
    refused = cli("cron", "run", "c")
    assert refused.code == 4
    assert "smithers gateway" in refused.err


def test_the_address_of_a_server_on_all_interfaces_is_one_that_can_be_reached() -> None:
    assert reachable("http://0.0.0.0:7331") == "http://127.0.0.1:7331"
    assert reachable("http://[::]:7331") == "http://[::1]:7331"
    assert reachable("http://10.0.0.1:7331") == "http://10.0.0.1:7331"


# ── schedules ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_schedules_are_stored_listed_and_forgotten(cli: Cli) -> None:
    cli.write("one")
    assert cli("up", "one.py").code == 0
    assert cli("cron", "list").out == "no schedules\n"
    added = cli("cron", "add", "one", "0 8 * * 1-5", "--id", "c", "--time-zone", "UTC", "--format", "json")
    assert (added.code, added.json["cronId"], added.json["workflow"]) == (0, "c", "one")
    assert cli("cron", "add", "two", "* * * * *", "--disabled").code == 0
    listed = cli("cron", "list", "--workflow", "one")
    assert "0 8 * * 1-5" in listed.out
    assert "two" not in listed.out
    assert "disabled" in cli("cron", "list").out
    assert cli("cron", "history", "c").out == "it has not fired yet\n"
    assert cli("cron", "rm", "c").code == 0
    for command in ("rm", "history"):
        assert cli("cron", command, "c").code == 4


def test_a_pattern_that_is_none_is_refused(cli: Cli) -> None:
    cli.write("one")
    cli("up", "one.py")

    assert cli("cron", "add", "one", "every day").code == 4
