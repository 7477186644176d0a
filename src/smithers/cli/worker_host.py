"""Worker host: the process of `smithers worker`, from the first workflow that is loaded to the last run that was handed over."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from smithers.cli.output import Output, printable, shortened
from smithers.errors import InvalidInput, ServerInsecureBind
from smithers.records import dataclass

if TYPE_CHECKING:
    import socket

    from smithers.components.workflow import SmithersWorkflow
    from smithers.control.worker import Worker
    from smithers.control.workflows import WorkflowFiles
    from smithers.observability.metrics import Metrics
    from smithers.server.worker import WorkerStatus
    from smithers.settings import Settings
    from smithers.store.sql.store import SqlStore

CLOSE_S = 8.0
"""How long work that is given up at the end may take to stop."""
LAST_WORD_S = 1
"""How long answers under way may take once the worker has nothing more to do."""


@dataclass(frozen=True)
class Plan:
    """What was asked for.

    Attributes:
        files: by key.
        queues: only runs of these are started; of all if None.
        wait_s: how long to wait for a database that is away at the start.
        health_port: where to tell how the worker is; None for nowhere.
        token: what a request for metrics must carry; None for nothing.
    """

    files: Mapping[str, Path]
    db: str
    concurrency: int
    queues: Sequence[str] | None
    interval_s: float
    drain_s: float
    wait_s: float
    health_port: int | None
    host: str
    token: str | None
    insecure: bool


class WorkerHost:
    """Runs a worker until it is told to end."""

    def __init__(self, plan: Plan, settings: Settings, out: Output) -> None:
        self._plan = plan
        self._settings = settings
        self._out = out
        self._stop, self._give_up = asyncio.Event(), asyncio.Event()
        self._keys: dict[str, Path] = dict(plan.files)
        self._metrics: Metrics | None = None
        self._status: WorkerStatus | None = None
        """How the worker is, where that is told."""

    async def run(self) -> int:
        """Work until a signal; the exit code. Raises `InvalidInput`, `ServerInsecureBind`, `WorkflowLoadFailed`,
        `StorageError`."""
        from smithers.cli.driving import TERMINATING, on_signals
        from smithers.cli.patience import patiently

        on_signals(dict.fromkeys((signal.SIGINT, *TERMINATING), self._end))
        find = await self._load()
        async with self._health():
            store = await patiently(self._open, self._plan.wait_s, self._stop, self._note)
            if store is None:
                return 0
            try:
                return await self._work(store, find)
            finally:
                store.close()

    def _end(self) -> None:
        (self._give_up if self._stop.is_set() else self._stop).set()
        if self._status is not None:
            self._status.is_draining = True

    async def _load(self) -> _Find:
        """Load all workflows, so that what cannot be loaded is told now."""
        from smithers.control.workflows import WorkflowFiles

        loader = WorkflowFiles(None)
        for file in self._plan.files.values():
            loaded, _ = await loader.load(file)
            self._keys.setdefault(loaded.function_name, file)
            self._keys.setdefault(file.stem, file)
        return _Find(self._keys, loader)

    async def _open(self) -> SqlStore:
        from smithers.store import open_store

        settings = self._settings
        opening = partial(open_store, self._plan.db, busy_timeout_s=settings.busy_timeout_s, pool=settings.db_pool)
        return await asyncio.to_thread(opening)

    async def _work(self, store: SqlStore, find: _Find) -> int:
        from smithers.cli.supervising import Teller
        from smithers.control.worker import Worker

        plan = self._plan
        worker = Worker(
            store,
            self._keys,
            find,
            self._settings,
            concurrency=plan.concurrency,
            queues=plan.queues,
            interval_s=plan.interval_s,
            on_report=Teller(self._out).tell,
        )
        observation = None
        if self._settings.is_observed or self._metrics is not None:
            from smithers.observability.telemetry import observe

            observation = observe(self._settings, store, worker.engine.hub, self._metrics)
        self._tell_of(worker)
        if self._out.is_text:  # only now that it may be told to end
            served = ", ".join(printable(key) for key in sorted(plan.files))
            limit = f"at most {plan.concurrency} runs at once"
            self._out.line(f"working for {printable(store.path)}: {served}; {limit}")
        try:
            return await self._drive(worker)
        finally:
            if observation is not None:
                await observation.close()

    async def _drive(self, worker: Worker) -> int:
        left = 0
        try:
            await worker.run(self._stop)
            under_way = len(worker.engine.drivers)
            if under_way:
                self._note(f"stopping: waiting up to {self._plan.drain_s:g} s for {under_way} runs that are under way")
            left = await worker.drain(self._plan.drain_s, self._give_up)
        finally:
            closing = asyncio.ensure_future(worker.close())
            await asyncio.wait([closing], timeout=CLOSE_S)
        if left:
            self._note(f"{left} runs were left to other workers")
        if not closing.done():
            # work that does not let itself be stopped; once this process is dead, anybody may take its run over
            sys.stdout.flush()
            os._exit(0)
        return 0

    def _note(self, text: str) -> None:
        self._out.note(shortened(text, 400))

    # ── how it is ──────────────────────────────────────────────────────────────────────────────────────────────────

    @asynccontextmanager
    async def _health(self) -> AsyncGenerator[None]:
        """Within it, whoever asks is told how the worker is, if that was wanted."""
        port = self._plan.health_port
        if port is None:
            yield
            return
        from smithers.asgi.embed import serve, url_of
        from smithers.asgi.guards import Guard
        from smithers.observability.metrics import Metrics
        from smithers.server.worker import WorkerStatus, worker_app

        listener = self._listen(port)
        plan = self._plan
        self._metrics, self._status = Metrics(), WorkerStatus()
        app = worker_app(self._status, self._metrics, Guard(plan.token, trusts_any_host=plan.insecure))
        self._note(f"health and metrics at {url_of(listener)}")
        stop = asyncio.Event()
        serving = asyncio.create_task(serve(app, listener, stop, grace_s=LAST_WORD_S))
        try:
            yield
        finally:
            stop.set()
            await asyncio.gather(serving, return_exceptions=True)

    def _listen(self, port: int) -> socket.socket:
        """Raises `ServerInsecureBind` or `InvalidInput`."""
        from smithers.asgi.embed import bind, is_loopback_bind

        plan = self._plan
        if not (plan.token or plan.insecure or is_loopback_bind(plan.host)):
            raise ServerInsecureBind(
                f"refusing to show metrics at {plan.host} to everybody; set SMITHERS_API_KEY for a token, or give --insecure",
                {"host": plan.host},
            )
        if not 0 <= port <= 65_535:
            raise InvalidInput(f"--health-port: must be 0 to 65535, not {port}")
        try:
            return bind(plan.host, port)
        except OSError as error:
            where = f"{plan.host}, port {port}"
            raise InvalidInput(f"cannot listen on {where}: {error.strerror or error}") from error

    def _tell_of(self, worker: Worker) -> None:
        if self._status is None:
            return
        from smithers.control.pulse import Pulse

        self._status.pulse = Pulse(worker.engine.store)
        self._status.under_way = lambda: len(worker.engine.drivers)
        self._status.gauges = worker.gauges
        self._status.is_ready = True


class _Find:
    """Finds workflows by their keys, in their newest versions."""

    def __init__(self, keys: Mapping[str, Path], loader: WorkflowFiles) -> None:
        self._keys = keys
        self._loader = loader

    async def __call__(self, key: str) -> SmithersWorkflow:
        return (await self._loader.load(self._keys[key]))[0]
