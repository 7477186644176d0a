"""What an agent is: the small protocol that an author may implement, and the form in which the engine sees any agent.

Data types of a call are in `calls.py`; which objects count as agents in `resolve.py`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, cast, runtime_checkable

from pydantic import BaseModel

from smithers.agents.calls import AgentCall, AgentResponse, Usage
from smithers.agents.usage import read_usage
from smithers.errors import AgentConfigInvalid, AgentError, SmithersError


@runtime_checkable
class Agent(Protocol):
    """Anything that can answer a call.

    Beside these members an agent may have: `engine` and `model` (names, for records),
    `supports_native_structured_output` (True: the prompt comes without JSON instructions), and `async preflight(call)`,
    which is awaited once per run before the first call and raises if the agent cannot work.
    """

    @property
    def id(self) -> str | None:
        """A name that is the same in every process; None: one is derived from class, model and instructions."""
        ...

    async def generate(self, call: AgentCall) -> AgentResponse | str | Mapping[str, object] | BaseModel:
        """One completion: text, a structured value, `{text?, output?, usage?, messages?, model?}`, or a response."""
        ...


class TurnFailed(Exception):
    """A call failed, and this is what it used until then: from an adapter to `chain.py`, never out of this package."""

    def __init__(self, error: SmithersError, usage: Usage, model: str | None = None) -> None:
        super().__init__(error.summary)
        self.error = error
        self.usage = usage
        self.model = model


@dataclass(frozen=True, slots=True)
class BoundAgent:
    """Any kind of agent, in the one form that the engine uses.

    Attributes:
        id: stable across processes: given by the author, or derived from the definition.
        engine: the kind of machinery (`pydantic-ai`, `command`, `function`, …); conversations stay within one engine.
        model: the model's name, or "" where the agent does not tell.
        native: whether it returns structured output by itself, so that its prompt needs no JSON instructions.
        ask: one completion. Raises `TurnFailed` or any exception.
        preflight: a check before the first call in a run; raises if the agent cannot work.
    """

    id: str
    engine: str
    model: str
    native: bool
    ask: Callable[[AgentCall], Awaitable[AgentResponse]]
    preflight: Callable[[AgentCall], Awaitable[object]] | None = None


def definition_id(prefix: str, *definition: object) -> str:
    """`prefix` and a digest of the definition. Definitions hold names and texts, never credentials."""
    text = json.dumps(definition, sort_keys=True, default=str, ensure_ascii=True)
    return f"{prefix}:{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def normalise(raw: object, call: AgentCall) -> AgentResponse:
    """Bring whatever an agent returned into one form.

    A mapping counts as an answer with parts if it has a key `text` or `output` that the schema has not; otherwise it is
    the structured answer itself.

    Raises:
        AgentError: the agent returned something that is no answer.
    """
    match raw:
        case AgentResponse():
            return raw
        case str():
            return AgentResponse(text=raw)
        case BaseModel():
            return AgentResponse(output=raw)
        case Mapping():
            return _from_mapping(cast("Mapping[str, object]", raw), call.output_type)
        case list():
            return AgentResponse(output=cast("object", raw))
        case _:
            raise AgentError(f"the agent returned {type(raw).__name__}; expected text, a mapping or a model")


def _from_mapping(raw: Mapping[str, object], output_type: type[BaseModel]) -> AgentResponse:
    known = {*output_type.model_fields, *(f.alias for f in output_type.model_fields.values() if f.alias)}
    if not any(part in raw and part not in known for part in ("text", "output", "_output")):
        return AgentResponse(output=raw)
    text, model = raw.get("text"), raw.get("model")
    output = raw.get("output")
    return AgentResponse(
        text=text if isinstance(text, str) else "",
        output=raw.get("_output") if output is None else output,
        usage=read_usage(raw.get("usage")),
        messages=raw.get("messages"),
        model=model if isinstance(model, str) else None,
    )


def refuse_tool_list(call: AgentCall, agent: str) -> None:
    """For agents whose tools cannot be restricted from here: a restriction is an error, never ignored."""
    if call.allow_tools is not None:
        raise AgentConfigInvalid(f"allow_tools is given, but the tools of {agent} cannot be restricted")
