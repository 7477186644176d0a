"""The release example: everything out, or everything taken back in reverse order; the temporary folder never stays."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import pytest
from tests.acceptance.examples import support

from smithers import RunStatus, load_workflow
from smithers.components.workflow import SmithersWorkflow

EXAMPLE = support.EXAMPLES / "release.py"


@pytest.fixture
def workflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SmithersWorkflow:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setattr("tempfile.tempdir", None)
    return load_workflow(EXAMPLE)


def request(tmp_path: Path, **more: object) -> dict[str, object]:
    return {"registry": str(tmp_path / "registry"), "version": "1.4.2", "bump": "minor", "soak": "1ms", **more}


def published(tmp_path: Path) -> list[str]:
    registry = tmp_path / "registry"
    return sorted(str(f.relative_to(registry)) for f in registry.rglob("*") if f.is_file())


def test_a_release_is_built_checked_published_and_announced(workflow: SmithersWorkflow, tmp_path: Path) -> None:
    result, events = support.run(workflow, tmp_path / "x.db", request(tmp_path), wait=True)

    assert result.status is RunStatus.FINISHED
    place = "packages/sample/1.5.0"
    assert published(tmp_path) == [
        "packages/sample/1.5.0/SHA256SUMS",
        "packages/sample/1.5.0/sample-1.5.0-py3-none-any.whl",
        "packages/sample/1.5.0/sample-1.5.0.tar.gz",
        "packages/sample/LATEST",
        "tags/sample-1.5.0.json",
    ]
    for line in (tmp_path / "registry" / place / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split()
        assert sha256((tmp_path / "registry" / place / name).read_bytes()).hexdigest() == digest
    order = support.finished(events)
    assert order.index("go") < order.index("tag-do") < order.index("publish-do") < order.index("announce-do")
    assert list((tmp_path / "temporary").iterdir()) == []


def test_a_failing_step_takes_the_finished_ones_back_in_reverse_order(
    workflow: SmithersWorkflow, tmp_path: Path
) -> None:
    result, events = support.run(workflow, tmp_path / "x.db", request(tmp_path, fail_at="announce"), wait=True)

    assert result.status is RunStatus.FAILED
    shipped = [id for id in support.finished(events) if id in {"tag-do", "publish-do", "announce-do", "yank", "untag"}]
    assert shipped == ["tag-do", "publish-do", "yank", "untag"]
    assert support.finished(events)[-1] == "clean-up"
    assert published(tmp_path) == []
    assert list((tmp_path / "temporary").iterdir()) == []


@pytest.mark.parametrize(
    ("fail_at", "taken_back"), [("check", []), ("tag", []), ("publish", ["untag"])], ids=["check", "tag", "publish"]
)
def test_only_what_was_done_is_taken_back(
    workflow: SmithersWorkflow, tmp_path: Path, fail_at: str, taken_back: list[str]
) -> None:
    result, events = support.run(workflow, tmp_path / "x.db", request(tmp_path, fail_at=fail_at), wait=True)

    assert result.status is RunStatus.FAILED
    assert [id for id in support.finished(events) if id in ("yank", "untag")] == taken_back
    assert published(tmp_path) == []
    assert list((tmp_path / "temporary").iterdir()) == []


def test_killed_while_it_takes_back_it_goes_on_taking_back(workflow: SmithersWorkflow, tmp_path: Path) -> None:
    db, asked = tmp_path / "x.db", request(tmp_path, fail_at="publish")

    support.run_and_kill(EXAMPLE, db, "r", asked, at="NodeFailed", node="publish-do")
    result, _ = support.run(workflow, db, run_id="r", resume=True)

    assert result.status is RunStatus.FAILED
    assert published(tmp_path) == []
    assert len(support.attempts(db, "r")["tag-do"]) == 1


def test_a_version_is_released_once(workflow: SmithersWorkflow, tmp_path: Path) -> None:
    first, _ = support.run(workflow, tmp_path / "x.db", request(tmp_path), wait=True)
    second, _ = support.run(workflow, tmp_path / "x.db", request(tmp_path), wait=True)

    assert (first.status, second.status) == (RunStatus.FINISHED, RunStatus.FAILED)
    assert "packages/sample/1.5.0/SHA256SUMS" in published(tmp_path)
