"""The canonical tree of a rendered frame: its nodes, its one JSON text, its hash.

Two renders that mean the same give the same text, so frames are compared by text or hash. How frames are stored as
differences lives in `delta.py`; how elements become this tree lives in `extract.py`.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Set
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from json.encoder import encode_basestring
from pathlib import PurePath
from typing import cast
from uuid import UUID

from pydantic import BaseModel
from pydantic_core import PydanticSerializationError

from smithers.errors import InvalidElement, StorageCorrupt
from smithers.records import dataclass

MAX_DEPTH = 256
"""How many elements may be nested. Keeps every walk over a tree within Python's recursion limit."""

quote = encode_basestring
"""A string as JSON, characters beyond ASCII as they are; C code."""

_MAX_VALUE_DEPTH = 64
_MAX_INT_BITS = 4096  # Python refuses to print integers of more than some thousand digits
_MILLISECOND = timedelta(milliseconds=1)
_SURROGATE = re.compile("[\ud800-\udfff]")
_ELEMENT_KEYS = {"kind", "tag", "props", "children"}


@dataclass(frozen=True, slots=True)
class TreeNode:
    """One element of a frame. `props` is sorted by name and names no property twice; a `str` child is a text node."""

    tag: str
    props: tuple[tuple[str, str], ...] = ()
    children: tuple[TreeNode | str, ...] = ()

    @classmethod
    def of(cls, tag: str, props: Mapping[str, str], *children: TreeNode | str) -> TreeNode:
        """A node whose properties may come in any order."""
        return cls(tag, tuple(sorted(props.items())), children)


@dataclass(frozen=True, slots=True)
class FrameTree:
    """A frame's tree with its canonical text, so that hashing, comparing and storing it render the text once."""

    tree: TreeNode | None
    text: str
    hash: str

    @classmethod
    def of(cls, tree: TreeNode | None) -> FrameTree:
        """Canonicalise a tree. Raises InvalidElement if it is nested too deeply."""
        text = canonical(tree)
        return cls(tree, text, tree_hash(text))


def canonical(node: TreeNode | str | None) -> str:
    """The one compact JSON text of a tree (a `str` is a text node, None the empty tree).

    Lone surrogates, which no UTF-8 column can hold, become U+FFFD. Raises InvalidElement beyond `MAX_DEPTH` levels.
    """
    if node is None:
        return "null"
    out: list[str] = []
    if isinstance(node, str):
        out.append(f'{{"kind":"text","text":{quote(node)}}}')
    else:
        _write(node, out, _Heads(), _Names(), 1)
    return well_formed("".join(out))


def tree_hash(text: str) -> str:
    """The sha256 of a canonical text, in hex."""
    return hashlib.sha256(text.encode()).hexdigest()


def well_formed(text: str) -> str:
    """The text with each lone surrogate replaced by U+FFFD; the same object when there is none."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return _SURROGATE.sub("\ufffd", text)
    return text


class _Heads(dict[str, str]):
    """Tag -> how its element opens; a frame has few distinct tags."""

    def __missing__(self, tag: str) -> str:
        head = self[tag] = f'{{"kind":"element","tag":{quote(tag)},"props":{{'
        return head


class _Names(dict[str, str]):
    """Property name -> its quoted form with the colon; a frame has few distinct names."""

    def __missing__(self, name: str) -> str:
        quoted = self[name] = quote(name) + ":"
        return quoted


def _write(node: TreeNode, out: list[str], heads: _Heads, names: _Names, depth: int) -> None:
    """Append the pieces of one element. Pieces instead of strings: a parent never copies its children's text."""
    if depth > MAX_DEPTH:
        raise InvalidElement(f"the tree is nested deeper than {MAX_DEPTH} levels", {"tag": node.tag})
    props = ",".join([names[name] + quote(value) for name, value in node.props])
    if not node.children:
        out.append(f'{heads[node.tag]}{props}}},"children":[]}}')
        return
    out.append(f'{heads[node.tag]}{props}}},"children":[')
    separator = False
    for child in node.children:
        if separator:
            out.append(",")
        separator = True
        if isinstance(child, str):
            out.append(f'{{"kind":"text","text":{quote(child)}}}')
        else:
            _write(child, out, heads, names, depth + 1)
    out.append("]}")


# ── reading ────────────────────────────────────────────────────────────────────────────────────────────────────────


def parse(text: str) -> TreeNode | None:
    """Read a canonical text back. Raises StorageCorrupt if it is not JSON, or not the JSON of a tree."""
    value = load_json(text)
    if value is None:
        return None
    node = child_from_json(value)
    if isinstance(node, str):
        raise StorageCorrupt("a stored frame has a text node as its root")
    return node


def load_json(text: str) -> object:
    """Parse stored JSON. Raises StorageCorrupt, also for nesting that no tree of `MAX_DEPTH` levels can have."""
    try:
        return cast(object, json.loads(text))
    except (ValueError, RecursionError) as error:
        raise StorageCorrupt("a stored frame is not valid JSON", {"reason": type(error).__name__}) from error


def child_from_json(value: object, depth: int = 0) -> TreeNode | str:
    """The node that a JSON value describes; text nodes are strings. `depth` is how many elements are around it.

    Raises StorageCorrupt for a bad shape or for more than `MAX_DEPTH` levels.
    """
    if not isinstance(value, dict):
        raise StorageCorrupt("a stored frame holds a node that is not an object")
    found = cast("dict[str, object]", value)
    kind = found.get("kind")
    if kind == "text" and len(found) == 2:
        text = found.get("text")
        if isinstance(text, str):
            return text
    if kind != "element" or found.keys() != _ELEMENT_KEYS:
        raise StorageCorrupt("a stored frame holds an object that is neither an element nor a text")
    tag, props, children = found["tag"], found["props"], found["children"]
    if not isinstance(tag, str) or not isinstance(props, dict) or not isinstance(children, list):
        raise StorageCorrupt("a stored frame holds an element of the wrong shape")
    if depth >= MAX_DEPTH:
        raise StorageCorrupt(f"a stored frame is nested deeper than {MAX_DEPTH} levels")
    pairs = sorted(cast("dict[str, str]", props).items())  # no name is there twice, so that no values are compared
    for name, text in pairs:
        if not isinstance(text, str):
            raise StorageCorrupt("a stored frame holds a property that is not a string", {"tag": tag, "name": name})
    nodes = [child_from_json(child, depth + 1) for child in cast("list[object]", children)]
    return TreeNode(tag, tuple(pairs), tuple(nodes))


# ── property values ────────────────────────────────────────────────────────────────────────────────────────────────


def prop_text(value: object) -> str | None:
    """How a property value is written in the tree; None means that the property is left out.

    Strings, numbers, paths and UUIDs as they print (infinities as in JavaScript), booleans as `true`/`false`, dates as
    ISO text, durations as whole milliseconds, lists, sets, mappings and models as compact JSON with sorted keys.
    Everything else (functions, classes, agents, plain objects, or a collection holding one) is left out as a whole:
    only known kinds of data may reach a stored frame, since an object's fields may be secrets.
    """
    match value:
        case None:
            return None
        case Enum():
            return prop_text(value.value)
        case str():
            return value
        case bool():
            return "true" if value else "false"
        case int():
            return str(value) if value.bit_length() <= _MAX_INT_BITS else None
        case float():
            return repr(value) if math.isfinite(value) else _not_finite(value)
        case timedelta():
            return str(round(value / _MILLISECOND))
        case datetime() | date() | time():
            return value.isoformat()
        case PurePath() | UUID() | Decimal():
            return str(value)
        case BaseModel() | Mapping() | list() | tuple() | set() | frozenset():
            try:
                return _json(_plain(cast(object, value), 0))
            except (_Unserialisable, PydanticSerializationError, ValueError):
                return None
        case _:
            return None


class _Unserialisable(Exception):
    """A collection holds something that has no place in a frame."""


def _not_finite(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True)


def _plain(value: object, depth: int) -> object:
    """A JSON value for a property value; the depth bound also ends cycles."""
    if depth > _MAX_VALUE_DEPTH:
        raise _Unserialisable
    match value:
        case Enum():
            return _plain(value.value, depth + 1)
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else None
        case timedelta():
            return round(value / _MILLISECOND)
        case BaseModel():
            return _plain(value.model_dump(mode="json", warnings=False), depth + 1)
        case Mapping():
            items = cast("Mapping[object, object]", value).items()
            return {_key(key): _plain(item, depth + 1) for key, item in items}
        case list() | tuple():
            return [_plain(item, depth + 1) for item in cast("list[object] | tuple[object, ...]", value)]
        case set() | frozenset():
            # Iteration order of a set differs between processes; the order of the JSON texts does not.
            return sorted((_plain(item, depth + 1) for item in cast("Set[object]", value)), key=_json)
        case _:
            return _key(value)


def _key(value: object) -> str:
    """A mapping key, or a scalar of a kind that JSON does not know."""
    if isinstance(value, (BaseModel, Mapping, list, tuple, set, frozenset)):
        raise _Unserialisable
    text = prop_text(value)
    if text is None:
        raise _Unserialisable
    return text
