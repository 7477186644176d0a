"""One database, several processes: what is begun at one is executed, streamed and decided through others, and a restart of the
database is survived by all of them."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.acceptance.cluster.support import Cluster, insist, logged, opened, streamed, until
from tests.postgres_support import PostgresServer

from smithers.client import GatewayClient, GatewayError
from smithers.store.sql.store import SqlStore

pytestmark = pytest.mark.anyio


@pytest.fixture
async def cluster(server: PostgresServer, database: str, tmp_path: Path) -> AsyncIterator[Cluster]:
    """A worker and two gateways that start no runs themselves."""
    async with Cluster(server, database, tmp_path, workers=1) as found:
        yield found


@pytest.fixture
async def clients(cluster: Cluster) -> AsyncIterator[tuple[GatewayClient, GatewayClient]]:
    """A client of either gateway."""
    async with GatewayClient(cluster.gateways[0].url) as a, GatewayClient(cluster.gateways[1].url) as b:
        yield a, b


@pytest.fixture
def store(database: str, cluster: Cluster) -> AsyncIterator[SqlStore]:
    """The database itself."""
    found = opened(database)
    yield found
    found.close()


async def launched(client: GatewayClient, run_id: str, shape: str) -> None:
    await client.launch_run("flow", run_id=run_id, input={"shape": shape})


async def test_a_run_of_one_gateway_is_executed_by_a_worker_and_streamed_and_approved_through_the_other(
    cluster: Cluster, clients: tuple[GatewayClient, GatewayClient], store: SqlStore
) -> None:
    a, b = clients
    await launched(a, "r", "approval")
    streaming = asyncio.create_task(streamed(b, "r"))
    await cluster.status(store, "r", "waiting-approval")
    assert {e.pid for e in cluster.executions()} == {cluster.workers[0].pid}
    await b.submit_approval("r", "ship", approved=True)
    assert await streaming == logged(store, "r")
    assert (await a.get_run("r"))["status"] == "finished"


async def test_a_run_of_one_gateway_that_a_worker_executes_is_cancelled_through_the_other(
    cluster: Cluster, clients: tuple[GatewayClient, GatewayClient], store: SqlStore
) -> None:
    a, b = clients
    await launched(a, "r", "gated")
    await until(lambda: any(e.node_id == "gated" for e in cluster.executions()))
    await b.cancel_run("r")
    assert await streamed(a, "r") == logged(store, "r")
    assert (await a.get_run("r"))["status"] == "cancelled"


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT], ids=["in order", "by a crash"])
async def test_a_restart_of_the_database_is_survived_by_all_and_nothing_is_repeated_or_lost(
    how: signal.Signals, cluster: Cluster, clients: tuple[GatewayClient, GatewayClient], store: SqlStore
) -> None:
    a, b = clients
    await launched(a, "r", "gated")
    streaming = asyncio.create_task(streamed(b, "r"))
    await until(lambda: any(e.node_id == "gated" for e in cluster.executions()))
    cluster.server.stop(how)
    with pytest.raises(GatewayError) as refused:
        await b.get_run("r")
    assert refused.value.http_status == 503
    assert refused.value.error_code == "STORAGE_ERROR"
    cluster.open_gate()
    cluster.server.start()
    assert await streaming == await asyncio.to_thread(logged, store, "r")
    found = await insist(lambda: a.get_run("r"))
    assert found is not None
    assert found["status"] == "finished"
    assert Counter(e.node_id for e in cluster.executions()) == {"first": 1, "gated": 1, "last": 1}
    assert all(member.is_alive for member in cluster.members)
