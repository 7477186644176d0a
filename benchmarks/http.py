"""The HTTP server under load: runs and status reads a second, the latency of streams, and what an idle server needs.

Server and client are processes of their own, so on a machine with two cores the client takes its share of them; what it took
is in the table.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from statistics import median, quantiles

from benchmarks.meter import MEGABYTE
from benchmarks.wire import Connection

HERE = Path(__file__).parent
ONE_TASK = HERE / "one_task.py"
PACED = HERE / "paced.py"
AT_ONCE = 16
WARM_RUNS = 160
IDLE_S = 3.0


class Server:
    """The server's process. `usage`, `trace` and `commits` ask it what it says of itself."""

    host = "127.0.0.1"

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.port = int(str(self._answer()))

    def _answer(self) -> object:
        assert self._process.stdout is not None
        answer: object = json.loads(self._process.stdout.readline())
        return answer

    def _ask(self, word: str) -> object:
        assert self._process.stdin is not None
        self._process.stdin.write(word + "\n")
        self._process.stdin.flush()
        return self._answer()

    def usage(self) -> tuple[float, float]:
        """Process time in seconds, memory in bytes."""
        found = self._ask("usage")
        assert isinstance(found, dict)
        return float(found["cpu_s"]), float(found["rss"])

    def trace(self) -> None:
        """Note commits from now on."""
        self._ask("trace")

    def commits(self) -> list[tuple[int, int]]:
        """How many events there were after each commit, and when it was durable, in monotonic nanoseconds."""
        found = self._ask("commits")
        assert isinstance(found, list)
        return [(int(count), int(moment)) for count, moment in found]

    def pin(self) -> None:
        """Give the server one core and this process another, where there are two."""
        cores = sorted(os.sched_getaffinity(0))
        if len(cores) > 1:
            for thread in Path(f"/proc/{self._process.pid}/task").iterdir():
                os.sched_setaffinity(int(thread.name), {cores[0]})
            os.sched_setaffinity(0, {cores[1]})


@contextmanager
def serving(scratch: Path, module: str = "http_server", folder: Path | None = None) -> Generator[Server]:
    """A server, made by a module of this package in a process of its own, with its database in a fresh folder if none is
    given."""
    place = folder or tempfile.mkdtemp(prefix="served-", dir=scratch)
    process = subprocess.Popen(
        [sys.executable, "-m", f"benchmarks.{module}", str(place)],
        cwd=HERE.parent,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:  # which ends its input, and with that the server
        yield Server(process)


async def _spread(server: Server, n: int, work: Callable[[Connection, int], Awaitable[None]]) -> None:
    """Do something `n` times over some connections."""
    numbers = iter(range(n))

    async def use(connection: Connection) -> None:
        for number in numbers:
            await work(connection, number)

    connections = [await Connection.open(server.host, server.port) for _ in range(AT_ONCE)]
    await asyncio.gather(*map(use, connections))
    for connection in connections:
        connection.close()


async def _start(connection: Connection, workflow: Path, **input: object) -> str:
    body = json.dumps({"workflowPath": str(workflow), "input": input}).encode()
    answer = await connection.ask("POST", "/v1/runs", body)
    assert answer.status == 200, answer.body
    run_id: str = json.loads(answer.body)["runId"]
    return run_id


async def _run(connection: Connection, number: int) -> None:
    """Start a run and follow its events to its end."""
    run_id = await _start(connection, ONE_TASK)
    answer = await connection.ask("GET", f"/v1/runs/{run_id}/events")
    assert b'"RunFinished"' in answer.body, answer.body


def runs(n: int, scratch: Path) -> dict[str, float]:
    """Runs of one task a second, each started and followed to its end, 16 at a time."""
    with serving(scratch) as server:
        asyncio.run(_spread(server, WARM_RUNS, _run))
        used, began = server.usage()[0], time.perf_counter()
        own = time.process_time()
        asyncio.run(_spread(server, n, _run))
        taken, own = time.perf_counter() - began, time.process_time() - own
        cpu, rss = server.usage()
        return {
            "runs_per_s": n / taken,
            "cpu_ms": (cpu - used) / n * 1e3,
            "client_cpu_ms": own / n * 1e3,
            "rss_mb": rss / MEGABYTE,
        }


def status(n: int, scratch: Path) -> dict[str, float]:
    """Status reads a second; the server, with all its threads, has one core."""
    with serving(scratch) as server:
        run_ids: list[str] = []

        async def start(connection: Connection, number: int) -> None:
            run_ids.append(await _start(connection, ONE_TASK))

        async def look(connection: Connection, number: int) -> None:
            answer = await connection.ask("GET", f"/v1/runs/{run_ids[number % len(run_ids)]}")
            assert b'"finished"' in answer.body, answer.body

        asyncio.run(_spread(server, WARM_RUNS, start))
        asyncio.run(_follow(server, run_ids))
        server.pin()
        asyncio.run(_spread(server, n // 5, look))
        used, began = server.usage()[0], time.perf_counter()
        asyncio.run(_spread(server, n, look))
        taken = time.perf_counter() - began
        return {"reads_per_s": n / taken, "cpu_ms": (server.usage()[0] - used) / n * 1e3}


async def _follow(server: Server, run_ids: list[str]) -> None:
    async def follow(connection: Connection, number: int) -> None:
        await connection.ask("GET", f"/v1/runs/{run_ids[number]}/events")

    await _spread(server, len(run_ids), follow)


def events(n: int, scratch: Path) -> dict[str, float]:
    """Milliseconds from a commit to its last event's arrival at a client that follows the run."""
    with serving(scratch) as server:
        asyncio.run(_spread(server, WARM_RUNS, _run))
        server.trace()
        arrivals: dict[int, int] = {}

        def arrived(data: bytes, moment: int) -> None:
            for found in re.finditer(rb"^id: (\d+)$", data, re.MULTILINE):
                arrivals[int(found[1])] = moment

        async def follow() -> None:
            connection = await Connection.open(server.host, server.port)
            run_id = await _start(connection, PACED, n=n + 1)
            await connection.ask("GET", f"/v1/runs/{run_id}/events", b"", arrived)
            connection.close()

        asyncio.run(follow())
        late = [(arrivals[count - 1] - moment) / 1e6 for count, moment in server.commits()]
        late = late[2:]  # the first ones precede the stream
        assert len(late) >= n
        return {"p50_ms": median(late), "p99_ms": quantiles(late, n=100, method="inclusive")[98], "max_ms": max(late)}


def idle(n: int, scratch: Path) -> dict[str, float]:
    """Memory of a server that has answered a request, and the share of a core that it needs to do nothing."""
    with serving(scratch) as server:

        async def ask() -> None:
            connection = await Connection.open(server.host, server.port)
            assert (await connection.ask("GET", "/v1/runs")).status == 200
            connection.close()

        asyncio.run(ask())
        used, began = server.usage()[0], time.perf_counter()
        time.sleep(IDLE_S)
        cpu, rss = server.usage()
        return {"rss_mb": rss / MEGABYTE, "cpu_percent": (cpu - used) / (time.perf_counter() - began) * 100}
