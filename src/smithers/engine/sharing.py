"""Sharing: what the attempts of one run have in common, and how they report while they work.

Reports may come from any thread; they are kept in the loop's until the driver writes them with its next step.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING

from smithers.events import EventDraft
from smithers.graph.plan import LeafNode
from smithers.records import dataclass

if TYPE_CHECKING:
    from smithers.agents.chain import ChainState
    from smithers.engine.calls import RunTools
    from smithers.engine.workspaces import Workspaces

BEAT_EVERY_MS = 500
"""Heartbeats are written at most so often."""


@dataclass(slots=True)
class Progress:
    """What attempts report while they run; the driver writes it with its next step."""

    events: list[EventDraft] = field(default_factory=list[EventDraft])
    beats: dict[tuple[str, int, int], tuple[int, str | None]] = field(
        default_factory=dict[tuple[str, int, int], tuple[int, str | None]]
    )


class AttemptContext:
    """What attempts of one run share.

    Args:
        tools: what their tools work with.
        deps: looks up what a leaf depends on, by parameter name.
        poke: tells the driver that something is to be written; called in the loop's thread.
        has_checkpoints: whether files that tasks change are stored.
        ray_address: where tasks with `executor="ray"` are computed.
    """

    def __init__(
        self,
        *,
        run_id: str,
        root_dir: Path,
        tools: RunTools,
        threads: ThreadPoolExecutor,
        now_ms: Callable[[], int],
        deps: Callable[[LeafNode], dict[str, object]],
        poke: Callable[[], None],
        has_checkpoints: bool = True,
        ray_address: str | None = None,
    ) -> None:
        self.run_id = run_id
        self.root_dir = root_dir
        self.tools = tools
        self.threads = threads
        self._chain: ChainState | None = None
        self._workspaces: Workspaces | None = None
        self.has_checkpoints = has_checkpoints
        self.ray_address = ray_address
        self.now_ms = now_ms
        self.deps = deps
        self.poke = poke
        self.progress = Progress()
        self.loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()

    @property
    def chain(self) -> ChainState:
        """What the run knows of its agents; made when the first one is asked."""
        if self._chain is None:
            from smithers.agents.chain import ChainState

            self._chain = ChainState()
        return self._chain

    @property
    def workspaces(self) -> Workspaces:
        """The folders that files are changed in; made when the first one is."""
        if self._workspaces is None:
            from smithers.engine.workspaces import Workspaces

            self._workspaces = Workspaces(
                self.tools.store, self.run_id, self.root_dir, self.now_ms, is_storing=self.has_checkpoints
            )
        return self._workspaces

    def retire(self) -> None:
        """Nobody drives the run any more: what a thread still says that outlived its attempt is for nobody."""
        self.poke, self.deps = _nobody, _nothing

    def release_quotas(self) -> None:
        """Used-up limits may be back."""
        if self._chain is not None:
            self._chain.release()

    def report(self, draft: EventDraft) -> None:
        """Have an event written soon."""
        self._in_loop(self.progress.events.append, draft)

    def beat(self, leaf: LeafNode, attempt: int, data: str | None) -> None:
        """Have a heartbeat written soon."""
        self._in_loop(self._note_beat, leaf, attempt, data)

    def _note_beat(self, leaf: LeafNode, attempt: int, data: str | None) -> None:
        key = (*leaf.key, attempt)
        old = self.progress.beats.get(key)
        kept = data if data is not None or old is None else old[1]
        self.progress.beats[key] = (self.now_ms(), kept)

    def _in_loop(self, function: Callable[..., object], *arguments: object) -> None:
        if threading.get_ident() == self._thread:
            function(*arguments)
            self._soon()
        elif not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self._both, function, arguments)

    def _both(self, function: Callable[..., object], arguments: tuple[object, ...]) -> None:
        function(*arguments)
        self._soon()

    _is_due = False

    def _soon(self) -> None:
        if not self._is_due:
            self._is_due = True
            self.loop.call_later(BEAT_EVERY_MS / 1000, self._now)

    def _now(self) -> None:
        self._is_due = False
        self.poke()


def _nobody() -> None:
    pass


def _nothing(_leaf: LeafNode) -> dict[str, object]:
    return {}
