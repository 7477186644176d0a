"""Pruning: forgets what a database keeps only for a while, little by little, beside everything else."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import TYPE_CHECKING, Final

from smithers.errors import SmithersError
from smithers.store.sql import webhooks

if TYPE_CHECKING:
    from smithers.engine.clock import Clock
    from smithers.store.sql.store import SqlStore

log = logging.getLogger(__name__)

KEPT_MS: Final = 30 * 86_400_000
"""How long a webhook delivery is known after it was handed on. Senders repeat theirs for a few days at most."""
KEPT_DELIVERIES: Final = 100_000
"""So many of a database are known at most."""
BATCH: Final = 500
EVERY_S: Final = 600.0
PAUSE_S: Final = 0.2
"""Between two batches, so that others get their turn with the database."""


async def prune(store: SqlStore, clock: Clock) -> int:
    """Forget one batch; how many that were. Raises `StorageError`."""
    before = clock.now_ms() - KEPT_MS
    return await store.awrite(partial(webhooks.prune, before_ms=before, keep=KEPT_DELIVERIES, limit=BATCH))


async def keep_pruned(store: SqlStore, clock: Clock) -> None:
    """Forget what is due from time to time, until cancelled."""
    while True:
        await asyncio.sleep(EVERY_S)
        try:
            more = True
            while more:
                more = await prune(store, clock) > 0
                await asyncio.sleep(PAUSE_S)
        except SmithersError as error:
            log.warning("old deliveries are kept for now", extra={"code": error.error_code})
