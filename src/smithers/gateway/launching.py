"""Launching: starts and resumes runs of registered workflows, with what a gateway records about them.

A launch is validated and durable before it is answered. Runs that wait are gone on with by the host of their database,
whoever decided or signalled; an explicit resume only has to say why it cannot be done.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final
from uuid import uuid4
from weakref import WeakValueDictionary

from pydantic_core import from_json

from smithers.ambient import SandboxMode
from smithers.control.views import iso
from smithers.engine.admission import DEFAULT_QUEUE, LaunchStamp
from smithers.engine.admission import Place as QueuePlace
from smithers.engine.clock import Clock
from smithers.errors import LeaseLost, RunAlreadyExists, RunNotFound, RunOwnerAlive, RunStillRunning, SmithersError
from smithers.gateway.entries import Entries, Entry
from smithers.gateway.problems import RpcError
from smithers.jsons import object_of
from smithers.store.sql import limits, lineage, queue, reads, wakeups

if TYPE_CHECKING:
    from smithers.components.workflow import SmithersWorkflow
    from smithers.control.hosting import Hosting, Place
    from smithers.engine.result import RunResult
    from smithers.gateway.auth.identity import Identity
    from smithers.store.interface import RunRow

log = logging.getLogger(__name__)

RUN_ID: Final = re.compile(
    r"(?=.{1,256}$)(?:[a-z0-9_-][a-z0-9_.-]{0,63}|[a-z0-9_-][a-z0-9_.-]{0,255}(?::child:[A-Za-z0-9_.@,:=-]+:[0-9]+)+)"
)
"""What the id of a run may look like when a caller chooses it."""
SYSTEM_SCOPES: Final = ("*",)
RESUME_TRIES: Final = 5
ANYBODY: Final = "gateway"
"""Who has triggered a run for a caller without a name."""


@dataclass(frozen=True, slots=True)
class Trigger:
    """On whose behalf a run is started; the workflow sees it as `ctx.auth`."""

    triggered_by: str
    role: str
    scopes: tuple[str, ...]
    token_id: str | None = None
    is_system: bool = False

    @classmethod
    def by(cls, identity: Identity) -> Trigger:
        """A caller."""
        return cls(identity.user_id or ANYBODY, identity.role, identity.scopes, identity.token_id)

    @classmethod
    def system(cls, source: str) -> Trigger:
        """The gateway itself: `cron:gateway`, `webhook:<key>`."""
        return cls(source, "system", SYSTEM_SCOPES, is_system=True)

    def auth(self, now_ms: int) -> dict[str, object]:
        """As it is stored with the run."""
        return {
            "triggeredBy": self.triggered_by,
            "role": self.role,
            "scopes": list(self.scopes),
            "tokenId": self.token_id,
            "createdAt": iso(now_ms),
        }


@dataclass(frozen=True, slots=True)
class LaunchOptions:
    """Options of a launch, checked already."""

    run_id: str | None = None
    idempotency_key: str | None = None
    max_concurrency: int | None = None
    allow_network: bool = False
    started_by: Mapping[str, object] | None = None
    config: Mapping[str, object] = field(default_factory=dict[str, object])


class LaunchDesk:
    """Starts runs.

    Args:
        max_active: at most so many runs are started in this process; a launch beyond is stored and waits its turn.
        max_queued: so many may wait in a database; a launch beyond is refused.
        sandbox: `"off"` runs commands of the runs' tools without isolation.
    """

    def __init__(
        self,
        entries: Entries,
        hosting: Hosting,
        clock: Clock,
        max_active: int,
        max_queued: int,
        sandbox: SandboxMode = "required",
    ) -> None:
        self._entries = entries
        self._hosting = hosting
        self._clock = clock
        self._max_active = max_active
        self._max_queued = max_queued
        self._sandbox: SandboxMode = sandbox
        self._busy: set[str] = set()
        """Runs that are being launched at this moment."""
        self._without_queue: set[str] = set()
        """Databases in which no run of ours waits."""
        self._keys: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        """Held while a launch with an idempotency key is looked up and made."""
        self.is_closing = False

    # ── finding ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def entry(self, key: str) -> Entry:
        """A registered workflow. Raises `RpcError` (`NOT_FOUND`)."""
        found = await self._entries.find(key)
        if found is None:
            known = ", ".join(sorted(self._entries.names())[:20]) or "none is registered"
            raise RpcError("NOT_FOUND", f"Unknown workflow: {key[:120]} (registered: {known})")
        return found

    async def place_of(self, entry: Entry) -> Place:
        """The database of a workflow, opened if need be. Raises `StorageError`."""
        return await self._hosting.place(str(entry.workflow.db))

    async def places(self) -> list[Place]:
        """The databases of all registered workflows, each once."""
        found: dict[int, Place] = {}
        for entry in self._entries.now():
            place = await self.place_of(entry)
            found.setdefault(id(place), place)
        return list(found.values())

    async def workflow_of(self, place: Place, row: RunRow) -> SmithersWorkflow | None:
        """What a stored run is gone on with; None if no registered workflow is its own."""
        _, config = await place.store.aread(lambda c: reads.spec(c, row.run_id))
        found = self._entries.of_run(row, from_json(config))
        if found is not None:
            return found.workflow
        parent = row.parent_run_id
        if parent is None:
            return None
        # the run of a sub-workflow: its definition comes with the parent's
        above = await place.store.aread(lambda c: reads.run(c, parent))
        return await self.workflow_of(place, above) if above.workflow_name == row.workflow_name else None

    # ── launching ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def launch(self, key: str, input: object, trigger: Trigger, options: LaunchOptions) -> dict[str, object]:
        """Start a run; durable on return. Gives `{runId, workflow, system}`. With an idempotency key that its caller has
        used before, the run of then, whatever has become of it.

        Raises:
            RpcError: unknown workflow, bad run id, taken run id, used idempotency key, no capacity.
            InvalidInput: the input does not fit the workflow's model.
        """
        entry = await self.entry(key)
        place = await self.place_of(entry)
        run_id = options.run_id
        if run_id is not None and not RUN_ID.fullmatch(run_id):
            raise RpcError(
                "INVALID_REQUEST",
                "runId must begin with a lower-case letter, digit, _ or - and go on with those and dots",
            )
        if self.is_closing:
            raise RpcError("QUOTA_EXCEEDED", "the gateway is shutting down; launch again at the next one")
        once = _key(trigger, options.idempotency_key)
        if once is None:
            started = await self._start(entry, place, input, trigger, options, None)
        else:
            async with self._keys.setdefault(once, asyncio.Lock()):
                started = await self._launched_before(once, entry, input) or await self._start_once(
                    entry, place, input, trigger, options, once
                )
        return {"runId": started, "workflow": entry.key, "system": entry.is_system}

    async def _launched_before(self, key: str, entry: Entry, input: object) -> str | None:
        """The run that an idempotency key names, in whichever database. Raises `RpcError` (`CONFLICT`) where it is one of
        another workflow or input."""
        for place in self._hosting.places:
            run_id = await place.store.aread(partial(reads.run_of_key, key=key))
            if run_id is None:
                continue
            await self._require_same(place, run_id, entry)
            stored, _ = await place.store.aread(partial(reads.spec, run_id=run_id))
            if from_json(stored) != from_json(entry.workflow.parse_input(input)[1]):
                raise RpcError("CONFLICT", f"the idempotency key was used for run {run_id!r} with another input")
            return run_id
        return None

    async def _start_once(
        self, entry: Entry, place: Place, input: object, trigger: Trigger, options: LaunchOptions, key: str
    ) -> str:
        try:
            return await self._start(entry, place, input, trigger, options, key)
        except (RunOwnerAlive, RunStillRunning):
            # another gateway on this database was faster with the same key
            found = await self._launched_before(key, entry, input)
            if found is None:
                raise
            return found

    @property
    def room(self) -> int:
        """How many more runs may be started here. Those that are being made count too."""
        return max(0, self._max_active - self._active())

    def _active(self) -> int:
        places = self._hosting.places
        starting = sum(all(run_id not in place.engine.drivers for place in places) for run_id in self._busy)
        return starting + sum(len(place.engine.drivers) for place in places)

    async def _must_wait(self, place: Place, workflow: str) -> bool:
        """Whether a run that is being launched has to queue: there is no room, others were there before, or a limit that
        somebody has set is to be kept."""
        if self._active() > self._max_active:
            self._without_queue.discard(place.path)
            return True
        is_known_empty = place.path in self._without_queue

        def reasons(c: reads.Session) -> bool:
            return limits.is_limited(c, DEFAULT_QUEUE, workflow) or not (is_known_empty or queue.count(c) == 0)

        if is_known_empty and place.store.dialect == "sqlite":
            is_held = place.store.read(reasons, is_single=True)  # takes less time than a thread needs to get its turn
        else:
            is_held = await place.store.aread(reasons)
        if is_held:
            return True
        self._without_queue.add(place.path)
        return self._active() > self._max_active

    async def _require_free(self, run_id: str, place: Place) -> None:
        """Refuse an id that another database here has; the run's own database refuses by itself."""
        if len(self._hosting.places) > 1:
            try:
                home = await self._hosting.find(run_id)
            except RunNotFound:
                return
            if home is not place:
                raise RunAlreadyExists(run_id)

    async def _start(
        self, entry: Entry, place: Place, input: object, trigger: Trigger, options: LaunchOptions, key: str | None
    ) -> str:
        if options.run_id is not None:
            await self._require_free(options.run_id, place)
        run_id = options.run_id or str(uuid4())
        if run_id in self._busy:
            raise RunAlreadyExists(run_id)
        self._busy.add(run_id)
        try:
            must_wait = await self._must_wait(place, entry.key)
            if must_wait:
                self._busy.discard(run_id)  # what waits takes no room
            handle = await place.engine.launch(
                entry.workflow,
                input,
                run_id=run_id,
                idempotency_key=key,
                auth=trigger.auth(self._clock.now_ms()),
                max_concurrency=options.max_concurrency,
                workflow_path=None if entry.entry_file is None else str(entry.entry_file),
                allow_network=options.allow_network,
                sandbox=self._sandbox,
                stamp=LaunchStamp(
                    entry.key,
                    entry.is_system,
                    options.started_by,
                    {"gatewayTriggeredBy": trigger.triggered_by, **options.config},
                ),
                waits=QueuePlace(self._max_queued) if must_wait else None,
            )
        finally:
            self._busy.discard(run_id)
            self._hosting.freed()  # if it was not started after all
        handle.result.add_done_callback(_looked_at)
        if handle.run_id != run_id:
            await self._require_same(place, handle.run_id, entry)
        return handle.run_id

    async def _require_same(self, place: Place, run_id: str, entry: Entry) -> None:
        """Refuse an idempotency key that was used for another workflow."""
        row = await place.control.run(run_id)
        _, config = await place.store.aread(lambda c: reads.spec(c, run_id))
        if self._entries.key_of(row, object_of(from_json(config)), place.path) != entry.key:
            raise RpcError("CONFLICT", f"the idempotency key was used for run {run_id!r} of another workflow")

    # ── resuming ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def resume(self, run_id: str, by: Trigger, *, force: bool = False, tries: int = RESUME_TRIES) -> str:
        """Go on with a run: `already_terminal` or `resume_requested`; it is ours on return, or somebody drives it already.

        Args:
            tries: how often to look at the run anew, if others are faster each time.

        Raises:
            RunNotFound, RunNotResumable, RunOwnerAlive, RunStillRunning, ResumeMetadataMismatch, LeaseLost.
        """
        place = await self._hosting.find(run_id)
        row = await place.control.run(run_id)
        if row.status in ("finished", "failed", "cancelled", "continued"):
            return "already_terminal"
        if run_id in place.engine.drivers or queue.is_queued(row):  # its turn comes by itself
            return "resume_requested"
        top = await place.store.aread(lambda c: lineage.driven_by(c, run_id))
        if top.run_id != run_id:  # a subflow's, which only its parent's code knows
            found = await self.resume(top.run_id, by, force=force)
            await place.store.awrite(lambda c: wakeups.wake_parent(c, run_id))
            return found
        workflow = await self.workflow_of(place, row)
        if workflow is None:
            raise RpcError("RUN_NOT_RESUMABLE", f"the workflow of run {run_id!r} is not registered here")
        who = {"triggeredBy": by.triggered_by, "role": by.role, "tokenId": by.token_id, "atMs": self._clock.now_ms()}
        try:
            # as it was read: a run that somebody has cancelled meanwhile could be resumed, and must not be by us
            handle = await place.engine.resume(run_id, workflow, force=force, expect_epoch=row.epoch, resumed_by=who)
        except LeaseLost:
            if tries <= 1:
                raise
            return await self.resume(run_id, by, force=force, tries=tries - 1)
        handle.result.add_done_callback(_looked_at)
        return "resume_requested"


def _looked_at(result: asyncio.Future[RunResult]) -> None:
    """Nobody waits for how a run ends here; what ended its driver was logged there."""
    if not result.cancelled():
        error = result.exception()
        if error is not None and not isinstance(error, SmithersError):
            log.error("a run's driver failed", exc_info=error)


def _key(trigger: Trigger, key: str | None) -> str | None:
    """A key as it is stored: each caller has their own. Callers without a name are told apart by their tokens."""
    if key is None:
        return None
    is_nameless = trigger.triggered_by == ANYBODY and trigger.token_id is not None
    kind = "system" if trigger.is_system else "token" if is_nameless else "user"
    who = trigger.token_id if is_nameless else trigger.triggered_by
    digest = hashlib.sha256(f"{kind}\0{who}\0{key}".encode("utf-8", "surrogatepass")).hexdigest()
    return f"gateway:{digest}"
