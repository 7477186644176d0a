"""The canonical tree: one text for one meaning, and only known data in it."""

from __future__ import annotations

import hashlib
import json
import math
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum, StrEnum
from pathlib import PurePosixPath
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, SecretStr

from smithers.errors import InvalidElement, StorageCorrupt
from smithers.graph.tree import MAX_DEPTH, FrameTree, TreeNode, canonical, parse, prop_text, tree_hash

names = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
props = st.dictionaries(names, names, max_size=4)


def _node(tag: str, props: dict[str, str], children: list[TreeNode | str]) -> TreeNode:
    return TreeNode.of(tag, props, *children)


def _inner(children: st.SearchStrategy[TreeNode | str]) -> st.SearchStrategy[TreeNode]:
    return st.builds(_node, names, props, st.lists(children, max_size=4))


nodes: st.SearchStrategy[TreeNode | str] = st.recursive(names, _inner, max_leaves=12)
trees: st.SearchStrategy[TreeNode | None] = st.none() | _inner(nodes)


def nested(levels: int) -> TreeNode:
    node = TreeNode("t")
    for _ in range(levels - 1):
        node = TreeNode("t", (), (node,))
    return node


@given(trees)
def test_parsing_a_canonical_text_gives_the_tree_back(tree: TreeNode | None) -> None:
    assert parse(canonical(tree)) == tree


@given(trees)
def test_a_canonical_text_is_compact_json_with_fixed_key_order(tree: TreeNode | None) -> None:
    text = canonical(tree)
    assert text == json.dumps(json.loads(text), ensure_ascii=False, separators=(",", ":"))


def test_an_element_is_written_as_kind_tag_sorted_props_children() -> None:
    tree = TreeNode.of("smithers:task", {"id": "a", "agent": "é"}, 'say "hi"\n', TreeNode("x"))
    assert canonical(tree) == (
        '{"kind":"element","tag":"smithers:task","props":{"agent":"é","id":"a"},"children":['
        '{"kind":"text","text":"say \\"hi\\"\\n"},{"kind":"element","tag":"x","props":{},"children":[]}]}'
    )


def test_the_empty_tree_is_null() -> None:
    assert canonical(None) == "null"
    assert parse("null") is None


@given(props)
def test_the_hash_does_not_depend_on_the_order_of_properties(values: dict[str, str]) -> None:
    backwards = dict(reversed(values.items()))
    assert FrameTree.of(TreeNode.of("t", values)).hash == FrameTree.of(TreeNode.of("t", backwards)).hash


def test_the_hash_is_the_sha256_of_the_text() -> None:
    assert tree_hash("é") == hashlib.sha256("é".encode()).hexdigest()


@given(st.text(st.characters(), max_size=8))
def test_a_text_that_utf8_cannot_hold_is_made_storable_once_and_for_all(text: str) -> None:
    stored = canonical(TreeNode.of("t", {"a": text}, text))
    assert canonical(parse(stored)) == stored
    assert tree_hash(stored)


def test_the_deepest_allowed_tree_round_trips() -> None:
    text = canonical(nested(MAX_DEPTH))
    assert canonical(parse(text)) == text


def test_a_tree_that_is_nested_too_deeply_is_refused() -> None:
    with pytest.raises(InvalidElement, match="deeper"):
        canonical(nested(MAX_DEPTH + 1))


ELEMENT = '{"kind":"element","tag":"t","props":{},"children":[%s]}'


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "1",
        '"t"',
        "{}",
        '{"kind":"text","text":"a root must be an element"}',
        '{"kind":"element","tag":"t","props":{}}',
        '{"kind":"element","tag":1,"props":{},"children":[]}',
        '{"kind":"element","tag":"t","props":[],"children":[]}',
        '{"kind":"element","tag":"t","props":{"a":1},"children":[]}',
        '{"kind":"element","tag":"t","props":{},"children":{}}',
        '{"kind":"element","tag":"t","props":{},"children":[],"more":1}',
        '{"kind":"other","tag":"t","props":{},"children":[]}',
        ELEMENT % "null",
        ELEMENT % '{"kind":"text","text":null}',
        ELEMENT % '{"kind":"text","text":"a","more":1}',
        "[" * 100_000,
        "9" * 5_000,
    ],
)
def test_what_is_not_the_json_of_a_tree_is_refused(text: str) -> None:
    with pytest.raises(StorageCorrupt):
        parse(text)


def test_a_stored_tree_that_is_nested_too_deeply_is_refused() -> None:
    text = "%s"
    for _ in range(MAX_DEPTH + 1):
        text = text.replace("%s", ELEMENT)
    with pytest.raises(StorageCorrupt):
        parse(text.replace("%s", ""))


class Colour(Enum):
    RED = "red"


class Level(StrEnum):
    HIGH = "high"


class Draft(BaseModel):
    title: str
    due: date | None = None
    token: SecretStr = SecretStr("hidden")


class Agent:
    key = "secret"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a", "a"),
        ("", ""),
        (True, "true"),
        (False, "false"),
        (3, "3"),
        (-(10**30), "-1" + "0" * 30),
        (0.5, "0.5"),
        (math.inf, "Infinity"),
        (-math.inf, "-Infinity"),
        (Colour.RED, "red"),
        (Level.HIGH, "high"),
        (Decimal("1.50"), "1.50"),
        (PurePosixPath("a/b"), "a/b"),
        (UUID(int=0), "00000000-0000-0000-0000-000000000000"),
        (datetime(2026, 1, 2, 3, tzinfo=UTC), "2026-01-02T03:00:00+00:00"),
        (timedelta(minutes=1), "60000"),
        ([], "[]"),
        ({"b": [1, None, math.nan], "a": "é"}, '{"a":"é","b":[1,null,null]}'),
        (("x", timedelta(seconds=1), Level.HIGH), '["x",1000,"high"]'),
        ({"b", "a", "c"}, '["a","b","c"]'),
        ({1: date(2026, 1, 2)}, '{"1":"2026-01-02"}'),
        (Draft(title="t"), '{"due":null,"title":"t","token":"**********"}'),
    ],
)
def test_data_becomes_the_text_of_a_property(value: object, text: str) -> None:
    assert prop_text(value) == text


CYCLE: list[object] = []
CYCLE.append(CYCLE)


@pytest.mark.parametrize(
    "value",
    [None, len, Draft, Agent(), object(), [Agent()], {"a": print}, {(1,): 2}, b"x", CYCLE, iter([1]), 1 << 99_999],
    ids=lambda value: type(value).__name__,
)
def test_what_is_not_plain_data_is_left_out(value: object) -> None:
    assert prop_text(value) is None


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner),
        max_leaves=8,
    )
)
def test_every_property_of_json_kinds_is_standard_json_or_a_plain_word(value: object) -> None:
    text = prop_text(value)
    if isinstance(value, (list, dict)):
        assert text is not None
        json.loads(text, parse_constant=pytest.fail)
