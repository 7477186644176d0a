"""Real gateway processes that are killed and started again, clients, and the stored log that clients are held against."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

from websockets.asyncio.client import ClientConnection, connect

from smithers.gateway.streams.mapping import event_name, event_payload
from smithers.store import open_store
from smithers.store.sql import reads

ROOT = Path(__file__).parents[3]
PATIENCE_S = 60.0
"""Only reached when something is broken."""
CONNECT = {"minProtocol": 1, "maxProtocol": 1, "client": {"id": "test", "version": "1", "platform": "python"}}
MANY = 1_000_000

Told = tuple[int, str, Mapping[str, object]]
"""An event as clients have it: number, name, payload."""


class Refused(Exception):
    """The gateway answered with an error."""

    def __init__(self, error: Mapping[str, Any]) -> None:
        super().__init__(f"{error['code']}: {error['message']}")
        self.code: str = error["code"]


class GatewayProcess:
    """A gateway that is started again at the same port."""

    def __init__(self, folder: Path, users: int = 0) -> None:
        self.folder = folder
        self.database = folder / "smithers.db"
        self.port = 0
        self._users = users
        self._process: subprocess.Popen[str] | None = None

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"ws://127.0.0.1:{self.port}/"

    def start(self) -> None:
        """Start it, and return once it listens."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith("SMITHERS_")}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.acceptance.gateway.served", str(self.port), str(self._users)],
            cwd=self.folder,
            env=environment | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the gateway has not come up"
        self.port = int(line)

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and wait for the end; the exit code, negative for a signal."""
        process, self._process = self._process, None
        if process is None:
            return 0
        process.send_signal(number)
        code = process.wait(PATIENCE_S)
        assert process.stdout is not None
        process.stdout.close()
        return code

    @property
    def memory(self) -> int:
        """Bytes that it has in RAM."""
        assert self._process is not None
        pages = int(Path(f"/proc/{self._process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def log(self, run_id: str) -> list[Told]:
        """What clients should be told of a run, from the stored log."""
        store = open_store(self.database)
        try:
            rows = store.read(lambda c: reads.events(c, run_id, -1, MANY))
        finally:
            store.close()
        return [
            (row.seq + 1, name, json.loads(event_payload(run_id, row)))
            for row in rows
            if (name := event_name(row)) is not None
        ]


class Client:
    """A connection."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self._numbers = count(1)
        self.kept: list[dict[str, Any]] = []
        """Events that came while responses were waited for."""

    async def call(self, method: str, params: Mapping[str, object]) -> Any:
        """A request's payload. Raises `Refused`."""
        request_id = str(next(self._numbers))
        await self.socket.send(json.dumps({"type": "req", "id": request_id, "method": method, "params": params}))
        while True:
            frame = json.loads(await self.socket.recv())
            if frame["type"] == "event":
                self.kept.append(frame)
            elif frame["id"] == request_id:
                if not frame["ok"]:
                    raise Refused(frame["error"])
                return frame["payload"]

    async def event(self) -> dict[str, Any]:
        """The next event, whatever it is."""
        if self.kept:
            return self.kept.pop(0)
        while True:
            frame: dict[str, Any] = json.loads(await self.socket.recv())
            if frame["type"] == "event":
                return frame

    async def streamed(self) -> Told:
        """The next event of a stream. An error or a gap ends the test."""
        while True:
            frame = await self.event()
            assert frame["event"] not in ("run.error", "run.gap_resync"), frame
            if frame["event"] == "run.event":
                payload = frame["payload"]
                return payload["seq"], payload["event"], payload["payload"]

    async def read(self, run_id: str, after: int = 0) -> list[Told]:
        """Stream a run to its end."""
        await self.call("streamRunEvents", {"runId": run_id, "afterSeq": after})
        found: list[Told] = []
        async with asyncio.timeout(PATIENCE_S):
            while not found or found[-1][1] != "run.completed":
                found.append(await self.streamed())
        return found


@asynccontextmanager
async def client_of(url: str, token: str | None = None) -> AsyncGenerator[Client]:
    """A connection that has said hello."""
    options: dict[str, Any] = {"compression": None, "ping_interval": None, "close_timeout": 1}
    async with connect(url, proxy=None, max_size=None, max_queue=None, **options) as socket:
        client = Client(socket)
        await client.call("connect", CONNECT | ({"auth": {"token": token}} if token else {}))
        yield client


async def until(is_so: Any) -> None:
    """Until something has come to be that nobody announces."""
    deadline = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)
