"""Detaching: `up --detach` starts a process of its own for a run, and returns once that process has stored the run."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from smithers.cli.common import Common
from smithers.cli.output import printable
from smithers.cli.steps import db_flag
from smithers.engine.admission import checked_run_id
from smithers.engine.continuation import new_run_id
from smithers.errors import RunAlreadyExists, RunNotFound, SmithersError
from smithers.settings import environment_with

if TYPE_CHECKING:
    from smithers.components.workflow import SmithersWorkflow
    from smithers.control.control import Control

EXECUTIONS = Path(".smithers") / "executions"
LOOK_EVERY_S = 0.02
ADMISSION_S = 60.0
TAIL_LINES = 15


@dataclass
class Background:
    """What the process in the background is to run."""

    workflow: Path
    db: str
    run_id: str | None
    resumed: str | None
    input: dict[str, object] | None
    annotations: dict[str, object] | None
    max_concurrency: int | None
    root: Path | None
    flags: list[str] = field(default_factory=list[str])
    token: str | None = None
    """What requests to the run's server must carry; goes by the environment, as arguments are public."""
    supervisor: list[str] | None = None
    """The options of a supervisor in another process, if there is to be one."""


async def detach_run(workflow: SmithersWorkflow, background: Background, common: Common) -> int:
    """Start the run in the background; the exit code.

    Raises what a launch would raise for its input, its id or its first render, before any process is started.
    """
    from smithers.control.control import Control
    from smithers.control.preview import preview
    from smithers.store import open_store

    run_id = background.resumed or checked_run_id(background.run_id or new_run_id())
    if background.resumed is None:
        preview(workflow, background.input)
    store = open_store(background.db)
    try:
        control = Control(store)
        before = await _epoch(control, run_id)
        if background.resumed is None and before is not None:
            raise RunAlreadyExists(run_id)
        if background.resumed is not None and before is None:
            raise RunNotFound(run_id)
        log = _folder(run_id) / "up.log"
        process = _spawn(background, run_id, log)
        status = await _admitted(control, run_id, before, process, log)
    finally:
        store.close()
    document: dict[str, object] = {"runId": run_id, "status": status, "pid": process.pid, "logFile": str(log.resolve())}
    out = common.output
    if background.supervisor is not None:
        command = [sys.executable, "-P", "-m", "smithers", "supervise", *background.supervisor]
        document["supervisorPid"] = _start(command, background.db, log.with_name("supervisor.log")).pid
    if not out.is_text:
        out.document(document)
        return 0
    out.line(f"run {printable(run_id)} {out.state(status)} in the background")
    out.line(f"  pid {process.pid}")
    out.line(f"  log {log}")
    if "supervisorPid" in document:
        out.line(f"  supervisor pid {document['supervisorPid']}")
    db = db_flag(background.db)
    out.line(f"next:\n  smithers logs {run_id} --follow{db}\n  smithers inspect {run_id}{db}")
    return 0


def _folder(run_id: str) -> Path:
    folder = EXECUTIONS / quote(run_id, safe="")
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder


def _spawn(background: Background, run_id: str, log: Path) -> subprocess.Popen[bytes]:
    """Start `smithers up` in a session of its own. Its input goes by file: a process's arguments are public."""
    # -P: files in the current folder must not take the place of installed modules
    command = [sys.executable, "-P", "-m", "smithers", "up", str(background.workflow)]
    command += ["--resume", run_id] if background.resumed is not None else ["--run-id", run_id]
    for flag, value in (("input", background.input), ("annotations", background.annotations)):
        if value is not None:
            file = log.parent / f"{flag}.json"
            file.touch(mode=0o600)
            file.write_text(json.dumps(value))
            command += [f"--{flag}", f"@{file}"]
    if background.max_concurrency is not None:
        command += ["--max-concurrency", str(background.max_concurrency)]
    if background.root is not None:
        command += ["--root", str(background.root)]
    return _start([*command, *background.flags], background.db, log, background.token)


def _start(command: list[str], db: str, log: Path, token: str | None = None) -> subprocess.Popen[bytes]:
    """Start a process that outlives this one and writes to a log file. The URL of a database goes by the environment too,
    as it may hold a password."""
    environment = {} if token is None else {"SMITHERS_API_KEY": token}
    if "://" in db:
        environment["SMITHERS_DB"] = db
    else:
        command = [*command, "--db", db]
    with log.open("ab") as sink:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            start_new_session=True,
            close_fds=True,
            env=environment_with(**environment),
        )


async def _epoch(control: Control, run_id: str) -> int | None:
    try:
        return (await control.run(run_id)).epoch
    except RunNotFound:
        return None


async def _admitted(
    control: Control, run_id: str, before: int | None, process: subprocess.Popen[bytes], log: Path
) -> str:
    """Wait until the process has stored or claimed the run; its status. Raises if it dies or hangs before that."""
    try:
        async with asyncio.timeout(ADMISSION_S):
            while True:
                code = process.poll()
                if await _epoch(control, run_id) != before:
                    return (await control.run(run_id)).status
                if code is not None:
                    raise SmithersError(
                        f"the process in the background ended with exit code {code} before it had the run; "
                        f"the end of {log}:\n{_tail(log)}",
                        {"exitCode": code, "logFile": str(log)},
                        code="WORKFLOW_EXECUTION_FAILED",
                    )
                await asyncio.sleep(LOOK_EVERY_S)
    except TimeoutError:
        raise SmithersError(
            f"the process {process.pid} in the background has not stored the run after {ADMISSION_S:.0f} s; see {log}"
        ) from None


def _tail(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join(f"  {printable(line)}" for line in lines[-TAIL_LINES:])
