"""What goes wrong in a cluster, one thing after the other, at random."""

from __future__ import annotations

import asyncio
import random
import signal
from collections import Counter
from collections.abc import Awaitable, Callable

from psycopg.conninfo import conninfo_to_dict
from tests.acceptance.cluster.support import SHORT_LEASE_MS, Cluster, Member

EVERY_S = 1.0
STOPPED_S = SHORT_LEASE_MS / 1000 + 1


class Faults:
    """Injects faults into a cluster, about one a second. At most one worker stands still at a time, and is left alone then;
    one of the gateways is always there."""

    def __init__(self, cluster: Cluster, chance: random.Random) -> None:
        self._cluster = cluster
        self._chance = chance
        self._stopped: Member | None = None
        self._waking: asyncio.Task[None] | None = None
        self.injected: Counter[str] = Counter()
        self.killed: set[Member] = set()
        """Members that were killed. One that cannot start, because the database goes away just then, is started again."""
        self._kinds: list[tuple[Callable[[], Awaitable[None]], int]] = [
            (self._kill, 3),
            (self._kill_gateway, 2),
            (self._end_gateway, 1),
            (self._stop, 2),
            (self._cut, 3),
            (self._restart, 1),
            (self._crash, 1),
            (self._set_clock, 2),
        ]

    async def run(self, seconds: float) -> None:
        """Inject faults for so long; afterwards everybody is up."""
        kinds, weights = zip(*self._kinds, strict=True)
        loop = asyncio.get_running_loop()
        end_at = loop.time() + seconds
        # each kind once before any comes at random
        order = list(kinds)
        self._chance.shuffle(order)
        while loop.time() < end_at:
            kind = order.pop() if order else self._chance.choices(kinds, weights)[0]
            self.injected[kind.__name__.strip("_")] += 1
            await kind()
            for member in self.killed:
                if not member.is_alive:
                    member.start()
            await asyncio.sleep(self._chance.uniform(0.5, 1.5) * EVERY_S)
        if self._waking is not None:
            await self._waking

    def _worker(self) -> Member:
        return self._chance.choice([worker for worker in self._cluster.workers if worker is not self._stopped])

    async def _kill(self) -> None:
        worker = self._worker()
        await asyncio.to_thread(worker.end, signal.SIGKILL)
        self.killed.add(worker)

    async def _kill_gateway(self) -> None:
        await self._gateway(signal.SIGKILL)

    async def _end_gateway(self) -> None:
        """A gateway that is told to end, parks what it drives, and is started again at once."""
        await self._gateway(signal.SIGTERM)

    async def _gateway(self, how: signal.Signals) -> None:
        gateway = self._chance.choice(self._cluster.gateways)
        await asyncio.to_thread(gateway.end, how)
        self.killed.add(gateway)

    async def _stop(self) -> None:
        """A process that stands still for longer than its lease, and then goes on as if nothing had been."""
        if self._waking is not None:
            await self._waking
        worker = self._stopped = self._worker()
        worker.send(signal.SIGSTOP)

        async def wake() -> None:
            await asyncio.sleep(STOPPED_S)
            worker.send(signal.SIGCONT)
            self._stopped = None

        self._waking = asyncio.create_task(wake())

    async def _cut(self) -> None:
        name = str(conninfo_to_dict(self._cluster.db)["dbname"])
        await asyncio.to_thread(self._cluster.server.cut, name)

    async def _restart(self) -> None:
        await self._again(signal.SIGINT)

    async def _crash(self) -> None:
        await self._again(signal.SIGQUIT)

    async def _again(self, how: signal.Signals) -> None:
        await asyncio.to_thread(self._cluster.server.stop, how)
        self._cluster.server.start()  # on this thread: the server ends with the one that has started it

    async def _set_clock(self) -> None:
        self._worker().set_clock(ahead=self._chance.random() < 0.5)
