"""Starting: importing this project, importing a workflow, running one from the command line."""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

MODULE = "benchmarks.workflows"
ONE_TASK = Path(__file__).with_name("one_task.py")
TIMED_IMPORT = """
import time
begun, cpu = time.perf_counter(), time.process_time()
import {}
print(time.perf_counter() - begun, time.process_time() - cpu)
"""


def _import(name: str) -> dict[str, float]:
    command = [sys.executable, "-c", TIMED_IMPORT.format(name)]
    subprocess.run(command, check=True, capture_output=True)  # compiles, and warms the file cache
    found = subprocess.run(command, check=True, capture_output=True, text=True)
    wall, cpu = found.stdout.split()
    return {"ms": float(wall) * 1e3, "cpu_ms": float(cpu) * 1e3}


def package(n: int, scratch: Path) -> dict[str, float]:
    """`import smithers`."""
    return _import("smithers")


def module(n: int, scratch: Path) -> dict[str, float]:
    """Importing a module that defines workflows, and with it what they use."""
    return _import(MODULE)


def missing_command() -> str | None:
    """Why the command line cannot be measured, if it cannot."""
    if find_spec("smithers.cli") is None or find_spec("smithers.cli.app") is None:
        return "this version has no command line"
    return None if _command().exists() else "the command `smithers` is not installed beside this Python"


def command_line(n: int, scratch: Path) -> dict[str, float]:
    """`smithers up` of a workflow of one task, from start to end of the process."""
    folder = scratch / "up"
    folder.mkdir(exist_ok=True)
    _up(folder)  # warms the file cache and makes the database
    return _up(folder)


def _up(folder: Path) -> dict[str, float]:
    begun, used = time.perf_counter(), _children_cpu_s()
    ended = subprocess.run([_command(), "up", ONE_TASK], cwd=folder, capture_output=True, text=True, check=False)
    found = {"s": time.perf_counter() - begun, "cpu_s": _children_cpu_s() - used}
    if ended.returncode != 0:
        raise RuntimeError(f"smithers up ended with {ended.returncode}: {ended.stderr[-500:]}")
    return found


def _children_cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _command() -> Path:
    return Path(sys.executable).with_name("smithers")
