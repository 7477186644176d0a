"""`supervise`: a host for the runs of a database. Goes on with what is woken, due or left behind by a dead process."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from smithers.cli.arguments import positive, read_duration
from smithers.cli.common import Common, find_database
from smithers.cli.options import Option
from smithers.cli.output import Output, clock_time, printable, shortened
from smithers.errors import InvalidInput

if TYPE_CHECKING:
    from smithers.components.workflow import SmithersWorkflow
    from smithers.engine.engine import Engine
    from smithers.engine.host import HostReport
    from smithers.store.interface import RunRow

Serve = Callable[[asyncio.Event], Awaitable[None]]
STOP_PATIENCE_S = 8.0
"""How long work that is given up at the end may take to stop."""


async def supervise(
    *,
    run: Annotated[list[str] | None, Option("--run", "-r", is_switch=True)] = None,
    all: Annotated[bool, Option("--all", "-a", is_switch=True)] = False,
    interval: Annotated[str, Option("--interval", "-i")] = "10s",
    stale_threshold: Annotated[str | None, Option("--stale-threshold", "-t")] = None,
    max_concurrent: Annotated[int, Option("--max-concurrent", "-c")] = 3,
    dry_run: Annotated[bool, Option("--dry-run", "-n", is_switch=True)] = False,
    common: Common | None = None,
) -> int:
    """Go on with runs when what they wait for arrives, or when their process has died. Stays until Ctrl-C.

    Parameters
    ----------
    run
        Only this run; may be given several times.
    all
        All runs of the database.
    interval
        How often to look for runs whose process has died.
    stale_threshold
        Silence after which a process counts as dead; 30s by default.
    max_concurrent
        At most so many runs at once.
    dry_run
        Only tell of runs that could go on.
    """
    common = common or Common()
    if all == bool(run):
        raise InvalidInput("which runs? Give either --all, or --run for each of them")
    positive(max_concurrent, "--max-concurrent")
    interval_s = read_duration(interval, "--interval") / 1000
    if interval_s <= 0:
        raise InvalidInput("--interval: must be longer than nothing")
    settings = common.settings
    if stale_threshold is not None:
        settings = replace(settings, lease_ms=max(1, read_duration(stale_threshold, "--stale-threshold")))

    from smithers.control.control import Control
    from smithers.engine.engine import Engine
    from smithers.engine.host import Host
    from smithers.store import open_store

    store = open_store(find_database(settings), create=False, busy_timeout_s=settings.busy_timeout_s)
    try:
        for run_id in run or ():
            await Control(store).run(run_id)  # a mistyped id would otherwise be waited for, for ever
        engine = Engine(store, settings)
        host = Host(
            engine,
            Workflows().of,
            run_ids=frozenset(run) if run else None,
            max_concurrent=max_concurrent,
            interval_s=interval_s,
            is_dry=dry_run,
            on_report=Teller(common.output).tell,
        )
        observation = None
        if settings.is_observed:
            from smithers.observability.telemetry import observe

            observation = observe(settings, store, engine.hub)
        try:
            return await _serve(host.run, engine, common.output)
        finally:
            if observation is not None:
                await observation.close()
    finally:
        store.close()


async def _serve(serve: Serve, engine: Engine, out: Output) -> int:
    from smithers.cli.driving import TERMINATING, on_signals

    stop, codes = asyncio.Event(), list[int]()

    def end(code: int) -> None:
        codes.append(code)
        stop.set()

    on_signals({number: partial(end, 128 + number) for number in (signal.SIGINT, *TERMINATING)})
    if out.is_text:
        out.line(f"supervising {printable(engine.store.path)}; Ctrl-C ends it, the runs stay resumable")
    try:
        await serve(stop)
    finally:
        closing = asyncio.ensure_future(engine.close())
        await asyncio.wait([closing], timeout=STOP_PATIENCE_S)
    code = codes[0] if codes else 0
    if not closing.done():
        # work that does not let itself be stopped; once this process is dead, anybody may take its run over
        sys.stdout.flush()
        os._exit(code)
    return code


class Workflows:
    """Workflows by file, loaded again when the file has changed."""

    def __init__(self) -> None:
        self._loaded: dict[str, tuple[str | None, SmithersWorkflow]] = {}

    def of(self, run: RunRow) -> SmithersWorkflow | None:
        """The workflow of a run; None if it was not started from a file. Raises `WorkflowLoadFailed`."""
        from smithers.engine.loading import load_workflow, source_hash

        path = run.workflow_path
        if path is None:
            return None
        digest = source_hash(Path(path))
        found = self._loaded.get(path)
        if found is None or found[0] != digest:
            found = self._loaded[path] = (digest, load_workflow(path))
        return found[1]


class Teller:
    """Tells of what a host does; of a run that cannot be resumed only when the reason is a new one."""

    def __init__(self, out: Output, *, is_beside: bool = False) -> None:
        self._out = out
        self._is_beside = is_beside
        """Whether this is not what the command is about: then it goes to stderr, and runs that others have are no news."""
        self._told: dict[str, str] = {}

    def tell(self, report: HostReport) -> None:
        """Tell of one sweep."""
        for run_id in report.resumed:
            self._told.pop(run_id, None)
            self._say(run_id, "resumed", "")
        for run_id, why in report.skipped.items():
            if self._is_beside and why == "missing-workflow":
                continue
            if self._told.get(run_id) != why:
                self._told[run_id] = why
                self._say(run_id, "skipped", why)

    def _say(self, run_id: str, what: str, why: str) -> None:
        if self._is_beside:
            self._out.note(f"supervisor: {what} {run_id}" + (f": {shortened(why, 400)}" if why else ""))
            return
        now = int(time.time() * 1000)
        if self._out.is_text:
            text = f"{what} {run_id}" + (f": {why}" if why else "")
            self._out.line(f"{clock_time(now)}  {shortened(text, 400)}")
            return
        record: dict[str, object] = {"timestampMs": now, "runId": run_id, "action": what}
        self._out.record(record | ({"reason": why} if why else {}))
