"""How frames are packed: small ones as they are, large ones compressed, and both are read back."""

from __future__ import annotations

import pytest

from smithers.errors import StorageCorrupt
from smithers.graph.frames import PLAIN_BYTES, decode_frame, encode_frame
from smithers.graph.tree import FrameTree, TreeNode


def frame(length: int) -> FrameTree:
    return FrameTree.of(TreeNode.of("smithers:task", {"id": "a"}, "x" * length))


def test_a_small_frame_is_stored_as_its_text_and_a_large_one_compressed() -> None:
    small, large = frame(10), frame(2 * PLAIN_BYTES)
    assert encode_frame(None, small, 0) == ("keyframe", small.text.encode())
    assert len(encode_frame(None, large, 0)[1]) < PLAIN_BYTES
    for each in (small, large):
        assert decode_frame(*encode_frame(None, each, 0), None) == each.tree


def test_a_small_difference_is_stored_as_its_text() -> None:
    before = frame(300)
    after = FrameTree.of(TreeNode.of("smithers:task", {"id": "a", "label": "b"}, "x" * 300))
    encoding, payload = encode_frame(before, after, 0)
    assert (encoding, payload[:1]) == ("delta", b"{")
    assert decode_frame(encoding, payload, before.tree) == after.tree


def test_the_empty_tree_is_stored_and_read() -> None:
    empty = FrameTree.of(None)
    assert decode_frame(*encode_frame(None, empty, 0), None) is None


def test_a_plain_frame_that_is_larger_than_any_is_refused() -> None:
    with pytest.raises(StorageCorrupt):
        decode_frame("keyframe", frame(100).text.encode(), None, max_bytes=50)
