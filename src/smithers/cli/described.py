"""Described: a command's signature in cyclopts' own terms, which makes help, completion and error texts of it.

Cyclopts imports a command only when it needs it, by a module and a name in it. This is that module, and the name is the
place of the command within `smithers.cli`: `smithers.cli.described:running.up`; of a group of commands, `group.` and its name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import Field, fields, is_dataclass, make_dataclass
from importlib import import_module
from types import FunctionType
from typing import Annotated, cast, get_args, get_type_hints

from cyclopts import CoercionError, Parameter, Token

from smithers.cli.app import make_group
from smithers.cli.options import Option, whole_number

_NUMBERS = (int, int | None, tuple[int, int] | None)


def __getattr__(place: str) -> Callable[..., object]:
    module, _, name = place.rpartition(".")
    if module == "group":
        return make_group(name)
    if not module:
        raise AttributeError(f"module {__name__!r} has no attribute {place!r}")
    return described(getattr(import_module(f"smithers.cli.{module}"), name))


def described(command: FunctionType) -> Callable[..., object]:
    """A copy of a command whose annotations are for cyclopts."""
    copy = FunctionType(
        command.__code__, command.__globals__, command.__name__, command.__defaults__, command.__closure__
    )
    copy.__doc__ = command.__doc__
    copy.__module__ = command.__module__
    copy.__kwdefaults__ = command.__kwdefaults__
    copy.__annotations__ = {
        name: _translated(hint) for name, hint in get_type_hints(command, include_extras=True).items()
    }
    return copy


def _translated(hint: object) -> object:
    found = cast("tuple[object, ...]", getattr(hint, "__metadata__", ()))
    for option in found:
        if isinstance(option, Option):
            return Annotated[get_args(hint)[0], _parameter(option, get_args(hint)[0])]
    for group in get_args(hint):
        if isinstance(group, type) and is_dataclass(group):
            return Annotated[_described_group(group) | None, Parameter(name="*")]
    return Annotated[hint, Parameter(converter=_whole_numbers)] if hint in _NUMBERS else hint


def _whole_numbers(type: object, tokens: Sequence[Token]) -> int | tuple[int, ...]:
    """Numbers as `whole_number` reads them: cyclopts itself would round 1.5 to 2."""
    found: list[int] = []
    for token in tokens:
        try:
            found.append(whole_number(token.value))
        except ValueError as error:
            raise CoercionError(token=token, target_type=int) from error
    return found[0] if type is int else tuple(found)


def _parameter(option: Option, type: object) -> Parameter:
    """Says only what the option says: cyclopts finds out the rest, such as help from docstrings."""
    said: dict[str, object] = {}
    if type in _NUMBERS:
        said["converter"] = _whole_numbers
    if option.names:
        said["name"] = option.names
    if option.help is not None:
        said["help"] = option.help
    if option.is_switch:
        said["negative"] = ()
    if option.takes_dashes:
        said["allow_leading_hyphen"] = True
    return Parameter(**said)  # type: ignore[arg-type]


def _described_group(group: type) -> type:
    """A subclass of a dataclass of options, with the same fields, annotated for cyclopts."""
    hints = get_type_hints(group, include_extras=True)
    known = cast("tuple[Field[object], ...]", fields(group))
    return make_dataclass(
        group.__name__,
        [(field.name, _translated(hints[field.name]), field) for field in known],
        bases=(group,),
        namespace={"__doc__": group.__doc__, "__module__": group.__module__},
        init=False,  # the original's makes instances of this one as well
        repr=False,
        eq=False,
    )
