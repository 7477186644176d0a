"""Agents that answer from a script: no model, no network, every call recorded. `auto` values are from `examples.py`."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, cast

from pydantic import BaseModel, ValidationError
from pydantic_core import to_json

from smithers import ambient
from smithers.agents.calls import AgentCall, AgentResponse, Usage
from smithers.agents.interface import definition_id
from smithers.engine.runtime import TaskRuntime
from smithers.errors import InvalidInput
from smithers.testing.examples import example


class Auto:
    """The type of `auto`."""

    def __repr__(self) -> str:
        return "auto"


auto: Final = Auto()
"""As a script: an example value that fits the schema."""

_PARTS = frozenset({"output", "text", "files"})


class ScriptedAgent:
    """An agent that answers from its script.

    Args:
        schema: the model that its outputs are validated against.
        script: the answer: a value for the schema; a mapping of `output`, `text` and `files`; a string (the answer's
            text, taken as it is); `auto`; an exception, which is raised; or a function of the call that gives one of
            these, sync or async.
        native: False: it answers in text, and its prompts carry the JSON instructions.
        usage: what each answer is said to have used.

    Raises:
        InvalidInput: the script is a value that does not fit the schema.
    """

    engine = "fake"

    def __init__(
        self,
        schema: type[BaseModel],
        script: object,
        *,
        id: str | None = None,
        model: str = "fake",
        native: bool = True,
        usage: Usage | None = None,
    ) -> None:
        self.schema = schema
        self.model = model
        self.supports_native_structured_output = native
        self.calls: list[AgentCall] = []
        self.usage = usage or Usage()
        self._script = script
        self.id = id or definition_id(f"fake:{schema.__name__}", _described(script))
        if not callable(script):
            self._parts(script)

    def __repr__(self) -> str:
        return f"fake_agent({self.id!r})"

    def last_prompt(self) -> str:
        """The prompt of the last call.

        Raises:
            InvalidInput: there was none.
        """
        if not self.calls:
            raise InvalidInput(f"{self.id} has not been called")
        return self.calls[-1].prompt

    def reset(self) -> None:
        """Forget all calls; a sequence starts again."""
        self.calls.clear()

    async def generate(self, call: AgentCall) -> AgentResponse:
        """Record the call and answer it from the script."""
        self.calls.append(call)
        answer = self._next()
        if callable(answer) and not isinstance(answer, type):
            answer = cast("Callable[[AgentCall], object]", answer)(call)
            if inspect.isawaitable(answer):
                answer = await cast("Awaitable[object]", answer)
        if isinstance(answer, BaseException):
            raise answer
        text, output, files = self._parts(answer)
        host = ambient.attempt.get()
        if files and isinstance(host, TaskRuntime):
            await asyncio.to_thread(host.touches_files)
        _write_files(call.root_dir, files)
        if output is None:
            return AgentResponse(text=text or "", usage=self.usage)
        told = text if text is not None else output.model_dump_json(by_alias=True)
        native = self.supports_native_structured_output
        return AgentResponse(text=told, output=output if native else None, usage=self.usage)

    def _next(self) -> object:
        return self._script

    def _parts(self, answer: object) -> tuple[str | None, BaseModel | None, Mapping[str, str | bytes]]:
        """Text, validated output and files of an answer."""
        if isinstance(answer, Mapping):
            mapping = cast("Mapping[str, object]", answer)
            if self._has_parts(mapping):
                return self._text(mapping), self._output(mapping), self._files(mapping)
            return None, self._validated(mapping), {}
        if isinstance(answer, str):
            return answer, None, {}
        if isinstance(answer, BaseException):
            return None, None, {}
        return None, self._validated(answer), {}

    def _has_parts(self, mapping: Mapping[str, object]) -> bool:
        return len(mapping) > 0 and _PARTS.issuperset(mapping) and not set(mapping) <= set(self.schema.model_fields)

    def _text(self, parts: Mapping[str, object]) -> str | None:
        text = parts.get("text")
        if text is not None and not isinstance(text, str):
            raise InvalidInput(f"the text of {self.id} must be a string, not {type(text).__name__}")
        return text

    def _output(self, parts: Mapping[str, object]) -> BaseModel | None:
        return self._validated(parts["output"]) if "output" in parts else None

    def _files(self, parts: Mapping[str, object]) -> Mapping[str, str | bytes]:
        files = parts.get("files", {})
        if not isinstance(files, Mapping):
            raise InvalidInput(f"the files of {self.id} must be a mapping of path to content")
        return cast("Mapping[str, str | bytes]", files)

    def _validated(self, value: object) -> BaseModel:
        """The value as the schema's model."""
        if isinstance(value, Auto):
            return example(self.schema)
        try:
            return self.schema.model_validate(value.model_dump() if isinstance(value, BaseModel) else value)
        except ValidationError as error:
            raise InvalidInput(f"the scripted output does not fit {self.schema.__name__}: {error}") from error


class _Sequence(ScriptedAgent):
    """Answers each call from the next script; a call too many is an error."""

    def __init__(
        self,
        schema: type[BaseModel],
        scripts: Sequence[object],
        *,
        id: str | None,
        model: str,
        native: bool,
        usage: Usage | None,
    ) -> None:
        self._scripts = tuple(scripts)
        name = id or definition_id(f"fake:{schema.__name__}", [_described(script) for script in self._scripts])
        super().__init__(schema, auto, id=name, model=model, native=native, usage=usage)
        for script in self._scripts:
            if not callable(script):
                self._parts(script)

    def _next(self) -> object:
        at = len(self.calls) - 1
        if at >= len(self._scripts):
            raise InvalidInput(f"{self.id} was called {at + 1} times, but has {len(self._scripts)} answers")
        return self._scripts[at]


class _FakeAgents:
    """The type of `fake_agent`."""

    def __call__(
        self,
        schema: type[BaseModel],
        script: object = auto,
        *,
        id: str | None = None,
        model: str = "fake",
        native: bool = True,
        usage: Usage | None = None,
    ) -> ScriptedAgent:
        """An agent that gives the same scripted answer to every call; see `ScriptedAgent`."""
        return ScriptedAgent(schema, script, id=id, model=model, native=native, usage=usage)

    def sequence(
        self,
        schema: type[BaseModel],
        scripts: Sequence[object],
        *,
        id: str | None = None,
        model: str = "fake",
        native: bool = True,
        usage: Usage | None = None,
    ) -> ScriptedAgent:
        """An agent that takes its answers one after the other; a call too many is an `InvalidInput`."""
        return _Sequence(schema, scripts, id=id, model=model, native=native, usage=usage)


fake_agent: Final = _FakeAgents()
"""Makes scripted agents: `fake_agent(Verdict, {"ok": True})`, `fake_agent.sequence(Verdict, [{"ok": False}, auto])`."""


def _described(script: object) -> str:
    """The script as part of an id: the same in every process."""
    if callable(script):
        return f"{getattr(script, '__module__', '')}.{getattr(script, '__qualname__', type(script).__qualname__)}"
    return to_json(script, fallback=lambda value: type(value).__name__, inf_nan_mode="strings").decode()


def _write_files(root: Path, files: Mapping[str, str | bytes]) -> None:
    """Write all files below `root`, or none.

    Raises:
        InvalidInput: a path leads out of `root`, also through a symbolic link.
    """
    base = root.resolve()
    targets: list[tuple[Path, str | bytes]] = []
    for name, content in files.items():
        target = (base / name).resolve()
        if target == base or not target.is_relative_to(base):
            raise InvalidInput(f"the scripted file {name!r} is not below the task's folder")
        targets.append((target, content))
    for target, content in targets:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content.encode() if isinstance(content, str) else content)
