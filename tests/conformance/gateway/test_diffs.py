"""Differences of files over RPC and REST: what they hold, and what is said where there is none."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from tests.conformance.gateway.contract import METHODS, hold, status_of
from tests.conformance.gateway.support import TRANSPORTS, House, house_of
from tests.conformance.gateway.world import World
from tests.unit.vcs.support import Repo

from smithers.control import diffs
from smithers.vcs import bundles


def test_a_nodes_difference_is_what_it_changed(world: World) -> None:
    whole = world.house.ok("getRunDiff", runId=world.written)
    for transport in TRANSPORTS:
        found = world.house.call("getNodeDiff", {"runId": world.written, "nodeId": "a"}, transport).payload
        [patch] = found["patches"]
        assert (patch["path"], patch["operation"]) == ("made.txt", "add")
        assert patch["diff"].endswith("--- /dev/null\n+++ b/made.txt\n@@ -0,0 +1 @@\n+made\n")
        assert found["seq"] == 1
        assert (whole["patches"], whole["baseRef"]) == (found["patches"], found["baseRef"])


def test_rest_gives_the_same(world: World) -> None:
    expected = world.house.ok("getNodeDiff", runId=world.written, nodeId="a", iteration=0)
    for path in (f"nodes/{world.written}/a/diff", f"runs/{world.written}/nodes/a/diff"):
        answer = world.house.http.get(f"/v1/api/{path}")
        assert answer.json()["data"] == expected


@pytest.mark.parametrize(
    ("params", "code"),
    [
        ({"runId": "no-such-run", "nodeId": "a"}, "RunNotFound"),
        ({"runId": "{written}", "nodeId": "zzz"}, "NodeNotFound"),
        ({"runId": "{written}", "nodeId": "a", "iteration": 7}, "AttemptNotFound"),
        ({"runId": "{done}", "nodeId": "a"}, "AttemptNotFinished"),
        ({"runId": "{written}", "nodeId": ""}, "InvalidNodeId"),
        ({"runId": "", "nodeId": "a"}, "InvalidRunId"),
        ({"runId": "{written}", "nodeId": "a", "iteration": -1}, "InvalidIteration"),
    ],
)
def test_what_has_no_difference_says_why(world: World, params: dict[str, object], code: str) -> None:
    real = {"{written}": world.written, "{done}": world.done}
    params = {name: real.get(str(value), value) for name, value in params.items()}
    for transport in TRANSPORTS:
        answer = world.house.call("getNodeDiff", params, transport)
        assert answer.code == code
        assert answer.code in METHODS["getNodeDiff"].emits
        assert transport == "socket" or answer.status == status_of(code)


def test_a_task_under_way_has_none_yet(world: World) -> None:
    answer = world.house.call("getNodeDiff", {"runId": world.busy(), "nodeId": "nap"})
    assert (answer.status, answer.code) == (409, "AttemptNotFinished")


def test_a_run_that_has_not_ended_or_changed_nothing_has_none(world: World) -> None:
    asking = world.house.call("getRunDiff", {"runId": world.asking})
    assert (asking.status, asking.code) == (409, "RUN_ACTIVE")
    done = world.house.call("getRunDiff", {"runId": world.done})
    assert (done.status, done.code) == (500, "VcsError")
    assert "used a tool" in str(done.frame)
    gone = world.house.call("getRunDiff", {"runId": "no-such-run"})
    assert (gone.status, gone.code) == (404, "RunNotFound")


@pytest.fixture
def plain(tmp_path: Path) -> Iterator[House]:
    """A gateway whose runs work in a folder under no version control."""
    with house_of(tmp_path) as house:
        yield house


def test_without_version_control_the_answer_says_what_to_do(plain: House) -> None:
    run_id = plain.start("writing", until="finished")
    for method, params in (("getNodeDiff", {"runId": run_id, "nodeId": "a"}), ("getRunDiff", {"runId": run_id})):
        answer = plain.call(method, params)
        assert (answer.status, answer.code) == (500, "VcsError")
        assert "git init" in str(answer.frame)


def test_a_repository_that_is_gone_is_an_error_and_a_known_difference_stays(plain: House, tmp_path: Path) -> None:
    repo = Repo(tmp_path / "work")
    first, second = plain.start("writing", until="finished"), plain.start("writing", until="finished")
    known = plain.ok("getNodeDiff", runId=first, nodeId="a")
    assert len(known["patches"]) == 1
    (repo.top / ".git").rename(tmp_path / "elsewhere")
    assert plain.ok("getNodeDiff", runId=first, nodeId="a") == known
    answer = plain.call("getNodeDiff", {"runId": second, "nodeId": "a"})
    assert (answer.status, answer.code) == (500, "VcsError")


def test_what_is_too_large_is_refused_or_told(plain: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Repo(tmp_path / "work")
    run_id = plain.start("writing", until="finished")
    monkeypatch.setattr(diffs, "MAX_BYTES", 10)
    monkeypatch.setattr(diffs, "patches_between", partial(bundles.patches_between, max_bytes=10))
    answer = plain.call("getNodeDiff", {"runId": run_id, "nodeId": "a"})
    assert (answer.status, answer.code) == (413, "DiffTooLarge")
    told = plain.ok("getRunDiff", runId=run_id)
    hold(told, METHODS["getRunDiff"].payload, "getRunDiff")
    assert told["status"] == "oversized"
    assert told["sizeBytes"] > told["maxBytes"] == 10


def test_a_binary_file_comes_with_its_content(plain: House, tmp_path: Path) -> None:
    repo = Repo(tmp_path / "work")
    repo.write("made.txt", b"\0binary before")
    run_id = plain.start("writing", until="finished")
    found = plain.ok("getNodeDiff", runId=run_id, nodeId="a")
    hold(found, METHODS["getNodeDiff"].payload, "getNodeDiff")
    [patch] = found["patches"]
    assert patch["operation"] == "modify"
    assert base64.b64decode(patch["binaryContent"]) == b"made\n"


def test_how_two_runs_differ_names_their_nodes(world: World) -> None:
    found = world.house.ok("runs.diff", leftRunId=world.done, rightRunId=world.failed)
    assert "bad" in str(found)
    answer = world.house.call("runs.diff", {"leftRunId": world.done, "rightRunId": "no-such-run"})
    assert (answer.status, answer.code) == (404, "NOT_FOUND")
