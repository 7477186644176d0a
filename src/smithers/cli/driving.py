"""Driving: one run in this process, from its start to its end or halt: shown, interrupted and reported.

The first Ctrl-C asks the run to pause and lets the work under way finish; the second gives it up at once. SIGTERM and SIGHUP
give it up cleanly, so that another process may go on with it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, TypeVar, cast

from pydantic import BaseModel

from smithers.cli.arguments import as_list, as_object
from smithers.cli.live import Reporter, make_reporter
from smithers.cli.output import Output, duration, printable, to_text
from smithers.cli.overseeing import Oversight
from smithers.cli.progress import RunView
from smithers.cli.serving import RunServer
from smithers.cli.steps import GOES_ON_ALONE, Step, next_steps
from smithers.components.workflow import SmithersWorkflow
from smithers.control.control import Control
from smithers.engine.engine import Engine, RunHandle
from smithers.engine.result import RunResult
from smithers.errors import SmithersError
from smithers.events import wire_object
from smithers.scheduler.states import RunStatus
from smithers.settings import Settings
from smithers.store import open_store

if TYPE_CHECKING:
    from smithers.engine.reload import HotReload

T = TypeVar("T")
EXIT_CODES = {
    RunStatus.FINISHED: 0,
    RunStatus.FAILED: 1,
    RunStatus.WAITING_QUOTA: 1,
    RunStatus.CANCELLED: 2,
    RunStatus.WAITING_APPROVAL: 3,
    RunStatus.WAITING_EVENT: 3,
    RunStatus.WAITING_TIMER: 3,
    RunStatus.PAUSED: 3,
}
INTERRUPTED = 130
TERMINATING = (signal.SIGTERM, signal.SIGHUP)
STOP_PATIENCE_S = 1.0
"""How long work that is given up at the second Ctrl-C may take to end."""
TERM_PATIENCE_S = 8.0
"""The same after SIGTERM; service managers kill after ten."""
CATCH_UP_S = 2.0
"""How long to wait for the last events to be shown."""

Start = Callable[[Engine, Control], Awaitable[tuple[RunHandle, int]]]
"""Gives the run, and the number of its first event that is news."""


async def drive(
    workflow: SmithersWorkflow,
    start: Start,
    *,
    db: str,
    settings: Settings,
    out: Output,
    wait: bool,
    server: RunServer | None = None,
    oversight: Oversight | None = None,
    hot: HotReload | None = None,
) -> int:
    """Start a run and drive it; the exit code. Raises what `start` raises.

    Args:
        start: launches or resumes the run.
        wait: stay while the run is parked, and go on with it by itself.
        server: answers for the run, and keeps this process until it is interrupted; implies `wait`. Closed at the end.
        oversight: goes on with other runs meanwhile. Closed at the end.
        hot: keeps the run on the newest code. Closed at the end.
    """
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(_LastWords())
    try:
        store = open_store(
            db, durability=settings.durability, busy_timeout_s=settings.busy_timeout_s, pool=settings.db_pool
        )
        try:
            engine = Engine(store, settings)
            observation = None
            if settings.is_observed:
                from smithers.observability.telemetry import observe

                observation = observe(settings, store, engine.hub)
            try:
                return await _Drive(workflow, engine, out, wait, server, oversight, hot, db).run(start)
            finally:
                if hot is not None:
                    await hot.close()
                if oversight is not None:
                    await oversight.close()
                await engine.close()
                if observation is not None:
                    await observation.close()
        finally:
            store.close()
    finally:
        if server is not None:
            await server.close()


class _LastWords(logging.Formatter):
    """What Python shows of warnings where nobody has set up logging, without credentials."""

    def format(self, record: logging.LogRecord) -> str:
        from smithers.observability.redaction import scrub

        return scrub(super().format(record))


class _Drive:
    def __init__(
        self,
        workflow: SmithersWorkflow,
        engine: Engine,
        out: Output,
        wait: bool,
        server: RunServer | None,
        oversight: Oversight | None,
        hot: HotReload | None,
        db: str,
    ) -> None:
        self._workflow = workflow
        self._engine = engine
        self._control = Control(engine.store, hub=engine.hub)
        self._out = out
        self._wait = wait or server is not None
        self._server = server
        self._oversight = oversight
        self._hot = hot
        self._db = db
        self._reporter: Reporter = make_reporter(out)
        self._view = RunView()
        self._run_id = ""
        self._cursor = -1
        self._shown = asyncio.Event()
        self._interrupts = 0
        self._stop = asyncio.Event()
        """Set when the run is not to be waited for any longer."""
        self._stop_code = INTERRUPTED
        self._background: set[asyncio.Task[None]] = set()

    async def run(self, start: Start) -> int:
        on_signals({signal.SIGINT: self._interrupt, **{n: partial(self._give_up, 128 + n) for n in TERMINATING}})
        pump: asyncio.Task[None] | None = None
        try:
            started = await self._unless_stopped(start(self._engine, self._control))
            if started is None:
                return await self._given_up()
            handle, first_new = started
            self._run_id = handle.run_id
            self._reporter.begin()
            if self._out.is_text:
                self._reporter.say(f"run {printable(handle.run_id)}")
            if self._server is not None:
                self._server.start(self._workflow, handle.run_id, self._db, self._engine.settings)
                self._reporter.say(f"HTTP server listening on {self._server.url}")
            if self._oversight is not None:
                self._oversight.start(self._engine, self._is_ours)
                self._reporter.say(f"supervisor enabled ({self._oversight})")
            if self._hot is not None:
                self._hot.attach(self._engine, handle.run_id)
                self._reporter.say("hot reload: changes of the workflow's source take effect when they are saved")
            pump = asyncio.create_task(self._pump(handle.run_id, first_new))
            result = await self._until_result(handle)
            if result is None:
                return await self._given_up()
            await self._catch_up(result.run_id, pump)
        finally:
            if pump is not None:
                pump.cancel()
            for task in self._background:
                task.cancel()
            self._reporter.stop()
        await self._report(result)
        if self._server is not None and not self._is_leaving:
            with suppress(BrokenPipeError):
                self._out.note(f"the run is served at {self._server.url}; Ctrl-C ends that")
            await self._unless_stopped(self._server.until_closed())
        if self._interrupts and result.status.is_parked:
            return INTERRUPTED
        return EXIT_CODES.get(result.status, 1)

    def _is_ours(self, run_id: str) -> bool:
        return run_id == self._run_id or run_id in self._engine.drivers

    # ── the result ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def _until_result(self, handle: RunHandle) -> RunResult | None:
        """How the run ended or halted; None when it is not waited for any longer."""
        result = await self._unless_stopped(asyncio.shield(handle.result))
        while result is not None and self._wait and result.status.value in GOES_ON_ALONE and not self._is_leaving:
            await self._say_parked(result)
            moved = await self._unless_stopped(self._engine.until_moved(result.run_id, self._workflow))
            if moved is None and not self._engine.drivers and self._stop_code == INTERRUPTED:
                return result  # it was parked: there is nothing to give up
            result = moved
        return result

    @property
    def _is_leaving(self) -> bool:
        return self._interrupts > 0

    async def _unless_stopped(self, work: Awaitable[T]) -> T | None:
        working, stopping = asyncio.ensure_future(work), asyncio.ensure_future(self._stop.wait())
        try:
            await asyncio.wait([working, stopping], return_when=asyncio.FIRST_COMPLETED)
            return working.result() if working.done() else None
        finally:
            stopping.cancel()
            working.cancel()

    async def _say_parked(self, result: RunResult) -> None:
        steps = await next_steps(self._control, result.run_id)
        answers = [step for step in steps if step.command.split()[1] in ("approve", "deny", "answer", "signal")]
        self._reporter.say(f"{result.status.value}; this process goes on by itself when what it waits for arrives")
        for line in step_lines(answers):
            self._reporter.say(line)

    # ── signals ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _interrupt(self) -> None:
        self._interrupts += 1
        if self._interrupts > 1 or not self._run_id:
            self._stop.set()
        elif not self._engine.drivers:
            self._stop.set()  # parked: nothing is under way
        else:
            self._spawn(self._pause())

    def _give_up(self, code: int) -> None:
        self._interrupts += 1
        self._stop_code = code
        self._stop.set()

    async def _pause(self) -> None:
        count = len(self._view.in_flight)
        under_way = f"{count} task{'' if count == 1 else 's'} under way" if count else "the work under way"
        for run_id, driver in list(self._engine.drivers.items()):
            with suppress(SmithersError):  # it has ended or parked meanwhile
                await self._control.pause(run_id)
                driver.look()
        if self._engine.drivers:
            self._reporter.say(f"pausing: waiting for {under_way} to finish; Ctrl-C again stops at once")

    async def _given_up(self) -> int:
        """Stop the work, as far as it can be stopped soon, and say how to go on."""
        closing = asyncio.ensure_future(self._engine.close())
        patience = STOP_PATIENCE_S if self._stop_code == INTERRUPTED else TERM_PATIENCE_S
        await asyncio.wait([closing], timeout=patience)
        self._reporter.stop()
        if self._run_id:
            steps = await next_steps(self._control, self._run_id)
            await self._tell(self._run_id, "running", steps, note="stopped")
        if not closing.done():
            # work that does not let itself be stopped; once this process is dead, anybody may take the run over
            sys.stdout.flush()
            os._exit(self._stop_code)
        return self._stop_code

    def _spawn(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    # ── showing ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _pump(self, run_id: str, first_new: int) -> None:
        """Take in the run's events, and those of the runs that it is continued as; show those that are news."""
        first = run_id
        while run_id:
            successor = ""
            self._run_id, self._cursor = run_id, -1
            if self._server is not None:
                self._server.follow(run_id)
            async for row in self._control.follow(run_id, -1):
                event = wire_object(run_id, row)
                self._view.apply(event)
                if run_id != first or row.seq >= first_new:
                    self._reporter.show(event, self._view)
                if row.type == "RunContinuedAsNew":
                    successor = str(event["newRunId"])
                self._cursor = row.seq
                self._shown.set()
            run_id = successor

    async def _catch_up(self, run_id: str, pump: asyncio.Task[None]) -> None:
        """Wait until everything that is stored of a run has been shown."""
        last = (await self._control.run(run_id)).next_seq - 1
        self._engine.hub.wake_all()
        with suppress(TimeoutError):
            async with asyncio.timeout(CATCH_UP_S):
                while not pump.done() and (self._run_id != run_id or self._cursor < last):
                    self._shown.clear()
                    await self._shown.wait()

    async def _report(self, result: RunResult) -> None:
        error = result.error
        steps = await next_steps(self._control, result.run_id)
        await self._tell(result.run_id, result.status.value, steps, output=result.output, error=error)

    async def _tell(
        self,
        run_id: str,
        status: str,
        steps: list[Step],
        *,
        output: object = None,
        error: dict[str, object] | None = None,
        note: str = "",
    ) -> None:
        with suppress(BrokenPipeError):
            if self._out.is_text:
                self._tell_person(run_id, status, steps, output, error, note)
                return
            document: dict[str, object] = {"runId": run_id, "status": status}
            rows = plain_rows(output)
            if rows is not None:
                document["output"] = rows
            if error is not None:
                document["error"] = without_stack(error)
            if steps:
                document["next"] = [step._asdict() for step in steps]
            self._out.document(document)

    def _tell_person(
        self, run_id: str, status: str, steps: list[Step], output: object, error: dict[str, object] | None, note: str
    ) -> None:
        out = self._out
        view = self._view
        took = f" after {duration(view.last_at_ms - view.started_at_ms)}" if view.started_at_ms is not None else ""
        out.line(f"run {printable(run_id)} {note or out.state(status)}{took}")
        for row in plain_rows(output) or []:
            out.line(f"  {printable(to_text(row))}")
        if error is not None:
            out.line(f"  {out.style('error', 'red')}: {printable(error_line(error))}")
        if steps:
            out.line("next:")
            for line in step_lines(steps):
                out.line(line)


def on_signals(handlers: Mapping[signal.Signals, Callable[[], None]]) -> None:
    """Have signals handled in the event loop; those that whoever started us has switched off (`nohup`) stay off."""
    loop = asyncio.get_running_loop()
    for number, handler in handlers.items():
        if signal.getsignal(number) is not signal.SIG_IGN:
            loop.add_signal_handler(number, handler)


def plain_rows(output: object) -> list[object] | None:
    """Output rows as JSON values; None when the workflow has no output."""
    if not isinstance(output, list):
        return None
    rows = as_list(cast(object, output))
    return [row.model_dump(mode="json") if isinstance(row, BaseModel) else row for row in rows]


def without_stack(error: Mapping[str, object]) -> dict[str, object]:
    """An error object without the tracebacks of it and its causes."""
    found = {key: value for key, value in error.items() if key != "stack"}
    if cause := as_object(error.get("cause")):
        found["cause"] = without_stack(cause)
    return found


def error_line(error: dict[str, object]) -> str:
    """An error object in one line: what happened, and why."""
    parts: list[str] = []
    found: object = error
    while fields := as_object(found):
        text = str(fields.get("summary") or fields.get("message") or fields.get("name"))
        parts.append(f"{text} [{fields['code']}]" if fields.get("code") else text)
        found = fields.get("cause")
    return ": ".join(dict.fromkeys(" ".join(part.split()) for part in parts))


def step_lines(steps: list[Step]) -> list[str]:
    """Commands, each with what it does, in columns."""
    wide = max((len(step.command) for step in steps), default=0)
    return [f"  {printable(step.command):<{wide}}  # {printable(' '.join(step.description.split()))}" for step in steps]
