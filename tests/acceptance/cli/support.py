"""Real `smithers` processes: started, watched line by line, interrupted and killed."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import cast

DEADLINE_S = 60.0
"""Only reached when something is broken: every wait is for a line or an end."""


def environment() -> dict[str, str]:
    """The environment of the test, without what would change how a command behaves."""
    return {k: v for k, v in os.environ.items() if k not in ("SMITHERS_DB", "NO_COLOR", "TERM")} | {"TERM": "xterm"}


def command(*tokens: str) -> list[str]:
    """The command line of a `smithers` process; `-P` as for the console script: the current folder is no module path."""
    return [sys.executable, "-P", "-m", "smithers", *tokens]


@dataclass(frozen=True)
class Done:
    """What a process came to."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, object]:
        """The document that was written."""
        return cast("dict[str, object]", json.loads(self.out))


class Process:
    """A `smithers` process that runs beside the test; its stdout and stderr are one stream."""

    def __init__(self, folder: Path, *tokens: str) -> None:
        self._popen = subprocess.Popen(
            command(*tokens),
            cwd=folder,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.pid = self._popen.pid
        self.seen: list[str] = []
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._popen.stdout is not None
        for line in self._popen.stdout:
            self._lines.put(line)
        self._lines.put(None)

    def until(self, text: str) -> str:
        """Wait for a line that holds `text`."""
        while (line := self._lines.get(timeout=DEADLINE_S)) is not None:
            self.seen.append(line)
            if text in line:
                return line
        raise AssertionError(f"ended without {text!r}:\n{''.join(self.seen)}")

    def send(self, number: signal.Signals) -> None:
        """Send a signal."""
        self._popen.send_signal(number)

    def end(self) -> int:
        """Wait for the end; the exit code, negative for a signal."""
        while (line := self._lines.get(timeout=DEADLINE_S)) is not None:
            self.seen.append(line)
        return self._popen.wait(DEADLINE_S)

    @property
    def text(self) -> str:
        """Everything written so far that was waited for."""
        return "".join(self.seen)

    def stop(self) -> None:
        """End it, if it is still there, and give its pipe back."""
        if self._popen.poll() is None:
            self._popen.kill()
        self._popen.wait(DEADLINE_S)
        self._reader.join(DEADLINE_S)
        assert self._popen.stdout is not None
        self._popen.stdout.close()


class Shell:
    """A folder in which `smithers` is called."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._started: list[Process] = []

    def __call__(self, *tokens: str) -> Done:
        done = subprocess.run(
            command(*tokens),
            cwd=self.folder,
            env=environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def start(self, *tokens: str) -> Process:
        """Start a process beside the test."""
        process = Process(self.folder, *tokens)
        self._started.append(process)
        return process

    def release(self) -> None:
        """Let the task of the slow workflow finish."""
        (self.folder / "release").touch()

    def done(self) -> list[str]:
        """What tasks have noted."""
        file = self.folder / "done.txt"
        return file.read_text().split() if file.exists() else []

    def until_noted(self, word: str) -> None:
        """Wait until a task has noted a word: that it is begun is told before its work gets its turn."""
        deadline = time.monotonic() + DEADLINE_S
        while word not in self.done():
            assert time.monotonic() < deadline, f"no task has noted {word!r}"
            time.sleep(0.005)

    def stop(self) -> None:
        """End all processes."""
        for process in self._started:
            process.stop()
