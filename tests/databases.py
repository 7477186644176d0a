"""The databases that tests run on: `db` names a fresh one for each test.

It is a SQLite file, unless the test's module says `BOTH_DATABASES = True`: then each of its tests that uses `db` runs on
PostgreSQL too, but for those that are about SQLite (`@pytest.mark.sqlite`). `--db sqlite`, `--db postgres` and `--db both`
say so for all modules.
"""

from __future__ import annotations

from pathlib import Path

import pytest

KINDS = ("sqlite", "postgres")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let the databases be chosen."""
    parser.addoption("--db", choices=(*KINDS, "both"), help="run tests that need a database on this one")


def pytest_configure(config: pytest.Config) -> None:
    """Make the mark known."""
    config.addinivalue_line("markers", "sqlite: is about what only SQLite has, such as its query plans")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that uses `db`, itself or through another fixture, once for each database."""
    if "db" not in metafunc.fixturenames:
        return
    chosen: str | None = metafunc.config.getoption("--db")
    if chosen is None:
        chosen = "both" if _says_both(metafunc) else "sqlite"
    if metafunc.definition.get_closest_marker("sqlite") is not None:
        chosen = "sqlite"
    kinds = KINDS if chosen == "both" else (chosen,)
    if kinds != ("sqlite",):
        metafunc.parametrize("db", kinds, indirect=True)


def _says_both(metafunc: pytest.Metafunc) -> bool:
    module = metafunc.definition.getparent(pytest.Module)
    return module is not None and bool(getattr(module.obj, "BOTH_DATABASES", False))


@pytest.fixture
def db(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The name of a fresh database, for `open_store` and wherever else a database is named."""
    if getattr(request, "param", "sqlite") == "sqlite":
        return str(tmp_path / "runs.db")
    url: str = request.getfixturevalue("postgres_url")
    return url
