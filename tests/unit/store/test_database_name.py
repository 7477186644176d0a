"""One name for a database: the same however it is spelled, another for another one, and never with a password."""

from __future__ import annotations

from pathlib import Path

import pytest

from smithers.errors import StorageError
from smithers.store import database_name


def test_a_file_is_named_by_its_real_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "link.db").symlink_to(tmp_path / "a.db")
    monkeypatch.chdir(tmp_path)
    spelled = ["a.db", "./a.db", "link.db", "sqlite:///a.db", str(tmp_path / "a.db"), f"sqlite:///{tmp_path}/a.db"]
    assert {database_name(db) for db in spelled} == {str((tmp_path / "a.db").resolve())}


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("postgresql://ann:secret@host:5433/runs", "postgresql://ann@host:5433/runs"),
        ("postgres://ann:secret@host/runs", "postgresql://ann@host/runs"),
        ("postgresql://ann@/runs?host=/tmp/pg&password=secret", "postgresql://ann@/runs?host=/tmp/pg"),
        (
            "postgresql://host/runs?sslmode=require&options=-csearch_path%3Done&sslpassword=secret",
            "postgresql://host/runs?options=-csearch_path%3Done&sslmode=require",
        ),
    ],
)
def test_a_url_is_named_without_what_is_secret_and_with_what_else_it_takes_to_open_it(url: str, name: str) -> None:
    assert database_name(url) == name
    assert database_name(name) == name


def test_a_url_that_is_none_is_refused_without_repeating_it() -> None:
    with pytest.raises(StorageError) as caught:
        database_name("postgresql://ann:se@cret@host:port/runs")
    assert "cret" not in str(caught.value)
