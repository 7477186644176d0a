"""The gateway under load: runs launched over a WebSocket, reads, the latency of events, and what an idle gateway needs.

As in `http.py`, server and client are processes of their own.
"""

from __future__ import annotations

import asyncio
import json
import re
import resource
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median, quantiles

from benchmarks.http import AT_ONCE, Server, serving
from benchmarks.meter import MEGABYTE
from benchmarks.sockets import OnEvent, Socket

SERVER = "gateway_server"
WARM_RUNS = 160
WAITING = "waiting"
READS = {"getRun": 6_000, "listRuns": 1_500, "listApprovals": 1_000}
PAGE = 50
BEATS = 20
IDLE_S = 10.0

_RUN = re.compile(rb'"runId":"([^"]+)"')
_STREAMED = re.compile(rb'"seq":(\d+),"stateVersion":\d+},"seq":')
_BEAT = re.compile(rb'"dataSizeBytes":(\d+)')


@asynccontextmanager
async def _socket(server: Server, on_event: OnEvent | None = None) -> AsyncGenerator[Socket]:
    socket = await Socket.open(server.host, server.port, on_event)
    try:
        yield socket
    finally:
        socket.close()


def _spread_of(found: list[float], name: str = "ms") -> dict[str, float]:
    return {
        f"p50_{name}": median(found),
        f"p99_{name}": quantiles(found, n=100, method="inclusive")[98],
        f"max_{name}": max(found),
    }


# ── runs ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def _launch(socket: Socket, n: int, prefix: str) -> list[float]:
    """Launch `n` runs, so many at a time, each followed to its end. Returns how long each took, in milliseconds."""
    begun: dict[bytes, int] = {}
    took: list[float] = []
    is_done = asyncio.get_running_loop().create_future()

    def launch() -> None:
        run_id = f"{prefix}-{len(begun)}"
        begun[run_id.encode()] = time.monotonic_ns()
        _ = socket.send("launchRun", f'{{"workflow":"one","options":{{"runId":"{run_id}"}}}}')

    def arrived(frame: bytes, moment: int) -> None:
        if frame.startswith(b'{"type":"event","event":"run.completed"'):
            found = _RUN.search(frame)
            assert found is not None
            took.append((moment - begun[found[1]]) / 1e6)
            if len(begun) < n:
                launch()
            elif len(took) == n:
                is_done.set_result(None)

    socket.on_event = arrived
    for _ in range(AT_ONCE):
        launch()
    await is_done
    return took


def runs(n: int, scratch: Path) -> dict[str, float]:
    """Runs of one task a second, launched over one WebSocket and seen to complete on it, 16 at a time."""

    async def measure(server: Server) -> dict[str, float]:
        async with _socket(server) as socket:
            await _launch(socket, WARM_RUNS, "warm")
            used, own, began = server.usage()[0], time.process_time(), time.perf_counter()
            took = await _launch(socket, n, "run")
            taken, own = time.perf_counter() - began, time.process_time() - own
            return {
                "runs_per_s": n / taken,
                "cpu_ms": (server.usage()[0] - used) / n * 1e3,
                "client_cpu_ms": own / n * 1e3,
                **_spread_of(took),
            }

    with serving(scratch, SERVER) as server:
        return asyncio.run(measure(server))


# ── reads ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def prepare_waiting(n: int, scratch: Path) -> None:
    """Leave `n` runs that wait for an approval in a database of their own."""
    folder = scratch / WAITING
    folder.mkdir()

    async def launch() -> None:
        from benchmarks import workflows
        from smithers import close_engines, run_workflow

        database = folder / "smithers.db"
        for at in range(0, n, 100):
            names = [f"run-{number}" for number in range(at, min(at + 100, n))]
            await asyncio.gather(*[run_workflow(workflows.parked, run_id=name, db=database) for name in names])
        await close_engines()

    asyncio.run(launch())


def reads(n: int, scratch: Path) -> dict[str, float]:
    """Reads a second over `n` waiting runs; the server, with all its threads, has one core."""

    def params(method: str, number: int) -> dict[str, object]:
        return {"runId": f"run-{number * 7 % n}"} if method == "getRun" else {"filter": {"limit": PAGE}}

    async def ask_all(socket: Socket, method: str, count: int) -> None:
        numbers = iter(range(count))

        async def ask() -> None:
            for number in numbers:
                frame = await socket.ask(method, params(method, number))
                assert b'"ok":true' in frame[:60], frame

        await asyncio.gather(*[ask() for _ in range(AT_ONCE)])

    async def measure(server: Server) -> dict[str, float]:
        figures: dict[str, float] = {}
        async with _socket(server) as socket:
            for method in ("listRuns", "listApprovals"):
                frame = await socket.ask(method, params(method, 0))
                assert len(json.loads(frame)["payload"]) == PAGE, frame[:300]
            server.pin()
            for method, count in READS.items():
                await ask_all(socket, method, count // 5)
                used, began = server.usage()[0], time.perf_counter()
                await ask_all(socket, method, count)
                figures[f"{method}_per_s"] = count / (time.perf_counter() - began)
                figures[f"{method}_cpu_ms"] = (server.usage()[0] - used) / count * 1e3
        return figures

    with serving(scratch, SERVER, scratch / WAITING) as server:
        return asyncio.run(measure(server))


# ── events ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def events(n: int, scratch: Path) -> dict[str, float]:
    """Milliseconds from a commit to the arrival of its last event at a client that streams the run."""

    async def measure(server: Server) -> dict[str, float]:
        arrivals: dict[int, int] = {}
        is_done = asyncio.get_running_loop().create_future()

        def arrived(frame: bytes, moment: int) -> None:
            found = _STREAMED.search(frame)
            if found is not None:
                arrivals[int(found[1]) - 1] = moment
                if b'"event":"run.completed"' in frame:
                    is_done.set_result(None)

        async with _socket(server) as socket:
            await _launch(socket, WARM_RUNS, "warm")
            server.trace()
            socket.on_event = arrived
            await socket.ask("launchRun", {"workflow": "paced", "runId": "paced", "input": {"n": n + 5}})
            await socket.ask("streamRunEvents", {"runId": "paced"})
            await is_done
        late: list[float] = []
        before = 0
        for count, moment in server.commits():
            told = [arrivals[number] for number in range(before, count) if number in arrivals]
            late += [(max(told) - moment) / 1e6] if told else []
            before = count
        late = late[3:]  # the first ones may precede the stream
        assert len(late) >= n
        return _spread_of(late)

    with serving(scratch, SERVER) as server:
        return asyncio.run(measure(server))


def fan_out(n: int, scratch: Path) -> dict[str, float]:
    """Milliseconds from an event's commit to its arrival at the last of `n` WebSockets."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(8_192, most), most))

    async def measure(server: Server) -> dict[str, float]:
        arrivals: dict[int, list[int]] = {}
        numbers: dict[int, int] = {}
        is_done = asyncio.get_running_loop().create_future()

        def arrived(frame: bytes, moment: int) -> None:
            if frame.startswith(b'{"type":"event","event":"task.heartbeat"'):
                beat = _BEAT.search(frame)
                assert beat is not None
                arrivals.setdefault(int(beat[1]), []).append(moment)

        def streamed(frame: bytes, _moment: int) -> None:
            beat, number = _BEAT.search(frame), _STREAMED.search(frame)
            if beat is not None and number is not None:
                numbers[int(beat[1])] = int(number[1]) - 1
            if b'"event":"run.completed"' in frame:
                is_done.set_result(None)

        sockets = [await Socket.open(server.host, server.port, arrived) for _ in range(n)]
        async with _socket(server, streamed) as leader:
            server.trace()
            used = server.usage()[0]
            await leader.ask("launchRun", {"workflow": "beating", "runId": "beating", "input": {"n": BEATS}})
            await leader.ask("streamRunEvents", {"runId": "beating", "afterSeq": 0})
            await is_done
            cpu = server.usage()[0] - used
            # answers come after all events
            await asyncio.gather(*[socket.ask("getRun", {"runId": "beating"}) for socket in sockets])
        for socket in sockets:
            socket.close()
        commits = server.commits()
        late: list[float] = []
        for beat, moments in arrivals.items():
            assert len(moments) == n
            durable = next(moment for count, moment in commits if count > numbers[beat])
            late.append((max(moments) - durable) / 1e6)
        return {"p50_ms": median(late), "max_ms": max(late), "cpu_ms": cpu * 1e3 / BEATS}

    with serving(scratch, SERVER) as server:
        return asyncio.run(measure(server))


# ── nothing ────────────────────────────────────────────────────────────────────────────────────────────────────────


def idle(n: int, scratch: Path) -> dict[str, float]:
    """Memory of a gateway with `n` waiting runs behind it, and the share of a core that it needs to do nothing."""

    async def ask(server: Server) -> None:
        async with _socket(server) as socket:
            await socket.ask("getRun", {"runId": f"run-{n - 1}"})

    with serving(scratch, SERVER, scratch / WAITING) as server:
        asyncio.run(ask(server))
        time.sleep(1.0)
        used, began = server.usage()[0], time.perf_counter()
        time.sleep(IDLE_S)
        cpu, rss = server.usage()
        return {"rss_mb": rss / MEGABYTE, "cpu_percent": (cpu - used) / (time.perf_counter() - began) * 100}
