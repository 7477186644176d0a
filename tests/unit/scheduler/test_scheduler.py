"""One example for each rule of the scheduler. Every step of every example is also held to the oracle and a rebuild."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.unit.scheduler.mini_engine import Out, Run, outputs

from smithers.components.composites import Saga, SagaStep, TryCatchFinally
from smithers.components.context import Context
from smithers.components.element import Element
from smithers.components.flow import ContinueAsNew, Loop, MergeQueue, Parallel, Sequence, Workflow
from smithers.components.gates import Approval
from smithers.components.rundata import RunData
from smithers.components.scope import Key
from smithers.components.task import Task
from smithers.components.waits import Timer, WaitForEvent
from smithers.graph.extract import extract
from smithers.graph.plan import PlanNode
from smithers.scheduler.scheduler import Scheduler
from smithers.scheduler.states import NodeState


def task(
    id: str,
    *depends: str,
    agent: bool = False,
    priority: int | None = None,
    quarantine: bool = False,
    continue_on_fail: bool = False,
    skip_if: bool = False,
) -> Task:
    element = Task(
        id,
        output=Out,
        depends_on=depends,
        agent="agent" if agent else None,
        priority=priority,
        failure_policy="quarantine" if quarantine else None,
        continue_on_fail=continue_on_fail,
        skip_if=skip_if,
    )
    return element["go" if agent else {}]


def wait(id: str, *depends: str, wait_async: bool = True) -> WaitForEvent:
    return WaitForEvent(id, event="e", output=Out, wait_async=wait_async, depends_on=depends)


def run(*elements: Element, agent_room: int = 100, limit: int | None = None) -> Run:
    return Run(lambda _: list(elements), agent_room=agent_room, limit=limit)


# ── order ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_workflow_runs_its_children_in_order() -> None:
    r = run(task("a"), Sequence[task("b"), task("c")])
    assert r.running == ["a"]
    assert r.finish("a").running == ["b"]
    assert r.finish("b").running == ["c"]
    assert r.finish("c").outcome == ("finished",)


def test_a_parallel_starts_all_and_is_done_when_all_are() -> None:
    r = run(Parallel[task("a"), task("b")], task("c"))
    assert r.running == ["a", "b"]
    assert r.finish("b").running == ["a"]
    assert r.finish("a").running == ["c"]


def test_an_empty_workflow_is_finished() -> None:
    assert run().outcome == ("finished",)


# ── caps ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_max_concurrency_counts_running_leaves_of_the_innermost_group_with_a_cap() -> None:
    inner = Parallel(max_concurrency=1)[task("c"), task("d")]
    r = run(Parallel(max_concurrency=2)[task("a"), inner, Parallel[task("e"), task("f")]])
    assert r.running == ["a", "c", "e"]
    assert r.finish("c").running == ["a", "d", "e"]
    assert r.finish("a").running == ["d", "e", "f"]


def test_subtree_concurrency_counts_children_with_begun_and_unfinished_work() -> None:
    r = run(Parallel(subtree_concurrency=1)[Sequence[task("a"), task("b")], Sequence[task("c"), task("d")]])
    assert r.running == ["a"]
    assert r.finish("a").running == ["b"]
    assert r.finish("b").running == ["c"]


def test_a_begun_child_keeps_its_place_in_a_subtree_cap_over_a_rebuild() -> None:
    r = run(Parallel(subtree_concurrency=1)[Sequence[task("a"), task("b", priority=-1)], task("c")])
    r.finish("a").crash()
    assert r.running == ["b"]


def test_a_leaf_that_was_not_started_after_all_gives_its_childs_place_back() -> None:
    r = run(Parallel(subtree_concurrency=1)[Sequence[task("a"), task("b")], task("c", priority=1)], limit=1)
    assert r.finish("c").running == ["a"]
    r.states["a", 0] = NodeState.PENDING
    r.live.discard(("a", 0))
    r.scheduler.returns(r.leaves["a", 0])
    r.crash()
    assert r.running == ["a"]


def test_the_limit_of_the_run_holds_across_groups() -> None:
    r = run(Parallel[Parallel[task("a"), task("b")], task("c")], limit=2)
    assert r.running == ["a", "b"]
    assert r.finish("a").running == ["b", "c"]


def test_a_leaf_that_runs_on_unmounted_counts_against_the_limit_and_is_waited_for() -> None:
    r = Run(lambda ctx: Parallel[task("a"), ctx.latest(Out, "a") is None and task("b"), task("c")], limit=2)
    assert r.running == ["a", "b"]
    assert sorted(r.finish("a").running) == ["b", "c"]
    assert r.finish("c").outcome is None
    assert r.finish("b").outcome == ("finished",)


def test_agents_wait_for_agent_room_and_other_work_does_not() -> None:
    r = run(Parallel[task("a", agent=True), task("b", agent=True), task("c")], agent_room=0)
    assert r.running == ["c"]
    assert r.scheduler.queues.has_agents


def test_an_agent_without_room_does_not_keep_other_work_out_of_its_group() -> None:
    work = task("a", priority=2), task("b", agent=True, priority=1), task("c")
    r = run(Parallel(max_concurrency=1)[work], agent_room=0)
    assert r.finish("a").running == ["c"]


def test_priority_goes_before_document_order_and_is_inherited() -> None:
    r = run(Parallel[task("a"), task("b", priority=1), MergeQueue[task("c"), task("d")]], limit=1)
    assert r.running == ["c"]
    r.finish("c", "d", "b", "a")
    assert [id for id, _ in r.given] == ["c", "d", "b", "a"]


def test_a_leaf_of_a_failed_region_does_not_keep_the_room_of_a_group() -> None:
    attempt = TryCatchFinally("t", try_=Parallel[task("a"), task("b")], finally_=None, catch=task("k"))
    r = run(Parallel(max_concurrency=1)[attempt, task("c")])
    assert r.running == ["a"]
    assert r.fail("a").running == ["k"]
    assert r.finish("k").running == ["c"]


def test_waits_need_no_room() -> None:
    r = run(Parallel(max_concurrency=1)[task("a"), Timer("t", duration="1s"), wait("w")], limit=1)
    assert (r.running, r.waiting) == (["a"], ["t", "w"])


def test_a_cap_that_can_never_open_is_a_deadlock() -> None:
    r = run(Parallel(subtree_concurrency=1)[Sequence[task("a"), task("b", "c")], task("c")])
    assert r.finish("a").outcome == ("deadlocked", ((("b", 0), ("c",)),))


# ── dependencies ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_depends_on_a_container_waits_for_all_of_it() -> None:
    r = run(Parallel[Sequence("s")[task("a"), task("b")], task("c", "s")])
    assert r.finish("a").running == ["b"]
    assert r.finish("b").running == ["c"]


def test_a_reference_into_a_loop_from_outside_means_its_end() -> None:
    r = run(Parallel[Loop("l", max_iterations=2)[task("a")], task("b", "a")])
    assert r.finish("a").running == ["a::1"]
    assert r.finish("a::1").running == ["b"]


def test_a_reference_inside_a_loop_means_the_same_iteration() -> None:
    r = run(Loop("o", max_iterations=2)[Loop("i", max_iterations=2)[Parallel[task("a"), task("b", "a")]]])
    seen: list[str] = []
    while r.outcome is None:
        seen += r.running
        r.finish(*r.running)
    assert seen == [f"{id}@@o={o}{'::1' if i else ''}" for o in (0, 1) for i in (0, 1) for id in ("a", "b")]


@pytest.mark.parametrize("tolerance", ["continue_on_fail", "quarantine"])
def test_a_tolerated_failure_counts_as_done(tolerance: str) -> None:
    tolerant = tolerance == "continue_on_fail"
    r = run(task("a", continue_on_fail=tolerant, quarantine=not tolerant), task("b"))
    assert r.fail("a").running == ["b"]


def test_a_quarantined_failure_skips_its_dependants_transitively() -> None:
    r = run(Parallel[task("a", quarantine=True), task("b", "a"), task("c", "b"), task("d")])
    r.fail("a")
    assert (r.states["b", 0], r.states["c", 0]) == (NodeState.SKIPPED, NodeState.SKIPPED)
    assert r.finish("d").outcome == ("finished",)


def test_a_denial_with_skip_skips_its_dependants_and_not_its_siblings() -> None:
    r = run(Approval("a", output=Out, on_deny="skip"), Parallel[task("b", "a"), task("c")])
    assert r.skip("a").running == ["c"]
    assert r.states["b", 0] is NodeState.SKIPPED


def test_skip_if_counts_as_done_and_taints_nobody() -> None:
    assert run(task("a", skip_if=True), task("b", "a")).running == ["b"]


def test_missing_ids_are_listed_in_a_deadlock() -> None:
    r = run(Parallel[task("a"), task("b", "a", "nobody")])
    assert r.finish("a").outcome == ("deadlocked", ((("b", 0), ("nobody",)),))


def test_a_long_chain_of_skipped_dependants_is_worked_off_without_recursion() -> None:
    count = 3000
    chain = [task("t0", quarantine=True), *(task(f"t{i}", f"t{i - 1}") for i in range(1, count))]
    r = Run(lambda _: Parallel[chain], check=False)
    r.settle(("t0", 0), NodeState.FAILED)
    while taken := r.scheduler.take(0):
        for leaf in taken:
            r.handle(leaf)
    assert r.outcome == ("finished",)


# ── waiting ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_sequence_passes_over_an_async_wait_and_depends_on_does_not() -> None:
    r = run(wait("w"), Parallel[task("a"), task("b", "w")])
    assert r.running == ["a"]
    assert r.finish("a").outcome is None
    assert r.finish("w").running == ["b"]


def test_a_container_with_an_open_async_wait_is_passed_over_but_not_done() -> None:
    r = run(Parallel("p")[wait("w")], Parallel[task("a"), task("b", "p")])
    assert r.running == ["a"]
    assert r.finish("w").running == ["a", "b"]


def test_a_run_is_not_finished_before_its_async_waits_are() -> None:
    r = run(wait("w"), task("a"))
    assert r.finish("a").outcome is None
    assert r.finish("w").outcome == ("finished",)


def test_a_loop_does_not_go_on_without_its_async_waits() -> None:
    r = run(Loop("l", max_iterations=2)[wait("w"), task("a")])
    assert (r.finish("a").running, r.waiting) == ([], ["w"])
    assert r.finish("w").running == ["a::1"]


def test_an_async_wait_that_fails_late_is_still_caught() -> None:
    r = run(TryCatchFinally("t", try_=[wait("w"), task("a")], catch=task("k")), task("z"))
    assert r.finish("a").running == []
    assert r.fail("w").running == ["k"]
    assert r.finish("k").running == ["z"]


def test_a_held_leaf_gives_its_room_back_and_comes_again() -> None:
    r = run(Parallel(max_concurrency=1)[task("a"), task("b")])
    r.hold("a")
    assert r.running == ["b"]
    r.resume("a")
    assert r.finish("b").running == ["a"]


def test_a_leaf_that_is_told_of_with_an_earlier_plans_node_gives_its_room_back() -> None:
    r = run(Parallel[task("a"), task("b")])
    r.render()
    r.hold("a")
    r.resume("a")
    assert r.running == ["a", "b"]


# ── failures ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_after_an_unhandled_failure_nothing_starts_and_what_runs_drains() -> None:
    r = run(Parallel[task("a"), Sequence[task("b"), task("c")]])
    assert r.fail("a").running == ["b"]
    assert r.outcome is None
    assert r.finish("b").outcome == ("failed", ("E",), ("a", 0))


def test_of_several_failures_the_first_in_the_document_counts_whenever_it_came() -> None:
    r = run(TryCatchFinally("t", try_=Parallel[task("a"), task("b")], catch=task("k"), catch_errors=["A"]))
    r.fail("b", "B")
    assert r.fail("a", "A").running == ["k"]


def test_a_catch_comes_after_the_drain_and_finally_after_that() -> None:
    r = run(TryCatchFinally("t", try_=Parallel[task("a"), task("b")], catch=task("k"), finally_=task("f")), task("z"))
    assert r.fail("a").running == ["b"]
    assert r.finish("b").running == ["k"]
    assert r.finish("k").running == ["f"]
    assert r.finish("f").running == ["z"]


def test_an_error_that_is_not_caught_fails_the_run_after_finally() -> None:
    r = run(TryCatchFinally("t", try_=task("a"), catch=task("k"), catch_errors=["F"], finally_=task("f")))
    assert r.fail("a").running == ["f"]
    assert r.finish("f").outcome == ("failed", ("SCHEDULER_ERROR", "E"), ("a", 0))


def test_a_function_catch_is_mounted_by_a_new_render() -> None:
    seen: list[object] = []

    def catch(error: object) -> list[Element]:
        seen.append(error)
        return [task("k")]

    r = run(TryCatchFinally("t", try_=task("a"), catch=catch))
    assert r.fail("a", "X").running == ["k"]
    assert {"code": "X"} in seen


def test_waiting_and_held_leaves_of_a_failed_region_are_abandoned() -> None:
    body = Parallel()[task("a"), task("b"), wait("w", wait_async=False)]
    r = run(TryCatchFinally("t", try_=body, catch=task("k")))
    r.hold("b")
    assert r.fail("a").running == ["k"]
    assert (r.states["b", 0], r.states["w", 0]) == (NodeState.CANCELLED, NodeState.CANCELLED)


def test_an_abandoned_async_wait_does_not_hide_the_failure_behind_it_from_a_rebuild() -> None:
    r = run(TryCatchFinally("t", try_=[wait("w"), task("a")], catch=task("k")))
    r.fail("a").crash()
    assert (r.running, r.waiting) == (["k"], [])


def test_a_leaf_that_begins_to_wait_while_its_region_drains_is_abandoned() -> None:
    r = run(TryCatchFinally("t", try_=Parallel[task("a"), task("b")], catch=task("k")))
    r.fail("a")
    r.wait("b")
    assert r.running == ["k"]
    assert r.states["b", 0] is NodeState.CANCELLED


def saga(on_failure: str) -> Element:
    steps = [SagaStep(f"s{i}", compensation=task(f"undo{i}"))[task(f"do{i}")] for i in range(3)]
    return Saga("s", on_failure=on_failure)[steps]  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def test_a_saga_undoes_its_completed_actions_in_reverse_order_and_goes_on() -> None:
    r = run(saga("compensate"), task("z"))
    assert r.finish("do0", "do1").fail("do2").running == ["undo1"]
    assert r.finish("undo1").running == ["undo0"]
    assert r.finish("undo0").running == ["z"]


def test_compensate_and_fail_undoes_and_fails() -> None:
    r = run(saga("compensate-and-fail"))
    r.finish("do0").fail("do1")
    assert r.finish("undo0").outcome == ("failed", ("SCHEDULER_ERROR", "E"), ("do1", 0))


def test_fail_undoes_nothing() -> None:
    r = run(saga("fail"))
    assert r.finish("do0").fail("do1").outcome == ("failed", ("SCHEDULER_ERROR", "E"), ("do1", 0))


def test_a_failing_compensation_fails_what_is_around() -> None:
    r = run(TryCatchFinally("t", try_=saga("compensate"), catch=task("k")))
    r.finish("do0").fail("do1")
    assert r.fail("undo0").running == ["k"]


# ── loops and continuation ─────────────────────────────────────────────────────────────────────────────────────────


def test_a_loop_whose_condition_holds_at_the_start_does_nothing() -> None:
    assert run(Loop("l", until=True)[task("a")], task("z")).running == ["z"]


def test_until_is_not_looked_at_in_the_middle_of_an_iteration() -> None:
    r = Run(lambda ctx: [Loop("l", until=ctx.latest(Out, "a") is not None)[task("a"), task("b")], task("z")])
    assert r.finish("a").running == ["b"]
    r.crash()
    assert r.running == ["b"]
    assert r.finish("b").running == ["z"]


def test_a_loop_ends_with_its_last_iteration_or_fails_there() -> None:
    assert run(Loop("l", max_iterations=1)[task("a")], task("z")).finish("a").running == ["z"]
    failed = run(Loop("l", max_iterations=1, on_max_reached="fail")[task("a")], task("z")).finish("a")
    assert failed.outcome == ("failed", ("RALPH_MAX_REACHED",), None)


def test_a_loop_hands_over_at_its_threshold_once_all_else_has_drained() -> None:
    r = run(Parallel[Loop("l", max_iterations=9, continue_as_new_every=1)[task("a")], Sequence[task("b"), task("c")]])
    r.finish("a").crash()
    assert r.outcome == ("continued", 1)


def test_continue_as_new_starts_nothing_more_and_drains() -> None:
    r = run(Parallel[Sequence[task("a"), ContinueAsNew()], Sequence[task("b"), task("c")]])
    assert r.finish("a").running == ["b"]
    assert r.outcome is None
    outcome = r.finish("b").outcome
    assert outcome is not None
    assert outcome[0] == "continued"


# ── cost ───────────────────────────────────────────────────────────────────────────────────────────────────────────


class Counting(Scheduler):
    """Counts the nodes that it touches."""

    touched = 0

    def _activate(self, node: PlanNode) -> bool:
        self.touched += 1
        return super()._activate(node)

    def _mark_complete(self, node: PlanNode) -> None:
        self.touched += 1
        super()._mark_complete(node)


def _chain(count: int) -> Element:
    return Sequence[[task(f"t{i}") for i in range(count)]]


def _fan_out(count: int) -> Element:
    return Parallel(max_concurrency=8)[[task(f"t{i}") for i in range(count)]]


@pytest.mark.parametrize("shape", [_chain, _fan_out])
def test_settling_a_leaf_touches_the_depth_of_the_tree_however_large_it_is(shape: Callable[[int], Element]) -> None:
    count = 10_000
    data = RunData("run")
    tree = Workflow("test")[shape(count)]
    plan = extract(tree, Context(data, outputs, None), data, outputs)
    states: dict[Key, NodeState] = {}
    scheduler = Counting(plan, states, {})
    settled = 0
    while taken := scheduler.take(0):
        for leaf in taken:
            states[leaf.key] = NodeState.FINISHED
            before = scheduler.touched
            scheduler.settled(leaf.key)
            settled += 1
            assert scheduler.touched - before <= 5
    assert settled == count


# ── what is not done again unasked ─────────────────────────────────────────────────────────────────────────────────────


def test_guarded_work_that_comes_again_is_asked_about_without_room() -> None:
    r = run(Parallel[task("a"), task("b")], limit=1)
    r.guard("a")
    assert (r.running, r.waiting) == (["b"], ["a"])
    r.resume("a")
    assert (r.running, r.waiting) == (["b"], [])
    assert r.finish("b").running == ["a"]
    assert r.finish("a").outcome == ("finished",)


def test_guarded_work_is_asked_about_after_its_backoff_and_by_whoever_takes_it_over() -> None:
    r = run(task("a"))
    r.guard("a", hold=True)
    assert (r.running, r.waiting) == ([], [])
    r.crash()
    r.resume("a")
    assert r.waiting == ["a"]
    r.resume("a")
    assert r.running == ["a"]
    r.crash(guards=True)
    assert r.waiting == ["a"]


def test_what_is_asked_about_again_gives_its_place_in_a_group_to_another_child() -> None:
    children = [Sequence[task(f"{id}1"), task(f"{id}2")] for id in "ab"]
    r = run(Parallel(subtree_concurrency=1)[children])
    assert r.running == ["a1"]
    r.guard("a1")
    assert (r.running, r.waiting) == (["b1"], ["a1"])


def test_a_loop_in_which_something_is_to_be_done_again_has_begun() -> None:
    def build(ctx: Context[object]) -> object:
        return [Parallel[task("go"), Loop("l", until=ctx.latest("out", "go") is not None)[task("a")]], task("last")]

    r = Run(build)
    r.guard("a")
    r.finish("go")
    r.resume("a")
    r.crash()
    assert r.running == ["a"]
    assert r.finish("a").running == ["last"]


def test_a_loop_in_which_work_is_to_be_tried_again_has_begun_whatever_its_condition_says_by_then() -> None:
    def build(ctx: Context[object]) -> object:
        return [Parallel[task("go"), Loop("l", until=ctx.latest("out", "go") is not None)[task("a")]], task("last")]

    r = Run(build)
    r.hold("a")
    r.finish("go")
    r.resume("a")
    assert r.running == ["a"]
    r.crash()
    assert r.running == ["a"]
    assert r.finish("a").running == ["last"]


def test_a_loop_in_which_a_gate_was_opened_has_begun_whatever_its_condition_says_by_then() -> None:
    def build(ctx: Context[object]) -> object:
        loop = Loop("l", until=ctx.latest("out", "go") is not None)[Task("a", output=Out, needs_approval=True)[{}]]
        return [Parallel(max_concurrency=1)[task("go"), loop], task("last")]

    r = Run(build)
    assert (r.running, r.waiting) == (["go"], ["a"])
    r.resume("a")
    r.finish("go")
    assert r.running == ["a"]
    assert r.finish("a").running == ["last"]
