"""Mirror: copies runs of one database into another as they go, in order and in the background; a failure harms no run."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from smithers.engine.leases import MIRROR_OWNER
from smithers.errors import RunNotFound, SmithersError
from smithers.store.interface import Step
from smithers.store.sql import mirror
from smithers.store.sql.session import Session

if TYPE_CHECKING:
    from smithers.control.streams import StreamHub
    from smithers.events import EventRow
    from smithers.store.sql.store import SqlStore

log = logging.getLogger(__name__)
EVENTS = 1_000
RUNS = 50
"""At most so many runs in one write."""
RETRY_S = 5.0


class Mirror:
    """Keeps the runs of `source` that change in this process up to date in `target`.

    Args:
        hub: tells what changes in `source`.
        place: what to call `source` in the mirrored runs, so that it can be found again.
    """

    def __init__(self, source: SqlStore, target: SqlStore, hub: StreamHub, place: str) -> None:
        self._source = source
        self._target = target
        self._place = place
        self._dirty: dict[str, None] = {}
        self._cursors: dict[str, int] = {}
        self._more = asyncio.Event()
        self._flushing = asyncio.Lock()
        hub.on_step.append(self._stepped)
        hub.on_touch.append(self.touch)
        self._task = asyncio.create_task(self._run())

    def _stepped(self, run_id: str, step: Step, first_seq: int, rows: list[EventRow]) -> None:
        self.touch(run_id)

    def touch(self, run_id: str) -> None:
        """A run may have changed."""
        self._dirty[run_id] = None
        self._more.set()

    async def _run(self) -> None:
        while True:
            await self._more.wait()
            try:
                await self.flush()
            except SmithersError as error:
                log.warning("runs cannot be mirrored", extra={"code": error.error_code})
                await asyncio.sleep(RETRY_S)

    async def flush(self) -> None:
        """Write everything that is known to have changed. Raises `StorageError`; what was not written stays noted."""
        async with self._flushing:  # of two snapshots of a run, the older must not be written last
            await self._flush()

    async def _flush(self) -> None:
        while self._dirty:
            batch = list(self._dirty)[:RUNS]
            unknown = [run_id for run_id in batch if run_id not in self._cursors]
            if unknown:
                self._cursors |= await self._target.aread(partial(_cursors, run_ids=unknown))
            for run_id in batch:
                del self._dirty[run_id]
            try:
                found = await self._source.aread(partial(self._read, run_ids=batch))
                await self._target.awrite(partial(_write, found=found, place=self._place))
            except BaseException:
                self._dirty |= dict.fromkeys(batch)
                raise
            for each in found:
                self._advance(each)
        self._more.clear()

    def _read(self, connection: Session, *, run_ids: list[str]) -> list[mirror.Snapshot]:
        found: list[mirror.Snapshot] = []
        for run_id in run_ids:
            with suppress(RunNotFound):
                found.append(mirror.snapshot(connection, run_id, self._cursors[run_id], EVENTS))
        return found

    def _advance(self, found: mirror.Snapshot) -> None:
        run_id = found.run.run_id
        if len(found.events) == EVENTS:
            self._dirty[run_id] = None
        if found.events:
            self._cursors[run_id] = found.events[-1].seq
        if found.run.finished_at_ms is not None and run_id not in self._dirty:
            self._cursors.pop(run_id, None)

    async def close(self) -> None:
        """Write what is left, then stop."""
        self._task.cancel()
        try:
            await self.flush()
        except SmithersError as error:
            log.warning("runs were not mirrored to their end", extra={"code": error.error_code})


def _cursors(connection: Session, *, run_ids: list[str]) -> dict[str, int]:
    return {run_id: mirror.last_seq(connection, run_id) for run_id in run_ids}


def _write(connection: Session, *, found: list[mirror.Snapshot], place: str) -> None:
    for each in found:
        mirror.write(connection, each, place, MIRROR_OWNER + place)
