"""Elements: what a workflow function returns.

Calls set properties, brackets set children; both give a new, unchangeable element, and what does not belong fails where
it is written. Here are the base classes and the handling of children; the components themselves live beside this file
(`flow`, `task`, `gates`, `waits`, `composites`), their checks in `checks`, what becomes of a tree in `smithers.graph`.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, ClassVar, Never, Self, TypeAlias, TypeGuard, TypeVar, cast, dataclass_transform

from pydantic import BaseModel

from smithers.components.checks import described, refused_coroutine
from smithers.errors import AuthoringError, InvalidElement

MAX_CHILDREN = 1_000_000
"""Most children of one element; a generator that never ends stops here."""

MAX_NESTING = 100
"""Deepest nesting of lists in one pair of brackets."""

Children: TypeAlias = object
"""What brackets accept: an element, a list, tuple or generator of them (nested at will), None or False.

Checked at run time with a typed error, because nested lists with conditionals have no useful static type."""

T = TypeVar("T")


@dataclass_transform(eq_default=False, frozen_default=True, kw_only_default=True)
class ElementType(type):
    """Lets a component without attributes take its children directly: `Sequence[a, b]`.

    Also turns a call that does not fit into a typed error, and tells type checkers that elements cannot be changed.
    """

    def __getitem__(cls: type[T], children: Children) -> T:
        element = cls()
        if not isinstance(element, Element):  # pragma: no cover - only elements use this metaclass
            raise TypeError(f"{cls.__name__} is not a component")
        return element[children]

    if not TYPE_CHECKING:  # checkers are to see each component's own parameters

        def __call__(cls, *args: object, **properties: object) -> Element:
            try:
                return type.__call__(cls, *args, **properties)
            except TypeError as error:
                if error.__traceback__.tb_next is not None:  # not about the call itself
                    raise
                raise cls._bad_call(args, properties, error) from error


class Element(metaclass=ElementType):
    """A node of the tree that a workflow function returns. Unchangeable; equal by identity."""

    tag: ClassVar[str] = "smithers:element"
    id: str | None = None
    key: str | None = None
    skip_if: bool = False
    children: tuple[Element, ...] = ()

    def __getitem__(self, children: Children) -> Self:
        """This element with these children."""
        return self._replace(children=flatten(self, children))

    def _replace(self, **changes: object) -> Self:
        new = object.__new__(type(self))
        properties = vars(new)
        properties.update(vars(self))
        properties.update(changes)
        return new

    @classmethod
    def _bad_call(cls, args: tuple[object, ...], properties: Mapping[str, object], error: TypeError) -> AuthoringError:
        """The typed error for a call that does not fit the component's parameters."""
        known = inspect.signature(cls.__init__).parameters
        for name in properties:
            if name not in known:
                close = difflib.get_close_matches(name, known, n=1)
                hint = f"; did you mean {close[0]!r}?" if close else ""
                return InvalidElement(f"{cls.__name__} has no property {name!r}{hint}", {"component": cls.__name__})
        hint = "; children go in brackets" if any(isinstance(arg, Element) for arg in args) else ""
        text = str(error).removeprefix(f"{cls.__init__.__qualname__}() ")
        return InvalidElement(f"{cls.__name__}(…) {text}{hint}", {"component": cls.__name__})

    def __setattr__(self, name: str, value: object) -> Never:
        raise AttributeError(f"elements cannot be changed; make a new {type(self).__name__} instead")

    def __delattr__(self, name: str) -> Never:
        raise AttributeError(f"elements cannot be changed; make a new {type(self).__name__} instead")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.id!r})" if self.id else type(self).__name__

    def __bool__(self) -> bool:
        """Always true, so that `condition and Element` reads as it should."""
        return True

    def __iter__(self) -> Never:
        # without this, Python would iterate through __getitem__ and never end
        raise TypeError(f"{self!r} is one element; put it in brackets to make it a child")


def sole(children: Children) -> Children:
    """The one thing in the brackets, also behind the trailing comma that formatters add: `Task(…)[work,]`."""
    if isinstance(children, tuple):
        found = cast("tuple[object, ...]", children)
        return found[0] if len(found) == 1 else found
    return children


def flatten(owner: Element, children: Children) -> tuple[Element, ...]:
    """The children as a flat tuple; None and False add nothing. Raises `InvalidElement` for anything else."""
    if _is_flat(children):
        return children
    found: list[Element] = []
    for child in _walk(owner, children, 0):
        if len(found) >= MAX_CHILDREN:
            raise InvalidElement(f"{owner!r} has more than {MAX_CHILDREN} children", {"element": repr(owner)})
        found.append(child)
    return tuple(found)


def _is_flat(children: object) -> TypeGuard[tuple[Element, ...]]:
    return type(children) is tuple and all(isinstance(child, Element) for child in cast("list[object]", children))


def _is_list(child: object) -> TypeGuard[Iterable[object]]:
    return isinstance(child, Iterable) and not isinstance(child, _NOT_CHILDREN)


def _walk(owner: Element, child: Children, depth: int) -> Iterator[Element]:
    if child is None or child is False:
        return
    if isinstance(child, Element):
        yield child
    elif not _is_list(child):
        found = described(child)
        refused_coroutine(child)
        raise InvalidElement(
            f"{owner!r} cannot hold {found}; children are elements, lists of them, None or False",
            {"element": repr(owner)},
        )
    elif depth >= MAX_NESTING:
        raise InvalidElement(
            f"{owner!r}: lists are nested deeper than {MAX_NESTING}; does one hold itself?", {"element": repr(owner)}
        )
    else:
        for item in child:
            yield from _walk(owner, item, depth + 1)


# Iterable, yet never a list of children. A set has no order, so the tree would differ from one process to the next.
_NOT_CHILDREN = (str, bytes, bytearray, Mapping, set, frozenset, BaseModel, type)
