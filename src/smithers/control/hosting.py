"""Hosting: runs of workflow files, over as many databases as the workflows name. Launches, resumes, finds and wakes them.

Each database that is used gets an engine, a host that goes on with whatever can go on, and, where the server has another
database of its own, a mirror into that one. A run is looked for where it was started, then in the server's database (which
knows where a mirrored run lives), then in every database that is open here.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial

from smithers.components.workflow import SmithersWorkflow
from smithers.control.control import Control
from smithers.control.mirror import Mirror
from smithers.control.pruning import keep_pruned
from smithers.control.pulse import Pulse
from smithers.control.streams import RunStream, StreamHub
from smithers.control.travel.audit import tend
from smithers.control.workflows import WorkflowFiles
from smithers.engine import leases
from smithers.engine.admission import checked_run_id
from smithers.engine.clock import Clock, SystemClock
from smithers.engine.engine import Engine
from smithers.engine.host import Host
from smithers.engine.tooling import DEFAULT, ToolOptions
from smithers.errors import (
    ResumeMetadataMismatch,
    RunAlreadyExists,
    RunNotFound,
    RunNotResumable,
    SmithersError,
    StorageError,
    StoreNotFound,
)
from smithers.ids import new_id
from smithers.settings import Settings
from smithers.store import database_name, open_store
from smithers.store.interface import RunRow
from smithers.store.sql import mirror, pages, reads
from smithers.store.sql.store import SqlStore

log = logging.getLogger(__name__)
MAX_REMEMBERED = 10_000
HOST_RETRY_S = 5.0


@dataclass(slots=True)
class Place:
    """A database with what goes on in it."""

    path: str
    store: SqlStore
    engine: Engine
    hub: StreamHub
    control: Control
    mirror: Mirror | None = None
    host: Host | None = None
    hosting: asyncio.Task[None] | None = None
    pruning: asyncio.Task[None] | None = None
    tending: asyncio.Task[None] | None = None
    pulse: Pulse = field(init=False)
    gauges: dict[str, float] = field(default_factory=dict[str, float])
    """What was going on when the database told it last."""

    def __post_init__(self) -> None:
        self.pulse = Pulse(self.store)

    def stream(self, run_id: str, after: int) -> RunStream:
        """Read a run's log on from an event number; to be closed. Raises `RunNotFound`."""
        stream = RunStream(self.hub, self.store, run_id, after)
        stream.look_ahead()
        return stream


class Hosting:
    """The runs that a server hosts. Belongs to one event loop; `start` before use, `close` at the end.

    Args:
        files: finds and loads workflows.
        settings: how the engines work.
        db: the server's own database, if it has one.
        on_open: told of each database before anything happens in it.
        tools: how the tools of the runs that are started here work.
        workflow_of: finds the workflow that a stored run is gone on with, or None to leave the run alone; by default it is
            loaded from the file that the run was started from.
        room: how many more runs of the queue may be started; by default as hosts have it.
        homes: opens the databases in which runs may be that were not started here; by default those that are open.
        drives: go on with whatever can go on; otherwise that is left to other processes on the databases.
    """

    def __init__(
        self,
        files: WorkflowFiles,
        settings: Settings,
        *,
        db: str | None = None,
        clock: Clock | None = None,
        on_open: Callable[[Place], None] | None = None,
        tools: ToolOptions = DEFAULT,
        workflow_of: Callable[[Place, RunRow], Awaitable[SmithersWorkflow | None]] | None = None,
        room: Callable[[], int] | None = None,
        homes: Callable[[], Awaitable[object]] | None = None,
        drives: bool = True,
    ) -> None:
        self._homes_of_others = homes
        self._drives = drives
        self.files = files
        self._find_workflow = workflow_of
        self._room = room
        self._tools = tools
        self.clock: Clock = clock or SystemClock()
        self._settings = settings
        self._on_open = on_open
        self._db = None if db is None else database_name(db)
        self._places: dict[str, Place] = {}
        self._names: dict[str, str] = {}
        """Names of databases by how workflows spell them."""
        self._spelled: dict[str, str] = {} if db is None or self._db is None else {self._db: db}
        """How to open a database by its name, which has no password."""
        self._opening = asyncio.Lock()
        self._homes: dict[str, Place] = {}
        self._busy: set[str] = set()
        """Runs that are being started or resumed at this moment."""
        self._stop = asyncio.Event()

    # ── life ───────────────────────────────────────────────────────────────────────────────────────────────────────

    async def start(self) -> None:
        """Open the server's database, and go on with what can go on there and in databases that it mirrors.

        Raises `StorageError` for the server's own database only.
        """
        if self._db is None:
            return
        server = await self.place(self._db)
        for name in await server.store.aread(mirror.places):
            try:
                await self.place(name, create=False)
            except SmithersError as error:
                log.warning("a mirrored database cannot be opened", extra={"code": error.error_code})

    async def close(self) -> None:
        """Give all runs up cleanly, so that any process may go on with them, and close the databases."""
        self._stop.set()
        places = sorted(self._places.values(), key=lambda p: p.path == self._db)  # mirrors write to the server's
        for place in places:
            for task in (place.pruning, place.tending):
                if task is not None:
                    task.cancel()
            if place.hosting is not None:
                await asyncio.gather(place.hosting, return_exceptions=True)
        for place in places:
            await place.engine.close()
            if place.mirror is not None:
                await place.mirror.close()
            place.hub.close()
        for place in places:
            await asyncio.to_thread(place.store.close)
        self._places.clear()

    @property
    def server(self) -> Place | None:
        """The server's own database."""
        return None if self._db is None else self._places.get(self._db)

    @property
    def places(self) -> list[Place]:
        """All open databases."""
        return list(self._places.values())

    def gauges(self) -> dict[str, float]:
        """What is going on now in all open databases, by the metrics' names; of one that is away, what went on there before.
        From any thread."""
        found: dict[str, float] = {}
        for place in self.places:
            with suppress(StorageError):
                place.gauges = {**place.store.read(pages.gauges)}
            for name, value in place.gauges.items():
                found[name] = found.get(name, 0) + value
        size = self._settings.agents * len(self.places)
        free = sum(place.engine.agents.free for place in self.places)
        found["smithers.scheduler.concurrency_utilization"] = (size - free) / size if size else 0.0
        return found

    async def place(self, db: str, *, create: bool = True) -> Place:
        """The database of this name, opened if need be. Raises `StorageError`."""
        name = self._names.get(db)
        if name is None:
            name = self._names[db] = database_name(db)
            self._spelled.setdefault(name, db)
        found = self._places.get(name)
        if found is None:
            async with self._opening:
                found = self._places.get(name)
                if found is None:
                    found = self._places[name] = await self._open(name, create)
        return found

    async def _open(self, name: str, create: bool) -> Place:
        settings = self._settings
        store = await asyncio.to_thread(
            open_store,
            self._spelled.get(name, name),
            create=create,
            durability=settings.durability,
            busy_timeout_s=settings.busy_timeout_s,
            pool=settings.db_pool,
        )
        hub = StreamHub(store)
        engine = Engine(store, settings, self.clock)
        engine.hub = hub
        place = Place(name, store, engine, hub, Control(store, clock=engine.clock, hub=hub))
        server = self.server
        if server is not None:
            place.mirror = Mirror(store, server.store, hub, name)
        if self._on_open is not None:
            self._on_open(place)
        await engine.start()
        if self._drives:
            place.hosting = asyncio.create_task(self._host(place))
        place.pruning = asyncio.create_task(keep_pruned(place.store, self.clock))
        place.tending = asyncio.create_task(tend(place.control))
        return place

    async def _host(self, place: Place) -> None:
        while not self._stop.is_set():
            try:
                place.host = Host(place.engine, partial(self._workflow_of, place), room=self._room)
                place.host.on_room = self.freed
                await place.host.run(self._stop)
            except SmithersError as error:
                log.warning("hosting stopped for a while", extra={"code": error.error_code})
                await asyncio.sleep(HOST_RETRY_S)

    def freed(self) -> None:
        """There may be room for a run of the queue, whichever database it is in."""
        for place in self._places.values():
            if place.host is not None:
                place.host.freed()

    async def _workflow_of(self, place: Place, row: RunRow) -> SmithersWorkflow | None:
        if self._find_workflow is not None:
            return await self._find_workflow(place, row)
        if row.workflow_path is None:
            raise RunNotResumable(f"run {row.run_id!r} was started from a workflow that is in no file")
        workflow, _ = await self.files.load(self.files.stored(row.workflow_path))
        return workflow

    async def shown(self) -> Place | None:
        """The server's own database, with every mirrored run as it is now, or, while nothing can be written there (a full
        disk), as it was mirrored last; None if the server has none."""
        server = self.server
        if server is not None:
            for place in self.places:
                if place.mirror is not None:
                    try:
                        await place.mirror.flush()
                    except StorageError as error:  # the mirror goes on trying, and tells
                        log.debug("runs are shown as they were", extra={"code": error.error_code})
        return server

    # ── launching and resuming ─────────────────────────────────────────────────────────────────────────────────────

    async def launch(
        self, path: str, input: object = None, *, run_id: str | None = None, max_concurrency: int | None = None
    ) -> str:
        """Start a run of a workflow file; durable on return. Gives its id.

        Raises:
            InvalidInput, WorkflowLoadFailed, RunAlreadyExists.
        """
        run_id = new_id() if run_id is None else checked_run_id(run_id)
        file = self.files.find(path)
        workflow, _ = await self.files.load(file)
        place = await self.place(workflow.or_in(self._settings.db).db)
        async with self._reserved(run_id) as is_mine:
            if not is_mine or self._is_taken(run_id, place):
                raise RunAlreadyExists(run_id)
            await place.engine.launch(
                workflow,
                input,
                run_id=run_id,
                root_dir=str(self.files.work_dir(file)),
                max_concurrency=max_concurrency,
                workflow_path=str(file),
                allow_network=self._tools.allow_network,
                sandbox=self._tools.sandbox,
                max_output_bytes=self._tools.max_output_bytes,
                tool_timeout_ms=self._tools.timeout_ms,
            )
        self._remember(run_id, place)
        return run_id

    def _is_taken(self, run_id: str, place: Place) -> bool:
        """Whether the server's database shows a run of this id from elsewhere; one at home is refused by the store."""
        server = self.server
        if server is None or server is place:
            return False
        is_there, _ = server.store.read(lambda c: mirror.place_of(c, run_id))
        return is_there

    async def resume(self, path: str, run_id: str, *, max_concurrency: int | None = None) -> bool:
        """Go on with a run of a workflow file. False if it is being driven already, here or elsewhere.

        Raises:
            RunNotFound, RunNotResumable, RunOwnerAlive, ResumeMetadataMismatch, InvalidInput, WorkflowLoadFailed.
        """
        file = self.files.find(path)
        workflow, digest = await self.files.load(file)
        place = await self.place(workflow.or_in(self._settings.db).db)
        row = await place.control.run(run_id)
        if row.workflow_path not in (None, str(file)) and row.workflow_hash not in (None, digest):
            raise ResumeMetadataMismatch(
                f"run {run_id!r} was started from another workflow file",
                {"mismatches": ["workflowPath"], "existing": row.workflow_path, "current": str(file)},
            )
        self._remember(run_id, place)
        if self._is_driven(place, row):
            return False
        async with self._reserved(run_id) as is_mine:
            if not is_mine or run_id in place.engine.drivers:
                return False
            await place.engine.resume(
                run_id, workflow, max_concurrency=max_concurrency, root_dir=str(self.files.work_dir(file))
            )
        return True

    def _is_driven(self, place: Place, row: RunRow) -> bool:
        if row.run_id in place.engine.drivers:
            return True
        now = self.clock.now_ms()
        if row.status != "running" or leases.may_take_over(row, now, self._settings.lease_ms):
            return False
        return now - (row.heartbeat_at_ms or 0) <= leases.LEASE_MS

    @asynccontextmanager
    async def _reserved(self, run_id: str) -> AsyncGenerator[bool]:
        """Have a run for oneself; False if somebody else has it at the moment."""
        if run_id in self._busy:
            yield False
            return
        self._busy.add(run_id)
        try:
            yield True
        finally:
            self._busy.discard(run_id)

    # ── finding ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def find(self, run_id: str) -> Place:
        """The database that a run lives in. Raises `RunNotFound`, or `StorageError` if it may be in one that cannot be opened."""
        known = self._homes.get(run_id)
        if known is not None:
            return known
        found = await self._look(run_id)
        self._remember(run_id, found)
        return found

    async def _look(self, run_id: str) -> Place:
        server = self.server
        if server is not None:
            is_there, elsewhere = server.store.read(lambda c: mirror.place_of(c, run_id))
            if is_there:
                return server if elsewhere is None else await self._owner(elsewhere, run_id, server)
        if self._homes_of_others is not None:
            await self._homes_of_others()  # who has only just begun to listen has not opened them all
        for place in self.places:
            if place is not server and place.store.read(lambda c: _has(c, run_id)):
                return place
        raise RunNotFound(run_id)

    async def _owner(self, name: str, run_id: str, server: Place) -> Place:
        """Where a mirrored run lives; its mirror, if that database is gone."""
        try:
            place = await self.place(name, create=False)
            if place.store.read(lambda c: _has(c, run_id)):
                return place
        except StoreNotFound:
            log.warning("the database of a mirrored run is gone", extra={"run_id": run_id})
        return server

    def _remember(self, run_id: str, place: Place) -> None:
        self._homes[run_id] = place
        if len(self._homes) > MAX_REMEMBERED:
            del self._homes[next(iter(self._homes))]


def _has(connection: reads.Session, run_id: str) -> bool:
    try:
        reads.run(connection, run_id)
    except RunNotFound:
        return False
    return True
