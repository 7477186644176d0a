"""Deliveries are forgotten by age and number, little by little; what is still owed to somebody is not."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path

from smithers.control.pruning import KEPT_MS, prune
from smithers.store import open_store
from smithers.store.sql import webhooks
from smithers.store.sql.session import Session
from smithers.store.sql.webhooks import Delivery
from smithers.testing import VirtualClock


def delivery(source: str, key: str) -> Delivery:
    return Delivery(source, key, "ping", None, "{}")


def stored(connection: Session) -> list[str]:
    return [str(key) for (key,) in connection.execute("SELECT dedupe_key FROM _smithers_webhook_deliveries ORDER BY 1")]


def test_deliveries_are_forgotten_by_age_and_number_but_not_those_that_wait(tmp_path: Path) -> None:
    async def use() -> None:
        store = open_store(tmp_path / "s.db", durability="normal")
        for moment in range(6):
            each = delivery("hub", f"d{moment}")
            await store.awrite(partial(webhooks.accept, delivery=each, now_ms=moment, capacity=100))
            if moment < 5:
                await store.awrite(partial(webhooks.delivered, delivery=each, now_ms=moment))
        prune_some = partial(webhooks.prune, before_ms=2, keep=100, limit=100)
        assert await store.awrite(prune_some) == 2
        assert await store.awrite(prune_some) == 0
        assert store.read(stored) == ["d2", "d3", "d4", "d5"]
        assert await store.awrite(partial(webhooks.prune, before_ms=0, keep=2, limit=100)) == 1
        assert await store.awrite(partial(webhooks.prune, before_ms=10**15, keep=2, limit=1)) == 1
        assert store.read(stored) == ["d4", "d5"]
        assert await store.awrite(partial(webhooks.prune, before_ms=10**15, keep=0, limit=100)) == 1
        assert store.read(stored) == ["d5"]
        store.close()

    asyncio.run(use())


def test_a_gateways_delivery_that_was_given_up_goes_too_and_is_nobody_elses_work(tmp_path: Path) -> None:
    async def use() -> None:
        store, clock = open_store(tmp_path / "s.db", durability="normal"), VirtualClock()
        planned = delivery("gateway:flow", "p")
        await store.awrite(partial(webhooks.plan, delivery=planned, now_ms=clock.now_ms()))
        assert store.read(partial(webhooks.undelivered, limit=10)) == []
        clock.advance(KEPT_MS)
        assert await prune(store, clock) == 0
        clock.advance(1)
        assert await prune(store, clock) == 1
        assert store.read(stored) == []
        store.close()

    asyncio.run(use())
