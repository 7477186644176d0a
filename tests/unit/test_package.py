"""The package as it is installed: its version, and what importing it costs."""

from __future__ import annotations

import ast
import pkgutil
import subprocess
import sys
import tomllib
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import smithers
from smithers import errors

ROOT = Path(__file__).parents[2]


def test_the_installed_version_is_the_one_in_pyproject() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

    assert version("smithers") == project["version"]


def test_importing_the_package_loads_neither_agents_nor_the_terminal() -> None:
    # In a process of its own: this one has imported whatever other tests needed.
    script = "import sys, smithers; print(*sorted({'pydantic_ai', 'rich', 'cyclopts'} & set(sys.modules)))"

    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)

    assert result.stdout.split() == []


def test_what_is_listed_is_what_can_be_imported() -> None:
    homes = {name for names in vars(smithers)["_HOMES"].values() for name in names}

    assert sorted(smithers.__all__) == smithers.__all__
    assert set(smithers.__all__) <= homes
    assert [name for name in smithers.__all__ if not hasattr(smithers, name)] == []


def test_every_error_is_imported_from_one_place_and_those_of_work_only_when_they_are_asked_for() -> None:
    defined = {
        name
        for module in pkgutil.iter_modules(errors.__path__)
        for name, value in vars(import_module(f"smithers.errors.{module.name}")).items()
        if isinstance(value, type) and issubclass(value, errors.SmithersError)
    }
    listed = {name for name in ERRORS_LISTED if isinstance(getattr(errors, name), type)}

    assert defined <= listed
    assert not hasattr(errors, "NoSuchError")
    script = (
        "import sys, smithers.cli.app; print({f'smithers.errors.{m}' for m in ('work', 'doors')} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
    assert result.stdout.strip() == "set()"


ERRORS_LISTED = {
    alias.name
    for node in ast.walk(ast.parse(Path(errors.__file__).read_text(encoding="utf-8")))
    if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("smithers.errors.")
    for alias in node.names
}
"""What type checkers see."""
