"""How long an event takes to the sockets that listen: `python -m benchmarks.sockets [sockets] [events]`.

Two processes: this one has the gateway's sockets and commits events, the other one has the clients, which only look for the
time that is in each event. Times are from just before the commit to the arrival at a client.
"""

from __future__ import annotations

import asyncio
import base64
import json
import resource
import sys
import tempfile
import time
from pathlib import Path

from tests.integration.gateway.socket_support import FakeRun, mini_gateway

from smithers.gateway.config import GatewayOptions

PACE_S = 0.15


class Listener(asyncio.Protocol):
    """A client that knows as much of WebSockets as it needs."""

    def __init__(self, took: dict[int, list[float]], ready: asyncio.Semaphore) -> None:
        self._took = took
        self._ready = ready
        self._head = b""
        self._is_open = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for the upgrade."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        key = base64.b64encode(b"0" * 16).decode()
        transport.write(
            f"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )

    def data_received(self, data: bytes) -> None:
        """Look for events."""
        now = time.monotonic_ns()
        if not self._is_open:
            self._head += data
            if b"\r\n\r\n" in self._head:
                self._is_open = True
                params = {"minProtocol": 1, "maxProtocol": 1, "client": {"id": "b"}}
                frame = json.dumps({"type": "req", "id": "1", "method": "connect", "params": params}).encode()
                assert len(frame) < 126
                self._transport.write(b"\x81" + bytes([0x80 | len(frame)]) + b"\0\0\0\0" + frame)
            return
        if b'"type":"res"' in data:
            self._ready.release()
        at = data.find(b'"nodeId":"t')
        while at >= 0:
            sent = int(data[at + 11 : data.index(b'"', at + 11)])
            self._took.setdefault(sent, []).append((now - sent) / 1e6)
            at = data.find(b'"nodeId":"t', at + 11)


async def listen(port: int, sockets: int) -> None:
    """The clients' process."""
    took: dict[int, list[float]] = {}
    ready = asyncio.Semaphore(0)
    loop = asyncio.get_running_loop()
    for _ in range(sockets):
        await loop.create_connection(lambda: Listener(took, ready), "127.0.0.1", port)
        await ready.acquire()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await loop.run_in_executor(None, sys.stdin.readline)
    lasts = sorted(max(each) for each in took.values() if len(each) == sockets)
    every = sorted(ms for each in took.values() for ms in each)
    firsts = sorted(min(each) for each in took.values())
    answer = {
        "events": len(took),
        "complete": len(lasts),
        "first_ms_p50": firsts[len(firsts) // 2],
        "p50_ms": every[len(every) // 2],
        "last_ms_p50": lasts[len(lasts) // 2],
        "last_ms_max": lasts[-1],
    }
    sys.stdout.write(json.dumps({k: round(v, 2) for k, v in answer.items()}) + "\n")


async def run(sockets: int, events: int) -> None:
    """The gateway's process."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (8_192, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    with tempfile.TemporaryDirectory() as folder:
        async with mini_gateway(Path(folder) / "s.db", GatewayOptions(max_connections=20_000)) as gateway:
            port = gateway.url.rstrip("/").rpartition(":")[2]
            child = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "benchmarks.sockets", "listen", port, str(sockets), stdin=-1, stdout=-1
            )
            assert child.stdin is not None
            assert child.stdout is not None
            await child.stdout.readline()
            one = FakeRun(gateway.place, "run")
            await one.launch()
            await asyncio.sleep(0.5)
            before = time.process_time()
            for _ in range(events):
                await one.emit_named(f"t{time.monotonic_ns()}")
                await asyncio.sleep(PACE_S)
            cpu = (time.process_time() - before) * 1000 / events
            child.stdin.write(b"\n")
            sys.stdout.write(f"{sockets} sockets: {(await child.stdout.readline()).decode().strip()} ")
            sys.stdout.write(f"gateway CPU {cpu:.1f} ms an event\n")
            await child.wait()


if __name__ == "__main__":
    if sys.argv[1:2] == ["listen"]:
        asyncio.run(listen(int(sys.argv[2]), int(sys.argv[3])))
    else:
        asyncio.run(run(int((sys.argv[1:2] or ["1000"])[0]), int((sys.argv[2:3] or ["30"])[0])))
