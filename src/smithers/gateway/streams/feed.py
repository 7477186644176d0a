"""Feed: every stored event of every run of one database, once and in order, whichever process wrote it.

Each run has a cursor: the number of the next event to tell. What this process commits at the cursor is told from memory.
Whatever else there is (decisions, claims, other processes' steps, anything out of order) is read from the log, from the
cursor on, by one reader. So there is one rule for order and loss: an event is told when it is the cursor's, and never else.

Other processes are noticed by the database's own report of commits. Then, at most every 50 ms, one query asks for the runs
that they drive, have made, have woken, or have resumed to their end, and, more seldom, for all runs that have not ended.
Where nothing is written, nothing is asked.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final

from smithers.errors import SmithersError
from smithers.events import TERMINAL_TYPES, EventRow
from smithers.store.interface import Step
from smithers.store.sql import feeds, wakeups

if TYPE_CHECKING:
    from smithers.control.hosting import Place

log = logging.getLogger(__name__)

LOOK_S: Final = 0.05
"""The shortest time between two looks at what others have written."""
HOT_S: Final = 5.0
"""How long a run that others write to is asked for at every look."""
RETRY_S: Final = 1.0
PAGE: Final = 500
RUNS: Final = 50
"""How many runs are read at once."""
MAX_HOT: Final = 1_000
MAX_LOOK: Final = 5_000
MAX_ENDED: Final = 20_000
"""How many runs that have ended are remembered, so that nothing of them is told twice if they are resumed."""
LATE_MS: Final = 1_000
VERY_LATE_MS: Final = 60_000
"""How long a run's first commit may take from the moment that it says it was made; the second for the seldom look."""

OnEvent = Callable[[str, EventRow], None]


class Feed:
    """Tells of a database's events. Belongs to one event loop.

    A run that is seen for the first time is told of from the moment on that the feed was made: no old history.

    Args:
        place: the database, before anything happens in it.
        on_event: told of each event: run id and row. What it raises is logged.
        follows_others: whether runs that other processes drive are told of too.
        poll_s: the longest that events of such runs may wait, in seconds; for runs that are followed it is 50 ms.
        is_wanted: whether anybody listens; if not, what others write is gathered at the slower pace.
    """

    def __init__(
        self,
        place: Place,
        on_event: OnEvent,
        *,
        follows_others: bool = True,
        poll_s: float = 1.0,
        is_wanted: Callable[[], bool] = lambda: True,
    ) -> None:
        self._store = place.store
        self._hub = place.hub
        self._owner = place.engine.owner
        self._clock = place.engine.clock
        self._on_event = on_event
        self._follows_others = follows_others
        self._poll_s = poll_s
        self._is_wanted = is_wanted
        self._loop = asyncio.get_running_loop()
        self._since_ms = self._clock.now_ms()
        """What is older was told or is history."""
        self._next: dict[str, int]
        """The cursor of each run that has not ended."""
        self._next, self._wakeup = self._store.read(lambda c: (feeds.live_heads(c), wakeups.cursor_now(c)))
        self._ended: OrderedDict[str, tuple[int, int]] = OrderedDict()
        """The cursor of each run that has ended lately, and when it was remembered, in ms."""
        self._lagging: dict[str, int] = {}
        """Runs to read on, and how far their logs are known to go."""
        self._followed: Counter[str] = Counter()
        self._hot: dict[str, float] = {}
        self._elsewhere: list[str] = []
        self._newest_ms = self._newest_end_ms = self._since_ms
        self._reading: asyncio.Task[None] | None = None
        self._looking: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._is_stale = False
        self._needs_all = False
        self._looked = self._looked_at_all = -1e9
        self._is_closed = False
        self._hub.on_step.append(self._stepped)
        self._hub.on_touch.append(self._touched)
        self._unwatch = self._store.watch(self._heard) if follows_others else None

    @property
    def live_count(self) -> int:
        """How many runs it keeps a cursor for that have not ended."""
        return len(self._next)

    def follow(self, run_id: str) -> None:
        """Somebody reads this run: look for what others write to it at once."""
        self._followed[run_id] += 1

    def unfollow(self, run_id: str) -> None:
        """End one `follow`."""
        self._followed[run_id] -= 1
        if self._followed[run_id] <= 0:
            del self._followed[run_id]

    async def settle(self) -> None:
        """Until everything that was stored before this call has been told, wherever it was written."""
        while self._looking is not None:
            await asyncio.wait([self._looking])
        self._drop_timer()
        await self._look(all_runs=True)
        while self._reading is not None:
            await asyncio.wait([self._reading])

    async def close(self) -> None:
        """Tell of nothing more."""
        self._is_closed = True
        self._hub.on_step.remove(self._stepped)
        self._hub.on_touch.remove(self._touched)
        if self._unwatch is not None:
            unwatch, self._unwatch = self._unwatch, None
            await asyncio.to_thread(unwatch)
        self._drop_timer()
        tasks = [task for task in (self._reading, self._looking) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # ── what happens here ──────────────────────────────────────────────────────────────────────────────────────────

    def _stepped(self, run_id: str, step: Step, first_seq: int, rows: list[EventRow]) -> None:
        self._committed(run_id, first_seq, rows, is_new=step.launch is not None)
        if step.successor is not None:
            new = step.successor
            events = [EventRow(seq, new.now_ms, 0, *each) for seq, each in enumerate(new.events)]
            self._committed(new.run_id, 0, events, is_new=True)

    def _committed(self, run_id: str, first: int, rows: list[EventRow], *, is_new: bool) -> None:
        cursor = self._cursor(run_id)
        if cursor is None and is_new:
            cursor = self._next[run_id] = first
        if cursor is None or cursor < first:
            self._lag(run_id, first + len(rows))
        else:  # the reader may have been faster with a part of it
            self._tell(run_id, rows[cursor - first :])

    def _touched(self, run_id: str) -> None:
        self._warm(run_id)
        self._lag(run_id, 0)

    def _cursor(self, run_id: str) -> int | None:
        found = self._next.get(run_id)
        if found is None and run_id in self._ended:
            return self._ended[run_id][0]
        return found

    def _tell(self, run_id: str, rows: Sequence[EventRow]) -> None:
        """Pass events on that begin at the run's cursor, and move it."""
        if not rows:
            return
        has_ended = run_id in self._ended
        for row in rows:
            if row.type in TERMINAL_TYPES:
                has_ended = True
            elif row.type == "RunStarted":
                has_ended = False
        self._move(run_id, rows[-1].seq + 1, has_ended=has_ended)
        for row in rows:
            try:
                self._on_event(run_id, row)
            except Exception:  # whoever committed must not be harmed by whoever listens
                log.exception("an event was not passed on", extra={"run_id": run_id, "seq": row.seq})

    def _move(self, run_id: str, cursor: int, *, has_ended: bool) -> None:
        if not has_ended:
            self._ended.pop(run_id, None)
            self._next[run_id] = cursor
            return
        self._next.pop(run_id, None)
        self._ended[run_id] = (cursor, self._clock.now_ms())
        self._ended.move_to_end(run_id)
        if len(self._ended) > MAX_ENDED:
            _, (_, moment_ms) = self._ended.popitem(last=False)
            # whatever is forgotten was told before this moment, and must not be taken for new
            self._since_ms = max(self._since_ms, moment_ms + 1)

    # ── reading on ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _lag(self, run_id: str, end: int) -> None:
        self._lagging[run_id] = max(self._lagging.get(run_id, 0), end)
        if self._reading is None and not self._is_closed:
            self._reading = self._loop.create_task(self._read_all())

    async def _read_all(self) -> None:
        try:
            while self._lagging:
                cursors = {run_id: self._cursor(run_id) for run_id in list(self._lagging)[:RUNS]}
                query = partial(feeds.log_pages, cursors=cursors, since_ms=self._since_ms, limit=PAGE)
                for run_id, page in (await self._store.aread(query)).items():
                    self._take(run_id, page)
        except Exception as error:
            if not isinstance(error, SmithersError):
                log.exception("events were not read")
            log.warning("events cannot be read; trying again", extra={"error": type(error).__name__})
            self._loop.call_later(RETRY_S, self._read_again)
        finally:
            self._reading = None

    def _read_again(self) -> None:
        if self._reading is None and self._lagging and not self._is_closed:
            self._reading = self._loop.create_task(self._read_all())

    def _take(self, run_id: str, page: feeds.Page | None) -> None:
        end = self._lagging.pop(run_id)
        if page is None:
            self._forget(run_id)
            return
        cursor = self._cursor(run_id)
        if cursor is None:
            self._move(run_id, page.first, has_ended=page.head.has_ended)
            cursor = page.first
        if page.first <= cursor:
            self._tell(run_id, [row for row in page.rows if row.seq >= cursor])
            after = self._cursor(run_id)
            assert after is not None
            if len(page.rows) < PAGE and after < page.head.next_seq:  # a part of the log was taken away
                self._move(run_id, page.head.next_seq, has_ended=page.head.has_ended)
            cursor = max(after, page.head.next_seq) if len(page.rows) < PAGE else after
        if cursor < page.head.next_seq or cursor < end:
            self._lag(run_id, end)  # a step was committed after the page was read
        else:
            self._move(run_id, cursor, has_ended=page.head.has_ended)

    def _forget(self, run_id: str) -> None:
        self._next.pop(run_id, None)
        self._ended.pop(run_id, None)
        self._hot.pop(run_id, None)

    # ── what happens elsewhere ─────────────────────────────────────────────────────────────────────────────────────

    def _heard(self) -> None:
        """Somebody has committed; called in the watcher's thread, up to 150 times a second."""
        if not self._is_stale:
            self._is_stale = True
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._plan)

    def _plan(self) -> None:
        """Look soon, if there is something to be looked for and no look is planned or under way."""
        if self._is_closed or self._looking is not None:
            return
        self._needs_all = self._needs_all or self._is_stale
        if not self._needs_all:
            return
        at = self._looked_at_all + self._poll_s
        if self._is_stale and (self._is_wanted() or self._followed):
            at = min(at, self._looked + LOOK_S)
        if self._timer is not None:
            if self._timer.when() <= at:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(at, self._begin_look)

    def _begin_look(self) -> None:
        self._timer = None
        if self._looking is None and not self._is_closed:
            all_runs = self._loop.time() >= self._looked_at_all + self._poll_s
            self._looking = self._loop.create_task(self._look(all_runs=all_runs))

    def _drop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def _look(self, *, all_runs: bool) -> None:
        self._is_stale = False
        self._needs_all = not all_runs
        self._looked = self._loop.time()
        if all_runs:
            self._looked_at_all = self._looked
        late = VERY_LATE_MS if all_runs else LATE_MS
        query = partial(
            feeds.growth,
            owner=self._owner,
            since_ms=max(self._newest_ms - late, self._since_ms),
            wakeup=self._wakeup,
            ask=[*self._followed, *self._hot, *self._elsewhere],
            known={**self._next} if all_runs else None,
            limit=MAX_LOOK,
            ended_since_ms=max(self._newest_end_ms - late, self._since_ms),
        )
        try:
            self._compare(await self._store.aread(query))
        except Exception as error:
            if not isinstance(error, SmithersError):
                log.exception("what others have written was not read")
            log.warning("what others have written cannot be read", extra={"error": type(error).__name__})
            self._needs_all = True
        finally:
            self._looking = None
        self._plan()

    def _compare(self, found: feeds.Growth) -> None:
        self._newest_ms = max(self._newest_ms, min(found.newest_ms, self._clock.now_ms()))
        self._newest_end_ms = max(self._newest_end_ms, min(found.newest_end_ms, self._clock.now_ms()))
        self._wakeup = found.wakeup
        self._elsewhere = found.elsewhere
        for run_id in found.gone:
            self._forget(run_id)
        for run_id, head in found.heads.items():
            cursor = self._cursor(run_id)
            if cursor is None or head.next_seq > cursor:
                self._warm(run_id)
                self._lag(run_id, head.next_seq)
            elif head.has_ended and run_id in self._next and run_id not in self._lagging:
                self._move(run_id, cursor, has_ended=True)
        now = time.monotonic()
        self._hot = {run_id: until for run_id, until in self._hot.items() if until > now}

    def _warm(self, run_id: str) -> None:
        if len(self._hot) < MAX_HOT or run_id in self._hot:
            self._hot[run_id] = time.monotonic() + HOT_S
