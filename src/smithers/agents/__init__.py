"""Agents: what an author gives to a task, and what the engine calls.

An agent is an object with `async generate(call)`, a pydantic-ai `Agent`, a function of the prompt, or one of the two
made here: `openai_compatible(...)` for an endpoint, `CommandAgent(...)` for an external program. The engine calls
`run_agent`.
Importing this package imports no client library.
"""

from __future__ import annotations

from smithers.agents.calls import AgentCall, AgentResponse, AgentResult, Usage, UsageReport
from smithers.agents.chain import ChainState, Observer, resolve_chain, run_agent
from smithers.agents.command import CommandAgent
from smithers.agents.interface import Agent, BoundAgent
from smithers.agents.pydantic_ai import OpenAICompatible, openai_compatible
from smithers.agents.resolve import resolve_agent

__all__ = [
    "Agent",
    "AgentCall",
    "AgentResponse",
    "AgentResult",
    "BoundAgent",
    "ChainState",
    "CommandAgent",
    "Observer",
    "OpenAICompatible",
    "Usage",
    "UsageReport",
    "openai_compatible",
    "resolve_agent",
    "resolve_chain",
    "run_agent",
]
