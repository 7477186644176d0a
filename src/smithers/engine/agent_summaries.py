"""Agent summaries: what a frame tells of the agents that a task is given. What an agent is, is decided in `agents/resolve.py`."""

from __future__ import annotations

from typing import Final

from pydantic_core import to_json

from smithers.agents.resolve import resolve_agent
from smithers.components.task import Task, agent_chain
from smithers.errors import SmithersError

MAX_KEPT: Final = 256


class AgentSummaries:
    """Summaries by agent, made once each: a run renders its tasks again and again, mostly with the same agents."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[object, dict[str, str]]] = {}

    def of(self, task: Task) -> str | None:
        """A task's agents as JSON: the first one's `label`, `engine` and `model`, as far as they are known, and those of all
        as `chain` if there are several. None if it has none, or something that is no agent."""
        try:
            chain = [self._one(agent) for agent in agent_chain(task.agent)]
        except SmithersError:
            return None  # the task fails with that when it is its turn
        if not chain:
            return None
        found: dict[str, object] = dict(chain[0])
        if len(chain) > 1:
            found["chain"] = chain
        return to_json(found).decode()

    def _one(self, agent: object) -> dict[str, str]:
        known = self._known.get(id(agent))
        if known is not None and known[0] is agent:
            return known[1]
        bound = resolve_agent(agent)
        named = {"label": bound.id, "engine": bound.engine, "model": bound.model}
        summary = {name: text for name, text in named.items() if text}
        if len(self._known) >= MAX_KEPT:
            self._known.clear()
        self._known[id(agent)] = (agent, summary)  # with the agent itself, so that nothing else takes its id
        return summary
