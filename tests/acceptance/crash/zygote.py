"""Makes processes cheaply: a process that has everything imported and no database open, forked for each order.

Run as a script it serves orders on its standard input, one JSON object a line. It answers each with two lines: the pid of
the process that it made, and how that process ended.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

if __name__ == "__main__":  # run by path, so that nothing but this project's root has to be found
    sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from tests.acceptance.crash.child import Order, Report, carry_out
from tests.acceptance.crash.workflows import WORKFLOWS, chapter, doomed_chapter

from smithers.engine.admission import workflow_hash

PATIENCE_S: Final = 90.0
"""How long a process may take. Far beyond what any order needs."""


@dataclass(frozen=True)
class Ending:
    """How a process ended."""

    signal: int
    """The signal that killed it, 0 if it ended by itself."""
    report: Report

    @property
    def was_killed(self) -> bool:
        """Whether it died as it was told to."""
        return self.signal == signal.SIGKILL


class Zygote:
    """A server of processes. One order at a time; make several for several processes at once."""

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        environment = {key: value for key, value in os.environ.items() if not key.startswith("COVERAGE")}
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
        )
        self._pending = b""
        self._child: int | None = None
        self._is_owing = False
        """Whether an answer to the last order is still to come."""

    def start(self, order: Order) -> int:
        """Make a process for an order. Returns its pid."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(asdict(order)).encode() + b"\n")
        self._process.stdin.flush()
        self._is_owing = True
        self._child = int(self._line())
        return self._child

    def ending(self) -> Ending:
        """Wait for the process that was started last."""
        found = json.loads(self._line())
        self._child, self._is_owing = None, False
        return Ending(found["signal"], Report(**found["report"]))

    def run(self, order: Order) -> Ending:
        """Carry an order out in a process of its own."""
        self.start(order)
        return self.ending()

    def fileno(self) -> int:
        """What `select` waits for: readable once there is an ending."""
        assert self._process.stdout is not None
        return self._process.stdout.fileno()

    def clear(self) -> None:
        """Have nothing left of a failed test: neither its process nor an answer that the next test would take for its own."""
        if self._is_owing:
            self._end()
            self._begin()

    def close(self) -> None:
        """End the server, and what it has made."""
        self._end()

    def _end(self) -> None:
        if self._child is not None:
            with contextlib.suppress(ProcessLookupError):  # it has ended, and only its report was not read
                os.kill(self._child, signal.SIGKILL)
        self._process.communicate()

    def _line(self) -> str:
        descriptor = self.fileno()
        while b"\n" not in self._pending:
            ready, _, _ = select.select([descriptor], [], [], PATIENCE_S)
            if not ready:
                raise TimeoutError(f"a child process took longer than {PATIENCE_S} s")
            data = os.read(descriptor, 65_536)
            if not data:
                raise ChildProcessError("the process that makes processes has ended; see its standard error")
            self._pending += data
        line, _, self._pending = self._pending.partition(b"\n")
        return line.decode()


IMPORTED_LATE: Final = ("graph.frames", "store.sqlite.database", "store.sqlite.migrate", "store.sqlite.notify")
"""What the product imports once it is needed: each child would do that anew."""


def serve() -> None:
    """Fork a process for each line of standard input, until it ends."""
    for name in IMPORTED_LATE:
        importlib.import_module(f"smithers.{name}")
    for workflow in (*WORKFLOWS.values(), chapter, doomed_chapter):
        workflow_hash(workflow, workflow.source_path)  # which each child would find out anew
    gc.collect()
    gc.freeze()  # so that the children do not copy what they share
    for line in sys.stdin:
        order = Order(**json.loads(line))
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            _be_child(order, writing)
        os.close(writing)
        _say(str(pid))
        with os.fdopen(reading, "rb") as pipe:
            report = pipe.read()
        _, status = os.waitpid(pid, 0)
        number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        found = json.loads(report) if report and not number else asdict(Report())
        _say(json.dumps({"signal": number, "report": found}))


def _be_child(order: Order, writing: int) -> None:
    log = os.open(Path(order.folder) / "child.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for descriptor, target in ((os.open(os.devnull, os.O_RDONLY), 0), (log, 1), (log, 2)):
        os.dup2(descriptor, target)
    try:
        report = carry_out(order)
    except BaseException as error:
        traceback.print_exc()
        report = Report(error=type(error).__name__, message=str(error))
    os.write(writing, json.dumps(asdict(report)).encode())
    os._exit(0)


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    serve()
