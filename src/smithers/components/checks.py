"""Checks of what an author gives to an element. Each returns the value in the form in which it is kept, or raises
`InvalidElement` that names the element and the property."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import TypeGuard, TypeVar, cast

from smithers.errors import InvalidElement

T = TypeVar("T")

MAX_ID_LENGTH = 256
"""Longest id of an element, in characters."""

MAX_DURATION_MS = 100 * 365 * 86_400_000
"""Longest duration or timeout, in milliseconds: 100 years, so that no moment leaves the calendar."""


def is_mapping(value: object) -> TypeGuard[Mapping[object, object]]:
    """Whether `value` is a mapping."""
    return isinstance(value, Mapping)


def is_list(value: object) -> TypeGuard[Iterable[object]]:
    """Whether `value` can be taken as a list: iterable, and no text or mapping, which would fall apart."""
    return isinstance(value, Iterable) and not isinstance(value, (str, bytes, Mapping))


def shown(value: object, limit: int = 60) -> str:
    """`value` for a message: its repr, cut to `limit` characters; cannot fail."""
    if isinstance(value, str):
        value = value[: limit + 1]
    elif isinstance(value, int) and value.bit_length() > 4 * limit:  # Python refuses to print very long ones
        return f"an integer of {value.bit_length()} bits"
    try:
        text = repr(value)
    except Exception:  # an author's repr must not hide the message it is for
        return f"a {type(value).__name__}"
    return text if len(text) <= limit else text[: limit - 1] + "…"


def checked_id(component: str, id: object) -> str:
    """`id` if it can be one: printable, not blank, at most 256 characters."""
    if not isinstance(id, str) or not id.strip():
        hint = "" if id is None or isinstance(id, (str, bytes, int, float)) else " (children go in brackets)"
        raise InvalidElement(
            f"{component} needs a non-empty string id, not {shown(id)}{hint}", {"component": component}
        )
    if len(id) > MAX_ID_LENGTH:
        raise InvalidElement(
            f"{component} id {shown(id, 40)} has {len(id)} characters; at most {MAX_ID_LENGTH} are allowed",
            {"component": component},
        )
    if not id.isprintable() or "::" in id or "@@" in id:
        raise InvalidElement(
            f"{component} id {shown(id)} must be printable and hold neither '::' nor '@@'", {"component": component}
        )
    return id


def checked_scope_id(component: str, id: object) -> str:
    """An id that is fit to name a scope: without the comma that separates scopes in the ids of what is inside."""
    found = checked_id(component, id)
    if "," in found:
        raise InvalidElement(f"{component} id {shown(id)} must not hold ','", {"component": component})
    return found


def checked_count(
    element: str, name: str, value: object, *, least: int | None = None, most: int = MAX_DURATION_MS
) -> int:
    """`value` if it is an int from `least` to `most`."""
    if isinstance(value, bool) or not isinstance(value, int) or (least is not None and value < least):
        bound = "" if least is None else f" of at least {least}"
        raise InvalidElement(f"{element}: {name} must be a whole number{bound}, not {shown(value)}")
    if value > most:
        raise InvalidElement(f"{element}: {name} must be at most {most}, not {shown(value)}")
    return value


def checked_choice(element: str, name: str, value: object, choices: tuple[str, ...]) -> str:
    """`value` if it is one of `choices`."""
    if value not in choices:
        raise InvalidElement(f"{element}: {name} must be one of {', '.join(choices)}, not {shown(value)}")
    return str(value)


def checked_flag(element: str, name: str, value: object) -> bool:
    """The truth of `value`. A function or coroutine is always true, which nobody means, so it is refused."""
    if value is None or value is False:
        return False
    if callable(value) or refused_coroutine(value):
        raise InvalidElement(f"{element}: {name} is a value computed at each render, not {described(value)}")
    return bool(value)


def checked_names(element: str, name: str, values: object) -> tuple[str, ...]:
    """`values` as a tuple of non-empty strings. One string is refused: it would fall apart into its characters."""
    if not is_list(values):
        raise InvalidElement(f"{element}: {name} must be a list of strings, not {shown(values)}")
    found: list[str] = []
    for value in values:
        if not isinstance(value, str) or not value.strip():
            raise InvalidElement(f"{element}: {name} holds {shown(value)}, which is not a non-empty string")
        found.append(value)
    return tuple(found)


def checked_mapping(element: str, name: str, value: object) -> dict[str, object]:
    """A copy of `value`, a mapping with string keys."""
    if not is_mapping(value):
        raise InvalidElement(f"{element}: {name} must be a mapping, not {shown(value)}")
    found: dict[str, object] = {}
    for key, item in value.items():
        if not isinstance(key, str):
            raise InvalidElement(f"{element}: {name} has the key {shown(key)}; keys are strings")
        found[key] = snapshot(element, name, item)
    return found


def checked_record(element: str, name: str, cls: type[T], value: object) -> T:
    """`value` if it is a `cls`, or a `cls` made of a mapping of its fields."""
    if isinstance(value, cls):
        return value
    fields = checked_mapping(element, name, value)
    try:
        return cls(**fields)
    except (TypeError, InvalidElement) as error:
        # Python's sentence about an unknown field is good, but begins with the name of a constructor
        raise InvalidElement(f"{element}: {name}: {str(error).removeprefix(cls.__name__ + '.__init__() ')}") from error


def snapshot(element: str, name: str, value: T) -> T:
    """A copy of `value` in which the containers of JSON are copied too.

    Whoever goes on filling a list or dict after handing it over would otherwise change an unchangeable element.
    """
    try:
        return cast(T, _copied(value))
    except RecursionError:
        raise InvalidElement(f"{element}: {name} holds itself, or is nested too deep") from None


def _copied(value: object) -> object:
    if type(value) is dict:
        return {key: _copied(item) for key, item in cast("dict[object, object]", value).items()}
    if type(value) is list:
        return [_copied(item) for item in cast("list[object]", value)]
    if type(value) is tuple:
        return tuple(_copied(item) for item in cast("tuple[object, ...]", value))
    return value


def refused_coroutine(value: object) -> bool:
    """Whether `value` is a coroutine that nobody will await; it is closed, so that Python does not warn as well."""
    if inspect.iscoroutine(value):
        value.close()
        return True
    return False


def described(value: object) -> str:
    """What kind of thing stands where an element, or a plain value, should; with a hint where one helps."""
    if inspect.iscoroutine(value):
        return "a coroutine (rendering awaits nothing; do async work in a Task)"
    if isinstance(value, type):
        return f"the class {value.__name__} itself (call it first: {value.__name__}(…))"
    if callable(value):
        name = getattr(value, "__name__", None)
        return f"the function {name or shown(value)!r} (call it to get its result)"
    if isinstance(value, (set, frozenset)):
        return f"a {'set' if isinstance(value, set) else 'frozenset'} (it has no order; use a list)"
    if value is True or (isinstance(value, (int, str)) and not value):
        return f"{type(value).__name__} {value!r} (of a condition, only None and False add nothing)"
    return f"{type(value).__name__} {shown(value)}"
