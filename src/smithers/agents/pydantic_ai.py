"""Lets an author's pydantic-ai agent work as it is, and `openai_compatible`, which builds one.

pydantic-ai is imported at the first use only: it takes two seconds. Structured output is pydantic-ai's own (tool call,
native or prompted, as the agent is set up); what it rejects or finds in no such form is searched for JSON as any text
is, and corrected by `chain.py` in the same conversation.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, nullcontext
from datetime import datetime
from typing import TYPE_CHECKING, cast

from pydantic import BaseModel, ValidationError

from smithers.agents import structured
from smithers.agents.calls import AgentCall, AgentResponse, Usage
from smithers.agents.classify import cause_of, classify_exception, find_reset, quota_exceeded, summarise
from smithers.agents.environment import current_environment
from smithers.agents.interface import TurnFailed, definition_id
from smithers.errors import AgentConfigInvalid, AgentError, AgentSessionLost, SmithersError
from smithers.observability.redaction import redact

if TYPE_CHECKING:
    from pydantic_ai import Tool
    from pydantic_ai.agent import AbstractAgent, AgentRun
    from pydantic_ai.messages import ModelMessage, ModelResponse
    from pydantic_ai.usage import RunUsage

ENGINE = "pydantic-ai"


class PydanticAIAgent:
    """A pydantic-ai agent as one of ours.

    Args:
        agent: an instance of pydantic-ai's `Agent` (or another `AbstractAgent`).
        id: replaces the id that is derived from model, instructions and tools.
        native: False asks for JSON in the prompt instead of by pydantic-ai; None decides by what the model can do.
        secrets: values that never appear in errors.
    """

    engine = ENGINE

    def __init__(
        self, agent: object, *, id: str | None = None, native: bool | None = None, secrets: Sequence[str] = ()
    ) -> None:
        self._agent = cast("AbstractAgent[object, object]", agent)
        self._secrets = tuple(secrets)
        self.model = _model_name(self._agent)
        self.id = id or _derived_id(self._agent, self.model)
        self.supports_native_structured_output = _can_structure(self._agent) if native is None else native

    def __repr__(self) -> str:
        return f"PydanticAIAgent({self.id!r})"

    async def generate(self, call: AgentCall) -> AgentResponse:
        """One run of the agent, tool calls included."""
        from pydantic_ai.usage import RunUsage

        usage = RunUsage()
        try:
            return await self._run(call, usage)
        except TurnFailed:
            raise
        except Exception as error:
            known = _typed(error, self._secrets, call.now())
            cause = error.__cause__ if known is error else cause_of(error, self._secrets)
            raise TurnFailed(known, _usage(usage)) from cause

    async def _run(self, call: AgentCall, usage: RunUsage) -> AgentResponse:
        from pydantic_ai.exceptions import UnexpectedModelBehavior

        history = _load_history(call.messages)
        messages: list[ModelMessage] = []
        try:
            with self._only(call.allow_tools):
                async with self._start(call, history, usage) as run:
                    try:
                        async for node in run:
                            _report(call, node)
                    finally:
                        messages = list(run.all_messages())
            result = run.result
            output: object = None if result is None else result.output
        except UnexpectedModelBehavior as error:
            return self._unusable(call, messages, usage, error)
        return AgentResponse(
            text=output if isinstance(output, str) else structured.shown(output),
            output=None if isinstance(output, str) else output,
            usage=_usage(usage),
            messages=_dump(messages),
            model=_last_model(messages),
        )

    def _start(
        self, call: AgentCall, history: list[ModelMessage] | None, usage: RunUsage
    ) -> AbstractAsyncContextManager[AgentRun[object, object]]:
        common: dict[str, object] = {"message_history": history, "usage": usage, "infer_name": False}
        if not self.supports_native_structured_output:
            common["output_type"] = str
        elif not _is_output(self._agent.output_type, call.output_type):
            # The correction turns are ours, in one budget with those of every other agent.
            common |= {"output_type": call.output_type, "retries": {"output": 0}}
        start = cast("Callable[..., AbstractAsyncContextManager[AgentRun[object, object]]]", self._agent.iter)
        return start(call.prompt, **common)

    def _unusable(
        self, call: AgentCall, messages: list[ModelMessage], usage: RunUsage, error: Exception
    ) -> AgentResponse:
        """An answer that pydantic-ai would not take: perhaps JSON among other text, else why it needs correction."""
        from pydantic_ai.exceptions import ContentFilterError

        last = _last_response(messages)
        if last is None or isinstance(error, ContentFilterError):
            raise error
        text = "\n".join(part.content for part in last.parts if part.part_kind == "text")
        own_type = _is_output(self._agent.output_type, call.output_type)  # then its validators have the last word
        calls_tool = any(part.part_kind == "tool-call" for part in last.parts)
        problem = None
        if own_type or calls_tool or not text:
            cause = error.__cause__
            problem = summarise(redact(_reason(cause) if cause is not None else str(error), self._secrets))
        model = _last_model(messages)
        return AgentResponse(text, None, _usage(usage), _dump(messages), model, problem or None)

    def _only(self, names: tuple[str, ...] | None) -> AbstractContextManager[None]:
        """Within it, the agent has no other tools than these."""
        if names is None:
            return nullcontext()
        from pydantic_ai.toolsets import FilteredToolset

        allowed = frozenset(names)
        kept = [FilteredToolset(tools, lambda _ctx, tool: tool.name in allowed) for tools in self._agent.toolsets]
        return self._agent.override(tools=[], toolsets=kept)


def openai_compatible(
    model: str | None = None,
    *,
    base_url: str | None = None,
    api_key: str | None = None,
    instructions: str | None = None,
    tools: Sequence[Callable[..., object]] = (),
    native: bool = True,
    id: str | None = None,
) -> OpenAICompatible:
    """An agent on any endpoint that speaks OpenAI's chat completions.

    What is not given comes from `SMITHERS_MODEL`, `OPENAI_BASE_URL` and `OPENAI_API_KEY`, read at the first call.

    Args:
        tools: functions, async or not, the built-in tools, or tools of `define_tool`. In a task, what one of them cannot do
            is its answer to the model.
        native: False for servers without tool calls: the schema then goes into the prompt.
    """
    return OpenAICompatible(
        model, base_url=base_url, api_key=api_key, instructions=instructions, tools=tools, native=native, id=id
    )


class OpenAICompatible:
    """What `openai_compatible` returns. Neither its id nor its repr tells of the key."""

    engine = ENGINE

    def __init__(
        self,
        model: str | None,
        *,
        base_url: str | None,
        api_key: str | None,
        instructions: str | None,
        tools: Sequence[Callable[..., object]],
        native: bool,
        id: str | None,
    ) -> None:
        self._model = model
        self._base_url = base_url
        self._api_key = api_key
        self._instructions = instructions
        self._tools = tuple(tools)
        self._given_id = id
        self._built: tuple[asyncio.AbstractEventLoop, PydanticAIAgent] | None = None
        self.supports_native_structured_output = native

    @property
    def model(self) -> str:
        """The model's name: given, or from the environment, or ""."""
        return self._model or current_environment().get("SMITHERS_MODEL", "")

    @property
    def id(self) -> str:
        """Given, or derived from model, endpoint, instructions and tools."""
        tools = [_tool_id(tool) for tool in self._tools]
        return self._given_id or definition_id(
            f"{ENGINE}:{self.model or 'openai-compatible'}", self._base_url, self._instructions, tools
        )

    def __repr__(self) -> str:
        return f"openai_compatible({self.model!r})"

    async def preflight(self, call: AgentCall) -> None:
        """Whether key and model are known.

        Raises:
            AgentConfigInvalid: one is missing; the message names the variable.
        """
        self._settings()

    async def generate(self, call: AgentCall) -> AgentResponse:
        """One run of the agent, tool calls included."""
        loop = asyncio.get_running_loop()
        if self._built is None or self._built[0] is not loop:  # the client's connections belong to a loop
            self._built = loop, self._build(call)
        return await self._built[1].generate(call)

    def _settings(self) -> tuple[str, str]:
        key = self._api_key or current_environment().get("OPENAI_API_KEY", "")
        if not key:
            raise AgentConfigInvalid("no API key: set OPENAI_API_KEY, or give api_key to openai_compatible()")
        if not self.model:
            raise AgentConfigInvalid("no model: set SMITHERS_MODEL, or name one in openai_compatible()")
        return self.model, key

    def _build(self, call: AgentCall) -> PydanticAIAgent:
        name, key = self._settings()
        try:
            from openai import AsyncOpenAI
            from pydantic_ai import Agent
            from pydantic_ai.models.openai import OpenAIChatModel
            from pydantic_ai.providers.openai import OpenAIProvider
        except ImportError as error:
            raise AgentConfigInvalid("pydantic-ai is not installed: install smithers[agents]") from error
        base_url = self._base_url or current_environment().get("OPENAI_BASE_URL") or None
        # Trying again is the engine's: a client that does it by itself hides a used-up limit and waits unseen.
        provider = OpenAIProvider(openai_client=AsyncOpenAI(base_url=base_url, api_key=key, max_retries=0))
        tools = cast("Sequence[Tool[object]]", call.as_tools(self._tools) if self._tools else ())
        agent = Agent[object](OpenAIChatModel(name, provider=provider), instructions=self._instructions, tools=tools)
        return PydanticAIAgent(agent, id=self.id, native=self.supports_native_structured_output, secrets=(key,))


# ── what an agent is ───────────────────────────────────────────────────────────────────────────────────────────────


def _model_name(agent: AbstractAgent[object, object]) -> str:
    model: object = agent.model
    if model is None or isinstance(model, str):
        return model or ""
    return f"{getattr(model, 'system', '')}:{getattr(model, 'model_name', type(model).__name__)}"


def _derived_id(agent: AbstractAgent[object, object], model: str) -> str:
    """From model, instructions, tool names and own output; a function among the instructions counts by its name."""
    told = [_name_of(getattr(part, "instruction", part)) for part in _list_of(agent, "_instructions")]
    prompts = [_name_of(part) for part in _list_of(agent, "_system_prompts")]
    tools = sorted(
        name for toolset in agent.toolsets for name in getattr(toolset, "tools", {}) if isinstance(name, str)
    )
    return definition_id(f"{ENGINE}:{model or 'no-model'}", told, prompts, tools, _name_of(agent.output_type))


def _tool_id(tool: object) -> str:
    """A tool's name, the same in every process: of a function with its module."""
    name: object = getattr(tool, "__qualname__", None)
    if name is not None:
        return f"{tool.__module__}.{name}"
    return f"{type(tool).__qualname__} {getattr(tool, 'name', '')}"


def _list_of(agent: object, name: str) -> Sequence[object]:
    value: object = getattr(agent, name, ())
    return cast("Sequence[object]", value) if isinstance(value, list | tuple) else ()


def _name_of(part: object) -> str:
    if isinstance(part, str):
        return part
    return str(getattr(part, "__qualname__", type(part).__qualname__))


def _can_structure(agent: AbstractAgent[object, object]) -> bool:
    """False only for a model that is known to do neither tool calls nor JSON schemas."""
    profile: object = getattr(agent.model, "profile", None)
    if not isinstance(profile, Mapping):
        return True
    known = cast("Mapping[str, object]", profile)
    return known.get("supports_tools") is not False or known.get("supports_json_schema_output") is True


def _is_output(spec: object, output_type: type[BaseModel]) -> bool:
    """Whether the agent's own output is the task's model, plain or in one of pydantic-ai's markers."""
    if spec is output_type:
        return True
    inner: object = getattr(spec, "output", None) or getattr(spec, "outputs", None)
    return inner is output_type or inner == [output_type]


# ── what happens in a run ──────────────────────────────────────────────────────────────────────────────────────────


def _report(call: AgentCall, node: object) -> None:
    """Tell of a step of the run: a request to the model, or the tools that its answer calls."""
    response = getattr(node, "model_response", None)
    if response is None:
        action = {"id": "turn", "kind": "turn", "title": type(node).__name__}
        call.on_event({"type": "action", "engine": ENGINE, "phase": "started", "action": action})
        return
    for part in cast("ModelResponse", response).parts:
        if part.part_kind == "tool-call":
            action = {"id": part.tool_call_id, "kind": "tool", "title": part.tool_name}
            call.on_event({"type": "action", "engine": ENGINE, "phase": "started", "action": action})
        elif part.part_kind == "text":
            call.on_text(part.content, "stdout")


def _load_history(stored: object | None) -> list[ModelMessage] | None:
    if stored is None:
        return None
    from pydantic_ai.messages import ModelMessagesTypeAdapter

    try:
        return ModelMessagesTypeAdapter.validate_python(stored)
    except ValidationError as error:
        raise AgentSessionLost(f"the stored conversation cannot be read: {error.error_count()} problems") from None


def _dump(messages: Sequence[ModelMessage]) -> object:
    from pydantic_ai.messages import ModelMessagesTypeAdapter

    return cast("object", ModelMessagesTypeAdapter.dump_python(list(messages), mode="json"))


def _last_response(messages: Sequence[ModelMessage]) -> ModelResponse | None:
    for message in reversed(messages):
        if message.kind == "response":
            return message
    return None


def _last_model(messages: Sequence[ModelMessage]) -> str | None:
    last = _last_response(messages)
    return last.model_name if last is not None else None


def _usage(usage: RunUsage) -> Usage:
    reasoning: object = getattr(usage, "output_reasoning_tokens", 0) or usage.details.get("reasoning_tokens", 0)
    return Usage(
        usage.input_tokens,
        usage.output_tokens,
        usage.cache_read_tokens,
        usage.cache_write_tokens,
        reasoning if isinstance(reasoning, int) else 0,
    )


def _reason(error: BaseException) -> str:
    """Why pydantic-ai refused an answer; of a validation error without the input and the documentation link."""
    if isinstance(error, ValidationError):
        found = error.errors(include_url=False, include_context=False, include_input=False)
        return "; ".join(
            f"{'.'.join(map(str, issue['loc'])) or '(the whole answer)'}: {issue['msg']}" for issue in found
        )
    return str(error)


def _typed(error: Exception, secrets: Sequence[str], now: datetime) -> SmithersError:
    """Our error for one of pydantic-ai's."""
    from pydantic_ai import exceptions

    text = summarise(redact(str(error), secrets))
    match error:
        case exceptions.UserError():
            return AgentConfigInvalid(text)
        case exceptions.ModelQuotaExceededError() | exceptions.ModelRateLimitError() if not isinstance(
            error, exceptions.ModelHTTPError
        ):
            return quota_exceeded(text, find_reset(text, now))
        case exceptions.ModelHTTPError():
            return classify_exception(error, now=now, secrets=secrets)
        case exceptions.AgentRunError():
            return AgentError(text)
        case _:
            return classify_exception(error, now=now, secrets=secrets)
