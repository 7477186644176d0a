"""The code health example: what it finds, whom it asks, and that being killed costs it nothing that was finished."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from tests.acceptance.examples import support

from smithers import RunStatus, load_workflow
from smithers.components.workflow import SmithersWorkflow

EXAMPLE = support.EXAMPLES / "code_health.py"
REPEATED = """
    total = 0
    for value in values:
        if value > 0:
            total += value
        else:
            total -= value
    print(total)
    return total
"""


@pytest.fixture
def workflow(monkeypatch: pytest.MonkeyPatch) -> SmithersWorkflow:
    monkeypatch.delenv("SMITHERS_MODEL", raising=False)
    return load_workflow(EXAMPLE)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    source = tmp_path / "code"
    (source / ".hidden").mkdir(parents=True)
    (source / ".hidden" / "no.py").write_text("x = 1\n")
    (source / "good.py").write_text(
        '"""Says hello."""\n\n\ndef hello() -> str:\n    """Hello."""\n    return "hello"\n'
    )
    (source / "first.py").write_text(f'"""First."""\n\n\ndef one(values):\n    """One."""{REPEATED}')
    (source / "second.py").write_text(f"def two(values):{REPEATED}\n\n# TODO(me): say what this is for\n")
    (source / "broken.py").write_text("def broken(:\n")
    (source / "empty.py").write_text("")
    return source


def test_the_report_ranks_what_was_found(workflow: SmithersWorkflow, tree: Path, tmp_path: Path) -> None:
    result, _ = support.run(
        workflow, tmp_path / "x.db", {"path": "code", "report": "out/report.md"}, root_dir=str(tmp_path)
    )

    assert result.status is RunStatus.FINISHED
    assert result.output is not None
    assert support.as_json(result.output[0])["worst"] == "code/broken.py"
    report = (tmp_path / "out/report.md").read_text()
    assert report.index("`code/broken.py`") < report.index("`code/second.py`") < report.index("`code/good.py`")
    assert "- 8 lines: `code/first.py:6`, `code/second.py:2`" in report
    assert "`code/second.py:12: TODO(me): say what this is for`" in report
    assert "`code/broken.py`: SyntaxError" in report
    assert "hidden" not in report


def test_a_person_who_was_asked_and_says_no_gets_no_report(
    workflow: SmithersWorkflow, tree: Path, tmp_path: Path
) -> None:
    from smithers.control.caller import Caller
    from smithers.control.control import Control
    from smithers.store import open_store

    async def deny() -> None:
        store = open_store(str(tmp_path / "x.db"))
        try:
            await Control(store).decide("r", approved=False, caller=Caller("ann"))
        finally:
            store.close()

    request = {"path": "code", "report": "report.md", "ask": True}
    parked, _ = support.run(workflow, tmp_path / "x.db", request, run_id="r", root_dir=str(tmp_path))
    asyncio.run(deny())
    ended, _ = support.run(workflow, tmp_path / "x.db", run_id="r", resume=True)

    assert parked.status is RunStatus.WAITING_APPROVAL
    assert ended.status is RunStatus.FINISHED
    assert not (tmp_path / "report.md").exists()


def test_a_model_that_cannot_be_reached_costs_only_its_own_section(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMITHERS_MODEL", "no-such-model")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)

    result, _ = support.run(
        load_workflow(EXAMPLE), tmp_path / "x.db", {"path": "code", "report": "report.md"}, root_dir=str(tmp_path)
    )

    assert result.status is RunStatus.FINISHED
    assert result.failed_child_keys == ("advice::0",)
    assert "What a model says" not in (tmp_path / "report.md").read_text()


def test_killed_halfway_it_goes_on_without_repeating_a_finished_task(
    workflow: SmithersWorkflow, tmp_path: Path
) -> None:
    source = tmp_path / "code"
    source.mkdir()
    for number in range(12):
        (source / f"m{number:02}.py").write_text(f'"""Module {number}."""\n\nx = {number}\n')
    db, request = tmp_path / "x.db", {"path": str(source), "report": str(tmp_path / "report.md")}

    support.run_and_kill(EXAMPLE, db, "r", request, at="NodeFinished", node="scan:", count=5)
    before = {id for id, rows in support.attempts(db, "r").items() if rows[-1].state == "finished"}
    result, _ = support.run(workflow, db, run_id="r", resume=True)
    after = support.attempts(db, "r")

    assert result.status is RunStatus.FINISHED
    assert {"list"} < before < set(after)
    assert all(len(after[id]) == 1 for id in before)
    assert all([row.state for row in rows].count("finished") == 1 for rows in after.values())
    assert "12 files" in (tmp_path / "report.md").read_text()


def test_the_demo_ends_by_itself_with_a_report(tmp_path: Path) -> None:
    request = {"path": "src/smithers/agents", "report": str(tmp_path / "report.md")}
    done = support.smithers(tmp_path, "up", str(EXAMPLE), "--input", json.dumps(request), "--root", str(support.ROOT))

    assert done.returncode == 0, done.stderr
    assert "`src/smithers/agents/resolve.py`" in (tmp_path / "report.md").read_text()
