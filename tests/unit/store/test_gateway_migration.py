"""A database from before the gateway's tables: its runs are listed as if they had been launched with them."""

from __future__ import annotations

import asyncio
import shutil
from importlib.resources import as_file, files
from pathlib import Path

import pytest

from smithers.control.control import Control
from smithers.control.run_lists import list_runs
from smithers.store import open_store
from smithers.store.sql.session import Session
from smithers.store.sqlite.database import Database


@pytest.mark.parametrize(
    ("path", "key"),
    [
        (None, "w"),
        ("/flows/review.py", "review"),
        ("review.py", "review"),
        ("/flows/my.flow.py", "my.flow"),
        ("/flows/x", "x"),
    ],
)
def test_runs_from_before_are_listed_by_age_and_by_their_files_names(
    tmp_path: Path, path: str | None, key: str
) -> None:
    with as_file(files("smithers.store.sqlite") / "migrations") as folder:
        before = tmp_path / "before"
        shutil.copytree(folder, before, ignore=lambda _, names: [name for name in names if name >= "0004"])

    def launch(c: Session) -> None:
        for run_id, at in (("r1", 5), ("r2", 6)):
            c.execute(
                "INSERT INTO _smithers_runs (run_id, workflow_name, workflow_path, status, created_at_ms) "
                "VALUES (?, 'w', ?, 'finished', ?)",
                (run_id, path, at),
            )
            c.execute(
                "INSERT INTO _smithers_run_specs (run_id, input_json, config_json) VALUES (?, '{}', '{}')", (run_id,)
            )

    old = Database.open(tmp_path / "t.db", migrations=before)
    old.write(launch)
    old.close()
    store = open_store(tmp_path / "t.db", durability="normal")

    found = asyncio.run(list_runs(Control(store), workflow_key=key))

    assert [(run["runId"], run["createdAtMs"], run["workflowKey"], run["system"]) for run in found] == [
        ("r2", 6, key, False),
        ("r1", 5, key, False),
    ]
    store.close()
