"""Counting: hands every event of the runs that go on in this process to a listener, once, whoever wrote it.

Steps are told as they are committed; what doors write between them (decisions, signals, cancellations) is read from the
log, up to the next step or at once when a door says so.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from smithers.control.streams import StreamHub
from smithers.errors import SmithersError
from smithers.events import TERMINAL_TYPES, EventDraft
from smithers.store.interface import Step
from smithers.store.sqlite import reads

if TYPE_CHECKING:
    from smithers.store.sqlite.store import SqliteStore

log = logging.getLogger(__name__)
PAGE = 1_000
MAX_RUNS = 100_000


class EventFeed:
    """Feeds a listener from one database's log."""

    def __init__(self, store: SqliteStore, hub: StreamHub, listener: Callable[[EventDraft], None]) -> None:
        self._store = store
        self._listener = listener
        self._next: dict[str, int] = {}
        """The number of each live run's next event that was not told of yet."""
        self._gaps: list[tuple[str, int, int | None]] = []
        self._reading: asyncio.Task[None] | None = None
        hub.on_step.append(self._stepped)
        hub.on_touch.append(self._touched)

    def _stepped(self, run_id: str, step: Step, first_seq: int) -> None:
        known = self._next.get(run_id)
        if step.launch is not None:
            for event in step.launch.events:
                self._listener(event)
        elif known is not None and known < first_seq:
            self._read(run_id, known, first_seq)
        for event in step.events:
            self._listener(event)
        self._next[run_id] = first_seq + len(step.events)
        if any(event.type in TERMINAL_TYPES for event in step.events) or len(self._next) > MAX_RUNS:
            del self._next[run_id]

    def _touched(self, run_id: str) -> None:
        known = self._next.get(run_id)
        if known is not None:
            self._read(run_id, known, None)

    def _read(self, run_id: str, first: int, end: int | None) -> None:
        self._gaps.append((run_id, first, end))
        if self._reading is None:
            self._reading = asyncio.get_running_loop().create_task(self._read_gaps())

    async def _read_gaps(self) -> None:
        try:
            while self._gaps:
                run_id, first, end = self._gaps.pop(0)
                if end is None:
                    first = self._next.get(run_id, first)
                rows = await self._store.aread(partial(reads.events, run_id=run_id, after=first - 1, limit=PAGE))
                if end is None:
                    # a step may have been told of meanwhile, with its own gap
                    if self._next.get(run_id) != first:
                        continue
                    self._next[run_id] = first + len(rows)
                for row in rows:
                    if end is None or row.seq < end:
                        self._listener(EventDraft(row.type, row.node_id, row.iteration, row.payload))
        except SmithersError as error:
            log.warning("events were not counted", extra={"code": error.error_code})
        finally:
            self._reading = None
