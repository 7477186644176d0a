"""A folder with workflows, in which real `smithers` processes run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.acceptance.cli.support import Shell
from tests.unit.cli.support import WORKFLOWS, write_workflows


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    write_workflows(tmp_path, *WORKFLOWS)
    found = Shell(tmp_path)
    yield found
    found.stop()
