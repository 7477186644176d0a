"""Context: what a workflow function reads, against hand-made run data."""

from __future__ import annotations

import subprocess
import sys
from typing import cast

import pytest
from pydantic import BaseModel, field_serializer

from smithers.components.context import Context, rendering, use_ctx, use_patched
from smithers.components.outputs import Outputs
from smithers.components.rundata import OutputRow, RunData, SignalRow
from smithers.components.scope import LoopState
from smithers.errors import ContextOutsideWorkflow, InvalidElement, MissingOutput, UnknownOutputSchema


class Draft(BaseModel):
    text: str


class Score(BaseModel):
    value: float


outputs = Outputs({"draft": Draft, "score": Score})


class Run:
    """Hand-made run data and a context on it."""

    def __init__(self, prefix: str = "") -> None:
        self.data = RunData("run-1", input={"n": 1}, auth={"user": "alice"}, continuation={"page": 2})
        self.ctx: Context[object] = Context(self.data, outputs, self.data.input, prefix=prefix)
        self._seq = 0

    def row(self, node_id: str, iteration: int = 0, text: str = "", *, key: str = "draft") -> None:
        payload = Draft(text=text or f"{node_id}/{iteration}") if key == "draft" else Score(value=1.5)
        self.data.add_output(key, OutputRow(payload, node_id, iteration, self._seq))
        self._seq += 1

    def signal(self, name: str, correlation_id: str | None = None, payload: object = None) -> None:
        self.data.add_signal(SignalRow(payload, name, correlation_id, self._seq, 0))
        self._seq += 1

    def loop(self, scoped_id: str, iteration: int) -> None:
        self.data.set_loop(scoped_id, LoopState(iteration))

    def text(self, node_id: str, iteration: int | None = None) -> str | None:
        row = self.ctx.output_maybe(Draft, node_id, iteration)
        return None if row is None else row.text


# ── lookup ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_row_outside_loops_is_found_by_model_entry_and_key() -> None:
    run = Run()
    run.row("plan")
    for name in (Draft, outputs.draft, "draft"):
        assert run.ctx.output(name, "plan") == Draft(text="plan/0")
        assert run.ctx.output_maybe(name, "plan") == Draft(text="plan/0")
        assert run.ctx.latest(name, "plan") == Draft(text="plan/0")


def test_a_missing_row_is_none_or_an_error_that_names_node_and_output() -> None:
    run = Run()
    assert run.ctx.output_maybe(Draft, "plan") is None
    assert run.ctx.latest(Draft, "plan") is None
    with pytest.raises(MissingOutput, match=r"'plan' has no row in 'draft' yet; use ctx\.output_maybe") as caught:
        run.ctx.output(Draft, "plan", iteration=3)
    assert caught.value.details == {"nodeId": "plan", "iteration": 3}


def test_a_row_in_another_table_is_not_this_output() -> None:
    run = Run()
    run.row("plan", key="score")
    assert run.ctx.output_maybe(Draft, "plan") is None
    assert run.ctx.latest(Draft, "plan") is None
    assert run.ctx.iteration_count(Draft, "plan") == 0


def test_an_unknown_output_is_refused_by_every_read() -> None:
    ctx = Run().ctx
    for read in (
        lambda: ctx.output("x", "plan"),
        lambda: ctx.output_maybe(cast("type[Draft]", Run), "plan"),
        lambda: ctx.latest("x", "plan"),
        lambda: ctx.outputs("x"),
        lambda: ctx.output_rows("x"),
        lambda: ctx.iteration_count("x", "plan"),
        lambda: ctx.prove("x", "plan"),
    ):
        with pytest.raises(UnknownOutputSchema, match="ctx: unknown output"):
            read()


def test_a_task_of_a_loop_is_looked_up_in_the_current_iteration_only() -> None:
    run = Run()
    run.data.homes = {"draft": ("l",), "plan": ()}
    run.row("plan")
    run.row("draft", 0)
    run.loop("l", 0)
    assert run.text("draft") == "draft/0"
    run.loop("l", 1)
    assert run.text("draft") is None
    assert run.text("draft", iteration=0) == "draft/0"
    assert run.text("plan") == "plan/0"
    with pytest.raises(MissingOutput):
        run.ctx.output(Draft, "draft")


def test_latest_is_the_newest_finished_iteration() -> None:
    run = Run()
    run.data.homes = {"draft": ("l",)}
    for iteration in range(3):
        run.row("draft", iteration)
    run.loop("l", 3)
    assert run.ctx.latest(Draft, "draft") == Draft(text="draft/2")
    assert run.ctx.iteration_count(Draft, "draft") == 3
    run.row("draft", 3)
    assert run.ctx.latest(Draft, "draft") == Draft(text="draft/3")


def nested() -> Run:
    """Loop `inner` in loop `outer`: two outer iterations, the second one at inner iteration 1."""
    run = Run()
    run.data.homes = {"x": ("outer", "inner"), "top": ("outer",), "deep": ("outer", "inner", "core")}
    run.loop("outer", 1)
    run.loop("inner@@outer=0", 2)
    run.loop("inner@@outer=1", 1)
    run.loop("core@@outer=1,inner=1", 4)
    for iteration in range(3):
        run.row("x@@outer=0", iteration)
    run.row("x@@outer=1", 0)
    run.row("top", 0)
    return run


def test_in_nested_loops_a_task_is_looked_up_in_the_current_outer_iteration() -> None:
    run = nested()
    assert run.text("x") is None
    assert run.text("x", iteration=0) == "x@@outer=1/0"
    assert run.text("x", iteration=2) is None
    assert run.ctx.latest(Draft, "x") == Draft(text="x@@outer=1/0")
    assert run.ctx.iteration_count(Draft, "x") == 1
    run.row("x@@outer=1", 1)
    assert run.text("x") == "x@@outer=1/1"
    assert run.text("top") is None
    run.row("deep@@outer=1,inner=1", 4)
    assert run.text("deep") == "deep@@outer=1,inner=1/4"


def test_a_suffix_names_another_outer_iteration_and_its_own_current_inner_one() -> None:
    run = nested()
    assert run.text("x@@outer=0") == "x@@outer=0/2"
    assert run.text("x@@outer=0", iteration=1) == "x@@outer=0/1"
    assert run.text("x@@outer=1") is None
    assert run.ctx.iteration_count(Draft, "x@@outer=0") == 3


def test_iterations_hold_scoped_ids_and_the_plain_id_of_the_current_outer_iteration() -> None:
    run = nested()
    assert run.ctx.iterations == {
        "outer": 1,
        "inner@@outer=0": 2,
        "inner@@outer=1": 1,
        "inner": 1,
        "core@@outer=1,inner=1": 4,
        "core": 4,
    }
    run.loop("inner@@outer=1", 2)
    assert run.ctx.iterations["inner"] == 2
    assert "core" not in run.ctx.iterations
    run.loop("outer", 2)
    assert "inner" not in run.ctx.iterations


def test_iteration_is_that_of_the_only_loop() -> None:
    run = Run()
    assert run.ctx.iteration == 0
    run.loop("l", 4)
    assert run.ctx.iteration == 4
    run.loop("m", 1)
    assert run.ctx.iteration == 0
    assert run.ctx.iterations == {"l": 4, "m": 1}


def test_rows_are_found_after_a_restart_from_what_was_stored() -> None:
    run = nested()
    run.data.homes = {}
    run.data.remember_home("x@@outer=1", "inner@@outer=1")
    run.data.remember_home("top", "outer")
    run.data.remember_home("plan", None)
    assert run.data.homes == {"x": ("outer", "inner"), "top": ("outer",), "plan": ()}
    assert run.text("x", iteration=0) == "x@@outer=1/0"


# ── many rows ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_outputs_are_in_completion_order_and_a_rewritten_row_completes_anew() -> None:
    run = Run()
    for node in ("b", "a", "c"):
        run.row(node)
    run.row("other", key="score")
    assert [d.text for d in run.ctx.outputs(Draft)] == ["b/0", "a/0", "c/0"]
    run.row("b", text="again")
    assert [d.text for d in run.ctx.outputs(Draft)] == ["a/0", "c/0", "again"]
    assert run.ctx.outputs(outputs.draft) == run.ctx.outputs("draft") == run.ctx.outputs(Draft)
    assert [r.seq for r in run.ctx.output_rows(Draft)] == sorted(r.seq for r in run.ctx.output_rows(Draft))


def test_output_rows_are_of_one_node_or_one_scope() -> None:
    run = nested()
    assert len(run.ctx.output_rows(Draft)) == 5
    assert [(r.node_id, r.iteration) for r in run.ctx.output_rows(Draft, "x", scope="outer=1")] == [("x@@outer=1", 0)]
    assert len(run.ctx.output_rows(Draft, "x")) == 4
    assert len(run.ctx.output_rows(Draft, "x@@outer=0")) == 3
    assert len(run.ctx.output_rows(Draft, scope="outer=0")) == 3
    assert run.ctx.output_rows(Draft, "x", scope="outer=7") == []


def test_lists_that_a_read_returns_are_the_authors_own() -> None:
    run = Run()
    run.row("a")
    run.signal("go")
    for read in (lambda: run.ctx.outputs(Draft), lambda: run.ctx.output_rows(Draft), lambda: run.ctx.signal_rows("go")):
        read().clear()
        assert len(read()) == 1


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, []),
        ("", []),
        ("null", []),
        ("not json", []),
        ("[" * 100_000, []),
        ([], []),
        ('[{"value": 1}, {"value": "x"}, 3, {"value": 2}]', [1, 2]),
        ({"value": 1}, [1]),
        ('{"value": 1}', [1]),
        (({"value": 1}, Score(value=2)), [1, 2]),
        (5, []),
    ],
)
def test_latest_array_keeps_what_fits_and_drops_the_rest(value: object, expected: list[float]) -> None:
    assert [score.value for score in Run().ctx.latest_array(value, Score)] == expected


# ── signals ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_signal_rows_are_those_of_a_name_and_correlation_id() -> None:
    run = Run()
    run.signal("go", None, 1)
    run.signal("go", "a", 2)
    run.signal("stop", "a", 3)
    run.signal("go", "b", 4)

    def payloads(name: str, correlation_id: str | None = None) -> list[object]:
        return [row.payload for row in run.ctx.signal_rows(name, correlation_id)]

    assert payloads("go") == [1, 2, 4]
    assert payloads(" go ", " a ") == [2]
    assert payloads("go", "  ") == [1, 2, 4]
    assert payloads("go", "c") == []
    assert payloads("never") == []


# ── proofs ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class Tagged(BaseModel):
    tags: set[int]
    groups: list[frozenset[int]] = []
    by_name: dict[str, int] = {}

    @field_serializer("by_name")
    def _keys_only(self, value: dict[str, int]) -> list[str]:
        return sorted(value)


def digest(row: BaseModel) -> str:
    data = RunData("r")
    data.add_output("row", OutputRow(row, "t", 0, 0))
    ctx: Context[object] = Context(data, Outputs({"row": type(row)}), None)
    proof = ctx.prove("row", "t")
    assert proof is not None
    return proof.digest


def test_a_proof_does_not_depend_on_the_order_of_sets_or_keys_but_on_that_of_lists() -> None:
    one, other = [8, 0, 16], [16, 8, 0]  # these share a slot, so that insertion decides the order of the set
    assert list(set(one)) != list(set(other))
    assert digest(Tagged(tags=set(one))) == digest(Tagged(tags=set(other)))
    assert digest(Tagged(tags=set(), groups=[frozenset(one)])) == digest(Tagged(tags=set(), groups=[frozenset(other)]))
    assert digest(Tagged(tags=set(), by_name={"a": 1, "b": 2})) == digest(Tagged(tags=set(), by_name={"b": 2, "a": 1}))
    a, b = frozenset([1]), frozenset([2])
    assert digest(Tagged(tags=set(), groups=[a, b])) != digest(Tagged(tags=set(), groups=[b, a]))


def test_a_proof_names_the_row_and_changes_with_its_value_only() -> None:
    run = Run()
    assert run.ctx.prove(Draft, "plan") is None
    run.row("plan", text="one")
    first = run.ctx.prove(Draft, "plan")
    assert first is not None
    assert (first.table, first.node_id, first.iteration, len(first.digest)) == ("draft", "plan", 0, 64)
    assert run.ctx.prove("draft", "plan") == first
    run.row("plan", text="two")
    second = run.ctx.prove(Draft, "plan")
    assert second is not None
    assert second.digest != first.digest
    run.row("other", text="one")
    other = run.ctx.prove(Draft, "other")
    assert other is not None
    assert other.digest == first.digest


_PROVE = """
import sys
from typing import cast
from pydantic import BaseModel
from smithers.components.context import Context
from smithers.components.outputs import Outputs
from smithers.components.rundata import OutputRow, RunData
class Tagged(BaseModel):
    tags: set[str]
    by_name: dict[str, frozenset[str]]
    rest: list[int] = []
words = [f"w{n}" for n in range(20)]
data = RunData("r")
data.add_output("tagged", OutputRow(Tagged(tags=set(words), by_name={"a": frozenset(words)}), "t", 0, 0))
print(Context(data, Outputs({"tagged": Tagged}), None).prove(Tagged, "t").digest)
"""


def test_a_proof_is_the_same_in_every_process() -> None:
    """The order of a set is not: Python salts the hashes of strings anew in each process."""
    digests = {
        subprocess.run(
            [sys.executable, "-c", _PROVE], env={"PYTHONHASHSEED": seed}, check=True, capture_output=True, text=True
        ).stdout
        for seed in ("1", "2")
    }
    assert len(digests) == 1


# ── code changes ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_fresh_run_takes_the_new_side_of_a_patch_and_records_it_once() -> None:
    run = Run()
    assert run.ctx.is_patched("p") is True
    run.data.is_fresh = False
    assert run.ctx.is_patched("p") is True
    assert run.data.new_patches == {"p": True}


def test_a_run_under_way_takes_the_old_side_and_a_recorded_answer_stands() -> None:
    run = Run()
    run.data.is_fresh = False
    run.data.patches = {"old": True}
    assert run.ctx.is_patched("p") is False
    assert run.ctx.is_patched("old") is True
    assert run.data.new_patches == {"p": False}
    with pytest.raises(InvalidElement, match="is_patched needs a non-empty string id"):
        run.ctx.is_patched("")


# ── use_ctx ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_use_ctx_answers_the_innermost_render_and_nothing_outside() -> None:
    outer, inner = Run().ctx, Run().ctx
    with rendering(outer):
        with rendering(inner):
            assert use_ctx() is inner
        assert use_ctx() is outer
        assert use_patched("p") is True
    for outside in (use_ctx, lambda: use_patched("p")):
        with pytest.raises(ContextOutsideWorkflow, match="only while a workflow function is being rendered"):
            outside()


def test_use_ctx_is_reset_when_a_render_fails() -> None:
    with pytest.raises(KeyError), rendering(Run().ctx):
        raise KeyError
    with pytest.raises(ContextOutsideWorkflow):
        use_ctx()


def test_a_context_carries_what_the_run_was_launched_with() -> None:
    ctx = Run().ctx
    assert (ctx.run_id, ctx.input) == ("run-1", {"n": 1})
    assert (ctx.auth, ctx.continuation) == ({"user": "alice"}, {"page": 2})


# ── a workflow mounted in another ──────────────────────────────────────────────────────────────────────────────────


def test_an_inline_workflow_sees_its_own_rows_and_loops_under_its_own_ids() -> None:
    run = Run(prefix="sub/")
    run.data.homes = {"sub/draft": ("sub/l",), "draft": ()}
    run.row("draft", text="of the parent")
    run.row("sub/draft", 0)
    run.loop("sub/l", 0)
    run.loop("l", 7)
    assert run.text("draft") == "sub/draft/0"
    assert [d.text for d in run.ctx.outputs(Draft)] == ["sub/draft/0"]
    assert [r.node_id for r in run.ctx.output_rows(Draft, "draft")] == ["sub/draft"]
    assert run.ctx.iterations == {"l": 0}
    assert run.ctx.iteration == 0
    run.loop("sub/l", 1)
    assert run.text("draft") is None
    assert run.ctx.iteration == 1
