"""Watch: one run's tree as it changes, for all of its streams at once.

It sleeps until the run's log gains an event, then reads what is new: stored frames by number, tasks by the keys that events
named. Each step of the run becomes one event, which is made once, whoever reads it. Where the tree cannot be followed (the
run was rewound, a frame is missing, ids collide) it is made anew, and told as a snapshot.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

from smithers.components.scope import Key
from smithers.errors import RunNotFound, SmithersError, StorageCorrupt
from smithers.events import EventRow
from smithers.gateway.devtools import reading
from smithers.gateway.devtools.live import Change, LiveTree
from smithers.gateway.devtools.ops import Op
from smithers.gateway.devtools.patch import BeginAnew
from smithers.store.sql import devtools

if TYPE_CHECKING:
    from smithers.control.hosting import Place
    from smithers.gateway.devtools.stream import DevToolsStream

log = logging.getLogger(__name__)
T = TypeVar("T")

GAP_S: Final = 0.025
"""The shortest time between two looks at the store: what happens meanwhile is told together."""
LATE_S: Final = 1.0
"""How long a changed state may wait for a frame to be told with."""
HEAVY: Final = 300
"""Trees and changes of so many nodes are worked on in a thread, so that nobody has to wait for them."""
REBASELINE: Final = 50
"""Where streams that ask for the past begin: at a multiple of this."""


class RunWatch:
    """The tree of one run. Belongs to one event loop; `close` when its last stream has ended."""

    def __init__(self, place: Place, run_id: str) -> None:
        self.place = place
        self.run_id = run_id
        self.streams: dict[str, DevToolsStream] = {}
        """All of them; those that are up to date are in `_live`."""
        self._live: dict[str, DevToolsStream] = {}
        self._lock = asyncio.Lock()
        """Held while the tree is worked on."""
        self._tree: LiveTree | None = None
        self._state = "{}"
        self._generation = 0
        """How often the tree was made anew."""
        self._dirty: set[Key] = set()
        self._must_renew = True
        self._is_late = False
        self._late: asyncio.TimerHandle | None = None
        self._woken = asyncio.Event()
        self._work = asyncio.get_running_loop().create_task(self._follow())

    def note(self, row: EventRow) -> None:
        """The run's log has gained an event."""
        if row.node_id is not None and row.type.startswith("Node") and row.type != "NodeOutput":
            self._dirty.add((row.node_id, row.iteration or 0))
        elif row.type == "TimeTravelJumped":
            self._must_renew = True
        self._woken.set()

    def leave(self, stream_id: str) -> None:
        """A stream has ended."""
        self.streams.pop(stream_id, None)
        self._live.pop(stream_id, None)

    def close(self) -> None:
        """Follow the run no more."""
        self._work.cancel()
        self._forget_late()

    # ── following ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def _follow(self) -> None:
        failures = 0
        while True:
            await self._woken.wait()
            self._woken.clear()
            try:
                async with self._lock:
                    await self._advance()
                failures = 0
            except RunNotFound as error:
                self._fail_all("RunNotFound", error.summary)
            except Exception as error:
                failures += 1
                self._must_renew = True
                self._woken.set()
                _report(self.run_id, error)
                if failures > 1:
                    self._fail_all("Internal", "the run's tree cannot be read")
            await asyncio.sleep(GAP_S)

    async def _advance(self) -> LiveTree:
        """Take over and tell what is new, up to the newest frame. The lock is held."""
        while True:
            tree = self._tree
            if tree is None or self._must_renew:
                return await self._renew()
            dirty, self._dirty = self._dirty, set()
            at = (tree.frame_no, tree.tree_hash)
            try:
                now = self.place.engine.clock.now_ms()
                found = await self.place.store.aread(
                    partial(reading.news, run_id=self.run_id, at=at, keys=dirty, now_ms=now)
                )
                if found.is_broken or found.newest < tree.seq:
                    return await self._renew()
                self._state = found.state
                await self._take(tree, found)
            except (BeginAnew, StorageCorrupt):
                return await self._renew()
            except BaseException:
                self._must_renew = True  # nobody knows how far it got
                raise
            if len(found.changes) < reading.PAGE:
                return tree

    async def _take(self, tree: LiveTree, found: reading.News) -> None:
        for change in found.changes:
            base = tree.seq
            ops = await self._turned(tree, change)
            if change.frame_no == found.newest:
                ops += tree.update(found.rows)
            await self._tell(tree, base, ops, change.weight)
        if len(found.changes) == reading.PAGE:
            self._dirty |= found.rows.keys()  # they belong to the newest frame
        elif found.newest > tree.seq:
            base, tree.seq = tree.seq, found.newest
            await self._tell(tree, base, tree.update(found.rows))
        else:
            await self._tell_late(tree, found)

    async def _tell_late(self, tree: LiveTree, found: reading.News) -> None:
        """States have changed without a frame: tell them with the next, or after a while by a snapshot."""
        if self._is_late:
            self._is_late = False
            if tree.update(found.rows):
                await self._tell(tree, tree.seq, None)
            return
        waiting = tree.differing(found.rows)
        if waiting:
            self._dirty |= waiting
            if self._late is None:
                self._late = asyncio.get_running_loop().call_later(LATE_S, self._on_late)

    def _on_late(self) -> None:
        self._late = None
        self._is_late = True
        self._woken.set()

    def _forget_late(self) -> None:
        self._is_late = False
        if self._late is not None:
            self._late.cancel()
            self._late = None

    async def _renew(self) -> LiveTree:
        """Make the tree anew, and tell it as a snapshot."""
        self._must_renew = False
        self._dirty = set()
        self._generation += 1
        try:
            taken = await self._taken(None)
        except BaseException:
            self._must_renew = True
            raise
        self._tree, self._state = taken.live, taken.state
        if self._live:
            await self._tell(taken.live, taken.live.seq, None)
        return taken.live

    async def _taken(self, frame_no: int | None) -> reading.Taken:
        now = self.place.engine.clock.now_ms()
        query = partial(reading.take, run_id=self.run_id, frame_no=frame_no, now_ms=now)
        return await self.place.store.aread(query)

    async def _turned(self, tree: LiveTree, change: Change) -> list[Op]:
        """Take a stored frame over. Raises `BeginAnew`, `StorageCorrupt`."""
        weight = change.weight
        turn = await _off(weight, partial(tree.begin, change))
        rows = await self.place.store.aread(lambda c: devtools.tasks(c, self.run_id, turn.keys)) if turn.keys else {}
        return await _off(weight, partial(turn.finish, rows))

    # ── telling ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _tell(self, tree: LiveTree, base: int, ops: list[Op] | None, weight: int = 0) -> None:
        """Tell all streams that are up to date; with no operations by a snapshot."""
        self._forget_late()
        if self._live:
            await self._tell_to(list(self._live.values()), tree, base, ops, weight)

    async def _tell_to(
        self, streams: Collection[DevToolsStream], tree: LiveTree, base: int, ops: list[Op] | None, weight: int = 0
    ) -> None:
        """Make an event once, as a delta and as a snapshot, each if it is of use, and tell it."""
        needs_snapshot = any(stream.wants_snapshot for stream in streams)

        def make() -> tuple[str | None, str | None]:
            delta = None if ops is None else tree.delta_event(base, ops)
            if delta is not None and not needs_snapshot and not tree.may_be_smaller(delta):
                return delta, None
            snapshot = tree.snapshot_event(self._state)
            if delta is not None and len(delta) >= len(snapshot):
                return None, snapshot
            return delta, snapshot

        size = len(tree.tree.by_id) if needs_snapshot or ops is None else max(weight, len(ops))
        delta, snapshot = await _off(size, make)
        for stream in streams:
            stream.tell(delta, snapshot)

    def _fail_all(self, code: str, message: str) -> None:
        for stream in list(self.streams.values()):
            stream.fail(code, message)

    # ── joining ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def join(self, stream: DevToolsStream) -> None:
        """Bring a stream up to date: by a snapshot, or from the past that it asks for on. From then on it is told."""
        async with self._lock:
            tree = await self._advance()
            generation = self._generation
            if stream.after is None:
                await self._enter(stream, tree, tree.seq, None)
                return
            past = (await self._taken(min(stream.after, tree.seq) // REBASELINE * REBASELINE)).live
        await self._tell_to([stream], past, past.seq, None)
        while True:
            async with self._lock:
                tree = await self._advance()
                if self._generation != generation:
                    await self._enter(stream, tree, tree.seq, None)
                    return
                if past.frame_no >= tree.frame_no:
                    ops = await _off(len(tree.tree.by_id), partial(past.to, tree))
                    await self._enter(stream, tree, past.seq, ops)
                    return
                last = tree.frame_no
            query = partial(reading.changes_from, run_id=self.run_id, at=(past.frame_no, past.tree_hash), last=last)
            changes, is_broken = await self.place.store.aread(query)
            try:
                for change in () if is_broken else changes:
                    base = past.seq
                    await self._tell_to([stream], past, base, await self._turned(past, change), change.weight)
                    await stream.drained()
            except (BeginAnew, StorageCorrupt):
                is_broken = True
            if is_broken or not changes:
                generation = -1  # what is left is told by a snapshot

    async def _enter(self, stream: DevToolsStream, tree: LiveTree, base: int, ops: list[Op] | None) -> None:
        """Tell a stream where the tree is; from now on it is told with the others. The lock is held."""
        if base == tree.seq and ops:
            ops = None  # a delta would lead nowhere
        if ops is None or base != tree.seq:
            await self._tell_to([stream], tree, base, ops)
        if stream.stream_id in self.streams:
            self._live[stream.stream_id] = stream


async def _off(weight: int, work: Callable[[], T]) -> T:
    """Do something here, or in a thread if it is much."""
    return await asyncio.to_thread(work) if weight > HEAVY else work()


def _report(run_id: str, error: Exception) -> None:
    if isinstance(error, SmithersError):
        log.warning("a run's tree was not followed", extra={"run_id": run_id, "code": error.error_code})
    else:
        log.error("a run's tree was not followed", exc_info=error, extra={"run_id": run_id})
