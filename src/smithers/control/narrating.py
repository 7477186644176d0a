"""Narrating: what has happened to a run or a node, in a few sentences, from its rows and its log. No model is asked, unless
the host has a narrator of its own, whose failure falls back to the facts. The sentences are made in `stories.py`.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from smithers.control import stories
from smithers.control.control import Control
from smithers.errors import IterationNotFound, NodeNotFound
from smithers.jsons import text_of
from smithers.store.sql import narration, reads, run_pages

log = logging.getLogger(__name__)

Narrator: TypeAlias = Callable[[Mapping[str, object]], Awaitable[str | Mapping[str, object]]]
"""Tells what has happened, given the facts (`{runId, nodeId, iteration, scope, status, summary}`): a text, or
`{summary, agentId}`."""

CACHED: Final = 200
"""So many stories of what has ended are kept."""
_ENDED: Final = ("finished", "failed", "cancelled")


@dataclass(frozen=True, slots=True)
class Story:
    """What has happened. `source` says who tells it: `facts`, or an `agent`."""

    run_id: str
    node_id: str | None
    iteration: int | None
    summary: str
    generated_at_ms: int
    agent_id: str | None = None
    source: str = "facts"
    is_cached: bool = False

    def wire(self) -> dict[str, object]:
        """As it is sent."""
        return {
            "runId": self.run_id,
            "nodeId": self.node_id,
            "iteration": self.iteration,
            "scope": "run" if self.node_id is None else "node",
            "summary": self.summary,
            "agentId": self.agent_id,
            "source": self.source,
            "cached": self.is_cached,
            "generatedAtMs": self.generated_at_ms,
        }


_Place: TypeAlias = tuple[str, str, str | None, int | None]
_Print: TypeAlias = tuple[object, ...]


class Storyteller:
    """Tells what has happened, and remembers what it told of runs and nodes that have ended, until they change.

    Args:
        narrator: tells instead, from the facts; if it fails, the facts are told.
    """

    def __init__(self, narrator: Narrator | None = None) -> None:
        self._narrator = narrator
        self._kept: OrderedDict[_Place, tuple[_Print, Story]] = OrderedDict()

    async def tell(
        self, control: Control, run_id: str, node_id: str | None = None, iteration: int | None = None
    ) -> Story:
        """The story of a run, or of a node of it (of its highest iteration if none is given).

        Raises:
            RunNotFound, NodeNotFound, IterationNotFound.
        """
        now = control.clock.now_ms()
        target = await control.store.aread(lambda c: _target(c, run_id, node_id, iteration))
        place = (control.store.path, run_id, node_id, target.iteration)
        known = self._kept.get(place) if target.has_ended else None
        if known is not None and known[0] == target.fingerprint:
            self._kept.move_to_end(place)
            return replace(known[1], is_cached=True)
        summary = await control.store.aread(lambda c: stories.summary(c, run_id, node_id, target.iteration, now))
        story = Story(run_id, node_id, target.iteration, summary, now)
        if self._narrator is not None:
            story = await self._narrated(self._narrator, story, target.status)
        if target.has_ended and (self._narrator is None or story.source == "agent"):
            self._kept[place] = target.fingerprint, story
            while len(self._kept) > CACHED:
                self._kept.popitem(last=False)
        return story

    async def _narrated(self, narrator: Narrator, story: Story, status: str) -> Story:
        facts = {**story.wire(), "status": status}
        try:
            told = await narrator({k: facts[k] for k in ("runId", "nodeId", "iteration", "scope", "status", "summary")})
        except Exception:  # whatever it raises: the facts are there
            log.warning("the narrator failed; the facts are told", exc_info=True, extra={"run_id": story.run_id})
            return story
        text, agent = (told, None) if isinstance(told, str) else (text_of(told.get("summary")), told.get("agentId"))
        if not isinstance(text, str) or not text.strip():
            return story
        return replace(story, summary=text.strip(), source="agent", agent_id=text_of(agent))


@dataclass(frozen=True, slots=True)
class _Target:
    status: str
    iteration: int | None
    fingerprint: _Print

    @property
    def has_ended(self) -> bool:
        return self.status in _ENDED


def _target(c: reads.Session, run_id: str, node_id: str | None, iteration: int | None) -> _Target:
    run = reads.run(c, run_id)
    if node_id is None:
        return _Target(run.status, None, (run.status, run.next_seq, run.epoch))
    if iteration is None:
        iteration = narration.last_iteration(c, run_id, node_id)
        if iteration is None:
            raise NodeNotFound(f"run {run_id!r} has no node {node_id!r}", {"runId": run_id, "nodeId": node_id})
    node = run_pages.node_row(c, run_id, node_id, iteration)
    if node is None and not run_pages.has_node(c, run_id, node_id):
        raise NodeNotFound(f"run {run_id!r} has no node {node_id!r}", {"runId": run_id, "nodeId": node_id})
    if node is None:
        raise IterationNotFound(
            f"node {node_id!r} of run {run_id!r} has no iteration {iteration}",
            {"runId": run_id, "nodeId": node_id, "iteration": iteration},
        )
    print = (node.state, node.last_attempt, node.updated_at_ms, node.frame_no, node.output_seq)
    return _Target(node.state, iteration, print)
