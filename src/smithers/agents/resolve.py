"""Which objects are agents: our protocol, a pydantic-ai `Agent`, an async or sync function. The rest is refused."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
from collections.abc import Awaitable, Callable
from typing import cast

from smithers.agents.calls import AgentCall, AgentResponse
from smithers.agents.interface import Agent, BoundAgent, definition_id, normalise
from smithers.errors import AgentConfigInvalid

_Function = Callable[..., object]


def resolve_agent(obj: object) -> BoundAgent:
    """The agent that `obj` is. Cheap; calls nothing of the author's.

    Accepted: an object with `async generate(call)` (among them `CommandAgent` and `openai_compatible(...)`), an
    instance of pydantic-ai's `Agent`, a sync or async function of `(prompt)` or `(prompt, call)`. Sync functions run in
    a thread.

    Raises:
        AgentConfigInvalid: `obj` is none of these; the message names its type.
    """
    if isinstance(obj, BoundAgent):
        return obj
    if isinstance(obj, type):
        raise AgentConfigInvalid(f"{obj.__module__}.{obj.__qualname__} is a class; give an instance of it as agent")
    if _is_pydantic_ai(obj):
        from smithers.agents.pydantic_ai import PydanticAIAgent

        obj = PydanticAIAgent(obj)
    if callable(getattr(obj, "generate", None)):
        return _bind_protocol(cast("Agent", obj))
    if callable(obj):
        return _bind_function(obj)
    raise AgentConfigInvalid(
        f"{type(obj).__module__}.{type(obj).__qualname__} is no agent: it has no generate(call) and cannot be called"
    )


def _is_pydantic_ai(obj: object) -> bool:
    """By name, so that pydantic-ai is not imported only to ask."""
    return any(c.__name__ == "AbstractAgent" and c.__module__.startswith("pydantic_ai.") for c in type(obj).__mro__)


# ── the protocol ───────────────────────────────────────────────────────────────────────────────────────────────────


def _bind_protocol(agent: Agent) -> BoundAgent:
    kind = type(agent)
    model = _text_of(agent, "model")
    engine = _text_of(agent, "engine") or kind.__name__
    given = _text_of(agent, "id")
    instructions = getattr(agent, "instructions", None)
    own = definition_id(
        f"{kind.__module__}.{kind.__qualname__}", model, instructions if isinstance(instructions, str) else None
    )
    preflight = getattr(agent, "preflight", None)

    async def ask(call: AgentCall) -> AgentResponse:
        raw: object = agent.generate(call)
        return normalise(await cast("Awaitable[object]", raw) if inspect.isawaitable(raw) else raw, call)

    return BoundAgent(
        id=given or own,
        engine=engine,
        model=model,
        native=getattr(agent, "supports_native_structured_output", False) is True,
        ask=ask,
        preflight=cast("Callable[[AgentCall], Awaitable[object]]", preflight) if callable(preflight) else None,
    )


def _text_of(obj: object, name: str) -> str:
    value = getattr(obj, name, None)
    return value if isinstance(value, str) else ""


# ── functions ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _bind_function(function: _Function) -> BoundAgent:
    takes_call = _takes_call(function)
    name = _function_name(function)

    async def ask(call: AgentCall) -> AgentResponse:
        args = (call.prompt, call) if takes_call else (call.prompt,)
        if _is_async(function):
            raw = function(*args)
        else:
            context = contextvars.copy_context()
            raw = await asyncio.to_thread(context.run, function, *args)
        return normalise(await cast("Awaitable[object]", raw) if inspect.isawaitable(raw) else raw, call)

    return BoundAgent(id=f"function:{name}", engine="function", model="", native=False, ask=ask)


def _takes_call(function: _Function) -> bool:
    """Whether the function wants `(prompt, call)` and not only `(prompt)`.

    Raises:
        AgentConfigInvalid: it can be called with neither.
    """
    try:
        signature = inspect.signature(function)
    except (ValueError, TypeError):  # some builtins have none
        return False
    marker = object()
    for args in ((marker, marker), (marker,)):
        try:
            bound = signature.bind(*args)
        except TypeError:
            continue
        if len(args) == 1 or _second_is_call(signature, bound):
            return len(args) == 2
    raise AgentConfigInvalid(
        f"the agent function {_function_name(function)}{signature} must take (prompt) or (prompt, call)"
    )


def _second_is_call(signature: inspect.Signature, bound: inspect.BoundArguments) -> bool:
    """A second parameter with a default is the function's own option, unless it is called `call`."""
    if len(bound.arguments) < 2:
        return False
    second = list(signature.parameters.values())[1]
    return second.kind is not inspect.Parameter.VAR_POSITIONAL and (
        second.default is inspect.Parameter.empty or second.name == "call"
    )


def _is_async(function: object) -> bool:
    while isinstance(function, functools.partial):
        function = cast("functools.partial[object]", function).func
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)


def _function_name(function: object) -> str:
    """Module and qualified name; for functions that share theirs (lambdas, closures), a digest of the code as well."""
    while isinstance(function, functools.partial):
        function = cast("functools.partial[object]", function).func
    named = function if hasattr(function, "__qualname__") else type(function)
    name = f"{getattr(named, '__module__', '')}.{getattr(named, '__qualname__', '')}"
    code = getattr(function, "__code__", None)
    if "<" in name and code is not None:
        texts = [repr(const) for const in code.co_consts if isinstance(const, str | int | float | bool)]
        return definition_id(name, code.co_code.hex(), texts, code.co_names)
    return name
