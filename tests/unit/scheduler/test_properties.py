"""The scheduler over random workflows and histories: the oracle, a rebuilt scheduler and it agree after every step."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.unit.scheduler.mini_engine import Run
from tests.unit.scheduler.trees import Choices, Node, build, choices, trees

from smithers.graph.plan import LeafKind
from smithers.scheduler.states import NodeState

S = NodeState
CALM_AFTER = 40
"""From this step on everything finishes, so that every history ends."""


def act(run: Run, choices: Choices, *, is_calm: bool) -> None:
    """One random thing happens to the run."""
    keys = sorted(run.live | run.held, key=lambda key: (run.leaves[key].ordinal, key))
    key = keys[choices.below(len(keys))]
    id = f"{key[0]}::{key[1]}"
    leaf, state = run.leaves[key], run.states[key]
    action = 0 if is_calm else choices.below(12)
    if key in run.held:
        run.resume(id)
    elif state is S.IN_PROGRESS:
        work(run, id, action, leaf.kind)
    elif state is S.WAITING_QUOTA or (state is S.WAITING_APPROVAL and not leaf.kind.is_wait):
        if action == 1 and state is S.WAITING_APPROVAL:
            run.fail(id)
        else:
            run.resume(id)
    elif action in (1, 2) and leaf.kind is not LeafKind.TIMER:
        run.fail(id, "EF"[action - 1])
    elif action in (3, 4) and run.may_be_skipped(key):
        run.skip(id)
    else:
        run.finish(id)


def work(run: Run, id: str, action: int, kind: LeafKind) -> None:
    match action:
        case 1 | 2:
            run.fail(id, "EF"[action - 1])
        case 3:
            run.hold(id)
        case 4 if kind in (LeafKind.AGENT, LeafKind.SUBFLOW):
            run.wait(id)
        case 5:
            key = run.key(id)
            run.states[key] = S.PENDING
            run.live.discard(key)
            run.scheduler.returns(run.leaves[key])
            run.force = True  # a loop in which nothing has begun after all looks at its condition again
            run.pump()
        case 7 | 8 if kind is not LeafKind.SUBFLOW:  # which calls nothing itself
            run.guard(id, hold=action == 7)
        case 6:
            run.settle(run.key(id), S.FINISHED)  # one more thing happens before the engine looks again
        case _:
            run.finish(id)


def play(tree: Node, choices: Choices, agent_room: int, limit: int | None) -> Run:
    """A whole history. Fails if it does not end."""
    run = Run(lambda ctx: build(tree, ctx), agent_room=agent_room, limit=limit)
    for step in range(400):
        if run.outcome is not None:
            return run
        is_calm = step >= CALM_AFTER
        if not is_calm and choices.below(10) == 0:
            run.crash(guards=choices.below(2) == 0)
        elif run.live or run.held:
            act(run, choices, is_calm=is_calm)
        elif run.agent_room == 0:
            run.agent_room = 3
            run.pump()
        else:
            run.pump()
            assert run.outcome is not None or run.live or run.held, "nothing can move the run, and it has not ended"
    raise AssertionError("the history does not end")


rooms = st.sampled_from([0, 1, 2, 100])
limits = st.sampled_from([None, None, 1, 2])


@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(trees, choices(), rooms, limits)
def test_every_step_agrees_with_the_oracle_and_with_a_rebuild_and_every_history_ends(
    tree: Node, choices: Choices, agent_room: int, limit: int | None
) -> None:
    run = play(tree, choices, agent_room, limit)
    assert run.outcome is not None


@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(trees, st.lists(st.integers(0, 255), min_size=1, max_size=60), rooms, limits)
def test_the_same_workflow_and_the_same_history_start_the_same_leaves_in_the_same_order(
    tree: Node, numbers: list[int], agent_room: int, limit: int | None
) -> None:
    first = play(tree, Choices(numbers), agent_room, limit)
    second = play(tree, Choices(numbers), agent_room, limit)
    assert (first.given, first.outcome, first.states) == (second.given, second.outcome, second.states)
