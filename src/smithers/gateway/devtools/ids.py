"""Ids: the numbers that nodes of a run's tree are known by. Pure.

A number is a hash of what the node is, not of where it stands: a task by its id as the author wrote it, so that it keeps its
number through the iterations of a loop and wherever it moves; a container by its own id or key, else by its type and its place
among the unnamed containers of that type, below its parent's path. The same tree gives the same numbers in every process.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Final

from smithers.components.scope import logical_id

BASIS: Final = 0x811C9DC5
_PRIME: Final = 0x01000193
_WORD: Final = 0xFFFFFFFF
_MASK: Final = 0x7FFFFFFF


@lru_cache(maxsize=65_536)
def hashed(text: str, state: int = BASIS) -> int:
    """FNV-1a over 32 bits, going on from a state: a child's path goes on from its parent's."""
    for byte in text.encode("utf-8", "surrogatepass"):
        state = ((state ^ byte) * _PRIME) & _WORD
    return state


def number_of(path: int) -> int:
    """The id of the node with this path's hash: 31 bits, which every JSON reader has exactly."""
    return path & _MASK


def name_of(tag: str, props: Mapping[str, str]) -> str | None:
    """What a node is known by whatever its neighbours are; None for a container that nobody named."""
    if "kind" in props:
        return f"{tag}|{logical_id(props.get('id', ''))}"
    own = props.get("id")
    if own is not None:
        return f"/{tag}={logical_id(own)}"
    key = props.get("key")
    return None if key is None else f"/{tag}:{key}"


def named_path(tag: str, props: Mapping[str, str], parent: int) -> int | None:
    """The hash of a node's path, its parent's being `parent`; None for a node that `name_of` has no name for."""
    name = name_of(tag, props)
    if name is None:
        return None
    return hashed(name) if "kind" in props else hashed(name, parent)


def unnamed_path(tag: str, parent: int, ordinal: int) -> int:
    """The hash of the path of a node without a name: `ordinal` of its type among its parent's unnamed children, from 0."""
    return hashed(f"/{tag}#{ordinal}", parent)
