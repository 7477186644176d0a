"""Stored frames: how the tree of a step is kept, whole or as a difference to the frame before, and read back.

Which rows hold the frames, and checking a rebuilt frame against its stored hash, is the store's reader's business; the
differences themselves are `delta.py`'s.
"""

from __future__ import annotations

import zlib
from typing import Final, Literal, TypeAlias

from smithers.errors import InvalidElement, StorageCorrupt, StorageError
from smithers.graph.delta import Op, Set, apply, decode_ops, diff, encode_ops
from smithers.graph.tree import FrameTree, TreeNode, parse

Encoding: TypeAlias = Literal["keyframe", "delta", "same"]
"""`keyframe` holds the whole text, `delta` operations on the frame before, `same` nothing: the tree did not change."""

KEYFRAME_EVERY: Final = 50
"""At most this many frames from one keyframe to the next, not counting `same` frames."""

MAX_FRAME_BYTES: Final = 256 * 1024 * 1024
"""The largest text of a frame; more is refused on both sides, so that no stored row can exhaust memory."""

PLAIN_BYTES: Final = 1024
"""Payloads up to here are stored as they are: compressing them would take longer than writing them does."""

SMALL_BYTES: Final = 4096
"""Payloads up to here are compressed with a window of their own size."""

_PLAIN_STARTS: Final = (b"{", b'"', b"n")
"""How a payload begins that is not compressed: with JSON's first character, which no zlib header is."""


def encode_frame(prev: FrameTree | None, next: FrameTree, frames_since_keyframe: int) -> tuple[Encoding, bytes]:
    """How to store a frame after `prev` (None: it is the first), and the payload, compressed unless it is small.

    `frames_since_keyframe` counts the `delta` frames after the last keyframe; `same` frames do not count, they are not
    read. Raises InvalidElement for a frame larger than `MAX_FRAME_BYTES`.
    """
    if prev is not None and prev.text == next.text:
        return "same", b""
    if prev is not None and frames_since_keyframe < KEYFRAME_EVERY - 1:
        delta = encode_ops(diff(prev.tree, next.tree))
        if len(delta) < len(next.text):
            return "delta", _packed(delta)
    return "keyframe", _packed(next.text)


def decode_frame(
    encoding: str, payload: bytes, prev_tree: TreeNode | None, *, max_bytes: int = MAX_FRAME_BYTES
) -> TreeNode | None:
    """The tree of a stored frame; `prev_tree` is that of the frame before, and is not looked at for a keyframe.

    Raises StorageError for another encoding; StorageCorrupt if the payload is damaged, expands to more than
    `max_bytes`, or does not fit `prev_tree`.
    """
    return apply(prev_tree, frame_ops(encoding, payload, max_bytes=max_bytes))


def frame_ops(encoding: str, payload: bytes, *, max_bytes: int = MAX_FRAME_BYTES) -> list[Op]:
    """A stored frame as operations on the tree of the frame before; a keyframe is one that sets the whole tree.

    Raises as `decode_frame`, but for what does not fit the tree before.
    """
    match encoding:
        case "same":
            if payload:
                raise StorageCorrupt("a stored frame that repeats the one before has a payload")
            return []
        case "keyframe":
            return [Set((), parse(_expand(payload, max_bytes)))]
        case "delta":
            return decode_ops(_expand(payload, max_bytes))
        case _:
            raise StorageError("a stored frame has an encoding that this program does not know", {"encoding": encoding})


def _packed(text: str) -> bytes:
    raw = text.encode()
    if len(raw) > MAX_FRAME_BYTES:
        raise InvalidElement("the tree is too large to store", {"bytes": len(raw), "limit": MAX_FRAME_BYTES})
    if len(raw) <= PLAIN_BYTES:
        return raw
    if len(raw) > SMALL_BYTES:
        return zlib.compress(raw, 1)
    # zlib's usual window costs more to set up than a small frame: take one of the text's own size
    window = (len(raw) - 1).bit_length()
    small = zlib.compressobj(1, zlib.DEFLATED, window, window - 8)
    return small.compress(raw) + small.flush()


def _expand(payload: bytes, max_bytes: int) -> str:
    stream = zlib.decompressobj()
    try:
        if payload.startswith(_PLAIN_STARTS) and len(payload) <= max_bytes:
            return payload.decode()
        raw = stream.decompress(payload, max_bytes + 1)
        if len(raw) > max_bytes:
            raise StorageCorrupt("a stored frame is larger than any that is written", {"limit": max_bytes})
        if not stream.eof or stream.unused_data:
            raise StorageCorrupt("a stored frame is cut off, or has bytes after its end")
        return raw.decode()
    except (zlib.error, UnicodeDecodeError) as error:
        raise StorageCorrupt("a stored frame cannot be expanded", {"reason": type(error).__name__}) from error
