"""Loading a workflow file: always what is saved now, never what another folder or an earlier second had."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import cast

import pytest

from smithers import load_workflow
from smithers.components.workflow import SmithersWorkflow
from smithers.errors import WorkflowLoadFailed

FLOW = """
from pydantic import BaseModel
from smithers import Task, Workflow, create_smithers
from words import WORD
from parts.more import MORE

class Row(BaseModel):
    text: str

smithers, outputs = create_smithers({"row": Row})

@smithers
def flow(ctx):
    from words import WORD as late
    return Workflow(name=f"{WORD}-{MORE}-{late}")[Task("a", output=Row)[{"text": ""}]]
"""


def project(folder: Path, word: str, *, is_package: bool = False) -> Path:
    (folder / "parts").mkdir(parents=True, exist_ok=True)
    (folder / "words.py").write_text(f"WORD = {word!r}")
    (folder / "parts" / "more.py").write_text(f"MORE = {word!r}")
    if is_package:
        (folder / "parts" / "__init__.py").write_text("from words import WORD")
    (folder / "flow.py").write_text(FLOW)
    return folder / "flow.py"


def name_of(workflow: SmithersWorkflow) -> str:
    return cast("str", workflow.build(None).name)  # type: ignore[attr-defined]


@pytest.mark.parametrize("is_package", [True, False])
@pytest.mark.parametrize("is_other_package", [True, False])
def test_folders_with_modules_of_the_same_names_do_not_meet(
    tmp_path: Path, is_package: bool, is_other_package: bool
) -> None:
    one = project(tmp_path / "one", "one", is_package=is_package)
    two = project(tmp_path / "two", "two", is_package=is_other_package)
    first, second = load_workflow(one), load_workflow(two)
    assert name_of(second) == "two-two-two"
    assert name_of(first).startswith("one-one-")
    assert name_of(load_workflow(one)) == "one-one-one"


def test_modules_in_packages_are_imported_afresh(tmp_path: Path) -> None:
    file = project(tmp_path, "old", is_package=True)
    before = load_workflow(file)
    project(tmp_path, "new", is_package=True)
    assert name_of(load_workflow(file)) == "new-new-new"
    assert name_of(before).startswith("old-old-")


def test_a_load_that_fails_leaves_what_was_loaded_before(tmp_path: Path) -> None:
    file = project(tmp_path, "old")
    before = load_workflow(file)
    modules = {name: module for name, module in sys.modules.items() if name.split(".")[0] in ("words", "parts")}
    assert len(modules) == 3
    project(tmp_path, "new")
    (tmp_path / "parts" / "more.py").write_text("1 / 0")
    with pytest.raises(WorkflowLoadFailed, match="ZeroDivisionError"):
        load_workflow(file)
    assert {name: sys.modules.get(name) for name in modules} == modules
    assert name_of(before) == "old-old-old"


def test_what_python_has_kept_compiled_is_not_taken_for_a_file_of_the_same_second_and_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    file = project(tmp_path, "old")
    sys.path.insert(0, str(tmp_path))
    try:
        __import__("words")  # by Python's own loader, which keeps it
    finally:
        sys.path.remove(str(tmp_path))
        del sys.modules["words"]
    saved = (tmp_path / "words.py").stat()
    project(tmp_path, "new")
    os.utime(tmp_path / "words.py", ns=(saved.st_atime_ns, saved.st_mtime_ns))
    assert name_of(load_workflow(file)) == "new-new-new"


def test_what_python_has_kept_compiled_is_used_for_files_that_were_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    file = project(tmp_path, "old")
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 60)
    load_workflow(file)
    assert [kept.name.partition(".")[0] for kept in (tmp_path / "__pycache__").iterdir()].count("words") == 1


def test_a_file_that_is_not_python_is_refused(tmp_path: Path) -> None:
    (tmp_path / "flow.txt").write_text(FLOW)
    with pytest.raises(WorkflowLoadFailed, match="not a Python file"):
        load_workflow(tmp_path / "flow.txt")
