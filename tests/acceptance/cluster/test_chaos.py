"""A cluster in which something goes wrong every second: three workers, two gateways, one PostgreSQL.

Workers are killed, or stand still for longer than their leases, or have their clocks set by five minutes; gateways are killed,
or ended and started again; connections are cut; the database is restarted, in order or by a crash. Meanwhile runs of all
shapes are launched through either gateway, and streamed and decided through the other one.

`SMITHERS_CLUSTER_RUNS` is the number of runs, 80 by default and 5000 for the large trial, which takes a quarter of an hour;
`SMITHERS_CLUSTER_SEED` repeats the order of the faults of an earlier trial, whose seed the message of its failure names.
"""

from __future__ import annotations

import asyncio
import os
import random
from functools import partial
from pathlib import Path

import pytest
from tests.acceptance.cluster.faults import Faults
from tests.acceptance.cluster.flows import SHAPES
from tests.acceptance.cluster.support import (
    MANY,
    RUNS,
    SHORT_LEASE_MS,
    Cluster,
    Told,
    insist,
    logged,
    opened,
    streamed,
    until_it,
)
from tests.acceptance.cluster.verdict import hold_to_account
from tests.postgres_support import PostgresServer

from smithers.client import GatewayClient
from smithers.store.interface import RunRow
from smithers.store.sql import reads
from smithers.store.sql.session import Session
from smithers.store.sql.store import SqlStore

SEED = int(os.environ.get("SMITHERS_CLUSTER_SEED", random.randrange(1_000_000)))
RUNS_PER_S = 8.0
STARTED_BY_A_GATEWAY = 8
FOLLOWED = 8
"""Every eighth run is streamed from its beginning, through everything that goes wrong."""
AT_ONCE = 8


class Trial:
    """The runs of a trial, and whoever drives them."""

    def __init__(self, clients: list[GatewayClient], chance: random.Random) -> None:
        self._clients = clients
        self._chance = chance
        self.shapes = {f"r{n:04}-{SHAPES[n % len(SHAPES)]}": SHAPES[n % len(SHAPES)] for n in range(RUNS)}
        self.launched_at: dict[str, int] = {}
        self.follows: dict[str, asyncio.Task[list[Told]]] = {}

    def other(self, run_id: str) -> GatewayClient:
        """A gateway that the run was not launched at."""
        return self._clients[1 - self.launched_at[run_id]]

    async def launch_all(self) -> None:
        """Launch the runs one after the other, each at either gateway, and give them their signals through the other one."""
        async with asyncio.TaskGroup() as group:
            for number, run_id in enumerate(self.shapes):
                group.create_task(self._launch(run_id, follows=number % FOLLOWED == 0))
                await asyncio.sleep(self._chance.uniform(0, 2) / RUNS_PER_S)

    async def _launch(self, run_id: str, *, follows: bool) -> None:
        at = self.launched_at[run_id] = self._chance.randrange(2)
        shape = self.shapes[run_id]
        client = self._clients[at]
        await insist(lambda: client.launch_run("flow", run_id=run_id, idempotency_key=run_id, input={"shape": shape}))
        other = self.other(run_id)
        if follows:
            self.follows[run_id] = asyncio.create_task(streamed(other, run_id))
        if shape == "signal":
            await insist(
                lambda: other.submit_signal(run_id, signal_name="word", payload={"text": "go"}),
                done=("RUN_NOT_ACTIVE",),  # an earlier try, whose answer was lost
            )

    async def decide(self) -> None:
        """Approve what is asked for, through the gateway that the run was not launched at; until cancelled."""
        while True:
            for number, client in enumerate(self._clients):
                for asked in await insist(client.list_approvals) or []:
                    run_id, node_id = str(asked["runId"]), str(asked["nodeId"])
                    if self.launched_at[run_id] != number:
                        await insist(
                            partial(client.submit_approval, run_id, node_id, approved=True),
                            done=("AlreadyDecided", "RUN_NOT_ACTIVE"),
                        )
            await asyncio.sleep(0.2)

    async def ended(self, store: SqlStore) -> None:
        """Until no run is left that has not ended."""

        async def is_over() -> bool:
            return not await store.aread(_left)

        try:
            await until_it(is_over, "all runs to end")
        except AssertionError as error:
            error.add_note("\n".join(map(str, await store.aread(_left))))
            raise

    async def compare(self, store: SqlStore) -> None:
        """Hold what gateways tell of runs that others have launched to what is stored."""
        turns = asyncio.Semaphore(AT_ONCE)

        async def compare_one(run_id: str) -> None:
            async with turns:
                told = await asyncio.to_thread(logged, store, run_id)
                assert await streamed(self.other(run_id), run_id) == told
                if run_id in self.follows:
                    assert await self.follows[run_id] == told, f"{run_id}, as it was followed"

        await asyncio.gather(*[compare_one(run_id) for run_id in self.shapes])


def _left(session: Session) -> list[RunRow]:
    rows = reads.runs(session, (), MANY)
    return [row for row in rows if row.status not in ("finished", "failed", "cancelled", "continued")]


@pytest.mark.anyio
@pytest.mark.timeout(300 + RUNS)
async def test_every_run_finishes_exactly_once_per_task_and_is_told_of_completely_whatever_goes_wrong(
    server: PostgresServer, database: str, tmp_path: Path
) -> None:
    chance = random.Random(SEED)
    async with (
        Cluster(server, database, tmp_path, workers=3, active=STARTED_BY_A_GATEWAY, lease_ms=SHORT_LEASE_MS) as cluster,
        GatewayClient(cluster.gateways[0].url) as a,
        GatewayClient(cluster.gateways[1].url) as b,
    ):
        store = opened(database)
        trial, faults = Trial([a, b], chance), Faults(cluster, chance)
        deciding = asyncio.create_task(trial.decide())
        try:
            await asyncio.gather(trial.launch_all(), faults.run(RUNS / RUNS_PER_S + 1))
            await trial.ended(store)
            deciding.cancel()
            await trial.compare(store)
            assert all(member.is_alive for member in cluster.members if member not in faults.killed)
            await asyncio.to_thread(hold_to_account, store, set(trial.shapes), cluster.executions())
        except BaseException as error:
            error.add_note(f"SMITHERS_CLUSTER_SEED={SEED}, {dict(faults.injected)}\n{cluster.logs()}")
            raise
        finally:
            deciding.cancel()
            await asyncio.gather(deciding, return_exceptions=True)
            store.close()
