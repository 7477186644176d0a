"""A cluster of real processes on one PostgreSQL: workers, gateways, and the clients that drive them."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from tests.acceptance.cluster import flows
from tests.postgres_support import PostgresServer

from smithers.client import GatewayClient, GatewayConnectionLost, GatewayError
from smithers.gateway.streams.mapping import event_name, event_payload
from smithers.store import open_store
from smithers.store.sql import reads
from smithers.store.sql.store import SqlStore

T = TypeVar("T")
Told = tuple[int, str, object]
"""An event as clients have it: number, name, payload."""

ROOT = Path(__file__).parents[3]
RUNS = int(os.environ.get("SMITHERS_CLUSTER_RUNS", "80"))
"""How many runs the trial of `test_chaos.py` has."""
PATIENCE_S = 90.0 + RUNS / 10
"""Only reached when something is broken, or on a machine that stands still."""
LEASE_MS, SHORT_LEASE_MS, HEARTBEAT_MS = 60_000, 2_000, 300
"""A short lease is for clusters whose members die or stand still: on a slow machine living ones outlast it, too."""
MANY = 1_000_000
LOOK_S = 0.05


class Member:
    """A process of the cluster, which can be started again. What it writes goes to a file beside the others'."""

    def __init__(self, folder: Path, name: str, *arguments: str, lease_ms: int = LEASE_MS) -> None:
        self.name = name
        self._lease_ms = lease_ms
        self.log = folder / f"{name}.log"
        self._folder = folder / name
        self._folder.mkdir()
        self._arguments = arguments
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Its process."""
        assert self._process is not None
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        """Whether it has been started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it, again if it has ended."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith("SMITHERS_")}
        environment |= {
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            "SMITHERS_LEASE_MS": str(self._lease_ms),
            "SMITHERS_HEARTBEAT_MS": str(HEARTBEAT_MS),
            "SMITHERS_CHECKPOINTS": "0",
        }
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, *self._arguments],
                cwd=self._folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def send(self, number: signal.Signals) -> None:
        """Send a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    def set_clock(self, *, ahead: bool) -> None:
        """Set its wall clock some minutes ahead of the machine's, or as much behind."""
        self.send(signal.SIGUSR1 if ahead else signal.SIGUSR2)

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and wait for the end; the exit code, negative for a signal."""
        if self._process is None:
            return 0
        process, self._process = self._process, None
        process.send_signal(number)
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGCONT)
        return process.wait(PATIENCE_S)

    def says(self, text: str) -> bool:
        """Whether it has written this."""
        return self.log.exists() and text in self.log.read_text(errors="replace")


class Gateway(Member):
    """A gateway process, at the same port whenever it is started."""

    def __init__(self, folder: Path, name: str, file: Path, db: str, active: int, lease_ms: int) -> None:
        super().__init__(folder, name, lease_ms=lease_ms)
        self._given = (file, db, active)
        self.port = 0

    def start(self) -> None:
        """Start it."""
        file, db, active = self._given
        self._arguments = ("-m", "tests.acceptance.cluster.served", str(file), db, str(self.port), str(active))
        super().start()

    async def listening(self) -> None:
        """Until it says where it listens."""
        await until(lambda: not self.is_alive or self.says("\n"), self.name)
        self.port = int(self.log.read_text().split()[0])

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"


class Cluster:
    """Workers `w0`, `w1`, … and two gateways, each of which starts so many runs at once itself. A context manager."""

    def __init__(
        self,
        server: PostgresServer,
        db: str,
        folder: Path,
        *,
        workers: int,
        active: int = 1,
        lease_ms: int = LEASE_MS,
    ) -> None:
        self.server, self.db, self.folder = server, db, folder
        self.flows = folder / "flows"
        self.flows.mkdir()
        file = self.flows / "flow.py"
        shutil.copy(flows.__file__, file)
        worker = ("-m", "tests.acceptance.cluster.launcher", "worker", str(file), "--db", db, "--interval", "500ms")
        self.workers = [Member(folder, f"w{number}", *worker, lease_ms=lease_ms) for number in range(workers)]
        self.gateways = [Gateway(folder, f"g{number}", file, db, active, lease_ms) for number in range(2)]

    @property
    def members(self) -> list[Member]:
        """All processes."""
        return [*self.workers, *self.gateways]

    async def __aenter__(self) -> Cluster:
        try:
            for member in self.members:
                member.start()
            for gateway in self.gateways:
                await gateway.listening()
            for worker in self.workers:
                await self.working(worker)
        except BaseException:
            self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all processes."""
        for member in self.members:
            member.end(signal.SIGKILL)

    async def working(self, worker: Member) -> None:
        """Until a worker has begun."""
        await until(lambda: not worker.is_alive or worker.says("working for"), worker.name)

    def executions(self) -> list[flows.Execution]:
        """What has been executed."""
        return flows.executions(self.flows)

    def open_gate(self, name: str) -> None:
        """Let the tasks of a gate go on."""
        (self.flows / f"{flows.OPEN}{name}").touch()

    def logs(self) -> str:
        """What the processes have written, for the message of a failure."""
        return "\n".join(f"── {m.name}\n{m.log.read_text(errors='replace')[-1500:]}" for m in self.members)

    async def status(self, store: SqlStore, run_id: str, *statuses: str) -> None:
        """Until a run has one of these statuses."""

        async def has() -> bool:
            return (await store.aread(lambda c: reads.run(c, run_id))).status in statuses

        await until_it(has, f"{run_id} to be {statuses}")


async def until(is_so: Callable[[], bool], what: str = "it") -> None:
    """Until something has come to be that nobody announces."""
    deadline = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        await asyncio.sleep(LOOK_S)


async def until_it(is_so: Callable[[], Awaitable[bool]], what: str) -> None:
    """The same for what has to be asked for."""
    deadline = time.monotonic() + PATIENCE_S
    while not await is_so():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        await asyncio.sleep(LOOK_S)


async def insist(ask: Callable[[], Awaitable[T]], *, done: tuple[str, ...] = ()) -> T | None:
    """Ask a gateway until it answers, as a client has to where servers fail: a refusal for lack of the database (503) is
    no answer, nor is one of a gateway that is about to end (429). A refusal with one of these codes says that an earlier
    try has come through."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return await ask()
        except GatewayError as error:
            if error.error_code in done:
                return None
            if error.http_status not in (429, 503) or time.monotonic() > deadline:
                raise
        except GatewayConnectionLost:
            if time.monotonic() > deadline:
                raise
        await asyncio.sleep(LOOK_S)


async def streamed(client: GatewayClient, run_id: str) -> list[Told]:
    """A run's events as a gateway tells them, to its end, whatever goes wrong with it and its database meanwhile."""
    found: list[Told] = []
    async with asyncio.timeout(PATIENCE_S):
        async for event in client.stream_run_events(run_id, patience_s=PATIENCE_S):
            assert event.event != "run.gap_resync", event
            found.append((event.seq, event.event, event.payload))
    return found


def logged(store: SqlStore, run_id: str) -> list[Told]:
    """What clients should be told of a run, from the stored log."""
    rows = store.read(lambda c: reads.events(c, run_id, -1, MANY))
    return [
        (row.seq + 1, name, json.loads(event_payload(run_id, row)))
        for row in rows
        if (name := event_name(row)) is not None
    ]


def opened(db: str) -> SqlStore:
    """The database, as a test looks at it."""
    return open_store(db, create=False)
