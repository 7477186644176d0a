"""Worker: a process that drives runs of a database which others have launched: those in the queue, those that are woken, and
those whose process has died. Any number of workers and gateways share one database.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from typing import TYPE_CHECKING

from smithers.components.workflow import SmithersWorkflow
from smithers.engine.engine import Engine
from smithers.engine.host import Host, HostReport
from smithers.store.interface import RunRow
from smithers.store.sql import pages, run_pages

if TYPE_CHECKING:
    from smithers.settings import Settings
    from smithers.store.sql.store import SqlStore

Find = Callable[[str], Awaitable[SmithersWorkflow]]
"""A workflow by the key that a worker serves it under. Raises a `SmithersError` if it cannot be loaded."""


class Worker:
    """Drives runs of the workflows that it has.

    Args:
        store: the database; stays open.
        keys: what its workflows are called: the key that a gateway serves one by, the name of its file without the ending,
            or the workflow's own name.
        find: gives a workflow by its key, in its newest version.
        concurrency: at most so many runs at once.
        queues: only runs of these queues are started; of all if None. Runs that were started before are gone on with
            whatever their queue.
        interval_s: how often to look for processes that have died, in seconds.
        on_report: told of what was gone on with.
    """

    def __init__(
        self,
        store: SqlStore,
        keys: Collection[str],
        find: Find,
        settings: Settings,
        *,
        concurrency: int,
        queues: Collection[str] | None = None,
        interval_s: float = 10.0,
        on_report: Callable[[HostReport], None] | None = None,
    ) -> None:
        self._keys = frozenset(keys)
        self._queues = None if queues is None else frozenset(queues)
        self._find = find
        self.engine = Engine(store, settings)
        self._host = Host(
            self.engine,
            self._workflow_of,
            max_concurrent=concurrency,
            serves=self._serves,
            interval_s=interval_s,
            on_report=on_report,
        )

    def gauges(self) -> dict[str, float]:
        """What is going on in the database, and how many places of agents are taken here, by the metrics' names; from any
        thread. Raises `StorageError`."""
        found: dict[str, float] = {**self.engine.store.read(pages.gauges)}
        size = self.engine.settings.agents
        found["smithers.scheduler.concurrency_utilization"] = (size - self.engine.agents.free) / size if size else 0.0
        return found

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set; runs that are under way go on after that, until `drain` or `close`."""
        await self._host.run(stop)

    async def drain(self, patience_s: float, give_up: asyncio.Event) -> int:
        """Wait for the runs that are under way to end or park, at most so long. Returns how many have not."""
        moved = asyncio.Event()
        self.engine.on_room = moved.set
        loop = asyncio.get_running_loop()
        until = loop.time() + patience_s
        giving_up = asyncio.create_task(give_up.wait())
        try:
            while self.engine.drivers and not giving_up.done() and (left := until - loop.time()) > 0:
                moved.clear()
                waiting = asyncio.create_task(moved.wait())
                await asyncio.wait([waiting, giving_up], timeout=left, return_when=asyncio.FIRST_COMPLETED)
                waiting.cancel()
        finally:
            giving_up.cancel()
            self.engine.on_room = None
        return len(self.engine.drivers)

    async def close(self) -> None:
        """Give up what is under way: its work is stopped, and other workers go on with it."""
        await self.engine.close()

    def _serves(self, workflow: str, queue: str) -> bool:
        return workflow in self._keys and (self._queues is None or queue in self._queues)

    async def _workflow_of(self, run: RunRow) -> SmithersWorkflow | None:
        listed = await self.engine.store.aread(lambda c: run_pages.listed_run(c, run.run_id))
        for key in (listed.workflow_key, listed.listed_as, run.workflow_name):
            if key is not None and key in self._keys:
                return await self._find(key)
        return None
