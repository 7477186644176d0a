"""Quick: binds plain command lines to a command's signature without cyclopts, whose import takes longer than most commands.

Plain is a line that can mean one thing only: words, and known options in their full spelling, each with a value or a bare
flag, none given twice. Everything else, and every mistake, is left to cyclopts, which reads the same signature (see
`options.py`); a test holds the two to the same answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from functools import partial
from inspect import Parameter, signature
from pathlib import Path
from typing import Literal, NamedTuple, get_args, get_origin, get_type_hints

from smithers.cli.options import Option, whole_number

_NONE = type(None)


class _Target(NamedTuple):
    """Where a value goes: the parameter, and the field of the dataclass that stands behind it, if one does."""

    parameter: str
    field: str | None
    type: object


class NotPlain(Exception):
    """This command line is for cyclopts."""


def bind(command: Callable[..., object], words: Sequence[str]) -> Callable[[], object]:
    """The command with its arguments. Raises `NotPlain`."""
    hints = get_type_hints(command, include_extras=True)
    arguments: list[_Target] = []
    options: dict[str, _Target] = {}
    groups: dict[str, type] = {}
    for parameter in signature(command).parameters.values():
        hint = hints[parameter.name]
        if parameter.kind is Parameter.POSITIONAL_ONLY:
            arguments.append(_Target(parameter.name, None, _bare(hint)))
        elif (group := _group(hint)) is not None:
            groups[parameter.name] = group
            for field, field_hint in get_type_hints(group, include_extras=True).items():
                options |= dict.fromkeys(_names(field, field_hint), _Target(parameter.name, field, _bare(field_hint)))
        else:
            options |= dict.fromkeys(_names(parameter.name, hint), _Target(parameter.name, None, _bare(hint)))

    found = _values(words, arguments, options)
    given = {target.parameter: value for target, value in found.items() if target.field is None}
    for name, group in groups.items():
        fields = {t.field: value for t, value in found.items() if t.parameter == name and t.field is not None}
        if fields:
            given[name] = group(**fields)
    return _call(command, given)


def _call(command: Callable[..., object], given: Mapping[str, object]) -> Callable[[], object]:
    positional: list[object] = []
    named: dict[str, object] = {}
    for parameter in signature(command).parameters.values():
        if parameter.name not in given:
            if parameter.default is Parameter.empty:
                raise NotPlain
        elif parameter.kind is Parameter.POSITIONAL_ONLY:
            positional.append(given[parameter.name])
        else:
            named[parameter.name] = given[parameter.name]
    return partial(command, *positional, **named)


def _values(
    words: Sequence[str], arguments: Sequence[_Target], options: Mapping[str, _Target]
) -> dict[_Target, object]:
    found: dict[_Target, object] = {}
    free = iter(arguments)
    rest = iter(words)
    for word in rest:
        if not word.startswith("-"):
            target = next(free, None)
            value: object = None if target is None else _converted(word, target.type)
        else:
            name, equals, text = word.partition("=")
            target = options.get(name)
            value = None if target is None else _option_value(target, text if equals else None, rest)
        if target is None or target in found:
            raise NotPlain
        found[target] = value
    return found


def _option_value(target: _Target, attached: str | None, rest: Iterator[str]) -> object:
    if target.type is bool:
        if attached is not None:
            raise NotPlain
        return True
    return _converted(next(rest, "") if attached is None else attached, target.type)


def _converted(text: str, type: object) -> object:
    if not text or text.startswith("-"):
        raise NotPlain
    if type is str:
        return text
    if type is Path:
        return Path(text)
    if type is int:
        try:
            return whole_number(text)
        except ValueError as error:
            raise NotPlain from error
    if get_origin(type) is Literal and text in get_args(type):
        return text
    raise NotPlain


def _names(name: str, hint: object) -> Sequence[str]:
    for option in getattr(hint, "__metadata__", ()):
        if isinstance(option, Option) and option.names:
            return option.names
    return (f"--{name.replace('_', '-')}",)


def _bare(hint: object) -> object:
    """The type inside `Annotated` and beside None."""
    if hasattr(hint, "__metadata__"):
        hint = get_args(hint)[0]
    members: tuple[object, ...] = get_args(hint)
    if _NONE in members and len(members) == 2:
        return next(member for member in members if member is not _NONE)
    return hint


def _group(hint: object) -> type | None:
    bare = _bare(hint)
    return bare if isinstance(bare, type) and is_dataclass(bare) else None
