"""A gateway that starts nothing: it launches into the queue, reads, streams and decides; workers do the work. And limits,
which hold for what gateways launch as well."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest
from tests.integration.gateway.client_support import workflows

from smithers import Gateway, Settings
from smithers.cli.common import Common
from smithers.cli.queueing import queue_limit, queue_rm
from smithers.client import GatewayClient
from smithers.components.workflow import SmithersWorkflow
from smithers.control.worker import Worker
from smithers.engine import host as hosts
from smithers.store import open_store
from smithers.store.sql import reads
from smithers.store.sql.store import SqlStore

BOTH_DATABASES = True
pytestmark = pytest.mark.anyio
DEADLINE_S = 60.0
SETTINGS = Settings(durability="normal")


@asynccontextmanager
async def gateway_of(folder: Path, db: str, active: int) -> AsyncGenerator[GatewayClient]:
    gateway = Gateway(settings=SETTINGS, max_active_runs=active)
    for key, workflow in workflows(folder).items():
        workflow.db = db
        gateway.register(key, workflow)
    async with gateway, asyncio.timeout(DEADLINE_S):
        server = await gateway.listen(port=0, host="127.0.0.1")
        async with GatewayClient(server.url) as client:
            yield client


@asynccontextmanager
async def worker_of(folder: Path, store: SqlStore) -> AsyncGenerator[Worker]:
    served = workflows(folder)

    async def find(key: str) -> SmithersWorkflow:
        return served[key]

    worker, stop = Worker(store, served, find, SETTINGS, concurrency=9), asyncio.Event()
    working = asyncio.create_task(worker.run(stop))
    try:
        yield worker
    finally:
        stop.set()
        await working
        await worker.close()


@pytest.fixture
def store(db: str) -> Iterator[SqlStore]:
    found = open_store(db, durability="normal")
    yield found
    found.close()


def owner(store: SqlStore, run_id: str) -> str | None:
    return store.read(lambda c: reads.run(c, run_id)).runtime_owner_id


async def test_what_a_control_plane_launches_waits_for_a_worker_and_is_read_streamed_and_decided_at_it(
    tmp_path: Path, db: str, store: SqlStore
) -> None:
    async with gateway_of(tmp_path, db, 0) as client:
        await client.launch_run("gated", run_id="r")
        following = asyncio.create_task(told(client, "r"))
        assert (await client.get_run("r"))["status"] == "waiting-quota"
        async with worker_of(tmp_path, store):
            await told(client, "r", "approval.requested")
        assert owner(store, "r") is None
        # it is decided while nobody is there to go on with it: the gateway does not, either
        await client.submit_approval("r", "ship", approved=True)
        await client.launch_run("one", run_id="s")
        await client.launch_run("one", run_id="t")
        assert (await client.cancel_run("t"))["status"] == "cancelled"
        for run_id in ("r", "s"):
            assert str((await client.get_run(run_id))["status"]).startswith("waiting-")
        async with worker_of(tmp_path, store):
            names = await following
        assert (names[0], names[-1]) == ("run.status_changed", "run.completed")
        assert "approval.decided" in names


async def told(client: GatewayClient, run_id: str, until: str = "") -> list[str]:
    """The names of a run's events, to its end or to the first of a name."""
    names: list[str] = []
    async with aclosing(client.stream_run_events(run_id)) as events:
        async for event in events:
            names.append(event.event)
            if event.event == until:
                break
    return names


async def test_a_pause_holds_for_what_a_gateway_launches_and_ends_when_it_is_lifted(
    tmp_path: Path, db: str, store: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hosts, "PAUSED_EVERY_S", 0.02)
    async with gateway_of(tmp_path, db, 100) as client:
        assert (await client.wait_for_run(str((await client.launch_run("one"))["runId"])))["status"] == "finished"
        await queue_limit("workflow:one", concurrency=0, common=Common(db=db))
        await client.launch_run("one", run_id="held")
        await client.launch_run("gated", run_id="free")
        await told(client, "free", "approval.requested")
        assert (await client.get_run("held"))["status"] == "waiting-quota"
        await queue_rm("workflow:one", common=Common(db=db))
        assert (await client.wait_for_run("held"))["status"] == "finished"
