"""Entries: the workflows that a gateway serves, by key."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from smithers.components.workflow import SmithersWorkflow
from smithers.engine.admission import workflow_hash
from smithers.errors import InvalidInput
from smithers.gateway.config import UiConfig, WebhookConfig
from smithers.jsons import object_of, text_of
from smithers.store import database_name

if TYPE_CHECKING:
    from smithers.store.interface import RunRow

log = logging.getLogger(__name__)
EARLIER: Final = 8
"""So many versions of a file are kept."""
_KEY: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:@-]{0,127}")


@dataclass(frozen=True, slots=True)
class Entry:
    """A registered workflow."""

    key: str
    workflow: SmithersWorkflow
    schedule: str | None = None
    webhook: WebhookConfig | None = None
    ui: UiConfig | None = None
    is_system: bool = False
    entry_file: Path | None = None

    @property
    def source(self) -> Path | None:
        """The file that it comes from."""
        return self.entry_file or self.workflow.source_path

    @property
    def hash(self) -> str | None:
        """The hash of its source."""
        return workflow_hash(self.workflow, self.source)

    def view(self, ui_path: str | None) -> dict[str, object]:
        """As it is listed."""
        found: dict[str, object] = {"key": self.key}
        name = self.workflow.function_name.replace("_", " ").replace("-", " ").strip()
        if name:
            found["readableName"] = name[:1].upper() + name[1:]
        doc = (getattr(self.workflow, "__doc__", None) or "").strip()
        if doc:
            found["description"] = doc
        return {**found, "hasUi": ui_path is not None, "uiPath": ui_path, "system": self.is_system}


class Entries:
    """Registered workflows; a second one of the same key replaces the first.

    Args:
        refresh: asked once for a key that is not there; it may register it.
        ready: waited for before a list is made.
        refreshes_known: whether `refresh` is asked for keys that are there, too.
    """

    def __init__(
        self,
        refresh: Callable[[str], Awaitable[object]] | None = None,
        ready: Callable[[], Awaitable[object]] | None = None,
        *,
        refreshes_known: bool = False,
    ) -> None:
        self._entries: dict[str, Entry] = {}
        self._earlier: dict[str, list[Entry]] = {}
        """Versions of the same file that were replaced, newest first: runs that wait go on with their own."""
        self._refresh = refresh
        self._refreshes_known = refreshes_known
        self._ready = ready
        self._refreshing: dict[str, asyncio.Task[None]] = {}

    def add(self, entry: Entry) -> None:
        """Register. Raises `InvalidInput` for a key that cannot be one."""
        if not isinstance(entry.key, str) or not _KEY.fullmatch(entry.key):
            raise InvalidInput(
                f"workflow key {entry.key!r:.80} must begin with a letter or digit and hold letters, digits and _.:@- only"
            )
        if not isinstance(entry.workflow, SmithersWorkflow):
            raise InvalidInput(f"workflow {entry.key!r} is no workflow: {type(entry.workflow).__name__}")
        before = self._entries.get(entry.key)
        self._entries[entry.key] = entry
        if before is None or before.source is None or before.source != entry.source:
            self._earlier.pop(entry.key, None)
        elif before.workflow is not entry.workflow:
            self._earlier[entry.key] = [before, *self._earlier.get(entry.key, [])][:EARLIER]

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: str) -> Entry | None:
        """The entry of a key, if it is there now."""
        return self._entries.get(key)

    async def find(self, key: str) -> Entry | None:
        """The entry of a key; asks the host once for one that is not there, or may have changed."""
        found = self._entries.get(key)
        if self._refresh is None or (found is not None and not self._refreshes_known):
            return found
        task = self._refreshing.get(key)
        if task is None:
            task = self._refreshing[key] = asyncio.create_task(self._ask(self._refresh, key))
            task.add_done_callback(lambda _: self._refreshing.pop(key, None))
        await asyncio.shield(task)
        return self._entries.get(key)

    async def _ask(self, refresh: Callable[[str], Awaitable[object]], key: str) -> None:
        try:
            await refresh(key)
        except Exception:
            log.warning("the registry could not be refreshed", exc_info=True)

    async def all(self) -> list[Entry]:
        """All entries by key, once the host says that they are complete."""
        if self._ready is not None:
            try:
                await self._ready()
            except Exception:
                log.warning("the registry is not ready", exc_info=True)
        return self.now()

    def now(self) -> list[Entry]:
        """All entries that are there now, by key."""
        return [self._entries[key] for key in sorted(self._entries)]

    def names(self) -> frozenset[str]:
        """All keys."""
        return frozenset(self._entries)

    def key_of(self, row: RunRow, config: dict[str, object], db: str) -> str:
        """The key that a stored run belongs to: as stamped, else by the workflow's name, its file, its database."""
        stamped = text_of(config.get("gatewayWorkflowKey"))
        if stamped:
            return stamped
        if row.workflow_name in self._entries:
            return row.workflow_name
        if row.workflow_path:
            return Path(row.workflow_path).stem
        if row.workflow_name:
            return row.workflow_name
        return next((e.key for e in self.now() if database_name(e.workflow.db) == db), "workflow")

    def of_run(self, row: RunRow, config: object) -> Entry | None:
        """The entry that a stored run is gone on with: of the version of its source that it was started with, if that is
        known here."""
        stamped = text_of(object_of(config).get("gatewayWorkflowKey"))
        if stamped:
            found = self._entries.get(stamped)
        else:
            named = [e for e in self.now() if row.workflow_name in (e.key, e.workflow.function_name)]
            found = named[0] if len(named) == 1 else self._entries.get(row.workflow_name)
        earlier = [] if found is None or row.workflow_hash is None else self._earlier.get(found.key, [])
        return next((e for e in [found, *earlier] if e is not None and e.hash == row.workflow_hash), found)
