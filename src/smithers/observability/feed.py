"""Feed: hands every event of the runs that go on in this process to a listener, once and in order, whoever wrote it.

Steps are told as they are committed. What others write between them (decisions, signals, the claim of a resume) is read
from the log before the next step is told, or at once when a door says so. Nobody who commits waits for a listener.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from smithers.engine.hub import Hub
from smithers.errors import RunNotFound, SmithersError
from smithers.events import TERMINAL_TYPES, EventRow
from smithers.observability.context import RunInfo, run_info
from smithers.store.interface import Step
from smithers.store.sql import reads

if TYPE_CHECKING:
    from smithers.observability.metrics import Metrics
    from smithers.store.sql.store import SqlStore

log = logging.getLogger(__name__)
PAGE = 1_000
MAX_RUNS = 100_000
CLAIM_WINDOW = 64
"""How far before its first step here the beginning of a taken over run is looked for, in events."""
FROM_DOORS = frozenset(
    {
        "ApprovalDenied",
        "ApprovalGranted",
        "NodeCancelled",
        "RunCancelled",
        "RunStatusChanged",
        "SignalReceived",
        "TimerCancelled",
    }
)
"""What doors write for a run that nobody drives."""

Listener = Callable[[RunInfo, EventRow], None]


@dataclass(slots=True)
class _Live:
    """A run that goes on here."""

    info: RunInfo | None
    next_seq: int | None
    """The next event to be told; None until the beginning was looked for."""
    held: list[EventRow] = field(default_factory=list[EventRow])
    """Committed events that are told once what lies before them was read."""
    is_reading: bool = False


class EventFeed:
    """Feeds listeners from one database's log. Belongs to the event loop of the hub.

    Args:
        listeners: each called with every event; must neither block nor raise.
    """

    def __init__(self, store: SqlStore, hub: Hub, *listeners: Listener) -> None:
        self._store = store
        self._hub = hub
        self._listeners = listeners
        self._runs: dict[str, _Live] = {}
        self._ended: dict[str, int] = {}
        """How far runs were told of that have ended: a step may have been read before this process hears that it is stored."""
        self._reading: set[asyncio.Task[None]] = set()
        hub.on_step.append(self._stepped)
        hub.on_touch.append(self._touched)

    def _stepped(self, run_id: str, step: Step, first_seq: int, rows: list[EventRow]) -> None:
        live = self._runs.get(run_id)
        launch = step.launch
        if launch is not None:
            info = run_info(run_id, launch.workflow_name, launch.parent_run_id, launch.config_json)
            live = self._runs[run_id] = _Live(info, first_seq)
        elif live is None:
            told = self._ended.get(run_id)
            if told is not None:
                rows = [row for row in rows if row.seq >= told]
                if not rows:
                    return
                del self._ended[run_id]
            live = self._runs[run_id] = _Live(None, told)
        if live.is_reading or live.info is None or (rows and live.next_seq != rows[0].seq):
            live.held += rows
            self._read(run_id, live)
        else:
            self._tell(run_id, live, live.info, rows)
        if len(self._runs) > MAX_RUNS:
            del self._runs[next(iter(self._runs))]

    def _touched(self, run_id: str) -> None:
        live = self._runs.get(run_id)
        if live is None:  # parked by another process; from now on this one knows it
            live = self._runs[run_id] = _Live(None, self._ended.pop(run_id, None))
        self._read(run_id, live)

    def _tell(self, run_id: str, live: _Live, info: RunInfo, rows: list[EventRow]) -> None:
        if not rows:
            return
        for row in rows:
            for listener in self._listeners:
                listener(info, row)
        live.next_seq = rows[-1].seq + 1
        has_ended = False
        for row in rows:
            has_ended = row.type in TERMINAL_TYPES or (has_ended and row.type != "RunStarted")
        if has_ended and self._runs.get(run_id) is live:
            del self._runs[run_id]
            self._ended[run_id] = live.next_seq
            if len(self._ended) > MAX_RUNS:
                del self._ended[next(iter(self._ended))]

    def _read(self, run_id: str, live: _Live) -> None:
        if not live.is_reading:
            live.is_reading = True
            task = asyncio.get_running_loop().create_task(self._read_on(run_id, live))
            self._reading.add(task)
            task.add_done_callback(self._reading.discard)

    async def _read_on(self, run_id: str, live: _Live) -> None:
        """Tell of everything that is stored by now, and then of what was held meanwhile."""
        try:
            info = live.info
            if info is None:
                info = live.info = await self._store.aread(partial(_info, run_id=run_id))
            if live.next_seq is None:
                first = live.held[0].seq if live.held else None
                live.next_seq = await self._store.aread(partial(_beginning, run_id=run_id, first=first))
            while self._runs.get(run_id) is live:
                query = partial(reads.events, run_id=run_id, after=live.next_seq - 1, limit=PAGE)
                rows = await self._store.aread(query)
                self._tell(run_id, live, info, rows)
                if len(rows) < PAGE:
                    break
            # steps that were committed while the last page was read
            if self._runs.get(run_id) is live:
                self._tell(run_id, live, info, [row for row in live.held if row.seq >= live.next_seq])
        except SmithersError as error:
            log.warning("events were not observed", extra={"run_id": run_id, "code": error.error_code})
            if live.held:
                live.next_seq = live.held[-1].seq + 1
        finally:
            live.held = []
            live.is_reading = False

    async def close(self) -> None:
        """Tell of what is still to be read, then listen no more."""
        self._hub.on_step.remove(self._stepped)
        self._hub.on_touch.remove(self._touched)
        if self._reading:
            await asyncio.wait(self._reading, timeout=1.0)


class LogCounter:
    """The metrics of one run, whoever drives it: reads on in its log when they are asked for.

    Args:
        store: opens the run's database at the first use.
    """

    def __init__(self, store: Callable[[], SqlStore], run_id: str, metrics: Metrics) -> None:
        self._store = store
        self._run_id = run_id
        self._metrics = metrics
        self._info: RunInfo | None = None
        self._next_seq = 0
        self._reading: tuple[asyncio.AbstractEventLoop, asyncio.Lock] | None = None

    async def count(self) -> None:
        """Count everything that is in the log by now; nothing, as long as there is no such run. Raises `StorageError`."""
        loop = asyncio.get_running_loop()
        if self._reading is None or self._reading[0] is not loop:
            self._reading = (loop, asyncio.Lock())
        async with self._reading[1]:
            store = self._store()
            info = self._info
            if info is None:
                try:
                    info = self._info = await store.aread(partial(_info, run_id=self._run_id))
                except RunNotFound:
                    return
            while True:
                query = partial(reads.events, run_id=self._run_id, after=self._next_seq - 1, limit=PAGE)
                rows = await store.aread(query)
                for row in rows:
                    self._metrics.track_event(info, row)
                    self._next_seq = row.seq + 1
                if len(rows) < PAGE:
                    return


def _info(connection: reads.Session, run_id: str) -> RunInfo:
    row = reads.run(connection, run_id)
    return run_info(run_id, row.workflow_name, row.parent_run_id, reads.spec(connection, run_id)[1])


def _beginning(connection: reads.Session, run_id: str, first: int | None) -> int:
    """From which event on a run is told of that was unknown here: from the claim before its first step, or, where a door
    has only written something for it (None), from that."""
    end = reads.run(connection, run_id).next_seq if first is None else first
    rows = reads.events(connection, run_id, max(-1, end - 1 - CLAIM_WINDOW), CLAIM_WINDOW)
    before = [row for row in rows if row.seq < end]
    if first is None:
        begin = len(before)
        while begin and before[begin - 1].type in FROM_DOORS:
            begin -= 1
        while begin < len(before) and before[begin].type == "RunStatusChanged":  # how it was parked
            begin += 1
        return before[begin].seq if begin < len(before) else end
    for at in range(len(before) - 1, -1, -1):
        if before[at].type == "RunStarted":
            is_automatic = at > 0 and before[at - 1].type == "RunAutoResumed"
            return before[at].seq - (1 if is_automatic else 0)
    return end
