"""Records: `dataclass` as the standard library has it, except that methods are made when they are first needed.

The standard decorator writes and compiles up to six methods for every class when its module is imported; in a command that
imports fifty such classes and uses half of them, that is a tenth of its time. Here a class gets its fields, slots and match
arguments at once, `__init__` is compiled at the first instance, and the rest is shared. What the standard library's
functions (`fields`, `replace`, `asdict`) and type checkers see is the same. Not for fields of `ClassVar` or `InitVar`, for
`order`, or for subclasses of standard frozen dataclasses.
"""

from __future__ import annotations

import dataclasses
from operator import attrgetter
from reprlib import recursive_repr
from typing import TYPE_CHECKING, Final, cast, get_origin

if TYPE_CHECKING:
    from collections.abc import Callable
    from dataclasses import dataclass as dataclass

    from _typeshed import DataclassInstance
else:

    def dataclass(cls=None, /, *, frozen=False, slots=False, eq=True, kw_only=False):
        """As `dataclasses.dataclass`, with these of its options."""

        def made(cls: type) -> type:
            return _made(cls, frozen, slots, eq, kw_only)

        return made if cls is None else made(cls)


_BUILTIN: Final[dict[object, str]] = {dict: "{}", list: "[]", set: "set()"}
"""How a field's default is made that is an empty container, such as `dict[str, int]`."""


def _made(cls: type[object], frozen: bool, slots: bool, eq: bool, kw_only: bool) -> type[object]:
    own = set(vars(cls))
    decorate: Callable[[type[object]], type[object]] = dataclasses.dataclass(
        init=False, repr=False, eq=False, slots=slots, kw_only=kw_only
    )
    made = decorate(cls)
    fields = dataclasses.fields(cast("type[DataclassInstance]", made))
    methods: dict[str, object] = {"__repr__": _repr_of(fields)}
    if eq:
        values = _values_of(fields)
        methods |= _comparison(values) | {"__hash__": _hash_of(values) if frozen else None}
    if frozen:
        methods |= {"__setattr__": _refuse_to_set, "__delattr__": _refuse_to_delete}
    if frozen and slots:
        methods |= {"__getstate__": _state, "__setstate__": _restore}
    for name, method in methods.items():
        if name not in own:
            setattr(made, name, method)
    made.__init__ = _first_init(made, fields, frozen)  # type: ignore[method-assign]
    return made


def _first_init(made: type, fields: tuple[dataclasses.Field[object], ...], frozen: bool) -> Callable[..., None]:
    def __init__(self: object, *args: object, **kwargs: object) -> None:
        made.__init__ = _init(made, fields, frozen)  # type: ignore[misc]
        made.__init__(self, *args, **kwargs)  # type: ignore[misc]

    return __init__


def _init(made: type, fields: tuple[dataclasses.Field[object], ...], frozen: bool) -> Callable[..., None]:
    """The `__init__` that the standard decorator would have written, without annotations."""
    known: dict[str, object] = {"_set": object.__setattr__, "_unset": dataclasses.MISSING}
    head: dict[bool, list[str]] = {False: [], True: []}
    body: list[str] = []
    for number, field in enumerate(fields):
        name, value = field.name, field.name
        default = ""
        if field.default_factory is not dataclasses.MISSING:
            make = _BUILTIN.get(
                get_origin(field.default_factory)
            )  # an alias takes five times as long as what it stands for
            if make is None:
                make, known[f"_make{number}"] = f"_make{number}()", field.default_factory
            value = f"{make} if {name} is _unset else {name}" if field.init else make
            default = "=_unset"
        elif field.default is not dataclasses.MISSING:
            known[f"_default{number}"] = field.default
            default = f"=_default{number}"
            value = name if field.init else f"_default{number}"
        elif not field.init:
            continue
        if field.init:
            head[bool(field.kw_only)].append(name + default)
        body.append(f"_set(self, {name!r}, {value})" if frozen else f"self.{name} = {value}")
    if hasattr(made, "__post_init__"):
        body.append("self.__post_init__()")
    parameters = ["self", *head[False], *(["*", *head[True]] if head[True] else [])]
    source = f"def __init__({', '.join(parameters)}):\n " + "\n ".join(body or ["pass"])
    exec(source, known)
    init: Callable[..., None] = known["__init__"]  # type: ignore[assignment]
    init.__qualname__ = f"{made.__qualname__}.__init__"  # as errors about arguments name it
    return init


def _values_of(fields: tuple[dataclasses.Field[object], ...]) -> Callable[[object], object]:
    names = [field.name for field in fields if field.compare]
    return attrgetter(*names) if names else lambda self: ()


def _comparison(values: Callable[[object], object]) -> dict[str, object]:
    def __eq__(self: object, other: object) -> bool:
        if other.__class__ is not self.__class__:
            return NotImplemented
        return values(self) == values(other)

    return {"__eq__": __eq__}


def _hash_of(values: Callable[[object], object]) -> Callable[[object], int]:
    def __hash__(self: object) -> int:
        return hash(values(self))

    return __hash__


def _repr_of(fields: tuple[dataclasses.Field[object], ...]) -> Callable[[object], str]:
    names = [field.name for field in fields if field.repr]

    @recursive_repr()
    def __repr__(self: object) -> str:
        return f"{type(self).__qualname__}({', '.join(f'{name}={getattr(self, name)!r}' for name in names)})"

    return __repr__


def _refuse_to_set(self: object, name: str, value: object) -> None:
    raise dataclasses.FrozenInstanceError(f"cannot assign to field {name!r}")


def _refuse_to_delete(self: object, name: str) -> None:
    raise dataclasses.FrozenInstanceError(f"cannot delete field {name!r}")


def _state(self: object) -> list[object]:
    return [getattr(self, field.name) for field in dataclasses.fields(self)]  # type: ignore[arg-type]


def _restore(self: object, state: list[object]) -> None:
    for field, value in zip(dataclasses.fields(self), state, strict=True):  # type: ignore[arg-type]
        object.__setattr__(self, field.name, value)
