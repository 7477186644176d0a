"""Meters: process time and wall time of a stretch of code, memory of this process, size of a database."""

from __future__ import annotations

import gc
import time
from pathlib import Path
from types import TracebackType
from typing import Self

MEGABYTE = 1_000_000
KIBIBYTE = 1024
ENOUGH_TASKS = 1_000
"""A smaller run is repeated within one measurement until it comes to so many tasks."""


def rounds_of(n: int) -> int:
    """How often a run of `n` tasks is made within one measurement."""
    return max(1, ENOUGH_TASKS // n)


class Meter:
    """Measures its `with` block: `cpu_s` is process time of all threads, `wall_s` elapsed time."""

    cpu_s = 0.0
    wall_s = 0.0

    def __enter__(self) -> Self:
        gc.collect()
        self._wall, self._cpu = time.perf_counter(), time.process_time()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.cpu_s = time.process_time() - self._cpu
        self.wall_s = time.perf_counter() - self._wall

    def per_task(self, tasks: int) -> dict[str, float]:
        """Milliseconds a task."""
        return {"cpu_ms": self.cpu_s / tasks * 1e3, "wall_ms": self.wall_s / tasks * 1e3}


def resident_bytes(pid: int | None = None) -> int:
    """Memory of a process that is in RAM (Linux); of this one by default, after a garbage collection."""
    if pid is None:
        gc.collect()
    for line in Path(f"/proc/{'self' if pid is None else pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * KIBIBYTE
    raise OSError("the process has no VmRSS")


def kib_per_task(database: Path, tasks: int) -> float:
    """Size of a closed database, whose WAL is gone, by the tasks that it holds."""
    wal = database.with_name(database.name + "-wal")
    assert not wal.exists() or wal.stat().st_size == 0, "the database is still open"
    return database.stat().st_size / tasks / KIBIBYTE
