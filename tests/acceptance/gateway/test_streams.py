"""What clients of a gateway have seen when a run is over: its log, whoever was cut off, killed or slow in between."""

from __future__ import annotations

import asyncio
import random
import signal
import sys
import time

from tests.acceptance.gateway.support import (
    PATIENCE_S,
    ROOT,
    Client,
    GatewayProcess,
    Refused,
    Told,
    client_of,
    until,
)
from websockets.exceptions import WebSocketException

RUNS = 50
CLIENTS = 200
USERS = 10
STEPS = 12
STAY = (6, 18)
"""How many events a connection lasts."""
CHUNKS = 2_500
"""164 MB."""
MOST_BYTES = 150_000_000
"""Of these 33 MB may wait for a connection that does not read; a third of a gateway's memory under load is SQLite's cache."""
PICKED_UP_S = 20.0
"""Long before the leases of the gateway that was killed end, which is 30 s after it was."""
FLOW = ROOT / "tests/acceptance/gateway/flow.py"


class Unsteady:
    """A client that loses its connection again and again, and reads on after what it has."""

    def __init__(self, gateway: GatewayProcess, number: int) -> None:
        self.run_id = f"run-{number % RUNS}"
        self.told: list[Told] = []
        self.connections = 0
        self._gateway = gateway
        self._token = f"user-{number % USERS}"
        self._random = random.Random(number)

    async def read(self) -> None:
        """Read until the run has completed."""
        while not self.told or self.told[-1][1] != "run.completed":
            try:
                await self._connect()
            except (OSError, WebSocketException, TimeoutError):
                await asyncio.sleep(self._random.uniform(0.05, 0.3))  # as clients that reconnect do
            except Refused as error:
                if error.code != "RateLimited":  # its last connection may not have been noticed to be gone
                    raise
                await asyncio.sleep(self._random.uniform(0.05, 0.3))

    async def _connect(self) -> None:
        async with client_of(self._gateway.url, self._token) as client:
            self.connections += 1
            after = self.told[-1][0] if self.told else 0
            await client.call("streamRunEvents", {"runId": self.run_id, "afterSeq": after})
            for _ in range(self._random.randint(*STAY)):
                self.told.append(await client.streamed())
                if self.told[-1][1] == "run.completed":
                    return
            if self._random.random() < 0.5:
                client.socket.transport.abort()


async def _launch(client: Client, run_id: str, **wanted: object) -> None:
    await client.call("launchRun", {"workflow": "flow", "runId": run_id, "input": wanted})


def test_unsteady_clients_see_each_runs_log_once_and_in_order_across_restarts(busy_gateway: GatewayProcess) -> None:
    gateway = busy_gateway
    clients = [Unsteady(gateway, number) for number in range(CLIENTS)]

    def is_told(count: int) -> bool:
        return sum(len(client.told) for client in clients) >= count * CLIENTS

    async def restart(number: signal.Signals) -> int:
        code = await asyncio.to_thread(gateway.end, number)
        await asyncio.to_thread(gateway.start)
        return code

    async def main() -> None:
        async with client_of(gateway.url, "user-0") as client:
            for number in range(RUNS):
                await _launch(client, f"run-{number}", steps=STEPS)
        reading = asyncio.gather(*[client.read() for client in clients])
        await until(lambda: is_told(STEPS // 2))
        assert await restart(signal.SIGKILL) == -signal.SIGKILL
        await until(lambda: is_told(2 * STEPS))
        assert await restart(signal.SIGTERM) == 0
        async with asyncio.timeout(2 * PATIENCE_S):
            await reading

    asyncio.run(main())
    assert gateway.end() == 0
    logs = {f"run-{number}": gateway.log(f"run-{number}") for number in range(RUNS)}
    for client in clients:
        assert client.told == logs[client.run_id]
    for log in logs.values():
        finished = [payload["nodeId"] for _, name, payload in log if name == "node.finished"]
        assert finished == [f"t{i}" for i in range(STEPS)]
    assert sum(client.connections for client in clients) > 2 * CLIENTS


def test_a_client_that_stops_reading_costs_bounded_memory_and_nobody_else(gateway: GatewayProcess) -> None:
    async def main() -> tuple[list[Told], int]:
        async with client_of(gateway.url) as stalled, client_of(gateway.url) as reading:
            before = most = gateway.memory
            stalled.socket.transport.pause_reading()
            await _launch(reading, "loud", chunks=CHUNKS)
            await reading.call("streamRunEvents", {"runId": "loud", "afterSeq": 0})
            told: list[Told] = []
            async with asyncio.timeout(2 * PATIENCE_S):
                while not told or told[-1][1] != "run.completed":
                    told.append(await reading.streamed())
                    most = max(most, gateway.memory)
            stalled.socket.transport.abort()
            return told, most - before

    told, grown = asyncio.run(main())
    assert sum(name == "task.output" for _, name, _ in told) == CHUNKS
    assert grown < MOST_BYTES
    assert told == gateway.log("loud")


def test_a_killed_gateways_runs_go_on_by_themselves_long_before_its_leases_end(gateway: GatewayProcess) -> None:
    runs = [f"run-{n}" for n in range(6)]

    async def begun(attempt: int) -> float:
        """Until each run's gate has begun for the n-th time; when that was."""
        async with client_of(gateway.url) as client, asyncio.timeout(PATIENCE_S):
            for run_id in runs:
                if attempt == 1:
                    await _launch(client, run_id, gated=True)
                await client.call("streamRunEvents", {"runId": run_id, "afterSeq": 0})
            missing = set(runs)
            while missing:
                _, name, payload = await client.streamed()
                if name == "node.started" and payload.get("attempt") == attempt:
                    missing.discard(str(payload["runId"]))
            return time.monotonic()

    async def ended() -> list[list[Told]]:
        async with client_of(gateway.url) as client:
            return [await client.read(run_id) for run_id in runs]

    asyncio.run(begun(1))
    gateway.end(signal.SIGKILL)
    killed = time.monotonic()
    gateway.start()
    assert asyncio.run(begun(2)) - killed < PICKED_UP_S

    (gateway.folder / "gate").touch()
    told = asyncio.run(ended())
    for run_id, events in zip(runs, told, strict=True):
        assert [e for e in events if e[2]["runId"] == run_id] == gateway.log(run_id)


def test_a_run_of_another_process_is_streamed_like_one_of_the_gateways_own(gateway: GatewayProcess) -> None:
    (gateway.folder / "gate").touch()

    async def main() -> tuple[list[Told], list[tuple[str, object]]]:
        async with client_of(gateway.url) as listening, client_of(gateway.url) as streaming:
            command = ["up", str(FLOW), "--run-id", "theirs", "--db", "smithers.db", "--input", '{"steps":6}']
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "smithers",
                *command,
                cwd=gateway.folder,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
            )
            plain: list[tuple[str, object]] = []
            async with asyncio.timeout(PATIENCE_S):
                frame = await listening.event()
                while frame["payload"].get("runId") != "theirs":
                    frame = await listening.event()
                streamed = asyncio.create_task(streaming.read("theirs"))
                while frame["event"] != "run.completed":
                    plain.append((frame["event"], frame["payload"]))
                    frame = await listening.event()
                plain.append((frame["event"], frame["payload"]))
                found = await streamed
                assert await process.wait() == 0
            return found, plain

    streamed, plain = asyncio.run(main())
    log = gateway.log("theirs")
    assert streamed == log
    assert [each for each in plain if each[0] != "tick"] == [(name, payload) for _, name, payload in log]
