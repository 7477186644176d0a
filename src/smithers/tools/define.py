"""`define_tool`: makes a tool of an author's function. Recording its calls is `journal.py`'s."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Literal, TypeVar, cast, overload

from pydantic import BaseModel, ValidationError

from smithers.errors import InvalidInput
from smithers.tools.journal import ToolCtx, ToolSpec, recorded

log = logging.getLogger(__name__)

M = TypeVar("M", bound=BaseModel)
R = TypeVar("R")
_MAX_NAME = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class RevertContext:
    """What a tool's `revert` is given: the call whose effect it is to undo. `effect_status` is `"unknown"` where the
    call failed or was cut off: the effect may not have happened."""

    input: object
    output: object
    effect_status: Literal["succeeded", "unknown"]
    run_id: str
    node_id: str
    iteration: int
    attempt: int
    tool_call_seq: int


Revert = Callable[[RevertContext], Awaitable[None]]

_reverts: dict[str, dict[Path, Revert]] = {}
"""The `revert` of every tool that has one, by its name and the file that defines it: a reloaded file replaces its own."""


def revert_of(name: str, workflow_file: Path | None = None) -> Revert | None:
    """How the effects of the tool of this name are undone; None if no module that defines that is loaded here.

    Args:
        workflow_file: where several files define a tool of this name, that or one beside it counts.

    Raises:
        InvalidInput: several files define one, and none of them is the workflow's.
    """
    found = _reverts.get(name, {})
    if len(found) > 1 and workflow_file is not None:
        own = {file: revert for file, revert in found.items() if file == workflow_file}
        found = own or {file: r for file, r in found.items() if file.is_relative_to(workflow_file.parent)} or found
    if len(found) > 1:
        raise InvalidInput(f"{len(found)} modules define a tool {name!r} that can be reverted", {"toolName": name})
    return next(iter(found.values()), None)


class DefinedTool(Generic[M, R]):
    """A tool: call it with an instance of its schema, a mapping, or keyword arguments. Made by `define_tool`.

    Attributes:
        spec: its name, description and declared effects.
        schema: the model that arguments are checked against.
        revert: undoes the effect of a call; None: it cannot be undone.
    """

    def __init__(self, spec: ToolSpec, schema: type[M], execute: Callable[..., object], revert: Revert | None) -> None:
        self.spec = spec
        self.schema = schema
        self.revert = revert
        self._execute = execute
        self.__name__ = spec.name
        self.__doc__ = spec.description

    def __repr__(self) -> str:
        return f"DefinedTool({self.spec.name!r})"

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def description(self) -> str:
        return self.spec.description

    async def __call__(self, args: M | Mapping[str, object] | None = None, /, **fields: object) -> R:
        """Check the arguments, record the call, carry it out, record how it ended.

        Raises:
            InvalidInput: the arguments do not fit the schema; nothing was recorded or run.
            whatever the function raises, or the journal.
        """
        arguments = self._validate(args, fields)

        async def call(ctx: ToolCtx) -> R:
            given = (arguments, ctx) if self.spec.accepts_idempotency_key else (arguments,)
            if inspect.iscoroutinefunction(self._execute):
                return cast("R", await self._execute(*given))
            value = await asyncio.to_thread(self._execute, *given)
            return cast("R", await value if inspect.isawaitable(value) else value)

        return await recorded(self.spec, arguments.model_dump(mode="json"), call)

    def _validate(self, args: M | Mapping[str, object] | None, fields: Mapping[str, object]) -> M:
        if isinstance(args, self.schema):
            if fields:
                raise InvalidInput(f"{self.name}: give the arguments once", {"field": min(fields)})
            return args
        try:
            return self.schema.model_validate({**cast("Mapping[str, object]", args or {}), **fields})
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            field = ".".join(map(str, first["loc"]))
            raise InvalidInput(f"{self.name}: {field or 'arguments'}: {first['msg']}", {"field": field}) from error
        except TypeError as error:
            raise InvalidInput(f"{self.name}: the arguments are no object", {"field": ""}) from error


class _Decorator(Generic[M]):
    def __init__(self, make: Callable[[Callable[..., object]], DefinedTool[M, object]]) -> None:
        self._make = make

    @overload
    def __call__(self, execute: Callable[[M, ToolCtx], Awaitable[R]], /) -> DefinedTool[M, R]: ...
    @overload
    def __call__(self, execute: Callable[[M], Awaitable[R]], /) -> DefinedTool[M, R]: ...
    @overload
    def __call__(self, execute: Callable[[M, ToolCtx], R], /) -> DefinedTool[M, R]: ...
    @overload
    def __call__(self, execute: Callable[[M], R], /) -> DefinedTool[M, R]: ...
    def __call__(self, execute: Callable[..., object], /) -> object:
        return self._make(execute)


def define_tool(
    *,
    name: str,
    schema: type[M],
    description: str | None = None,
    side_effect: bool = False,
    idempotent: bool | None = None,
    revert: Revert | None = None,
    touches_files: bool = False,
) -> _Decorator[M]:
    """Make a tool of a function `(args)` or `(args, ctx)`, async or not; one that is not runs in a thread.

    Args:
        name: unique among the tools of an agent; 1 to 128 characters.
        schema: the model of its arguments.
        description: what an agent is told; the function's docstring by default.
        side_effect: it changes something outside.
        idempotent: whether it may be repeated; by default, whether it has no side effect.
        revert: undoes the effect, see `RevertContext`; raising leaves the effect standing.
        touches_files: it changes files in the task's folder, which are stored before the first and after the attempt.

    Raises:
        InvalidInput: the name does not do, or `revert` is given for a tool without a side effect.
    """
    if not name or len(name) > _MAX_NAME or not name.isprintable() or " " in name:
        raise InvalidInput(f"{name!r:.200} is no name for a tool", {"field": "name"})
    if revert is not None and not side_effect:
        raise InvalidInput(f"{name}: revert is for tools with side_effect=True", {"field": "revert"})

    def make(execute: Callable[..., object]) -> DefinedTool[M, object]:
        takes_ctx = _takes_ctx(execute)
        may_repeat = not side_effect if idempotent is None else idempotent
        if side_effect and not may_repeat and not takes_ctx:
            log.warning(
                "tool %r has a side effect and takes no ctx, so it cannot use ctx.idempotency_key: "
                "a retried attempt may repeat the effect",
                name,
            )
        spec = ToolSpec(
            name=name,
            description=description or inspect.getdoc(execute) or name,
            side_effect=side_effect,
            idempotent=may_repeat,
            accepts_idempotency_key=takes_ctx,
            has_revert=revert is not None,
            touches_files=touches_files,
        )
        if revert is not None:
            _reverts.setdefault(name, {})[_file_of(execute)] = revert
        return DefinedTool(spec, schema, execute, revert)

    return _Decorator(make)


def _file_of(function: Callable[..., object]) -> Path:
    code = getattr(inspect.unwrap(function), "__code__", None)
    return Path(code.co_filename if code is not None else str(function)).resolve()


def _takes_ctx(execute: Callable[..., object]) -> bool:
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(parameter.kind in kinds for parameter in inspect.signature(execute).parameters.values()) > 1
