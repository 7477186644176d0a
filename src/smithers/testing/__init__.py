"""For tests of workflows: agents that answer from a script, example values for any schema, a clock that tests move."""

from __future__ import annotations

from smithers.testing.agents import Auto as Auto
from smithers.testing.agents import ScriptedAgent as ScriptedAgent
from smithers.testing.agents import auto as auto
from smithers.testing.agents import fake_agent as fake_agent
from smithers.testing.clock import VirtualClock as VirtualClock
from smithers.testing.examples import example as example
