"""Frames as differences: every difference leads to the new tree, small changes stay small, damage has a type."""

from __future__ import annotations

import json
import zlib
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smithers.errors import StorageCorrupt, StorageError
from smithers.graph.delta import Insert, Op, Remove, Set, apply, decode_ops, diff, encode_ops
from smithers.graph.frames import KEYFRAME_EVERY, decode_frame, encode_frame
from smithers.graph.tree import MAX_DEPTH, FrameTree, TreeNode, canonical

# Few distinct words, so that ids collide, repeat, move and vanish.
words = st.sampled_from(["", "a", "b", "c", "d", "é"])
props = st.dictionaries(st.sampled_from(["id", "key", "state", "text"]), words, max_size=3)


def _node(tag: str, props: dict[str, str], children: list[TreeNode | str]) -> TreeNode:
    return TreeNode.of(tag, props, *children)


def _inner(children: st.SearchStrategy[TreeNode | str]) -> st.SearchStrategy[TreeNode]:
    return st.builds(_node, st.sampled_from(["task", "sequence"]), props, st.lists(children, max_size=6))


nodes: st.SearchStrategy[TreeNode | str] = st.recursive(words | _inner(words), _inner, max_leaves=16)
trees: st.SearchStrategy[TreeNode | None] = st.none() | _inner(nodes)


def task(id: str, state: str = "pending") -> TreeNode:
    return TreeNode.of("task", {"id": id, "state": state}, f"Do {id}.")


def workflow(*tasks: TreeNode | str) -> TreeNode:
    return TreeNode.of("workflow", {"name": "w"}, *tasks)


@given(trees, trees)
def test_applying_a_difference_gives_the_new_tree(prev: TreeNode | None, next: TreeNode | None) -> None:
    assert apply(prev, diff(prev, next)) == next


@given(trees, trees)
def test_operations_survive_being_stored(prev: TreeNode | None, next: TreeNode | None) -> None:
    ops = diff(prev, next)
    assert decode_ops(encode_ops(ops)) == ops


@given(trees)
def test_equal_trees_have_no_difference(tree: TreeNode | None) -> None:
    assert diff(tree, decode_frame("keyframe", zlib.compress(canonical(tree).encode()), None)) == []


@given(st.lists(st.integers(0, 12), unique=True), st.lists(st.integers(0, 12), unique=True))
def test_children_that_come_and_go_cost_one_operation_each(before: list[int], after: list[int]) -> None:
    before, after = sorted(before), sorted(after)
    prev, next = workflow(*(task(str(i)) for i in before)), workflow(*(task(str(i)) for i in after))
    ops = diff(prev, next)
    assert apply(prev, ops) == next
    assert len(ops) <= len(set(before) ^ set(after))


def test_a_changed_property_is_one_operation_on_its_path() -> None:
    ops = diff(workflow(task("a"), task("b")), workflow(task("a"), task("b", "x")))
    assert encode_ops(ops) == ('{"version":1,"ops":[{"op":"set","path":["children",1,"props","state"],"value":"x"}]}')


@pytest.mark.parametrize("at", [0, 500, 1_000])
def test_inserting_one_child_among_many_is_one_operation(at: int) -> None:
    tasks = [task(str(i)) for i in range(1_000)]
    next = workflow(*[task(str(i)) for i in range(at)], task("new"), *[task(str(i)) for i in range(at, 1_000)])
    assert diff(workflow(*tasks), next) == [Insert(("children", at), task("new"))]


def test_inserting_an_unnamed_pipeline_among_others_is_one_operation() -> None:
    def pipeline(i: int) -> TreeNode:
        return TreeNode("sequence", (), (task(f"{i}-a"), task(f"{i}-b")))

    prev, next = workflow(*map(pipeline, [0, 1, 2, 3])), workflow(*map(pipeline, [0, 1, 9, 2, 3]))
    assert diff(prev, next) == [Insert(("children", 2), pipeline(9))]


def test_a_child_that_moves_is_taken_out_and_put_in() -> None:
    prev, next = workflow(*map(task, "abcde")), workflow(*map(task, "bcdea"))
    ops = diff(prev, next)
    assert sorted(type(op).__name__ for op in ops) == ["Insert", "Remove"]
    assert apply(prev, ops) == next


def test_applying_shares_what_was_not_touched() -> None:
    prev = workflow(TreeNode("sequence", (), (task("a"),)), task("b"))
    next = apply(prev, [Set(("children", 1, "props", "state"), "x")])
    assert next is not None
    assert next.children[0] is prev.children[0]
    assert prev.children[1] == task("b")


def test_deep_trees_are_compared_within_the_recursion_limit() -> None:
    def nested(leaf: str) -> TreeNode:
        node = task(leaf)
        for _ in range(MAX_DEPTH - 1):
            node = TreeNode("sequence", (), (node, "text"))
        return node

    prev, next = nested("a"), nested("b")
    ops = decode_ops(encode_ops(diff(prev, next)))
    assert canonical(apply(prev, ops)) == canonical(next)


# ── stored frames ──────────────────────────────────────────────────────────────────────────────────────────────────


@given(st.lists(trees, min_size=1, max_size=8))
def test_a_sequence_of_frames_is_read_back_as_it_was_written(sequence: list[TreeNode | None]) -> None:
    prev: FrameTree | None = None
    read: TreeNode | None = None
    since = 0
    for tree in sequence:
        frame = FrameTree.of(tree)
        encoding, payload = encode_frame(prev, frame, since)
        since = {"keyframe": 0, "delta": since + 1, "same": since}[encoding]
        read = decode_frame(encoding, payload, read)
        assert canonical(read) == frame.text
        assert (encoding == "same") == (prev is not None and prev.hash == frame.hash)
        prev = frame


def big(state: str) -> FrameTree:
    return FrameTree.of(workflow(*(task(str(i)) for i in range(20)), task("last", state)))


def test_the_first_frame_is_a_keyframe() -> None:
    assert encode_frame(None, big("a"), 0)[0] == "keyframe"
    assert encode_frame(None, FrameTree.of(None), 0)[0] == "keyframe"


def test_keyframes_stand_fifty_changed_frames_apart() -> None:
    prev: FrameTree | None = None
    encodings: list[str] = []
    since = 0
    for i in range(2 * KEYFRAME_EVERY + 1):
        frame = big(str(i))
        encoding, _ = encode_frame(prev, frame, since)
        since = 0 if encoding == "keyframe" else since + 1
        encodings.append(encoding)
        prev = frame
    assert [i for i, encoding in enumerate(encodings) if encoding == "keyframe"] == [0, 50, 100]


def test_a_frame_that_did_not_change_stores_nothing_even_when_a_keyframe_is_due() -> None:
    assert encode_frame(big("a"), big("a"), 10 * KEYFRAME_EVERY) == ("same", b"")


def test_a_difference_that_is_not_smaller_than_the_text_is_stored_as_a_keyframe() -> None:
    prev, next = FrameTree.of(workflow(task("a"))), FrameTree.of(TreeNode("other"))
    encoding, payload = encode_frame(prev, next, 0)
    assert (encoding, decode_frame(encoding, payload, None)) == ("keyframe", next.tree)


def test_a_small_change_in_a_large_tree_is_a_small_payload() -> None:
    encoding, payload = encode_frame(big("a"), big("b"), 0)
    assert encoding == "delta"
    assert len(payload) < 150


# ── damage ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@given(st.data())
def test_a_cut_off_payload_is_corrupt(data: st.DataObject) -> None:
    encoding, payload = encode_frame(*data.draw(st.sampled_from([(None, big("a"), 0), (big("a"), big("b"), 0)])))
    cut = payload[: data.draw(st.integers(0, len(payload) - 1))]
    with pytest.raises(StorageCorrupt):
        decode_frame(encoding, cut, big("a").tree)


@given(st.sampled_from(["keyframe", "delta", "same"]), st.binary(max_size=40), st.booleans(), trees)
def test_any_bytes_are_read_or_refused_with_a_type(
    encoding: str, raw: bytes, packed: bool, prev: TreeNode | None
) -> None:
    with suppress(StorageError):
        decode_frame(encoding, zlib.compress(raw) if packed else raw, prev)


def test_bytes_after_the_end_of_a_payload_are_corrupt() -> None:
    with pytest.raises(StorageCorrupt, match="after its end"):
        decode_frame("keyframe", zlib.compress(b"null") + b"x", None)


def test_a_payload_that_expands_beyond_the_bound_is_refused() -> None:
    bomb = zlib.compress(b" " * 10_000_000 + b"null")
    with pytest.raises(StorageCorrupt, match="larger"):
        decode_frame("keyframe", bomb, None, max_bytes=1_000_000)


def test_a_payload_of_exactly_the_bound_is_read() -> None:
    assert decode_frame("keyframe", zlib.compress(b"null"), None, max_bytes=4) is None


def test_an_unknown_encoding_is_refused() -> None:
    with pytest.raises(StorageError, match="encoding"):
        decode_frame("full", b"", None)


@pytest.mark.parametrize("version", ["0", "2", '"1"', "true", "null"])
def test_an_unknown_version_is_refused(version: str) -> None:
    with pytest.raises(StorageError, match="version"):
        decode_ops(f'{{"version":{version},"ops":[]}}')


@pytest.mark.parametrize(
    "op",
    [
        "1",
        "{}",
        '{"op":"move","path":[0]}',
        '{"op":"remove"}',
        '{"op":"remove","path":"children"}',
        '{"op":"remove","path":["children",1.5]}',
        '{"op":"remove","path":["children",true]}',
        '{"op":"remove","path":["children",0],"value":null}',
        '{"op":"set","path":["props","a"]}',
        '{"op":"set","path":["props","a"],"value":1}',
        '{"op":"set","path":["children",0],"value":null}',
        '{"op":"set","path":["children",0],"value":"text"}',
        '{"op":"insert","path":[],"value":{"kind":"text","text":""}}',
        '{"op":"insert","path":["children",0],"value":{}}',
        json.dumps({"op": "remove", "path": ["children", 0] * (MAX_DEPTH + 2)}),
    ],
)
def test_what_is_not_an_operation_is_refused(op: str) -> None:
    with pytest.raises(StorageCorrupt):
        decode_ops(f'{{"version":1,"ops":[{op}]}}')


def test_the_display_name_of_an_operation_is_dropped() -> None:
    text = '{"version":1,"ops":[{"op":"remove","path":["children",0],"nodeId":"a"}]}'
    assert decode_ops(text) == [Remove(("children", 0))]


def test_operations_cannot_build_a_tree_that_is_too_deep() -> None:
    deep = TreeNode("t")
    for _ in range(MAX_DEPTH - 1):
        deep = TreeNode("t", (), (deep,))
    with pytest.raises(StorageCorrupt, match="deeper"):
        decode_ops(encode_ops([Insert(("children", 0), deep)]))


@pytest.mark.parametrize(
    "op",
    [
        Remove(()),
        Set((), "text"),
        Remove(("tag",)),
        Remove(("children",)),
        Remove(("props", "missing")),
        Remove(("props", 0)),
        Set(("props", "a"), TreeNode("t")),
        Set(("text",), "a"),
        Set(("children", "0"), "a"),
        Set(("children", 2), "a"),
        Set(("children", 0), None),
        Set(("children", 1, "props", "a"), "under a text"),
        Set(("children", 0, "text"), "an element has no text"),
        Set(("children", 0, "children", 0, "props", "a"), "b"),
        Remove(("children", -1)),
        Insert(("children", 3), "a"),
        Insert(("props", "a"), "b"),
        Set(("other", 0, "props", "a"), "b"),
    ],
    ids=repr,
)
def test_an_operation_that_leads_nowhere_is_refused(op: Op) -> None:
    with pytest.raises(StorageCorrupt):
        apply(workflow(TreeNode("t"), "text"), [op])


def test_nothing_can_be_done_to_the_empty_tree_but_replacing_it() -> None:
    with pytest.raises(StorageCorrupt):
        apply(None, [Remove(("children", 0))])
    assert apply(None, [Set((), task("a"))]) == task("a")
