"""Invariant: a render depends on what it read, and on nothing else."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from smithers.components.context import Context
from smithers.components.outputs import Outputs
from smithers.components.rundata import OutputRow, RunData, SignalRow
from smithers.components.scope import LoopState


class Row(BaseModel):
    n: int


class Other(BaseModel):
    n: int


outputs = Outputs({"row": Row, "other": Other})
MODELS: dict[str, type[Row] | type[Other]] = {"row": Row, "other": Other}
HOMES: dict[str, tuple[str, ...]] = {"a": (), "b": ("l",), "c": ("l", "m")}

Read = Callable[[Context[object]], object]
Change = Callable[[RunData], None]

keys = st.sampled_from(sorted(MODELS))
nodes = st.sampled_from(sorted(HOMES))
numbers = st.integers(0, 2)
names = st.sampled_from(["go", "stop"])
loops = st.sampled_from(["l", "m@@l=0", "m@@l=1", "m@@l=2"])


@st.composite
def reads(draw: st.DrawFn) -> Read:
    key, node, number, name = draw(keys), draw(nodes), draw(numbers), draw(names)
    options: list[Read] = [
        lambda ctx: ctx.output_maybe(key, node),
        lambda ctx: ctx.output_maybe(key, node, number),
        lambda ctx: ctx.latest(key, node),
        lambda ctx: ctx.outputs(key),
        lambda ctx: ctx.output_rows(key, node),
        lambda ctx: ctx.iteration_count(key, node),
        lambda ctx: ctx.prove(key, node),
        lambda ctx: dict(ctx.iterations),
        lambda ctx: ctx.iteration,
        lambda ctx: ctx.signal_rows(name),
        lambda ctx: ctx.signal_rows(name, "x"),
        lambda ctx: ctx.region_error(name),
        lambda ctx: ctx.row_at(node, number, key),
        lambda ctx: ctx.is_patched(name),
        lambda ctx: ctx.latest_array([{"n": 1}], Row),
    ]
    return draw(st.sampled_from(options))


@st.composite
def changes(draw: st.DrawFn) -> Change:
    key, node, number, name, loop = draw(keys), draw(nodes), draw(numbers), draw(names), draw(loops)
    outer, value = draw(numbers), draw(numbers)
    node_id = f"{node}@@l={outer}" if node == "c" else node
    iteration = 0 if node == "a" else number
    options: list[Change] = [
        lambda data: data.add_output(key, OutputRow(MODELS[key](n=value), node_id, iteration, len(data.by_key))),
        lambda data: data.set_loop(loop, LoopState(number)),
        lambda data: data.add_signal(SignalRow(value, name, "x", len(data.signals), 0)),
        lambda data: data.set_region_error(name, {"code": str(value)}),
    ]
    return draw(st.sampled_from(options))


@given(st.lists(changes(), max_size=8), st.lists(reads(), max_size=4), st.lists(changes(), min_size=1, max_size=4))
def test_a_render_whose_reads_would_answer_otherwise_is_dirty(
    history: list[Change], render: list[Read], step: list[Change]
) -> None:
    data = RunData("r", homes=dict(HOMES))
    for change in history:
        change(data)
    data.touched.clear()
    before: Context[object] = Context(data, outputs, None)
    seen = [read(before) for read in render]

    for change in step:
        change(data)

    after: Context[object] = Context(data, outputs, None)
    if [read(after) for read in render] != seen:
        assert data.depends_on_change(before.reads)


@given(st.lists(reads(), max_size=4), changes())
def test_a_change_makes_a_render_dirty_exactly_when_it_was_read(render: list[Read], change: Change) -> None:
    data = RunData("r", homes=dict(HOMES))
    ctx: Context[object] = Context(data, outputs, None)
    for read in render:
        read(ctx)
    change(data)
    assert data.touched
    assert data.depends_on_change(ctx.reads) == bool(data.touched & ctx.reads)


@given(changes())
def test_a_render_that_reads_nothing_is_never_dirty(change: Change) -> None:
    data = RunData("r", homes=dict(HOMES))
    ctx: Context[object] = Context(data, outputs, None)
    _ = (ctx.input, ctx.run_id, ctx.auth, ctx.continuation, ctx.is_patched("p"), ctx.latest_array(None, Row))
    change(data)
    assert not data.depends_on_change(ctx.reads)


def run() -> tuple[RunData, Context[object]]:
    data = RunData("r", homes=dict(HOMES))
    return data, Context(data, outputs, None)


def test_a_row_of_another_task_or_table_is_no_reason_to_render_again() -> None:
    data, ctx = run()
    ctx.output_maybe(Row, "a")
    ctx.outputs(Other)
    data.add_output("row", OutputRow(Row(n=1), "z", 0, 0))
    data.set_loop("l", LoopState(1))
    data.add_signal(SignalRow(None, "go", None, 0, 0))
    assert not data.depends_on_change(ctx.reads)
    data.add_output("row", OutputRow(Row(n=1), "a", 0, 1))
    assert data.depends_on_change(ctx.reads)


def test_a_task_of_a_loop_depends_on_the_loop_and_on_its_own_rows_in_every_scope() -> None:
    data, ctx = run()
    ctx.output_maybe(Row, "c")
    assert ctx.reads == {("node", "c"), ("loops",)}
    data.add_output("row", OutputRow(Row(n=1), "c@@l=0", 0, 0))
    assert data.depends_on_change(ctx.reads)
    data.touched.clear()
    data.set_loop("l", LoopState(1))
    assert data.depends_on_change(ctx.reads)


def test_the_same_region_error_twice_is_one_change() -> None:
    data, ctx = run()
    assert ctx.region_error("t") is None
    data.set_region_error("t", {"code": "X"})
    assert data.depends_on_change(ctx.reads)
    data.touched.clear()
    data.set_region_error("t", {"code": "X"})
    assert not data.depends_on_change(ctx.reads)
    assert ctx.region_error("t") == {"code": "X"}


def test_contexts_of_mounted_workflows_note_their_reads_in_one_place() -> None:
    data, ctx = run()
    child: Context[object] = Context(data, outputs, None, prefix="sub/", reads=ctx.reads)
    child.output_maybe(Row, "x")
    assert ctx.reads == {("node", "sub/x")}
