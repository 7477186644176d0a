"""The database that a run is stored in is no part of the files that its tasks change, wherever it lies."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.vcs.support import Repo

from smithers.vcs import checkpoints


@pytest.mark.parametrize("name", ["smithers.db", "state/my [1] *.db", "a\\b.db"])
def test_a_database_within_the_working_tree_is_in_no_checkpoint(tmp_path: Path, name: str) -> None:
    repo = Repo(tmp_path / "work")
    repo.write("a.txt", "1\n")
    for ending in ("", "-wal", "-shm"):
        repo.write(name + ending, "rows")
    place = checkpoints.open_repository(repo.top, database=str(repo.top / name))
    first = checkpoints.take(place, repo.top, checkpoints.checkpoint_ref("r", "1"), "one")
    listed = repo.git("ls-tree", "-r", "--name-only", first.tree).split("\n")
    assert "a.txt" in listed
    assert not any("db" in path for path in listed)


def test_one_elsewhere_or_on_a_server_excludes_nothing(tmp_path: Path) -> None:
    repo = Repo(tmp_path / "work")
    plain = checkpoints.open_repository(repo.top)
    assert checkpoints.open_repository(repo.top, database="postgresql://host/db") == plain
    assert checkpoints.open_repository(repo.top, database=str(tmp_path / "other.db")) == plain
