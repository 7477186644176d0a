"""Deltas of trees: whoever applies them, in the most obvious way, has the tree that a snapshot would have shown."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from tests.unit.gateway.devtools_support import Rows, applied, check_tree, hold_snapshot, loaded, rows, trees, walk

from smithers.gateway.devtools.delta import diff
from smithers.gateway.devtools.live import Change, LiveTree
from smithers.gateway.devtools.ops import ops_json
from smithers.gateway.devtools.patch import BeginAnew, Patch
from smithers.gateway.devtools.tree import Tree
from smithers.graph import delta as stored
from smithers.graph.tree import TreeNode


@given(trees(), rows())
def test_every_snapshot_fits_the_contract_and_has_unique_ids(tree: TreeNode, found: Rows) -> None:
    snapshot = loaded(
        LiveTree("run", Tree(tree, found), 3, 3, "h").snapshot('{"runId":"run","state":"running","computedAt":"x"}')
    )
    hold_snapshot(snapshot)
    check_tree(snapshot["root"])


@given(trees(), trees(), rows(), rows())
def test_the_difference_of_two_trees_turns_one_into_the_other(
    old: TreeNode, new: TreeNode, before: Rows, after: Rows
) -> None:
    first, second = Tree(old, before), Tree(new, after)
    ops = loaded(ops_json(diff(first, second)))
    assert applied(loaded(first.json()), ops) == loaded(second.json())


@given(trees(), rows())
def test_equal_trees_have_no_difference(tree: TreeNode, found: Rows) -> None:
    assert diff(Tree(tree, found), Tree(tree, found)) == []


@given(trees(), st.lists(trees(), min_size=1, max_size=4), rows())
def test_stored_changes_say_the_same_as_making_the_tree_anew(
    first: TreeNode, others: list[TreeNode], found: Rows
) -> None:
    live = Tree(first, found)
    shown = loaded(live.json())
    before = first
    for after in others:
        try:
            patch = Patch(live, stored.diff(before, after))
            ops = loaded(ops_json(patch.finish({key: found[key] for key in patch.keys if key in found})))
        except BeginAnew:
            live = Tree(after, found)
            shown = loaded(live.json())
        else:
            shown = applied(shown, ops)
            anew = Tree(after, found)
            assert shown == loaded(anew.json()) == loaded(live.json())
            assert live.by_id.keys() == anew.by_id.keys()
            assert live.by_task.keys() == anew.by_task.keys()
        before = after


@given(trees(), trees(), rows(), rows())
def test_changed_states_are_told_with_the_frame_or_after_it(
    old: TreeNode, new: TreeNode, before: Rows, after: Rows
) -> None:
    live = LiveTree("run", Tree(old, before), 1, 1, "old")
    shown = loaded(live.snapshot(None))["root"]
    try:
        turn = live.begin(Change(2, "new", stored.diff(old, new)))
        ops = turn.finish(before)
    except BeginAnew:
        return
    ops += live.update(after)
    event = loaded(live.delta_event(1, ops))
    assert (event["delta"]["baseSeq"], event["delta"]["seq"]) == (1, 2)
    assert applied(shown, event["delta"]["ops"]) == loaded(live.snapshot(None))["root"]
    assert loaded(live.snapshot(None))["root"] == loaded(Tree(new, {**before, **after}).json())
    assert live.differing(after) == set()


def node(tag: str, *children: TreeNode | str, **props: str) -> TreeNode:
    return TreeNode.of(f"smithers:{tag}", props, *children)


def task(id: str, iteration: int = 0) -> TreeNode:
    more = {"iteration": str(iteration)} if iteration else {}
    return node("task", id=id, kind="compute", **more)


def ids(tree: TreeNode) -> dict[str, int]:
    """The ids of named nodes, by name."""
    return {found["name"]: found["id"] for found in walk(loaded(Tree(tree, {}).json()))}


def test_what_is_named_keeps_its_id_wherever_it_goes() -> None:
    before = ids(node("workflow", task("a"), task("b"), node("parallel", task("c"), id="p"), name="w"))
    after = ids(node("workflow", node("parallel", task("b"), task("c"), id="p"), node("sequence", task("a")), name="w"))
    assert {name: after[name] for name in before} == before


def test_a_task_in_a_loop_is_the_same_node_in_each_iteration() -> None:
    first = node("workflow", node("ralph", task("a"), id="loop", iteration="0"), name="w")
    later = node("workflow", node("ralph", task("a", 7), id="loop", iteration="7"), name="w")
    assert ids(first) == ids(later)
    ops = loaded(ops_json(diff(Tree(first, {}), Tree(later, {}))))
    assert {op["op"] for op in ops} == {"updateProps", "updateTask"}
    nested = node("workflow", node("ralph", task("a@@outer=3"), id="loop@@outer=3"), name="w")
    assert ids(nested) == ids(first)


def test_a_conditional_neighbour_of_another_type_does_not_shift_an_unnamed_container() -> None:
    alone = Tree(node("workflow", node("sequence", task("a")), name="w"), {})
    beside = Tree(node("workflow", node("parallel", task("b")), node("sequence", task("a")), name="w"), {})
    assert alone.root.children[0].id == beside.root.children[1].id  # type: ignore[union-attr]


def test_an_operation_costs_what_it_touches_not_the_tree() -> None:
    many = [task(f"t{i}") for i in range(2_000)]
    old = node("workflow", node("parallel", *many, id="all"), name="w")
    new = node("workflow", node("parallel", *many[:700], task("new"), *many[701:], id="all"), name="w")
    patch = Patch(Tree(old, {}), stored.diff(old, new))
    assert patch.keys == {("new", 0)}
    ops = loaded(ops_json(patch.finish({})))
    assert [(op["op"], op.get("index")) for op in ops] == [("removeNode", None), ("addNode", 700)]


def test_two_nodes_of_one_identity_have_different_ids_and_no_patches() -> None:
    twins = node("workflow", node("sequence", id="same"), node("sequence", id="same"), name="w")
    tree = Tree(twins, {})
    check_tree(loaded(tree.json()))
    assert tree.has_collisions
    try:
        Patch(tree, [])
    except BeginAnew:
        return
    raise AssertionError
