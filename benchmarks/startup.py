"""Starting: importing this project, importing a workflow, running one from the command line."""

from __future__ import annotations

import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

MODULE = "benchmarks.workflows"
ONE_TASK = Path(__file__).with_name("one_task.py")
TIMED_IMPORT = "import time; begun = time.perf_counter(); import {}; print(time.perf_counter() - begun)"


def _import_ms(name: str) -> float:
    found = subprocess.run(
        [sys.executable, "-c", TIMED_IMPORT.format(name)], check=True, capture_output=True, text=True
    )
    return float(found.stdout) * 1e3


def package(n: int, scratch: Path) -> dict[str, float]:
    """`import smithers`."""
    _import_ms("smithers")
    return {"ms": _import_ms("smithers")}


def module(n: int, scratch: Path) -> dict[str, float]:
    """Importing a module that defines workflows, and with it what they use."""
    _import_ms(MODULE)
    return {"ms": _import_ms(MODULE)}


def missing_command() -> str | None:
    """Why the command line cannot be measured, if it cannot."""
    if find_spec("smithers.cli") is None or find_spec("smithers.cli.app") is None:
        return "this version has no command line"
    return None if _command().exists() else "the command `smithers` is not installed beside this Python"


def command_line(n: int, scratch: Path) -> dict[str, float]:
    """`smithers up` of a workflow of one task, from start to end of the process."""
    folder = scratch / "up"
    folder.mkdir(exist_ok=True)
    found = 0.0
    for _ in range(2):  # the first one warms the file cache and makes the database
        begun = time.perf_counter()
        ended = subprocess.run([_command(), "up", ONE_TASK], cwd=folder, capture_output=True, text=True, check=False)
        found = time.perf_counter() - begun
        if ended.returncode != 0:
            raise RuntimeError(f"smithers up ended with {ended.returncode}: {ended.stderr[-500:]}")
    return {"s": found}


def _command() -> Path:
    return Path(sys.executable).with_name("smithers")
