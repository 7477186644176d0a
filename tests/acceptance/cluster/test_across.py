"""One database, several processes: what is begun at one is executed, streamed and decided through others, and a restart of the
database is survived by all of them."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from tests.acceptance.cluster.support import Cluster, insist, logged, opened, streamed, until
from tests.postgres_support import PostgresServer

from smithers.client import GatewayClient, GatewayError
from smithers.store.sql.store import SqlStore

pytestmark = pytest.mark.anyio


@pytest.fixture
async def cluster(server: PostgresServer, database: str, tmp_path: Path) -> AsyncIterator[Cluster]:
    """A worker and two gateways."""
    async with Cluster(server, database, tmp_path, workers=1) as found:
        yield found


@pytest.fixture
async def clients(cluster: Cluster) -> AsyncIterator[tuple[GatewayClient, GatewayClient]]:
    """A client of either gateway. The one run that each may start itself is under way already, and waits at a gate."""
    async with GatewayClient(cluster.gateways[0].url) as a, GatewayClient(cluster.gateways[1].url) as b:
        for client, gateway in ((a, cluster.gateways[0]), (b, cluster.gateways[1])):
            await launched(client, gateway.name, "gate-of-gateways")
        await until(lambda: sum(e.node_id == "gate-of-gateways" for e in cluster.executions()) == 2)
        yield a, b


@pytest.fixture
def store(database: str, cluster: Cluster) -> Iterator[SqlStore]:
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
    assert {e.pid for e in cluster.executions() if e.run_id == "r"} == {cluster.workers[0].pid}
    await b.submit_approval("r", "ship", approved=True)
    assert await streaming == logged(store, "r")
    assert (await a.get_run("r"))["status"] == "finished"


async def test_a_run_of_one_gateway_that_a_worker_executes_is_cancelled_through_the_other(
    cluster: Cluster, clients: tuple[GatewayClient, GatewayClient], store: SqlStore
) -> None:
    a, b = clients
    await launched(a, "r", "gate")
    await until(lambda: any(e.node_id == "gate" for e in cluster.executions()))
    await b.cancel_run("r")
    assert await streamed(a, "r") == logged(store, "r")
    assert (await a.get_run("r"))["status"] == "cancelled"


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT], ids=["in order", "by a crash"])
async def test_a_restart_of_the_database_is_survived_by_all_and_nothing_is_repeated_or_lost(
    how: signal.Signals, cluster: Cluster, clients: tuple[GatewayClient, GatewayClient], store: SqlStore
) -> None:
    a, b = clients
    await launched(a, "r", "gate")
    streaming = asyncio.create_task(streamed(b, "r"))
    await until(lambda: any(e.node_id == "gate" for e in cluster.executions()))
    cluster.server.stop(how)
    with pytest.raises(GatewayError) as refused:
        await b.get_run("r")
    assert refused.value.http_status == 503
    assert refused.value.error_code == "STORAGE_ERROR"
    cluster.open_gate("gate")
    cluster.open_gate("gate-of-gateways")
    cluster.server.start()
    assert await streaming == await asyncio.to_thread(logged, store, "r")
    found = await insist(lambda: a.get_run("r"))
    assert found is not None
    assert found["status"] == "finished"
    assert Counter(e.node_id for e in cluster.executions() if e.run_id == "r") == {"first": 1, "gate": 1, "last": 1}
    for gateway in cluster.gateways:
        await cluster.status(store, gateway.name, "finished")
        assert sum(e.run_id == gateway.name for e in cluster.executions()) == 3
    assert all(member.is_alive for member in cluster.members)
