"""Reload: watches the source of a run's workflow, loads it anew when it changes, and hands it to the run.

How a run takes new code over is in `generations`. Needs the package `watchfiles` (`pip install 'smithers[watch]'`).
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Mapping
from contextlib import aclosing
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from smithers.components.workflow import SmithersWorkflow
from smithers.engine.compat import refusal
from smithers.engine.generations import Generation
from smithers.engine.loading import hash_of, load_workflow, source_files
from smithers.errors import InvalidInput, SmithersError, UnsafeReload, WorkflowLoadFailed, error_object
from smithers.events import EventDraft, event
from smithers.scheduler.states import RunStatus
from smithers.store.sql import control, reads
from smithers.store.sql.session import Session

if TYPE_CHECKING:
    from smithers.engine.engine import Engine

log = logging.getLogger(__name__)
QUIET_S = 0.1
"""A change is looked at once nothing has changed for so long: editors write in several steps."""
LOOK_MS = 1_000
"""How often to look without having been told: for file systems that tell nothing."""
MAX_READS = 5
"""How often a source that changes while it is being loaded is loaded again at once."""

Stamps = list[tuple[str, int, int, int]]


def check_watching() -> None:
    """Raises `InvalidInput` if source cannot be watched here."""
    if find_spec("watchfiles") is None:
        raise InvalidInput("hot reload needs watchfiles, which is not installed: pip install 'smithers[watch]'")


class HotReload:
    """Keeps one run, and what it is continued as, on the newest code of its workflow's file.

    Args:
        workflow: the code that the run begins with.
        file: where it comes from; the file that the workflow function was written in by default.
        name: the variable that holds the workflow, as for `load_workflow`.

    Raises `InvalidInput` if the workflow is in no file or files cannot be watched.
    """

    def __init__(self, workflow: SmithersWorkflow, *, file: Path | None = None, name: str | None = None) -> None:
        check_watching()
        found = file or workflow.source_path
        if found is None:
            raise InvalidInput(f"{workflow!r} is in no file, so it cannot be reloaded")
        self.workflow = workflow
        """The code that the run is on."""
        self._file = found.resolve()
        self._name = name
        self._number = 0
        self._files: Mapping[str, bytes] = {}
        self._stamps: Stamps = []
        self._run_id = ""
        self._engine: Engine | None = None
        self._looking = asyncio.Lock()
        self._stop = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    # ── life ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def attach(self, engine: Engine, run_id: str, *, watches: bool = True) -> None:
        """Begin with a run that was started with `workflow`.

        Args:
            watches: look whenever something changes, until `close`; otherwise only `look` does.
        """
        self._engine, self._run_id = engine, run_id
        self._stamps, self._files = self._stamps_now(), _read(self._file)
        if watches:
            self._task = asyncio.create_task(self._watch())

    async def close(self) -> None:
        """Watch no more. A reload that is under way is broken off."""
        self._stop.set()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        if self._engine is not None:
            self._engine.newest.pop(self._run_id, None)

    # ── watching ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def _watch(self) -> None:
        from watchfiles import awatch  # pyright: ignore[reportUnknownVariableType]

        while not self._stop.is_set():
            folders = self._folders()
            moments = awatch(
                *folders,
                watch_filter=None,
                debounce=int(QUIET_S * 1000),
                recursive=False,
                rust_timeout=LOOK_MS,
                yield_on_timeout=True,
                stop_event=self._stop,
            )
            try:
                async with aclosing(moments):
                    async for _ in moments:
                        await self._look_if_changed()
                        if self._folders() != folders:
                            break
            except OSError as error:  # a folder is gone; it may come back
                log.warning("source cannot be watched", extra={"run_id": self._run_id, "error": str(error)})
                await asyncio.sleep(LOOK_MS / 1000)

    async def _look_if_changed(self) -> None:
        stamps = self._stamps_now()
        if stamps == self._stamps:
            return
        while True:
            await asyncio.sleep(QUIET_S)
            before, stamps = stamps, self._stamps_now()
            if before == stamps:
                break
        self._stamps = stamps
        try:
            await self.look()
        except SmithersError as error:
            log.warning("cannot reload", extra={"run_id": self._run_id, "code": error.error_code})

    def _folders(self) -> list[str]:
        """The folders that the source is in. Not the files: editors put new ones in their places."""
        root = self._file.parent
        return sorted({str(root), *(str((root / name).parent) for name in self._files)})

    def _stamps_now(self) -> Stamps:
        """What tells whether files have changed, without reading them. Folders too: what could not be imported may come."""
        root = self._file.parent
        names = {str(self._file), *(str(root / name) for name in self._files)}
        return [_stamp(path) for path in (*sorted(names), *self._folders())]

    # ── reloading ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def look(self) -> None:
        """Load the source if it has changed since the last look, and hand it to the run. Answers once the run has it, or it
        was refused, with the event that tells which."""
        async with self._looking:
            files = await asyncio.to_thread(_read, self._file)
            changed = _changed(self._files, files, self._file.parent)
            if not changed:
                return
            self._files = files
            self._stamps = self._stamps_now()
            if not await self._tell(event("WorkflowReloadDetected", changedFiles=changed)):
                return
            try:
                await self._reload(tuple(changed))
            except UnsafeReload as error:
                await self._tell(event("WorkflowReloadUnsafe", reason=error.summary, changedFiles=changed))
            except Exception as error:  # the run goes on as it is, whatever is wrong with the new code
                found = error_object(error, with_stack=False)
                await self._tell(event("WorkflowReloadFailed", error=found, changedFiles=changed))

    async def _reload(self, changed: tuple[str, ...]) -> None:
        workflow, digest = await asyncio.to_thread(_load, self._file, self._name)
        if reason := refusal(self.workflow, workflow):
            raise UnsafeReload(reason)
        engine = self._attached
        await engine.store.ensure_tables(engine.tables(workflow))
        generation = Generation(self._number + 1, workflow, digest, changed)
        if await self._hand_over(generation):
            self.workflow, self._number = workflow, generation.number

    async def _hand_over(self, generation: Generation) -> bool:
        """Have the run take new code: with its next step, or by going on with it if it is parked. False if it has ended.

        Raises why the run refuses it.
        """
        engine = self._attached
        while True:
            status = await self._current()
            driver = engine.drivers.get(self._run_id)
            if driver is None:
                if not status.is_parked or status is RunStatus.PAUSED:
                    return False
                await engine.resume(self._run_id, self.workflow)
                driver = engine.drivers.get(self._run_id)
            if driver is not None:
                answer = driver.reload(generation)
                await asyncio.wait([answer])
                if not answer.cancelled():
                    if error := answer.result():
                        raise error
                    return True

    async def _current(self) -> RunStatus:
        """The status of the run, or of what it is continued as: that is the run from then on."""
        engine = self._attached
        while True:
            status = RunStatus((await engine.run_row(self._run_id)).status)
            if status is not RunStatus.CONTINUED:
                return status
            before, self._run_id = self._run_id, await engine.next_run_id(self._run_id)
            engine.newest.pop(before, None)

    async def _tell(self, draft: EventDraft) -> bool:
        """Write an event into the run's log. False if the run has ended."""
        await self._current()
        engine = self._attached
        is_there = await engine.store.awrite(partial(_append, self._run_id, engine.clock.now_ms(), draft))
        if is_there:
            engine.hub.touch(self._run_id)
        return is_there

    @property
    def _attached(self) -> Engine:
        assert self._engine is not None
        return self._engine


def _append(run_id: str, now_ms: int, draft: EventDraft, connection: Session) -> bool:
    if RunStatus(reads.run(connection, run_id).status).is_terminal:
        return False
    control.append_events(connection, run_id, now_ms, [draft])
    return True


def _read(file: Path) -> Mapping[str, bytes]:
    """The source by name; nothing while an editor has it moved away."""
    try:
        return source_files(file)
    except OSError:
        return {}


def _load(file: Path, name: str | None) -> tuple[SmithersWorkflow, str]:
    """The workflow and the hash of just the source that it was made of."""
    files = _read(file)
    for _ in range(MAX_READS):
        workflow = load_workflow(file, name=name)
        before, files = files, _read(file)
        if before == files:
            return workflow, hash_of(files)
    raise WorkflowLoadFailed(f"{file.name} kept changing while it was being loaded", {"path": str(file)})


def _changed(before: Mapping[str, bytes], after: Mapping[str, bytes], root: Path) -> list[str]:
    names = sorted(name for name in {*before, *after} if before.get(name) != after.get(name))
    return [str(root / name) for name in names]


def _stamp(path: str) -> tuple[str, int, int, int]:
    try:
        found = os.stat(path)  # noqa: PTH116 - several at every look
    except OSError:
        return path, -1, -1, -1
    return path, found.st_mtime_ns, found.st_size, found.st_ino
